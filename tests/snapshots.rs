//! Snapshots: chains, restoring, branches, deleting, and what refuses them.
#![forbid(unsafe_code)]

mod damaged;
mod foreign;
mod long;
mod running;
mod sealed;
mod sweep;
mod upkeep;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vesselrt::{ErrorKind, OpenOptions, SnapshotManifest, Vessel};

use crate::testkit::image::sha256;
use crate::testkit::{Store, fails, fails_with, sh, tests, tests_on_each_driver, tree};

tests_on_each_driver!(
    a_chain_of_snapshots_is_walked_back_and_forth,
    restoring_discards_what_was_not_snapshotted,
    a_restored_snapshot_branches,
    deleted_files_and_replaced_directories_are_in_the_snapshot,
    a_chain_longer_than_a_hundred_layers_works,
);

tests!(
    the_manifest_of_a_snapshot_says_what_it_is,
    an_unchanged_vessel_makes_an_empty_snapshot,
    snapshots_follow_the_rules_of_deletion,
    an_unknown_snapshot_is_not_found,
    a_file_open_for_writing_refuses_a_snapshot,
    a_file_open_for_reading_keeps_its_content,
    snapshots_survive_reopening_and_other_managers,
    a_message_is_kept_as_it_is,
    a_snapshot_of_a_large_tree_is_whole,
    restoring_what_is_current_discards_changes,
    restoring_keeps_the_vessel_open,
);

/// The value that the file `state` of a snapshot has.
async fn state(vessel: &Vessel) -> String {
    String::from_utf8(vessel.read_file("state").await.unwrap()).unwrap()
}

async fn snapshot(vessel: &Vessel, value: &str) -> SnapshotManifest {
    vessel.write_file("state", value, 0o644).await.unwrap();
    vessel.create_snapshot(value).await.unwrap()
}

async fn messages(vessel: &Vessel) -> Vec<String> {
    vessel.list_snapshots().await.unwrap().into_iter().map(|snapshot| snapshot.message).collect()
}

async fn a_chain_of_snapshots_is_walked_back_and_forth(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let mut chain = Vec::new();
    for value in ["one", "two", "three"] {
        sh(&vessel, &format!("echo {value} > only-{value}; rm -f only-one")).await;
        chain.push(snapshot(&vessel, value).await);
    }
    assert_eq!(chain[0].parent_id, "");
    assert_eq!((&chain[1].parent_id, &chain[2].parent_id), (&chain[0].id, &chain[1].id));
    assert_eq!(vessel.list_snapshots().await.unwrap(), chain);
    for index in [0, 2, 1, 2, 0, 1] {
        vessel.restore_snapshot(&chain[index].id).await.unwrap();
        assert_eq!(vessel.manifest().current_snapshot_id, chain[index].id);
        assert_eq!(state(&vessel).await, chain[index].message);
        assert_eq!(vessel.stat("only-three").await.is_ok(), index == 2);
        assert_eq!(vessel.stat("only-two").await.is_ok(), index >= 1);
        assert_eq!(sh(&vessel, "cat state").await, chain[index].message);
    }
    assert_eq!(vessel.list_snapshots().await.unwrap(), chain);
    vessel.close().await.unwrap();
}

async fn the_manifest_of_a_snapshot_says_what_it_is(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let before = vessel.manifest();
    let made = snapshot(&vessel, "first").await;
    assert_eq!((made.vessel_id.as_str(), made.parent_id.as_str()), (vessel.id(), ""));
    assert!(made.id.len() == 16 && made.id.bytes().all(|b| b.is_ascii_hexdigit()), "{}", made.id);
    assert!(made.labels.is_empty() && made.create_time > before.create_time);
    let path = store.root().join(format!("data/vessels/{}/snapshots/{}.tar.zst", vessel.id(), made.id));
    let tar = zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap();
    assert_eq!(made.size, tar.len() as u64);
    assert_eq!(made.checksum, format!("sha256:{}", sha256(&tar)));
    let second = snapshot(&vessel, "second").await;
    assert!(second.create_time >= made.create_time && second.id != made.id);
    assert!(vessel.manifest().update_time > before.update_time);
    // What others read: the names of the stored fields.
    let stored =
        std::fs::read(store.root().join(format!("data/vessels/{}/vessel.dat", vessel.id()))).unwrap();
    let stored: serde_json::Value = serde_json::from_slice(&stored).unwrap();
    assert_eq!(stored["currentSnapshotId"], second.id.as_str());
    for field in ["id", "baseImageRef", "workDir", "createTime", "updateTime", "labels"] {
        assert!(!stored[field].is_null(), "{field}");
    }
    let listed = &stored["snapshots"][1];
    for field in ["id", "vesselId", "parentId", "message", "checksum", "size", "createTime", "labels"] {
        assert!(!listed[field].is_null(), "{field}");
    }
    assert_eq!(listed["parentId"], made.id.as_str());
    vessel.close().await.unwrap();
}

async fn an_unchanged_vessel_makes_an_empty_snapshot(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    snapshot(&vessel, "one").await;
    let before = tree::inside(&vessel, "/work", false).await;
    let empty = vessel.create_snapshot("").await.unwrap();
    let again = vessel.create_snapshot("").await.unwrap();
    assert_eq!((&again.parent_id, again.size, &again.checksum), (&empty.id, empty.size, &empty.checksum));
    vessel.restore_snapshot(&empty.id).await.unwrap();
    assert_eq!(tree::inside(&vessel, "/work", false).await, before);
    vessel.close().await.unwrap();
}

async fn restoring_discards_what_was_not_snapshotted(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let first = snapshot(&vessel, "first").await;
    let whole = async |vessel: &Vessel| {
        let mut trees = Vec::new();
        for dir in ["/bin", "/etc", "/home", "/root", "/srv", "/var", "/work"] {
            trees.push(tree::inside(vessel, dir, false).await);
        }
        (trees, sh(vessel, "ls -A /").await)
    };
    let before = whole(&vessel).await;
    sh(&vessel, "rm -rf /work/state /srv /etc/motd; mkdir -p /new/dir; echo x > /new/dir/f; chmod 700 /work; mv /var /v").await;
    vessel.restore_snapshot(&first.id).await.unwrap();
    assert_eq!(whole(&vessel).await, before);
    assert_eq!(state(&vessel).await, "first");
    vessel.close().await.unwrap();
}

async fn a_restored_snapshot_branches(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let one = snapshot(&vessel, "one").await;
    let two = snapshot(&vessel, "two").await;
    vessel.restore_snapshot(&one.id).await.unwrap();
    assert_eq!(messages(&vessel).await, ["one", "two"], "later snapshots stay");
    let other = snapshot(&vessel, "other").await;
    assert_eq!((&other.parent_id, &two.parent_id), (&one.id, &one.id));
    for (id, value) in [(&two.id, "two"), (&other.id, "other"), (&one.id, "one"), (&two.id, "two")] {
        vessel.restore_snapshot(id).await.unwrap();
        assert_eq!(state(&vessel).await, value);
    }
    assert_eq!(messages(&vessel).await, ["one", "two", "other"]);
    vessel.close().await.unwrap();
}

async fn deleted_files_and_replaced_directories_are_in_the_snapshot(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir -p d/e; echo 1 > d/f; echo 2 > d/e/g; echo 3 > file").await;
    let one = vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "rm -r d file /srv/sub; mkdir d file; echo 4 > d/new; rm /etc/motd; ln -s d /etc/motd").await;
    let before = tree::inside(&vessel, "/work", false).await;
    let two = vessel.create_snapshot("").await.unwrap();
    vessel.restore_snapshot(&one.id).await.unwrap();
    assert_eq!(sh(&vessel, "cat d/f d/e/g file /srv/sub/b /etc/motd").await, "1\n2\n3\nb\nthe base image\n");
    vessel.restore_snapshot(&two.id).await.unwrap();
    assert_eq!(tree::inside(&vessel, "/work", false).await, before);
    assert_eq!(sh(&vessel, "ls d; readlink /etc/motd; ls /srv").await, "new\nd\na\nlink\n");
    vessel.close().await.unwrap();
}

async fn snapshots_follow_the_rules_of_deletion(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let one = snapshot(&vessel, "one").await;
    let only = fails(vessel.delete_snapshot(&one.id).await, &ErrorKind::Conflict);
    assert_eq!(only.to_string(), "cannot delete the only snapshot");
    let two = snapshot(&vessel, "two").await;
    let three = snapshot(&vessel, "three").await;
    for parent in [&one, &two] {
        let error = fails(vessel.delete_snapshot(&parent.id).await, &ErrorKind::Conflict);
        assert_eq!(error.to_string(), format!("cannot delete snapshot with children: {}", parent.id));
    }
    // The current one: back to its parent first.
    vessel.write_file("unsaved", "x", 0o644).await.unwrap();
    vessel.delete_snapshot(&three.id).await.unwrap();
    assert_eq!(vessel.manifest().current_snapshot_id, two.id);
    assert_eq!(state(&vessel).await, "two");
    fails(vessel.stat("unsaved").await, &ErrorKind::NotFound);
    // One that is not: what is there now stays.
    vessel.restore_snapshot(&one.id).await.unwrap();
    vessel.write_file("unsaved", "x", 0o644).await.unwrap();
    vessel.delete_snapshot(&two.id).await.unwrap();
    assert_eq!(vessel.read_file("unsaved").await.unwrap(), b"x");
    assert_eq!(messages(&vessel).await, ["one"]);
    let data = store.root().join(format!("data/vessels/{}/snapshots", vessel.id()));
    assert_eq!(crate::testkit::leftovers::entries(&data).len(), 1, "archives go with their snapshots");
    fails(vessel.restore_snapshot(&two.id).await, &ErrorKind::NotFound);
    assert_eq!(vessel.read_file("unsaved").await.unwrap(), b"x");
    vessel.close().await.unwrap();
}

async fn an_unknown_snapshot_is_not_found(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let other = vessel.create_snapshot("").await.unwrap();
    vessel.write_file("unsaved", "x", 0o644).await.unwrap();
    for id in ["0123456789abcdef", "", "..", "../../x", "a/b", &other.id[..15], "a\0"] {
        for result in [vessel.restore_snapshot(id).await, vessel.delete_snapshot(id).await] {
            let error = fails(result, &ErrorKind::NotFound);
            assert_eq!(error.to_string(), format!("snapshot not found: {id}"));
        }
    }
    assert_eq!(vessel.read_file("unsaved").await.unwrap(), b"x");
    vessel.close().await.unwrap();
}

async fn a_file_open_for_writing_refuses_a_snapshot(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let one = snapshot(&vessel, "one").await;
    for options in [OpenOptions::new().write(true), OpenOptions::new().read(true).append(true)] {
        let mut file = vessel.open_file("state", &options).await.unwrap();
        fails(vessel.create_snapshot("").await, &ErrorKind::Conflict);
        fails(vessel.restore_snapshot(&one.id).await, &ErrorKind::Conflict);
        file.write_all(b"two").await.unwrap();
        file.close().await.unwrap();
    }
    assert_eq!(state(&vessel).await, "twotwo");
    vessel.create_snapshot("").await.unwrap();
    vessel.restore_snapshot(&one.id).await.unwrap();
    assert_eq!(state(&vessel).await, "one");
    vessel.close().await.unwrap();
}

async fn a_file_open_for_reading_keeps_its_content(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let one = snapshot(&vessel, "one").await;
    let mut file = vessel.open_file("state", &OpenOptions::new().read(true)).await.unwrap();
    let mut first = [0; 1];
    file.read_exact(&mut first).await.unwrap();
    let two = snapshot(&vessel, "two").await;
    vessel.restore_snapshot(&one.id).await.unwrap();
    vessel.restore_snapshot(&two.id).await.unwrap();
    let mut rest = String::new();
    file.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "ne");
    drop(file);
    vessel.close().await.unwrap();
}

async fn snapshots_survive_reopening_and_other_managers(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let one = snapshot(&vessel, "one").await;
    let two = snapshot(&vessel, "two").await;
    vessel.close().await.unwrap();
    drop(manager);
    let manager = store.manager().await;
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(vessel.list_snapshots().await.unwrap(), [one.clone(), two]);
    vessel.restore_snapshot(&one.id).await.unwrap();
    vessel.close().await.unwrap();
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!((state(&vessel).await, vessel.manifest().current_snapshot_id), ("one".into(), one.id.clone()));
    assert_eq!(snapshot(&vessel, "three").await.parent_id, one.id);
    vessel.close().await.unwrap();
}

async fn a_message_is_kept_as_it_is(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    for message in ["", "two\nlines", "\"quoted\" \\ é \u{1f6a2}", &"long".repeat(1000)] {
        assert_eq!(vessel.create_snapshot(message).await.unwrap().message, message);
        assert_eq!(messages(&vessel).await.last().unwrap(), message);
    }
    vessel.close().await.unwrap();
}

async fn a_snapshot_of_a_large_tree_is_whole(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(
        &vessel,
        "for d in $(seq 1 40); do mkdir d$d; for f in $(seq 1 50); do echo $d.$f > d$d/f$f; done; done
        head -c 20000000 /dev/urandom > big",
    )
    .await;
    let before = tree::inside(&vessel, "/work/d7", false).await;
    let sum = sh(&vessel, "sha256sum big; find . | wc -l").await;
    vessel.create_snapshot("").await.unwrap();
    vessel.close().await.unwrap();
    crate::persistence::wipe(store);
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(tree::inside(&vessel, "/work/d7", false).await, before);
    assert_eq!(sh(&vessel, "sha256sum big; find . | wc -l").await, sum);
    vessel.close().await.unwrap();
}

async fn restoring_what_is_current_discards_changes(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let one = snapshot(&vessel, "one").await;
    for round in 0..5 {
        vessel.write_file("state", "changed", 0o644).await.unwrap();
        vessel.write_file(format!("new{round}"), "x", 0o644).await.unwrap();
        vessel.restore_snapshot(&one.id).await.unwrap();
        assert_eq!(state(&vessel).await, "one");
        assert_eq!(vessel.read_dir("").await.unwrap().len(), 1);
    }
    vessel.close().await.unwrap();
}

async fn restoring_keeps_the_vessel_open(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let other = vessel.clone();
    vessel.keep(true).await.unwrap();
    let one = snapshot(&vessel, "one").await;
    snapshot(&vessel, "two").await;
    vessel.restore_snapshot(&one.id).await.unwrap();
    assert_eq!(state(&other).await, "one");
    let status = manager.vessel_status(vessel.id()).await.unwrap();
    assert!(status.running && status.kept, "{status:?}");
    fails_with(vessel.restore_snapshot("nothing").await, &ErrorKind::NotFound, "snapshot not found: nothing");
    assert!(manager.stop_vessel(vessel.id()).await.unwrap());
    vessel.close().await.unwrap();
}

async fn a_chain_longer_than_a_hundred_layers_works(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let many = if store.driver() == vesselrt::OverlayDriver::Fuse { 20 } else { 120 };
    let mut ids = Vec::new();
    for n in 0..many {
        vessel.write_file(format!("f{n}"), format!("{n}"), 0o644).await.unwrap();
        if n > 0 {
            vessel.delete_file(format!("f{}", n - 1)).await.unwrap();
        }
        ids.push(snapshot(&vessel, &format!("{n}")).await.id);
    }
    let last = many - 1;
    assert_eq!(sh(&vessel, "cat state; ls | wc -l").await, format!("{last}2\n"));
    vessel.restore_snapshot(&ids[many / 2]).await.unwrap();
    assert_eq!(sh(&vessel, "cat state").await, format!("{}", many / 2));
    vessel.restore_snapshot(&ids[last]).await.unwrap();
    vessel.close().await.unwrap();
    crate::persistence::wipe(store);
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&vessel, &format!("cat state f{last}; ls | wc -l")).await, format!("{last}{last}2\n"));
    vessel.close().await.unwrap();
}
