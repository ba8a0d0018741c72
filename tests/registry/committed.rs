//! A committed and pushed vessel: podman runs it, umoci unpacks it, and both find the vessel's tree.
#![forbid(unsafe_code)]

use serde_json::Value;
use vesselrt::{CommitOptions, Manager, Vessel};

use super::manager;
use super::trees::{MOUNTED, inside};
use crate::commit::commit;
use crate::testkit::listing::{self, assert_same};
use crate::testkit::podman::Podman;
use crate::testkit::registry::Registry;
use crate::testkit::tools::{try_tool, umoci_unpack};
use crate::testkit::{Cap, Store, image, need, sh, tests};

tests!(
    podman_runs_and_umoci_unpacks_the_tree_of_the_vessel,
    a_history_that_was_pulled_has_the_same_trees_and_commits_to_the_same_digests,
);

const NEEDED: [Cap; 3] = [Cap::Registry, Cap::SubordinateIds, Cap::AttributeTools];

/// What podman puts nothing into when it runs a container.
const UNTOUCHED: [&str; 9] =
    ["./bin", "./home", "./lib64", "./root", "./srv", "./tmp", "./usr", "./var", "./work"];

/// A vessel of the image with GNU tar that was lived in, with two snapshots and a change in neither.
async fn lived_in(store: &Store, manager: &Manager) -> Vessel {
    let tar = store.beside("tools.tar");
    std::fs::write(&tar, image::gnu_tools_tar()).unwrap();
    manager.import_image(&tar, "tools", |_| {}).await.unwrap();
    let vessel = manager.create_vessel("tools", "/work").await.unwrap();
    sh(
        &vessel,
        "echo one > a; ln a b; ln -s a c; rm -r /srv/sub; mkfifo pipe; mkdir -p d/e; echo f > d/f; chown 1000:50 d/f
        chmod 4711 d/f; cp /bin/busybox tool; setcap cap_net_bind_service+ep tool; setfattr -n user.k -v v d
        /usr/bin/tar -C / -cf - etc/passwd | tar -xf - ; touch -d 2001-02-03 etc/passwd; chmod 1777 d/e; echo gone > gone",
    )
    .await;
    vessel.create_snapshot("first").await.unwrap();
    sh(
        &vessel,
        "mkdir /srv/sub; echo new > /srv/sub/n; rm gone /srv/a; echo more >> d/f; rm -r d/e; ln tool linked
        dd if=/dev/zero of=hole bs=1 count=1 seek=3000000 2>/dev/null; ln -s /nowhere 'odd name'; rm /usr/bin/getcap",
    )
    .await;
    vessel.create_snapshot("second").await.unwrap();
    sh(&vessel, "echo three > three; rm c; mkdir c; chmod 0700 d; rm -r /home/user").await;
    vessel
}

async fn podman_runs_and_umoci_unpacks_the_tree_of_the_vessel(store: &Store) {
    if !need(&NEEDED) || !need(&[Cap::Podman, Cap::Umoci, Cap::Skopeo]) {
        return;
    }
    let registry = Registry::open(store);
    let here = manager(store, "store").await;
    let vessel = lived_in(store, &here).await;
    let name = registry.reference("team/made:1");
    let made = commit(&here, vessel.id(), CommitOptions::new(&name).change("CMD [\"cat\", \"three\"]")).await;
    vessel.close().await.unwrap();
    here.push_image(&name, None, |_| {}).await.unwrap();
    let ours = inside(store, &store.root(), vessel.id());

    let podman = Podman::new(store);
    podman.call(&["pull", "--quiet", "--tls-verify=false", &name]);
    assert_same(&ours, &podman.tree(&name).without(&MOUNTED).timeless_root(), "podman image mount");
    assert_eq!(podman.run(&name, &[]), "three\n");
    let theirs = podman.tree_of_container(&name);
    for path in UNTOUCHED {
        assert_eq!(ours.below(path).differences(&theirs.below(path)), Vec::<String>::new(), "podman run");
    }
    assert!(ours.below("./work").len() > 10 && theirs.below("./work").len() > 10);

    skopeo_is_content(store, &name, &made.manifest_digest.to_string());
    let source = format!("docker://{name}");
    let copy = ["--insecure-policy", "copy", "--src-tls-verify=false", &source, "oci:copied:1"];
    crate::testkit::tools::tool(store, "skopeo", &copy);
    let unpacked = listing::of_directory(store, &umoci_unpack(store, &store.beside("copied"), "1"));
    assert_same(&ours, &unpacked.without(&MOUNTED).timeless_root(), "umoci unpack");

    registry.forget();
    let again = here.push_image(&name, None, |_| {}).await.unwrap();
    assert_eq!((again.uploaded, again.uploaded_bytes), (0, 0));
    assert_eq!(registry.asked(), ["HEAD /v2/team/made/manifests/1"]);
    here.close().await.unwrap();
}

/// It finds everything in order, and says nothing else.
fn skopeo_is_content(store: &Store, name: &str, digest: &str) {
    let source = format!("docker://{name}");
    let (ok, out, err) = try_tool(store, "skopeo", &["inspect", "--tls-verify=false", &source]);
    assert!(ok && err.is_empty(), "{out}{err}");
    let seen: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((seen["Layers"].as_array().unwrap().len(), seen["Digest"].as_str()), (4, Some(digest)));
    let (ok, out, err) = try_tool(store, "skopeo", &["inspect", "--config", "--tls-verify=false", &source]);
    assert!(ok && err.is_empty(), "{out}{err}");
    let config: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 4);
    assert_eq!(config["config"]["WorkingDir"], "/work");
}

async fn a_history_that_was_pulled_has_the_same_trees_and_commits_to_the_same_digests(store: &Store) {
    if !need(&NEEDED) {
        return;
    }
    let registry = Registry::open(store);
    let here = manager(store, "store").await;
    let vessel = lived_in(store, &here).await;
    let snapshots = vessel.list_snapshots().await.unwrap();
    let last = &snapshots[1].id;
    let name = registry.reference("team/history:1");
    here.push_snapshots(vessel.id(), &name, true, |_| {}).await.unwrap();
    vessel.close().await.unwrap();
    let there = manager(store, "there").await;
    there.pull_snapshots(&name, None, |_| {}).await.unwrap();
    drop(registry);
    for snapshot in &snapshots {
        let mut trees = Vec::new();
        for (manager, root) in [(&here, "store"), (&there, "there")] {
            let vessel = manager.open_vessel(vessel.id()).await.unwrap();
            vessel.restore_snapshot(&snapshot.id).await.unwrap();
            vessel.close().await.unwrap();
            trees.push(inside(store, &store.beside(root), vessel.id()));
        }
        assert_same(&trees[0], &trees[1], &snapshot.message);
    }
    let options = || CommitOptions::new("localhost/made:1").snapshot(last);
    let (one, other) =
        (commit(&here, vessel.id(), options()).await, commit(&there, vessel.id(), options()).await);
    assert_eq!((one.manifest_digest, one.config_digest), (other.manifest_digest, other.config_digest));
    there.close().await.unwrap();
    here.close().await.unwrap();
}
