//! Committing a vessel: what the image has, that it is the same again, and what refuses it.
#![forbid(unsafe_code)]

use serde_json::{Value, json};
use vesselrt::{
    CommitOptions, ErrorKind, ExecOptions, ImageRecord, LayerCompression, Manager, OverlayDriver, Vessel,
};

use crate::testkit::image::{self, BASE};
use crate::testkit::{Cap, Store, fails, fails_with, need, sh, tests, tests_on_each_driver, tree};

tests_on_each_driver!(
    a_commit_has_a_layer_for_each_snapshot_and_one_of_what_is_in_none,
    committing_again_gives_the_same_digests,
    a_committed_image_has_the_tree_of_the_vessel,
);

tests!(
    a_commit_of_a_snapshot_leaves_out_what_came_later,
    what_is_only_an_archive_gives_the_same_layers,
    the_configuration_is_carried_over_and_changed,
    every_compression_makes_the_same_tree,
    names_that_no_layer_can_hold_refuse_the_export_and_are_all_told,
    what_makes_no_sense_is_refused_before_any_work,
    a_running_command_refuses_a_commit_but_not_one_of_a_snapshot,
    attributes_and_capabilities_are_in_the_image,
    the_base_may_lose_its_name_and_the_vessel_still_be_committed,
    the_command_line_commits_and_shows_the_history,
    a_snapshot_is_packed_once_for_all_commits,
    what_is_remembered_of_a_layer_is_believed_only_if_it_can_be_true,
);

pub(crate) async fn commit(manager: &Manager, vessel: &str, options: CommitOptions) -> ImageRecord {
    manager.commit_vessel(vessel, options, |_| {}).await.unwrap_or_else(|e| panic!("{}", e.chain())).image
}

/// Deletions, a replaced directory, links, odd modes, owners, holes, and a change in no snapshot.
pub(crate) async fn lived_in(store: &Store) -> (Manager, Vessel) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "echo one > /work/a; ln /work/a /work/b; ln /work/a /work/e; ln -s a /work/c; rm -r /srv/sub; mkfifo /work/pipe")
        .await;
    vessel.create_snapshot("first").await.unwrap();
    let owner = if Cap::SubordinateIds.is_there() { "chown 1000:50 /work/d/f;" } else { "" };
    sh(
        &vessel,
        &format!(
            "mkdir /srv/sub /work/d; echo new > /srv/sub/n; echo f > /work/d/f; {owner} chmod 4711 /work/d/f"
        ),
    )
    .await;
    sh(&vessel, "rm /work/b /srv/a; dd if=/dev/zero of=/work/hole bs=1 count=1 seek=3000000 2>/dev/null")
        .await;
    vessel.create_snapshot("second").await.unwrap();
    sh(&vessel, "echo three > /work/three; rm /work/c; chmod 1770 /work/d").await;
    (manager, vessel)
}

/// The directories that differ from the base.
pub(crate) const LIVED_IN: [&str; 4] = ["work", "srv", "home", "var"];

async fn a_commit_has_a_layer_for_each_snapshot_and_one_of_what_is_in_none(store: &Store) {
    let (manager, vessel) = lived_in(store).await;
    let base = manager.inspect_image(BASE).await.unwrap();
    let image = commit(&manager, vessel.id(), CommitOptions::new("made:1")).await;
    assert_eq!(image.reference.as_deref(), Some("docker.io/library/made:1"));
    assert_eq!(image.layers[0].digest, base.layers[0].digest);
    assert_eq!(image.layers.len(), 4);
    let comments: Vec<String> = image
        .config
        .history()
        .iter()
        .flatten()
        .skip(1)
        .map(|entry| entry.comment().clone().unwrap_or_default())
        .collect();
    assert_eq!(comments, ["first", "second", ""]);
    // The vessel goes on as it was, and what is in a snapshot now makes no layer of its own.
    assert_eq!(sh(&vessel, "cat /work/three; echo four > /work/four").await, "three\n");
    vessel.create_snapshot("third").await.unwrap();
    let image = commit(&manager, vessel.id(), CommitOptions::new("made:2")).await;
    assert_eq!(image.layers.len(), 4);
    assert_eq!(manager.list_images().await.unwrap().len(), 3);
    vessel.close().await.unwrap();
}

async fn a_committed_image_has_the_tree_of_the_vessel(store: &Store) {
    let (manager, vessel) = lived_in(store).await;
    commit(&manager, vessel.id(), CommitOptions::new("made")).await;
    let copy = manager.create_vessel("made", "").await.unwrap();
    assert_eq!(copy.manifest().work_dir, "/work");
    for dir in LIVED_IN {
        let dir = format!("/{dir}");
        let (ours, expected) =
            (tree::inside(&copy, &dir, false).await, tree::inside(&vessel, &dir, false).await);
        if store.driver() == OverlayDriver::Fuse {
            assert_eq!(without_links(&ours), without_links(&expected), "{dir}");
        } else {
            assert_eq!(ours, expected, "{dir}");
        }
    }
    copy.close().await.unwrap();
    vessel.close().await.unwrap();
}

/// A listing without what says which names are one file. fuse-overlayfs (1.10) copies one name of a linked lower file up
/// as a file of its own as soon as another name is unlinked, and goes on to show both with the inode of the lower file and
/// its number of links, mounted anew too: what is on the disk, and so in the image, are two files.
fn without_links(list: &str) -> String {
    let (names, _groups) = list.split_once("== hard links").expect("it has that part");
    names.replace(" links\n", "\n")
}

async fn committing_again_gives_the_same_digests(store: &Store) {
    let (manager, vessel) = lived_in(store).await;
    let first = commit(&manager, vessel.id(), CommitOptions::new("made:1")).await;
    vessel.close().await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    // It is packed again, and not only remembered.
    crate::testkit::store::remove(&store.root().join("images/packed")).unwrap();
    let second = commit(&manager, vessel.id(), CommitOptions::new("made:2")).await;
    assert_eq!(first.manifest_digest, second.manifest_digest);
    assert_eq!(first.config_digest, second.config_digest);
}

async fn a_commit_of_a_snapshot_leaves_out_what_came_later(store: &Store) {
    let (manager, vessel) = lived_in(store).await;
    let snapshots = vessel.list_snapshots().await.unwrap();
    let options = CommitOptions::new("made").snapshot(&snapshots[0].id);
    assert_eq!(commit(&manager, vessel.id(), options).await.layers.len(), 2);
    let copy = manager.create_vessel("made", "").await.unwrap();
    assert_eq!(sh(&copy, "cat /work/a; ls /work").await, "one\na\nb\nc\ne\npipe\n");
    copy.close().await.unwrap();
    vessel.close().await.unwrap();
}

async fn what_is_only_an_archive_gives_the_same_layers(store: &Store) {
    let (manager, vessel) = lived_in(store).await;
    let top = vessel.list_snapshots().await.unwrap()[1].id.clone();
    let options = |name: &str| CommitOptions::new(name).snapshot(&top);
    let sealed = commit(&manager, vessel.id(), options("made:1")).await;
    vessel.close().await.unwrap();
    manager.close().await.unwrap();
    for name in ["layers", "vessels", "images/packed"] {
        crate::testkit::store::remove(&store.root().join(name)).unwrap();
    }
    let manager = store.manager().await;
    let packed = commit(&manager, vessel.id(), options("made:2")).await;
    assert_eq!(sealed.manifest_digest, packed.manifest_digest);
    assert!(!store.root().join("layers").join(&top).exists());
}

async fn the_configuration_is_carried_over_and_changed(store: &Store) {
    let manager = store.manager().await;
    let config = json!({
        "Env": ["PATH=/bin", "A=1"], "User": "root", "Entrypoint": ["sh"], "Cmd": ["-c", "true"], "WorkingDir": "/srv",
        "Labels": { "k": "v" }, "StopSignal": "SIGINT", "Healthcheck": { "Test": ["NONE"] },
    });
    let layout = store.beside("layout");
    image::oci_layout(&layout, &[image::base_tar().to_vec()], &config);
    manager.import_image(&layout, "configured", |_| {}).await.unwrap();
    let vessel = manager.create_vessel("configured", "").await.unwrap();
    vessel.close().await.unwrap();
    let plain = commit(&manager, vessel.id(), CommitOptions::new("plain")).await;
    // Nothing was changed, so there is no layer more.
    assert_eq!(plain.layers.len(), 1);
    assert_eq!(stored_config(store, &plain)["config"], config);
    let options = CommitOptions::new("changed")
        .change("ENV A=2 P=$PATH:/opt")
        .change("ENTRYPOINT [\"/init\"]")
        .change("LABEL x=y")
        .change("EXPOSE 80")
        .author("me")
        .message("why")
        .compression(LayerCompression::Zstd);
    let changed = commit(&manager, vessel.id(), options).await;
    let stored = stored_config(store, &changed);
    assert_eq!(stored["config"]["Env"], json!(["PATH=/bin", "A=2", "P=/bin:/opt"]));
    assert_eq!(stored["config"]["Labels"], json!({ "k": "v", "x": "y" }));
    assert_eq!((&stored["config"]["Entrypoint"], stored["config"].get("Cmd")), (&json!(["/init"]), None));
    assert_eq!(stored["config"]["Healthcheck"], config["Healthcheck"]);
    assert_eq!((&stored["author"], stored["history"].as_array().unwrap().len()), (&json!("me"), 6));
}

fn stored_config(store: &Store, image: &ImageRecord) -> Value {
    let path = store.root().join("images/blobs/sha256").join(image.config_digest.hex());
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

async fn every_compression_makes_the_same_tree(store: &Store) {
    let (manager, vessel) = lived_in(store).await;
    vessel.close().await.unwrap();
    let mut diff_ids = Vec::new();
    for (name, compression) in
        [("gz", LayerCompression::Gzip), ("zst", LayerCompression::Zstd), ("tar", LayerCompression::None)]
    {
        let image = commit(&manager, vessel.id(), CommitOptions::new(name).compression(compression)).await;
        diff_ids.push(image.layers.iter().map(|layer| layer.diff_id.clone()).collect::<Vec<_>>());
        let copy = manager.create_vessel(name, "").await.unwrap();
        assert_eq!(sh(&copy, "cat three").await, "three\n");
        copy.close().await.unwrap();
    }
    assert!(diff_ids.windows(2).all(|pair| pair[0] == pair[1]));
}

async fn names_that_no_layer_can_hold_refuse_the_export_and_are_all_told(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir -p d; touch .wh.one d/.wh..wh..opq d/fine; mkdir .wh.dir").await;
    let snapshot = vessel.create_snapshot("odd").await.unwrap();
    let failed = manager.commit_vessel(vessel.id(), CommitOptions::new("made"), |_| {}).await;
    let error = fails(failed, &ErrorKind::InvalidArgument);
    for name in ["work/.wh.one", "work/d/.wh..wh..opq", "work/.wh.dir"] {
        assert!(error.chain().contains(name), "{}", error.chain());
    }
    fails(manager.inspect_image("made").await, &ErrorKind::NotFound);
    // The snapshot is as good as any.
    sh(&vessel, "rm -r /work/.wh.one").await;
    vessel.restore_snapshot(&snapshot.id).await.unwrap();
    assert_eq!(sh(&vessel, "ls -A /work").await, ".wh.dir\n.wh.one\nd\n");
    vessel.close().await.unwrap();
}

async fn what_makes_no_sense_is_refused_before_any_work(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let commit = async |id: &str, options: CommitOptions| manager.commit_vessel(id, options, |_| {}).await;
    fails_with(commit("none", CommitOptions::new("x")).await, &ErrorKind::NotFound, "vessel not found: none");
    let unknown = CommitOptions::new("x").snapshot("feed");
    fails_with(commit(vessel.id(), unknown).await, &ErrorKind::NotFound, "snapshot not found: feed");
    fails(commit(vessel.id(), CommitOptions::new("Not A Name")).await, &ErrorKind::InvalidArgument);
    let odd = CommitOptions::new("x").change("RUN rm -rf /");
    fails_with(commit(vessel.id(), odd).await, &ErrorKind::InvalidArgument, "RUN");
    assert_eq!(sh(&vessel, "echo still here").await, "still here\n");
    vessel.close().await.unwrap();
}

async fn a_running_command_refuses_a_commit_but_not_one_of_a_snapshot(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let snapshot = vessel.create_snapshot("").await.unwrap();
    let running = vessel.spawn(ExecOptions::new(["sleep", "60"]).persist_result(true)).await.unwrap();
    fails(manager.commit_vessel(vessel.id(), CommitOptions::new("x"), |_| {}).await, &ErrorKind::Conflict);
    commit(&manager, vessel.id(), CommitOptions::new("x").snapshot(&snapshot.id)).await;
    drop(running);
    vessel.close().await.unwrap();
}

async fn attributes_and_capabilities_are_in_the_image(store: &Store) {
    if !need(&[Cap::AttributeTools]) {
        return;
    }
    let manager = store.manager().await;
    let tar = store.beside("tools.tar");
    std::fs::write(&tar, image::attribute_tools_tar()).unwrap();
    manager.import_image(&tar, "tools", |_| {}).await.unwrap();
    let vessel = manager.create_vessel("tools", "/work").await.unwrap();
    sh(&vessel, "cp /bin/busybox tool; setcap cap_net_bind_service+ep tool; setfattr -n user.a -v b tool")
        .await;
    vessel.create_snapshot("").await.unwrap();
    commit(&manager, vessel.id(), CommitOptions::new("made")).await;
    let copy = manager.create_vessel("made", "").await.unwrap();
    let list = tree::inside(&copy, "/work", true).await;
    assert_eq!(list, tree::inside(&vessel, "/work", true).await);
    assert!(list.contains("security.capability") && list.contains("user.a"), "{list}");
    copy.close().await.unwrap();
    vessel.close().await.unwrap();
}

async fn the_base_may_lose_its_name_and_the_vessel_still_be_committed(store: &Store) {
    let (manager, vessel) = lived_in(store).await;
    vessel.close().await.unwrap();
    let first = commit(&manager, vessel.id(), CommitOptions::new("made:1")).await;
    manager.tag_image("made:1", BASE).await.unwrap();
    let pruned = manager.prune_images(false).await.unwrap();
    assert_eq!(pruned.blobs, 0, "the base of a vessel is no garbage");
    let second = commit(&manager, vessel.id(), CommitOptions::new("made:2")).await;
    assert_eq!(first.manifest_digest, second.manifest_digest);
}

async fn the_command_line_commits_and_shows_the_history(store: &Store) {
    let (manager, vessel) = lived_in(store).await;
    vessel.close().await.unwrap();
    manager.close().await.unwrap();
    let run = |args: &[&str]| {
        let output = store.cli(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let change = ["--change", "CMD [\"cat\", \"three\"]", "-m", "said"];
    let printed = run(&[&["commit", vessel.id(), "made:1"], &change[..]].concat());
    assert_eq!(printed, "docker.io/library/made:1\n");
    assert_eq!(run(&["run", "--rm", "made:1"]), "three\n");
    let history: Value = serde_json::from_str(&run(&["--json", "image", "history", "made:1"])).unwrap();
    let with_layer = |entry: &&Value| !entry["layer"].is_null();
    assert_eq!(history.as_array().unwrap().iter().filter(with_layer).count(), 4);
    run(&["image", "tag", "made:1", "other"]);
    let list: Value = serde_json::from_str(&run(&["--json", "image", "ls"])).unwrap();
    assert!(list.as_array().unwrap().iter().all(|image| image["sharedSize"].as_u64() > Some(0)), "{list}");
    run(&["image", "verify"]);
    // The vessel is on the base; the rest goes.
    let gone = run(&["image", "prune", "--all"]);
    assert_eq!(gone, "docker.io/library/made:1\ndocker.io/library/other:latest\n");
    assert_eq!(run(&["-q", "image", "ls"]), format!("{BASE}\n"));
}

/// The records of packed layers.
fn remembered(store: &Store) -> Vec<std::path::PathBuf> {
    crate::testkit::leftovers::entries(&store.root().join("images/packed"))
}

async fn a_snapshot_is_packed_once_for_all_commits(store: &Store) {
    let (manager, vessel) = lived_in(store).await;
    let snapshots = vessel.list_snapshots().await.unwrap();
    vessel.close().await.unwrap();
    let last = &snapshots[1].id;
    let options = |name: &str| CommitOptions::new(name).snapshot(last);
    let first = commit(&manager, vessel.id(), options("made:1")).await;
    assert_eq!(remembered(store).len(), 2);
    // Neither layers nor archives are there to be packed again.
    for snapshot in &snapshots {
        crate::testkit::store::remove(&store.root().join("layers").join(&snapshot.id)).unwrap();
        let archive = format!("data/vessels/{}/snapshots/{}.tar.zst", vessel.id(), snapshot.id);
        std::fs::remove_file(store.root().join(archive)).unwrap();
    }
    let second = commit(&manager, vessel.id(), options("made:2")).await;
    assert_eq!(first.manifest_digest, second.manifest_digest);
    // Compressed in another way they are other blobs.
    let other = options("made:3").compression(LayerCompression::Zstd);
    fails(manager.commit_vessel(vessel.id(), other, |_| {}).await, &ErrorKind::NotFound);
    // A blob that no image has is pruned, and nobody remembers it.
    for name in ["made:1", "made:2"] {
        manager.remove_image(name).await.unwrap();
    }
    manager.prune_images(false).await.unwrap();
    assert!(remembered(store).is_empty());
    fails(manager.commit_vessel(vessel.id(), options("made:4"), |_| {}).await, &ErrorKind::NotFound);
}

async fn what_is_remembered_of_a_layer_is_believed_only_if_it_can_be_true(store: &Store) {
    let (manager, vessel) = lived_in(store).await;
    let last = vessel.list_snapshots().await.unwrap()[1].id.clone();
    vessel.close().await.unwrap();
    let options = || CommitOptions::new("made").snapshot(&last);
    let digest = commit(&manager, vessel.id(), options()).await.manifest_digest;
    let records = remembered(store);
    let good: Vec<Vec<u8>> = records.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let wrong = |key: &str, value: Value| {
        let mut record: Value = serde_json::from_slice(&good[0]).unwrap();
        assert!(record.get(key).is_some(), "{record}");
        record[key] = value;
        record.to_string().into_bytes()
    };
    // The other snapshot's blob would be a valid one, but of another archive.
    for bytes in [
        b"".to_vec(),
        b"{".to_vec(),
        good[1].clone(),
        wrong("size", json!(17)),
        wrong("checksum", json!("sha256:00")),
        wrong("digest", json!(format!("sha256:{}", "0".repeat(64)))),
        vec![b' '; 2 << 20],
    ] {
        std::fs::write(&records[0], bytes).unwrap();
        assert_eq!(commit(&manager, vessel.id(), options()).await.manifest_digest, digest);
        assert_eq!(std::fs::read(&records[0]).unwrap(), good[0], "it is written anew");
    }
    manager.delete_vessel(vessel.id()).await.unwrap();
    manager.collect_garbage().await.unwrap();
    assert!(remembered(store).is_empty());
}
