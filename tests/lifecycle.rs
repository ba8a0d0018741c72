//! Vessels come and go: create, open, list, close, delete; ids, labels, working directories, what an image says.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vesselrt::{CreateOptions, ErrorKind, ExecOptions, Manager, ManagerConfig};

use crate::testkit::commands::must;
use crate::testkit::image::{Layer, MOTD, base_layer, base_tar, oci_layout};
use crate::testkit::{BASE, Store, fails, fails_with, leftovers, sh, tests, tests_on_each_driver};

tests_on_each_driver!(
    a_new_vessel_has_the_image_and_its_working_directory,
    a_vessel_that_was_closed_opens_again,
    deleting_a_vessel_removes_everything_of_it,
    layers_of_an_image_lie_on_top_of_each_other,
);

tests!(
    a_working_directory_is_cleaned_as_the_table_says,
    a_working_directory_that_is_a_file_is_refused,
    a_working_directory_that_exists_keeps_its_mode,
    ids_are_sixteen_hexadecimal_digits_and_all_different,
    an_id_can_be_chosen_once,
    ids_that_could_be_paths_are_refused,
    an_unknown_image_is_not_found_and_leaves_nothing,
    a_malformed_reference_is_an_invalid_argument,
    an_unknown_vessel_is_not_found,
    labels_are_kept_and_replaced,
    vessels_are_listed_oldest_first,
    the_manifest_is_a_copy,
    a_handle_s_clones_are_the_same_vessel,
    an_image_s_environment_user_and_directory_apply,
    an_image_is_listed_and_not_removed_while_it_is_used,
    a_vessel_without_its_image_says_which_is_missing,
    a_vessel_opens_without_a_shim_path_that_works_only_with_a_remedy,
    a_store_is_private,
    two_stores_know_nothing_of_each_other,
    work_in_a_dropped_vessel_is_kept,
    the_quick_start_runs_unchanged,
);

async fn a_new_vessel_has_the_image_and_its_working_directory(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    assert_eq!(vessel.read_file("/etc/motd").await.unwrap(), MOTD);
    let work = vessel.stat("/work").await.unwrap();
    assert_eq!((work.is_dir(), work.mode, work.uid, work.gid), (true, 0o755, 0, 0));
    let manifest = vessel.manifest();
    assert_eq!((manifest.id.as_str(), manifest.work_dir.as_str()), (vessel.id(), "/work"));
    assert_eq!(manifest.base_image_ref, BASE);
    assert!(manifest.base_image_digest.starts_with("sha256:"), "{}", manifest.base_image_digest);
    assert!(manifest.current_snapshot_id.is_empty() && manifest.snapshots.is_empty());
    assert_eq!(sh(&vessel, "pwd; cat /etc/motd").await, "/work\nthe base image\n");
    vessel.close().await.unwrap();
}

async fn a_vessel_that_was_closed_opens_again(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    vessel.write_file("a", "one", 0o640).await.unwrap();
    sh(&vessel, "rm /etc/motd; mkdir -p d/e; echo two > d/e/b").await;
    let id = vessel.id().to_owned();
    for round in 0..3 {
        vessel.close().await.unwrap();
        let vessel = manager.open_vessel(&id).await.unwrap();
        assert_eq!(vessel.read_file("a").await.unwrap(), b"one", "round {round}");
        assert_eq!(vessel.stat("a").await.unwrap().mode, 0o640);
        assert_eq!(vessel.read_file("d/e/b").await.unwrap(), b"two\n");
        fails(vessel.read_file("/etc/motd").await, &ErrorKind::NotFound);
        vessel.close().await.unwrap();
    }
    vessel.close().await.unwrap();
}

async fn deleting_a_vessel_removes_everything_of_it(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir -p d/e && echo x > d/e/f && chmod 0 d/e d").await;
    vessel.create_snapshot("first").await.unwrap();
    sh(&vessel, "echo y > y").await;
    let id = vessel.id().to_owned();
    // It is open and is deleted all the same.
    manager.delete_vessel(&id).await.unwrap();
    fails_with(manager.open_vessel(&id).await, &ErrorKind::NotFound, &format!("vessel not found: {id}"));
    fails_with(manager.delete_vessel(&id).await, &ErrorKind::NotFound, &format!("vessel not found: {id}"));
    assert!(vessel.read_file("y").await.is_err(), "a handle on a deleted vessel brings nothing back");
    drop(vessel);
    assert!(manager.list_vessels().await.unwrap().is_empty());
    manager.close().await.unwrap();
    for dir in ["vessels", "layers", "data/vessels"] {
        let left: Vec<_> = leftovers::entries(&store.root().join(dir));
        let left: Vec<_> = left.iter().filter(|path| path.is_dir()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

async fn layers_of_an_image_lie_on_top_of_each_other(store: &Store) {
    let layout = store.beside("layout");
    let upper = Layer::new()
        .file("srv/.wh.a", 0o644, 0, b"")
        .dir("srv/sub", 0o700, 0)
        .file("srv/sub/.wh..wh..opq", 0o644, 0, b"")
        .file("srv/sub/new", 0o604, 0, b"new\n");
    let top = Layer::new().file("etc/motd", 0o600, 0, b"the top\n").dir("srv/top", 0o711, 0);
    oci_layout(&layout, &[base_tar().to_vec(), upper.finish(), top.finish()], &json!({}));
    let manager = store.manager().await;
    manager.import_image(&layout, "localhost/three:1", |_| {}).await.unwrap();
    let vessel = manager.create_vessel("localhost/three:1", "").await.unwrap();
    assert_eq!(vessel.read_file("/etc/motd").await.unwrap(), b"the top\n");
    let names = |entries: Vec<vesselrt::DirEntry>| entries.into_iter().map(|e| e.name).collect::<Vec<_>>();
    assert_eq!(names(vessel.read_dir("/srv").await.unwrap()), ["link", "sub", "top"]);
    assert_eq!(names(vessel.read_dir("/srv/sub").await.unwrap()), ["new"]);
    assert_eq!(
        sh(&vessel, "stat -c %a /srv/sub /srv/sub/new /srv/top /etc/motd").await,
        "700\n604\n711\n600\n"
    );
    vessel.close().await.unwrap();
}

async fn a_working_directory_is_cleaned_as_the_table_says(store: &Store) {
    let manager = store.stocked().await;
    for (asked, dir) in [
        ("", "/"),
        ("/", "/"),
        ("/home/user", "/home/user"),
        ("relative", "/"),
        ("home/user", "/"),
        ("/new/deep/one", "/new/deep/one"),
        ("/a/../../b//c/.", "/b/c"),
    ] {
        let vessel = manager.create_vessel(BASE, asked).await.unwrap();
        assert_eq!(vessel.manifest().work_dir, dir, "{asked:?}");
        assert_eq!(sh(&vessel, "pwd").await.trim(), dir, "{asked:?}");
        let made = vessel.stat("").await.unwrap();
        assert!(made.is_dir(), "{asked:?}");
        vessel.close().await.unwrap();
        manager.delete_vessel(vessel.id()).await.unwrap();
    }
    fails(manager.create_vessel(BASE, "/a\0b").await, &ErrorKind::InvalidArgument);
}

async fn a_working_directory_that_is_a_file_is_refused(store: &Store) {
    let manager = store.stocked().await;
    for dir in ["/etc/motd", "/etc/motd/below"] {
        let error = fails(manager.create_vessel(BASE, dir).await, &ErrorKind::InvalidArgument);
        assert!(error.chain().contains("path is not a directory"), "{}", error.chain());
    }
    assert!(manager.list_vessels().await.unwrap().is_empty());
    manager.close().await.unwrap();
    assert!(leftovers::entries(&store.root().join("vessels")).iter().all(|path| !path.is_dir()));
}

async fn a_working_directory_that_exists_keeps_its_mode(store: &Store) {
    let manager = store.stocked().await;
    let vessel = manager.create_vessel(BASE, "/home/user").await.unwrap();
    assert_eq!(vessel.stat(".").await.unwrap().mode, 0o750);
    let tmp = manager.create_vessel(BASE, "/tmp").await.unwrap();
    assert_eq!(tmp.stat(".").await.unwrap().mode, 0o1777);
    vessel.close().await.unwrap();
    tmp.close().await.unwrap();
}

async fn ids_are_sixteen_hexadecimal_digits_and_all_different(store: &Store) {
    let manager = store.stocked().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let vessel = manager.create_vessel(BASE, "/").await.unwrap();
        ids.push(vessel.id().to_owned());
        vessel.close().await.unwrap();
    }
    for id in &ids {
        assert!(
            id.len() == 16 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)),
            "{id}"
        );
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

async fn an_id_can_be_chosen_once(store: &Store) {
    let manager = store.stocked().await;
    let vessel = manager.create_vessel_with(CreateOptions::new(BASE).id("my-vessel_1.x")).await.unwrap();
    assert_eq!(vessel.id(), "my-vessel_1.x");
    vessel.write_file("/kept", "x", 0o644).await.unwrap();
    let again = manager.create_vessel_with(CreateOptions::new(BASE).id("my-vessel_1.x")).await;
    fails(again, &ErrorKind::AlreadyExists);
    assert_eq!(vessel.read_file("/kept").await.unwrap(), b"x");
    vessel.close().await.unwrap();
    manager.delete_vessel("my-vessel_1.x").await.unwrap();
    let vessel = manager.create_vessel_with(CreateOptions::new(BASE).id("my-vessel_1.x")).await.unwrap();
    fails(vessel.read_file("/kept").await, &ErrorKind::NotFound);
    vessel.close().await.unwrap();
}

async fn ids_that_could_be_paths_are_refused(store: &Store) {
    let manager = store.stocked().await;
    let long = "a".repeat(65);
    for id in
        ["", ".", "..", "../x", "a/b", "/a", "a..b", "-a", "_a", "A", "a\n", "a\0", "é", "a b", long.as_str()]
    {
        let created = manager.create_vessel_with(CreateOptions::new(BASE).id(id)).await;
        fails(created, &ErrorKind::InvalidArgument);
        fails(manager.open_vessel(id).await, &ErrorKind::InvalidArgument);
        fails(manager.delete_vessel(id).await, &ErrorKind::InvalidArgument);
    }
}

async fn an_unknown_image_is_not_found_and_leaves_nothing(store: &Store) {
    let manager = store.manager().await;
    let error = fails(manager.create_vessel("localhost/unknown:1", "/work").await, &ErrorKind::NotFound);
    assert!(error.chain().contains("localhost/unknown:1"), "{}", error.chain());
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("image import")), "{:?}", error.remedy());
    assert!(manager.list_vessels().await.unwrap().is_empty());
    assert!(leftovers::entries(&store.root().join("vessels")).iter().all(|path| !path.is_dir()));
}

async fn a_malformed_reference_is_an_invalid_argument(store: &Store) {
    let manager = store.manager().await;
    for reference in ["", "UPPER", "a b", "../../etc/passwd", "a@sha256:00", "x:\n"] {
        let error = manager.create_vessel(reference, "/").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{reference:?}: {}", error.chain());
    }
}

async fn an_unknown_vessel_is_not_found(store: &Store) {
    let manager = store.manager().await;
    let text = "vessel not found: 0123456789abcdef";
    fails_with(manager.open_vessel("0123456789abcdef").await, &ErrorKind::NotFound, text);
    fails_with(manager.delete_vessel("0123456789abcdef").await, &ErrorKind::NotFound, text);
    fails_with(manager.vessel_status("0123456789abcdef").await, &ErrorKind::NotFound, text);
    fails_with(manager.stop_vessel("0123456789abcdef").await, &ErrorKind::NotFound, text);
}

async fn labels_are_kept_and_replaced(store: &Store) {
    let manager = store.stocked().await;
    let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let options = CreateOptions::new(BASE).label("project", "p").label("empty", "");
    let vessel = manager.create_vessel_with(options).await.unwrap();
    assert_eq!(vessel.manifest().labels, labels(&[("project", "p"), ("empty", "")]));
    vessel.set_labels(labels(&[("project", "q")])).await.unwrap();
    assert_eq!(vessel.manifest().labels, labels(&[("project", "q")]));
    vessel.close().await.unwrap();
    let again = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(again.manifest().labels, labels(&[("project", "q")]));
    again.close().await.unwrap();
}

async fn vessels_are_listed_oldest_first(store: &Store) {
    let manager = store.stocked().await;
    assert!(manager.list_vessels().await.unwrap().is_empty());
    let mut made = Vec::new();
    // The order is that of time and not of names.
    for id in ["m", "z", "a"] {
        let vessel = manager.create_vessel_with(CreateOptions::new(BASE).id(id)).await.unwrap();
        made.push(vessel.id().to_owned());
        vessel.close().await.unwrap();
    }
    let listed: Vec<String> = manager.list_vessels().await.unwrap().into_iter().map(|m| m.id).collect();
    assert_eq!(listed, made);
    let other = store.manager().await;
    assert_eq!(other.list_vessels().await.unwrap().len(), 3);
}

async fn the_manifest_is_a_copy(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    vessel.create_snapshot("one").await.unwrap();
    let mut copy = vessel.manifest();
    copy.work_dir = "/elsewhere".into();
    copy.snapshots.clear();
    let mut listed = vessel.list_snapshots().await.unwrap();
    listed[0].message = "changed".into();
    assert_eq!(vessel.manifest().work_dir, "/work");
    assert_eq!(vessel.manifest().snapshots.len(), 1);
    assert_eq!(vessel.list_snapshots().await.unwrap()[0].message, "one");
    vessel.close().await.unwrap();
}

async fn a_handle_s_clones_are_the_same_vessel(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let clone = vessel.clone();
    vessel.write_file("a", "1", 0o644).await.unwrap();
    assert_eq!(clone.read_file("a").await.unwrap(), b"1");
    drop(vessel);
    assert_eq!(clone.read_file("a").await.unwrap(), b"1");
    clone.close().await.unwrap();
}

async fn import(store: &Store, reference: &str, config: Value) -> Manager {
    let layout = store.beside("layout");
    let layer = base_layer().dir("opt", 0o755, 0).dir("opt/app", 0o755, 0);
    oci_layout(&layout, &[layer.finish()], &config);
    let manager = store.manager().await;
    manager.import_image(&layout, reference, |_| {}).await.unwrap();
    manager
}

async fn an_image_s_environment_user_and_directory_apply(store: &Store) {
    let config = json!({
        "Env": ["PATH=/bin:/opt/app", "GREETING=hello", "OTHER=1"],
        "User": "0:50",
        "WorkingDir": "/opt/app",
    });
    let manager = import(store, "localhost/app:1", config).await;
    let vessel = manager.create_vessel("localhost/app:1", "").await.unwrap();
    assert_eq!(vessel.manifest().work_dir, "/opt/app");
    let shown =
        ExecOptions::new(["sh", "-c", "echo $PATH $GREETING $OTHER; id -u; id -g; pwd"]).env("OTHER", "2");
    assert_eq!(must(&vessel, shown).await, "/bin:/opt/app hello 2\n0\n50\n/opt/app\n");
    let own = ExecOptions::new(["sh", "-c", "id -g; pwd"]).user("root").work_dir("/srv");
    assert_eq!(must(&vessel, own).await, "0\n/srv\n");
    vessel.close().await.unwrap();
    let elsewhere = manager.create_vessel("localhost/app:1", "/work").await.unwrap();
    assert_eq!(elsewhere.manifest().work_dir, "/work");
    elsewhere.close().await.unwrap();
}

async fn an_image_is_listed_and_not_removed_while_it_is_used(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    assert_eq!(manager.list_images().await.unwrap().len(), 1);
    manager.inspect_image(BASE).await.unwrap();
    fails(manager.inspect_image("localhost/other:1").await, &ErrorKind::NotFound);
    fails(manager.remove_image("localhost/other:1").await, &ErrorKind::NotFound);
    fails(manager.remove_image(BASE).await, &ErrorKind::Conflict);
    vessel.close().await.unwrap();
    fails(manager.remove_image(BASE).await, &ErrorKind::Conflict);
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(vessel.read_file("/etc/motd").await.unwrap(), MOTD);
    vessel.close().await.unwrap();
    manager.delete_vessel(vessel.id()).await.unwrap();
    manager.remove_image(BASE).await.unwrap();
    assert!(manager.list_images().await.unwrap().is_empty());
    manager.close().await.unwrap();
    let layers = leftovers::entries(&store.root().join("images/layers"));
    assert!(layers.iter().all(|path| !path.is_dir()), "{layers:?}");
    fails(manager.create_vessel(BASE, "/").await, &ErrorKind::NotFound);
}

async fn a_vessel_without_its_image_says_which_is_missing(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    vessel.write_file("kept", "x", 0o644).await.unwrap();
    vessel.create_snapshot("").await.unwrap();
    vessel.close().await.unwrap();
    // As if only the data had been brought to another machine.
    for dir in ["images", "vessels", "layers"] {
        crate::testkit::store::remove(&store.root().join(dir)).unwrap();
    }
    drop(manager);
    let manager = store.manager().await;
    let error = fails(manager.open_vessel(vessel.id()).await, &ErrorKind::NotFound);
    assert!(error.chain().contains(&format!("base image not found: {BASE}")), "{}", error.chain());
    store.stock(&manager).await;
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(vessel.read_file("kept").await.unwrap(), b"x");
    vessel.close().await.unwrap();
}

async fn a_vessel_opens_without_a_shim_path_that_works_only_with_a_remedy(store: &Store) {
    // This test binary does not call `vesselrt::init`, so it cannot become a shim.
    let manager = store.stocked().await;
    drop(manager);
    let config = ManagerConfig::new(store.root()).overlay(store.driver());
    let manager = Manager::new(config).await.unwrap();
    let error = manager.create_vessel(BASE, "/").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{}", error.chain());
    assert!(
        error.remedy().is_some_and(|r| r.contains("init") || r.contains("shim_path")),
        "{:?}",
        error.remedy()
    );
    let missing = store.config().shim_path(store.beside("no-such-program"));
    let manager = Manager::new(missing).await.unwrap();
    manager.create_vessel(BASE, "/").await.unwrap_err();
    assert!(manager.list_vessels().await.unwrap().is_empty());
}

async fn a_store_is_private(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let mode = |path: &str| {
        let meta = std::fs::symlink_metadata(store.root().join(path)).unwrap();
        std::os::unix::fs::MetadataExt::mode(&meta) & 0o7777
    };
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode(&format!("vessels/{}/shim.sock", vessel.id())) & 0o077, 0);
    vessel.close().await.unwrap();
}

async fn two_stores_know_nothing_of_each_other(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let other = Manager::new(store.config().root(store.beside("other-store"))).await.unwrap();
    assert!(other.list_vessels().await.unwrap().is_empty() && other.list_images().await.unwrap().is_empty());
    fails(other.open_vessel(vessel.id()).await, &ErrorKind::NotFound);
    vessel.close().await.unwrap();
}

async fn work_in_a_dropped_vessel_is_kept(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let id = vessel.id().to_owned();
    vessel.write_file("a", "1", 0o600).await.unwrap();
    drop(vessel);
    let vessel = manager.open_vessel(&id).await.unwrap();
    assert_eq!(vessel.read_file("a").await.unwrap(), b"1");
    vessel.close().await.unwrap();
}

/// `examples/quickstart.rs` is the program that the issue promises, word for word; Cargo builds it with the tests.
async fn the_quick_start_runs_unchanged(store: &Store) {
    let program = crate::testkit::bin().with_file_name("examples").join("quickstart");
    if !program.is_file() {
        eprintln!("SKIP the_quick_start_runs_unchanged: {program:?} is not built");
        return;
    }
    let data = store.beside("data-home");
    let tar = store.beside("alpine.tar");
    std::fs::write(&tar, base_tar()).unwrap();
    let root = data.join("vesselrt");
    let (root, tar) = (root.to_str().unwrap(), tar.to_str().unwrap());
    let import = ["--root", root, "image", "import", tar, "--ref", "docker.io/library/alpine:latest"];
    let imported = store.cli(&import).output().unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    let mut command = std::process::Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("XDG_DATA_HOME", &data);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let manager = Manager::new(store.config().root(root)).await.unwrap();
    let listed = manager.list_vessels().await.unwrap();
    assert_eq!((listed.len(), listed[0].snapshots.len()), (1, 1));
    leftovers::none_locked(&data.join("vesselrt/vessels"));
}
