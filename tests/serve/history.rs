//! Snapshots, forks and changes of ships.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::bay::Bay;

fn snapshot(bay: &Bay, ship: &str, message: &str) -> String {
    let made =
        bay.post(&format!("/ship/{ship}/snapshots"), "one", &json!({ "message": message })).is(201).json();
    assert_eq!(made["message"], message);
    made["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_ship_goes_back_to_a_snapshot_and_its_sessions_stay_aboard() {
    let bay = Bay::start(&[]);
    let ship = bay.ship_id("one");
    bay.sh(&ship, "one", "echo first > /tmp/note");
    let first = snapshot(&bay, &ship, "the first");
    bay.sh(&ship, "one", "echo second > /tmp/note; echo x > /tmp/other");
    let second = snapshot(&bay, &ship, "the second");
    let list = bay.get(&format!("/ship/{ship}/snapshots")).is(200).json();
    assert_eq!((&list["total"], &list["current"]), (&json!(2), &json!(second)));
    assert_eq!(list["snapshots"][0]["id"], first.as_str());
    assert_eq!(list["snapshots"][1]["parent_id"], first.as_str());
    let restored =
        bay.post(&format!("/ship/{ship}/snapshots/{first}/restore"), "one", &json!({})).is(200).json();
    assert_eq!((&restored["id"], &restored["current_session_num"]), (&json!(ship), &json!(1)));
    assert_eq!(bay.sh(&ship, "one", "cat /tmp/note; ls /tmp"), "first\nnote");
    assert_eq!(bay.get(&format!("/ship/{ship}/snapshots")).json()["current"], first.as_str());
    bay.post(&format!("/ship/{ship}/snapshots/nope/restore"), "one", &json!({}))
        .says(404, "Snapshot not found");
    bay.sh(&ship, "one", "cat /tmp/note");
    bay.end();
}

#[test]
fn a_fork_begins_where_its_ship_is_or_was() {
    let bay = Bay::start(&[]);
    let ship = bay.ship_id("one");
    bay.sh(&ship, "one", "echo first > /tmp/note");
    let first = snapshot(&bay, &ship, "");
    bay.sh(&ship, "one", "echo second > /tmp/note");
    let fork = |session: &str, body: Value| {
        let made = bay.post(&format!("/ship/{ship}/fork"), session, &body).is(201).json();
        assert_eq!((&made["status"], &made["current_session_num"]), (&json!(1), &json!(1)));
        made["id"].as_str().unwrap().to_owned()
    };
    let now = fork("two", json!({ "ttl": 60 }));
    let then = fork("three", json!({ "ttl": 60, "snapshot": first, "max_session_num": 2 }));
    assert_eq!(bay.sh(&now, "two", "cat /tmp/note; echo mine > /tmp/mine"), "second");
    assert_eq!(bay.sh(&then, "three", "cat /tmp/note"), "first");
    assert_eq!(bay.sh(&ship, "one", "cat /tmp/note; ls /tmp"), "second\nnote");
    bay.try_sh(&now, "one", "true").says(400, "Session does not have access to this ship");
    let wrong = json!({ "ttl": 60, "snapshot": "nope" });
    bay.post(&format!("/ship/{ship}/fork"), "four", &wrong).says(404, "Snapshot not found");
    assert_eq!(bay.get("/stat/overview").json()["ships"]["total"], 3);
    bay.end();
}

#[test]
fn what_changed_is_told() {
    let bay = Bay::start(&[]);
    let ship = bay.ship_id("one");
    bay.sh(&ship, "one", "echo first > /tmp/note");
    let first = snapshot(&bay, &ship, "");
    bay.sh(&ship, "one", "echo more > /tmp/other; rm /tmp/note");
    let diff = |query: &str| bay.get(&format!("/ship/{ship}/diff{query}")).is(200).json();
    // What makes a user of a session is not told apart from what it does.
    let paths = |diff: &Value| {
        let changes = diff["changes"].as_array().unwrap().iter();
        let of =
            |c: &Value| (c["status"].as_str().unwrap().to_owned(), c["path"].as_str().unwrap().to_owned());
        let done = changes.map(of).filter(|(_, path)| path.starts_with("/tmp/"));
        done.map(|(status, path)| status + &path).collect::<Vec<_>>()
    };
    let now = diff("");
    assert_eq!((&now["from"], &now["to"]), (&json!(first), &json!("@now")));
    assert_eq!(paths(&now), ["D/tmp/note", "A/tmp/other"]);
    assert_eq!(paths(&diff("?from=@image&to=@now")), ["A/tmp/other"]);
    assert_eq!(paths(&diff(&format!("?from=@image&to={first}"))), ["A/tmp/note"]);
    bay.get(&format!("/ship/{ship}/diff?from=nope")).says(404, "Snapshot not found");
    bay.end();
}

#[test]
fn a_stopped_ship_has_its_history_and_stays_stopped() {
    let bay = Bay::start(&[]);
    let ship = bay.ship("one", &json!({ "ttl": 1 }))["id"].as_str().unwrap().to_owned();
    let first = snapshot(&bay, &ship, "");
    bay.until_stopped(&ship);
    let second = snapshot(&bay, &ship, "while stopped");
    assert_eq!(bay.get(&format!("/ship/{ship}/snapshots")).json()["current"], second.as_str());
    bay.post(&format!("/ship/{ship}/snapshots/{first}/restore"), "one", &json!({})).is(200);
    assert_eq!(bay.get(&format!("/ship/{ship}/snapshots")).json()["current"], first.as_str());
    bay.get(&format!("/ship/{ship}/diff")).is(200);
    assert_eq!(bay.listed(&ship), Some(0));
    bay.end();
}
