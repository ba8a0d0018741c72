//! The service ends, as asked or not, and what was there is there again.
#![forbid(unsafe_code)]

use rustix::process::Signal;
use serde_json::json;

use super::bay::{Bay, TOKEN, pause, seconds_left};
use crate::shell::Shell;

fn survives(signal: Signal) {
    let mut bay = Bay::start(&[]);
    let ship =
        bay.ship("one", &json!({ "ttl": 600, "max_session_num": 2 }))["id"].as_str().unwrap().to_owned();
    bay.ship("two", &json!({ "ttl": 60 }));
    let other = bay.ship_id("three");
    bay.sh(&ship, "one", "echo kept > /tmp/note");
    bay.delete(&format!("/ship/{other}")).is(204);
    let before = bay.get(&format!("/ship/{ship}")).json();
    let sessions = bay.get("/sessions").json();
    bay.again(signal);
    let after = bay.get(&format!("/ship/{ship}")).is(200).json();
    for field in
        ["id", "status", "created_at", "ttl", "max_session_num", "current_session_num", "container_id"]
    {
        assert_eq!(before[field], after[field], "{field}");
    }
    let moved = seconds_left(&before["expires_at"]) - seconds_left(&after["expires_at"]);
    assert!(moved.abs() < 1.5, "{moved}");
    let names = |all: &serde_json::Value| {
        let all = all["sessions"].as_array().unwrap().clone();
        all.iter()
            .map(|s| (s["session_id"].clone(), s["is_active"].clone(), s["id"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&sessions), names(&bay.get("/sessions").json()));
    assert_eq!(bay.listed(&other), Some(0));
    bay.get(&format!("/ship/{other}")).says(404, "Ship not found");
    assert_eq!(bay.sh(&ship, "two", "cat /tmp/note"), "kept");
    assert_eq!(bay.ship_id("one"), ship);
    assert_eq!(bay.ship_id("three"), other);
    bay.end();
}

#[test]
fn ships_sessions_and_times_survive_a_restart() {
    survives(Signal::TERM);
}

#[test]
fn ships_sessions_and_times_survive_a_kill() {
    survives(Signal::KILL);
}

#[test]
fn time_goes_on_while_the_service_is_away() {
    let mut bay = Bay::start(&[]);
    let short = bay.ship("one", &json!({ "ttl": 2 }))["id"].as_str().unwrap().to_owned();
    let long = bay.ship("two", &json!({ "ttl": 20 }))["id"].as_str().unwrap().to_owned();
    bay.signal(Signal::KILL);
    pause(2500);
    bay.again(Signal::KILL);
    bay.until_stopped(&short);
    assert_eq!(bay.listed(&long), Some(1));
    bay.until_stopped(&long);
    bay.end();
}

#[test]
fn a_kill_in_the_middle_of_creations_leaves_nothing_behind() {
    let mut bay = Bay::start(&[]);
    std::thread::scope(|scope| {
        for n in 0..6 {
            let address = bay.address().to_owned();
            scope.spawn(move || {
                let body = "{\"ttl\":600}";
                let request = format!(
                    "POST /ship HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\
                     X-SESSION-ID: s{n}\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                super::http::raw(&address, request.as_bytes())
            });
        }
        pause(60);
        bay.signal(Signal::KILL);
    });
    bay.again(Signal::KILL);
    let vessels = || bay.shell.call(["ls"]).in_json().succeeds().json().as_array().unwrap().len();
    let ships = bay.get("/ships").json().as_array().unwrap().len();
    crate::testkit::wait_until("every vessel has its ship", || vessels() == ships);
    for ship in bay.get("/ships").json().as_array().unwrap() {
        assert_eq!(ship["status"], 1, "{ship}");
        bay.delete(&format!("/ship/{}/permanent", ship["id"].as_str().unwrap())).is(204);
    }
    assert_eq!(vessels(), 0);
    bay.end();
}

#[test]
fn a_client_that_leaves_does_not_undo_what_it_asked_for() {
    use std::io::Write;
    let bay = Bay::start(&[]);
    let body = "{\"ttl\":600}";
    let request = format!(
        "POST /ship HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\nX-SESSION-ID: gone\r\nContent-Length: {}\r\n\r\n{body}",
        bay.address(),
        body.len()
    );
    let mut stream = std::net::TcpStream::connect(bay.address()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    pause(5);
    drop(stream);
    let ship = bay.ship("gone", &json!({ "ttl": 600 }));
    assert_eq!(bay.get("/stat/overview").json()["ships"]["total"], 1);
    assert_eq!(ship["status"], 1);
    bay.end();
}

#[test]
fn one_service_has_a_state() {
    let bay = Bay::start(&[]);
    let second = bay.shell.store().cli(&["serve", "--json", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert!(String::from_utf8_lossy(&second.stdout).contains("another service has the state"), "{second:?}");
    bay.get("/health").is(200);
    bay.end();
}

#[test]
fn a_damaged_state_is_told_and_stays() {
    let shell = Shell::new();
    let state = shell.root().join("serve/bay.redb");
    std::fs::create_dir_all(state.parent().unwrap()).unwrap();
    std::fs::write(&state, b"what is this").unwrap();
    let refused = shell.store().cli(&["serve", "--json", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stdout).contains("integrity_violation"), "{refused:?}");
    assert_eq!(std::fs::read(&state).unwrap(), b"what is this");
}

#[test]
fn a_state_that_was_cut_off_is_told_and_stays() {
    let bay = Bay::start(&[]);
    let whole = std::fs::read(bay.shell.root().join("serve/bay.redb")).unwrap();
    bay.end();
    let shell = Shell::new();
    let state = shell.root().join("serve/bay.redb");
    std::fs::create_dir_all(state.parent().unwrap()).unwrap();
    for len in [1, 300, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&state, &whole[..len]).unwrap();
        let refused = shell.store().cli(&["serve", "--json", "--listen", "127.0.0.1:0"]).output().unwrap();
        assert!(
            String::from_utf8_lossy(&refused.stdout).contains("integrity_violation"),
            "{len}: {refused:?}"
        );
        assert_eq!(std::fs::read(&state).unwrap().len(), len);
    }
}
