//! Each session is a user of its own.
#![forbid(unsafe_code)]

use std::sync::Arc;

use serde_json::json;
use vesselrt::serve::ship::{Limits, Ship};

use super::{ANN, ANNS, BOB, Fleet};
use crate::testkit::{Cap, Store, need, sh, tests};

tests!(
    a_session_is_a_user_with_a_home_that_others_cannot_read,
    sessions_whose_ids_begin_alike_are_different_users,
    first_calls_at_once_make_one_user,
    users_are_the_same_after_a_restart_and_never_made_twice,
    a_user_is_there_after_a_snapshot_and_in_a_fork,
    session_ids_may_have_any_characters,
    a_user_database_that_is_too_large_is_refused,
    what_an_image_has_in_the_way_of_a_home_is_not_touched,
    the_log_says_what_was_asked_for,
);

async fn a_session_is_a_user_with_a_home_that_others_cannot_read(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    assert_eq!(
        fleet.sh(ANN, "id -un; id -gn; id -u; pwd; umask").await,
        format!("{ANNS}\n{ANNS}\n10000\n/home/{ANNS}/workspace\n0022")
    );
    assert_eq!(fleet.sh(BOB, "id -un; id -u").await, "ship_bob00000\n10001");
    let vessel = fleet.vessel();
    let home = vessel.stat(format!("/home/{ANNS}")).await.unwrap();
    assert_eq!((home.mode, home.uid, home.gid), (0o700, 10_000, 10_000));
    let workspace = vessel.stat(format!("/home/{ANNS}/workspace")).await.unwrap();
    assert_eq!((workspace.mode, workspace.uid), (0o755, 10_000));
    fleet.sh(ANN, "echo secret > secret").await;
    let spied = fleet
        .asks(BOB, "shell/exec", json!({"command": format!("cat /home/{ANNS}/workspace/secret")}), 200)
        .await;
    assert_eq!((&spied["success"], &spied["stdout"]), (&json!(false), &json!("")), "{spied}");
    assert!(spied["stderr"].as_str().unwrap().contains("Permission denied"), "{spied}");
    for (what, reason) in [("echo x >> /etc/passwd", "ermission denied"), ("chown 0 secret", "not permitted")]
    {
        let refused = fleet.ann("shell/exec", json!({"command": what})).await;
        assert!(refused["stderr"].as_str().unwrap().contains(reason), "{refused}");
    }
    fleet.end().await;
}

async fn sessions_whose_ids_begin_alike_are_different_users(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    assert_eq!(fleet.sh("same-one-1", "id -un; echo 1 > mine").await, "ship_same-one");
    assert_eq!(fleet.sh("same-one-2", "id -un; ls").await, "ship_same-one_2");
    assert_eq!(fleet.sh("same-one-1", "cat mine").await, "1");
    fleet.end().await;
}

async fn first_calls_at_once_make_one_user(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let ship = Arc::new(fleet.ship);
    let calls = (0..12).map(|n| {
        let ship = Arc::clone(&ship);
        tokio::spawn(async move {
            let session = ["first", "second", "third"][n % 3];
            ship.operate(session, "shell/exec", json!({"command": "id -u"})).await
        })
    });
    let calls: Vec<_> = calls.collect();
    for (n, call) in calls.into_iter().enumerate() {
        let body = call.await.unwrap().body;
        assert_eq!(body["success"], true, "{n}: {body}");
    }
    let passwd = String::from_utf8(ship.vessel().read_file("/etc/passwd").await.unwrap()).unwrap();
    let made: Vec<&str> = passwd.lines().filter(|line| line.starts_with("ship_")).collect();
    assert_eq!(made.len(), 3, "{passwd}");
    ship.close().await;
}

async fn users_are_the_same_after_a_restart_and_never_made_twice(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    assert_eq!(fleet.sh(ANN, "id -u; echo kept > file").await, "10000");
    let id = fleet.vessel().id().to_owned();
    let Fleet { manager, ship } = fleet;
    ship.close().await;
    let ship = Ship::new(manager.open_vessel(&id).await.unwrap(), Limits::default());
    let fleet = Fleet { manager, ship };
    assert_eq!(fleet.sh(BOB, "id -u").await, "10001");
    assert_eq!(fleet.sh(ANN, "id -u; cat file").await, "10000\nkept");
    fleet.ship.end_session(ANN).await;
    assert_eq!(fleet.sh(ANN, "id -u; cat file; grep -c ship_ /etc/passwd").await, "10000\nkept\n2");
    fleet.end().await;
}

async fn a_user_is_there_after_a_snapshot_and_in_a_fork(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let before = fleet.vessel().create_snapshot("nobody").await.unwrap();
    fleet.sh(ANN, "echo then > file").await;
    let with = fleet.vessel().create_snapshot("ann").await.unwrap();
    fleet.ship.end_sessions().await;
    fleet.vessel().restore_snapshot(&before.id).await.unwrap();
    assert_eq!(fleet.sh(ANN, "id -u; ls").await, "10000");
    fleet.ship.end_sessions().await;
    fleet.vessel().restore_snapshot(&with.id).await.unwrap();
    assert_eq!(fleet.sh(ANN, "id -u; cat file").await, "10000\nthen");
    fleet.end().await;
}

async fn session_ids_may_have_any_characters(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    for (session, name) in
        [("../../etc", "ship_______et"), ("a:0:0\n", "ship_a_0_0_"), ("", "ship_"), ("é\0x", "ship___x")]
    {
        assert_eq!(fleet.sh(session, "id -un").await, name);
    }
    let passwd = String::from_utf8(fleet.vessel().read_file("/etc/passwd").await.unwrap()).unwrap();
    assert_eq!(passwd.lines().count(), 3 + 4, "{passwd}");
    fleet.end().await;
}

async fn a_user_database_that_is_too_large_is_refused(store: &Store) {
    let fleet = Fleet::new(store).await;
    fleet.vessel().write_file("/etc/passwd", vec![b'\n'; 2 << 20], 0o644).await.unwrap();
    let detail = fleet.refuses("shell/cwd", json!({}), 500).await;
    assert!(detail.contains("/etc/passwd has more than"), "{detail}");
    fleet.end().await;
}

async fn what_an_image_has_in_the_way_of_a_home_is_not_touched(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    sh(fleet.vessel(), &format!("ln -s /etc /home/{ANNS}; mkdir /home/{ANNS}_2; chmod 755 /home/{ANNS}_2"))
        .await;
    assert_eq!(fleet.sh(ANN, "id -un").await, format!("{ANNS}_3"));
    assert_eq!(fleet.vessel().stat("/etc").await.unwrap().uid, 0);
    fleet.end().await;
}

async fn the_log_says_what_was_asked_for(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    fleet.sh(ANN, "true").await;
    fleet.asks(ANN, "no/thing", json!({}), 404).await;
    fleet.refuses("fs/read_file", json!({"path": "none"}), 404).await;
    let log = fleet.ship.logs();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 3, "{log}");
    assert!(lines[0].contains(&format!("session={ANN} shell/exec 200 ")), "{log}");
    assert!(lines[1].contains("no/thing 404 ") && lines[2].contains("fs/read_file 404 "), "{log}");
    fleet.end().await;
}
