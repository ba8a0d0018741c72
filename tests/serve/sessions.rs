//! Sessions by themselves.
#![forbid(unsafe_code)]

use serde_json::json;

use super::bay::{Bay, seconds_left};
use crate::testkit::wait_until;

#[test]
fn sessions_are_listed_and_shown() {
    let bay = Bay::start(&[]);
    assert_eq!(bay.get("/sessions").is(200).json(), json!({ "sessions": [], "total": 0 }));
    let ship = bay.ship("one", &json!({ "ttl": 600, "max_session_num": 2 }));
    bay.ship("two", &json!({ "ttl": 60 }));
    let session = bay.get("/sessions/one").is(200).json();
    assert_eq!((&session["session_id"], &session["ship_id"]), (&json!("one"), &ship["id"]));
    assert_eq!((&session["initial_ttl"], &session["is_active"]), (&json!(600), &json!(true)));
    assert!(seconds_left(&session["expires_at"]) > 590.0);
    assert!(seconds_left(&session["last_activity"]) < 0.5);
    let all = bay.get("/sessions").is(200).json();
    assert_eq!(all["total"], 2);
    assert_eq!(all["sessions"][0]["session_id"], "two", "the newest is first");
    bay.end();
}

#[test]
fn the_time_of_a_session_can_be_set_and_its_ship_follows() {
    let bay = Bay::start(&[]);
    let ship = bay.ship("one", &json!({ "ttl": 600 }))["id"].as_str().unwrap().to_owned();
    let session = bay.post("/sessions/one/extend-ttl", "one", &json!({ "ttl": 60 })).is(200).json();
    assert!(seconds_left(&session["expires_at"]) < 60.5, "{session}");
    assert!(seconds_left(&bay.get(&format!("/ship/{ship}")).json()["expires_at"]) < 60.5);
    bay.post("/sessions/one/extend-ttl", "one", &json!({ "ttl": 1 })).is(200);
    bay.until_stopped(&ship);
    bay.post("/sessions/one/extend-ttl", "one", &json!({ "ttl": 60 })).says(404, "Session not found");
    bay.end();
}

#[test]
fn a_session_that_expires_leaves_a_ship_that_others_are_aboard_of() {
    let bay = Bay::start(&[]);
    let ship =
        bay.ship("one", &json!({ "ttl": 600, "max_session_num": 2 }))["id"].as_str().unwrap().to_owned();
    bay.ship("two", &json!({ "ttl": 1 }));
    wait_until("it is not aboard", || bay.get("/sessions/two").json()["is_active"] == false);
    assert_eq!(bay.get(&format!("/ship/{ship}")).json()["current_session_num"], 1);
    bay.try_sh(&ship, "two", "true").says(400, "Session does not have access to this ship");
    bay.sh(&ship, "one", "true");
    let third = bay.ship("three", &json!({ "ttl": 60 }));
    assert_eq!(third["id"], ship.as_str(), "there is room again");
    bay.end();
}

#[test]
fn a_session_that_is_deleted_is_forgotten_and_the_last_one_stops_the_ship() {
    let bay = Bay::start(&[]);
    let ship =
        bay.ship("one", &json!({ "ttl": 600, "max_session_num": 2 }))["id"].as_str().unwrap().to_owned();
    bay.ship("two", &json!({ "ttl": 600 }));
    bay.delete("/sessions/two").is(204);
    bay.delete("/sessions/two").says(404, "Session not found");
    bay.try_sh(&ship, "two", "true").says(400, "Session does not have access to this ship");
    bay.sh(&ship, "one", "true");
    bay.delete("/sessions/one").is(204);
    assert_eq!(bay.listed(&ship), Some(0));
    assert_eq!(bay.get("/sessions").json()["total"], 0);
    let started =
        bay.request("POST", &format!("/ship/{ship}/start")).json(&json!({ "ttl": 2 })).send().is(200).json();
    assert_eq!((&started["status"], &started["current_session_num"]), (&json!(1), &json!(0)));
    bay.until_stopped(&ship);
    bay.end();
}
