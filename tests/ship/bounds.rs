//! No path of a session leads out of its workspace.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use vesselrt::ErrorKind;

use super::{ANN, ANNS, BOB, Fleet};
use crate::testkit::{Cap, Store, fails, need, sh, tests, tests_on_each_driver};

tests_on_each_driver!(
    paths_that_leave_the_workspace_are_refused,
    files_of_a_user_are_theirs_and_others_are_not_read
);

tests!(
    symlinks_that_stay_inside_are_followed,
    a_tree_that_changes_all_the_time_leads_nowhere_else,
    a_workspace_that_is_a_symlink_is_none
);

async fn paths_that_leave_the_workspace_are_refused(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    fleet.asks(BOB, "fs/create_file", json!({"path": "secret", "content": "bob's"}), 200).await;
    fleet.sh(ANN, "ln -s /etc etc; ln -s /etc/passwd passwd; ln -s ../.. up; ln -s /home/ship_bob00000/workspace bob; mkdir d; ln -s ../../.. d/up; ln -s /srv/new dangling").await;
    let before = sh(fleet.vessel(), "cat /etc/passwd /etc/group; ls -R /srv /etc /home/ship_bob00000").await;
    let message = format!("Access denied: path must be within workspace /home/{ANNS}/workspace");
    let paths = [
        "/etc/passwd",
        "..",
        "../.bashrc",
        "../../ship_bob00000/workspace/secret",
        "/home/ship_bob00000/workspace/secret",
        "etc/passwd",
        "passwd",
        "up",
        "up/ship_bob00000/workspace/secret",
        "bob/secret",
        "d/up/etc/passwd",
        "/",
        "/proc/self/environ",
        "etc",
    ];
    for path in paths {
        for operation in ["fs/read_file", "fs/list_dir", "fs/write_file", "fs/edit_file"] {
            let payload = json!({"path": path, "content": "x", "old_string": "o", "new_string": "n"});
            let detail = fleet.refuses(operation, payload, 403).await;
            // A directory that the user cannot look into tells neither.
            assert!(
                detail == message || (path.contains("bob") && detail.contains("ermission denied")),
                "{operation} {path}: {detail}"
            );
        }
        let refused = fleet.ship.download(ANN, path).await.unwrap_err();
        assert_eq!(refused.status, 403, "{path}");
    }
    for path in ["/etc/x", "../x", "etc/x", "up/x", "bob/x", "d/up/x", "/srv/new/f"] {
        for operation in ["fs/create_file", "fs/write_file"] {
            fleet.refuses(operation, json!({"path": path, "content": "x"}), 403).await;
        }
        fleet.refuses("fs/delete_file", json!({"path": format!("{path}/../passwd")}), 403).await;
        assert_eq!(fleet.ship.upload(ANN, path, b"x".as_slice()).await.unwrap_err().status, 403, "{path}");
    }
    assert_eq!(
        sh(fleet.vessel(), "cat /etc/passwd /etc/group; ls -R /srv /etc /home/ship_bob00000").await,
        before
    );
    fleet.end().await;
}

async fn symlinks_that_stay_inside_are_followed(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    fleet.sh(ANN, "mkdir d; echo text > d/f; ln -s d/f near; ln -s $PWD/d far; ln -s ../workspace/d round; ln -s new dangling").await;
    for path in ["near", "far/f", "round/f", "d/../round/./f"] {
        assert_eq!(fleet.ann("fs/read_file", json!({"path": path})).await["content"], "text\n", "{path}");
    }
    fleet.ann("fs/write_file", json!({"path": "far/g", "content": "1"})).await;
    fleet.ann("fs/write_file", json!({"path": "dangling", "content": "2"})).await;
    assert_eq!(fleet.sh(ANN, "cat d/g new").await, "12");
    fleet.end().await;
}

async fn a_tree_that_changes_all_the_time_leads_nowhere_else(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    // By its mode everybody could write there.
    sh(fleet.vessel(), "echo outside > /tmp/motd; chmod 666 /tmp/motd").await;
    fleet.sh(ANN, "mkdir a b; echo mine > a/motd; ln -s /tmp b/link").await;
    let files = fleet.vessel().user_files(10_000, 10_000, format!("/home/{ANNS}/workspace"));
    let ship = Arc::new(fleet.ship);
    let on = Arc::new(AtomicBool::new(true));
    let (racer, running) = (Arc::clone(&ship), Arc::clone(&on));
    // `x` is a directory with `motd`, or a symlink to another that has one too.
    let race = tokio::spawn(async move {
        let script =
            "i=0; while [ $i -lt 100 ]; do mv a x; mv x a; mv b/link x; mv x b/link; i=$((i+1)); done";
        while running.load(Ordering::Relaxed) {
            let answer = racer.operate(ANN, "shell/exec", json!({"command": script})).await;
            assert_eq!(answer.body["stderr"], "", "{}", answer.body);
        }
    });
    let (mut read, mut wrote, mut refused) = (0, 0, 0);
    let mut n = 0;
    while n < 3000 || read == 0 || wrote == 0 || refused == 0 {
        n += 1;
        assert!(n < 200_000, "read {read}, wrote {wrote}, refused {refused}");
        match files.read_file("x/motd").await {
            Ok(data) => {
                assert_eq!(data, b"mine\n", "{n}");
                read += 1;
            }
            Err(error) => refused += usize::from(error.leads_outside()),
        }
        wrote += usize::from(files.write_file("x/new", b"", 0o644).await.is_ok());
    }
    on.store(false, Ordering::Relaxed);
    race.await.unwrap();
    let left = sh(ship.vessel(), "cat /tmp/motd; ls /tmp").await;
    assert_eq!(left, "outside\nmotd\n", "after {read} reads, {wrote} writes and {refused} refusals");
    ship.close().await;
}

async fn a_workspace_that_is_a_symlink_is_none(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    fleet.asks(BOB, "fs/create_file", json!({"path": "secret", "content": "bob's"}), 200).await;
    fleet.sh(ANN, "cd ..; rmdir workspace; ln -s /srv workspace").await;
    let answer = fleet.ship.operate(ANN, "fs/read_file", json!({"path": "a"})).await;
    assert!(answer.status >= 400, "{}", answer.body);
    assert!(fleet.ship.upload(ANN, "x", b"x".as_slice()).await.is_err());
    assert!(fleet.vessel().stat("/srv/x").await.is_err());
    fleet.end().await;
}

/// The library's own, without a ship around it.
async fn files_of_a_user_are_theirs_and_others_are_not_read(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let (_manager, vessel) = store.vessel().await;
    for (name, id) in [("one", 2001), ("two", 2002)] {
        vessel.make_dir_all(format!("/home/{name}"), 0o700).await.unwrap();
        vessel.set_owner(format!("/home/{name}"), id, id).await.unwrap();
    }
    let (one, two) = (vessel.user_files(2001, 2001, "/home/one"), vessel.user_files(2002, 2002, "/home/two"));
    one.make_dir_all("a/b", 0o750).await.unwrap();
    one.write_file("a/b/f", b"one's", 0o640).await.unwrap();
    let made = vessel.stat("/home/one/a/b/f").await.unwrap();
    assert_eq!((made.uid, made.gid, made.mode), (2001, 2001, 0o640));
    assert_eq!(one.read_file("/home/one/a/b/f").await.unwrap(), b"one's");
    one.rename_file("a/b/f", "a/g").await.unwrap();
    assert_eq!(one.read_dir("a").await.unwrap().len(), 2);
    // By its base it would be allowed; its owner keeps it from being read.
    let thief = vessel.user_files(2002, 2002, "/home/one");
    for path in [".", "a/g"] {
        assert!(
            !fails(
                thief.stat(path).await.map(drop).and(thief.read_file("a/g").await),
                &ErrorKind::PermissionDenied
            )
            .leads_outside()
        );
    }
    assert!(
        fails(two.read_file("/home/one/a/g").await, &ErrorKind::PermissionDenied).kind()
            == ErrorKind::PermissionDenied
    );
    assert!(fails(two.stat("/etc/motd").await, &ErrorKind::PermissionDenied).leads_outside());
    assert!(fails(one.rename_file("a/g", "/tmp/g").await, &ErrorKind::PermissionDenied).leads_outside());
    assert!(fails(one.rename_file("/etc/motd", "motd").await, &ErrorKind::PermissionDenied).leads_outside());
    fails(one.delete_all("/").await, &ErrorKind::PermissionDenied);
    one.delete_all("a").await.unwrap();
    assert!(vessel.read_dir("/home/one").await.unwrap().is_empty());
    fails(vessel.set_owner("/etc/motd", u32::MAX - 1, 0).await, &ErrorKind::InvalidArgument);
    // Root's files are made by root again.
    vessel.write_file("/home/two/root", b"", 0o600).await.unwrap();
    assert_eq!(vessel.stat("/home/two/root").await.unwrap().uid, 0);
    vessel.close().await.unwrap();
}
