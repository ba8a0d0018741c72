//! Which ship a session gets, and how long it has it.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bay::{Bay, pause, seconds_left};
use crate::testkit::wait_until;

fn id(ship: &Value) -> String {
    ship["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_session_gets_its_ship_again_as_it_is() {
    let bay = Bay::start(&[]);
    let first = bay.ship("one", &json!({ "ttl": 600 }));
    let again = bay.ship("one", &json!({ "ttl": 5, "spec": { "cpus": 2 }, "max_session_num": 9 }));
    assert_eq!(first, again);
    let forced = bay.ship("one", &json!({ "ttl": 600, "force_create": true }));
    assert_ne!(forced["id"], first["id"]);
    bay.end();
}

#[test]
fn a_session_gets_its_stopped_ship_back_with_what_was_written() {
    let bay = Bay::start(&[]);
    let ship = bay.ship_id("one");
    bay.sh(&ship, "one", "echo kept > /tmp/note");
    bay.delete(&format!("/ship/{ship}")).is(204);
    bay.get(&format!("/ship/{ship}")).says(404, "Ship not found");
    bay.delete(&format!("/ship/{ship}")).says(404, "Ship not found");
    assert_eq!(bay.listed(&ship), Some(0), "it is still in the list");
    let session = bay.get("/sessions/one").is(200).json();
    assert_eq!(session["is_active"], false);
    let back = bay.ship("one", &json!({ "ttl": 77 }));
    assert_eq!((id(&back), &back["status"], &back["ttl"]), (ship.clone(), &json!(1), &json!(77)));
    assert_eq!(bay.sh(&ship, "one", "cat /tmp/note"), "kept");
    bay.get(&format!("/ship/{ship}")).is(200);
    bay.end();
}

#[test]
fn a_ship_with_room_is_joined_before_a_new_one_is_made() {
    let bay = Bay::start(&[]);
    let first = bay.ship("one", &json!({ "ttl": 600, "max_session_num": 2 }));
    let joined = bay.ship("two", &json!({ "ttl": 60, "max_session_num": 7 }));
    assert_eq!(joined["id"], first["id"]);
    assert_eq!((&joined["max_session_num"], &joined["current_session_num"]), (&json!(2), &json!(2)));
    let full = bay.ship("three", &json!({ "ttl": 60 }));
    assert_ne!(full["id"], first["id"]);
    let ship = id(&first);
    bay.sh(&ship, "two", "true");
    let sessions = bay.get(&format!("/ship/{ship}/sessions")).is(200).json();
    assert_eq!((&sessions["total"], &sessions["ship_id"]), (&json!(2), &first["id"]));
    bay.end();
}

#[test]
fn a_ship_is_stopped_when_its_time_is_up_and_can_be_started_again() {
    let bay = Bay::start(&[]);
    let ship = bay.ship("one", &json!({ "ttl": 8 }));
    let ship = id(&ship);
    bay.sh(&ship, "one", "echo kept > /tmp/note");
    bay.until_stopped(&ship);
    let stopped = bay.get(&format!("/ship/{ship}")).is(200).json();
    assert_eq!((&stopped["status"], &stopped["current_session_num"]), (&json!(0), &json!(0)));
    bay.try_sh(&ship, "one", "true").says(400, "Ship not found or not running");
    bay.post(&format!("/ship/{ship}/extend-ttl"), "one", &json!({ "ttl": 60 })).says(404, "Ship not found");
    let started = bay.post(&format!("/ship/{ship}/start"), "one", &json!({ "ttl": 60 })).is(200).json();
    assert_eq!((&started["status"], &started["ttl"]), (&json!(1), &json!(60)));
    assert_eq!(bay.sh(&ship, "one", "cat /tmp/note"), "kept");
    let up = bay.request("POST", &format!("/ship/{ship}/start")).send().is(200).json();
    assert_eq!(up["ttl"], 60, "one that is up is left as it is");
    bay.end();
}

#[test]
fn a_command_gives_its_session_the_time_that_it_began_with() {
    let bay = Bay::start(&[]);
    // A machine that stands still for so long is no fault of the service.
    let went_on = (0..5).any(|n| {
        let session = format!("session {n}");
        let ship = id(&bay.ship(&session, &json!({ "ttl": 8, "force_create": true })));
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(12) {
            let asked = Instant::now();
            let answer = bay.try_sh(&ship, &session, "true");
            pause(300);
            let left = bay.get(&format!("/ship/{ship}")).json()["expires_at"].clone();
            if asked.elapsed() > Duration::from_secs(6) {
                return false;
            }
            answer.is(200);
            let left = seconds_left(&left);
            assert!((0.5..=8.0).contains(&left), "{left}");
        }
        bay.until_stopped(&ship);
        true
    });
    assert!(went_on, "the machine stood still five times");
    bay.end();
}

#[test]
fn more_time_is_counted_from_now_and_a_command_does_not_take_it_back() {
    let bay = Bay::start(&[]);
    let ship = id(&bay.ship("one", &json!({ "ttl": 8 })));
    bay.sh(&ship, "one", "true");
    let extended =
        bay.post(&format!("/ship/{ship}/extend-ttl"), "one", &json!({ "ttl": 600 })).is(200).json();
    assert_eq!(extended["ttl"], 600);
    let left = seconds_left(&extended["expires_at"]);
    assert!((300.0..600.5).contains(&left), "set, not added: {left}");
    bay.sh(&ship, "one", "true");
    pause(8500);
    bay.sh(&ship, "one", "true");
    let left = seconds_left(&bay.get(&format!("/ship/{ship}")).json()["expires_at"]);
    assert!(left > 300.0, "{left}");
    let less = bay.post(&format!("/ship/{ship}/extend-ttl"), "one", &json!({ "ttl": 1 })).is(200).json();
    assert!(seconds_left(&less["expires_at"]) < 1.5);
    bay.until_stopped(&ship);
    bay.end();
}

#[test]
fn a_ship_that_is_deleted_permanently_is_gone_with_its_vessel() {
    let bay = Bay::start(&[]);
    let ship = bay.ship_id("one");
    let vessel = bay.get(&format!("/ship/{ship}")).json()["container_id"].as_str().unwrap().to_owned();
    bay.delete(&format!("/ship/{ship}/permanent")).is(204);
    bay.delete(&format!("/ship/{ship}/permanent")).says(404, "Ship not found");
    bay.post(&format!("/ship/{ship}/start"), "one", &json!({})).says(404, "Ship not found");
    assert_eq!(bay.get("/ships").json(), json!([]));
    assert_eq!(bay.get("/sessions").json(), json!({ "sessions": [], "total": 0 }));
    bay.shell.call(["inspect", &vessel]).refused("not_found");
    let new = bay.ship_id("one");
    bay.delete(&format!("/ship/{new}")).is(204);
    bay.delete(&format!("/ship/{new}/permanent")).is(204);
    assert_eq!(bay.shell.call(["ls"]).in_json().succeeds().json(), json!([]));
    bay.end();
}

#[test]
fn what_stopped_ships_have_written_is_kept_only_so_long() {
    let bay = Bay::start(&["--keep-stopped", "2s"]);
    let ship = bay.ship_id("one");
    bay.delete(&format!("/ship/{ship}")).is(204);
    assert_eq!(bay.listed(&ship), Some(0));
    wait_until("the ship is gone", || bay.listed(&ship).is_none());
    wait_until("its vessel is gone", || bay.shell.call(["ls"]).in_json().succeeds().json() == json!([]));
    bay.end();
}

#[test]
fn a_ship_that_was_killed_from_outside_goes_on() {
    let bay = Bay::start(&[]);
    let ship = bay.ship_id("one");
    bay.sh(&ship, "one", "echo kept > /tmp/note");
    let vessel = bay.get(&format!("/ship/{ship}")).json()["container_id"].as_str().unwrap().to_owned();
    bay.shell.call(["stop", &vessel]).succeeds();
    wait_until("it answers again", || bay.try_sh(&ship, "one", "true").status == 200);
    assert_eq!(bay.sh(&ship, "one", "cat /tmp/note"), "kept");
    bay.end();
}
