//! How many ships there may be, whoever asks at once.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use serde_json::json;

use super::bay::{Bay, pause};

#[test]
fn one_more_than_there_may_be_is_refused() {
    let bay = Bay::start(&["--max-ships", "2", "--when-full", "reject"]);
    let first = bay.ship_id("one");
    bay.ship_id("two");
    bay.post("/ship", "three", &json!({ "ttl": 60 })).says(500, "Maximum number of ships reached");
    let again = bay.ship("two", &json!({ "ttl": 60 }));
    assert_eq!(again["status"], 1, "who is aboard needs no room");
    bay.delete(&format!("/ship/{first}")).is(204);
    bay.ship_id("three");
    bay.post(&format!("/ship/{first}/start"), "one", &json!({})).says(500, "Maximum number of ships reached");
    assert_eq!(bay.listed(&first), Some(0));
    bay.end();
}

#[test]
fn one_more_than_there_may_be_waits_until_one_has_gone() {
    let bay = Bay::start(&["--max-ships", "1", "--when-full", "wait"]);
    bay.ship("one", &json!({ "ttl": 3 }));
    let began = Instant::now();
    let second = bay.ship("two", &json!({ "ttl": 60 }));
    assert_eq!(second["status"], 1);
    assert!(began.elapsed() > Duration::from_millis(1500), "{:?}", began.elapsed());
    bay.end();
}

#[test]
fn the_environment_of_the_original_is_read() {
    let shell = crate::shell::Shell::new();
    let mut command = shell.store().cli(&["serve", "--json"]);
    command.env("HOST", "127.0.0.1").env("PORT", "0").env("MAX_SHIP_NUM", "0").env("DEBUG", "false");
    let refused = command.output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stdout).contains("cannot have 0 ships"), "{refused:?}");
    for (name, value) in
        [("BEHAVIOR_AFTER_MAX_SHIP", "explode"), ("DEFAULT_SHIP_MEMORY", "much"), ("MAX_UPLOAD_SIZE", "-1")]
    {
        let refused = shell.store().cli(&["serve", "--json"]).env(name, value).output().unwrap();
        assert!(String::from_utf8_lossy(&refused.stdout).contains(value), "{name}: {refused:?}");
    }
    let open = shell.store().cli(&["serve", "--json"]).env("HOST", "0.0.0.0").output().unwrap();
    assert!(String::from_utf8_lossy(&open.stdout).contains("a token is needed"), "{open:?}");
}

#[test]
fn many_who_ask_at_once_get_no_more_ships_than_there_may_be() {
    let bay = Bay::start(&["--max-ships", "3", "--when-full", "reject"]);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let ask = |n: usize| {
            let bay = &bay;
            scope.spawn(move || bay.post("/ship", &format!("s{n}"), &json!({ "ttl": 60 })).status)
        };
        let asked: Vec<_> = (0..12).map(ask).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 3, "{statuses:?}");
    assert!(statuses.iter().all(|status| [201, 500].contains(status)), "{statuses:?}");
    assert_eq!(bay.get("/stat/overview").json()["ships"]["running"], 3);
    bay.end();
}

#[test]
fn one_session_that_asks_many_times_at_once_gets_one_ship() {
    let bay = Bay::start(&["--pool", "1"]);
    let ids: Vec<String> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| bay.ship_id("same"))).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(bay.get("/stat/overview").json()["ships"]["total"], 1);
    bay.end();
}

#[test]
fn seats_are_not_sold_twice() {
    let bay = Bay::start(&[]);
    let ship = bay.ship("first", &json!({ "ttl": 60, "max_session_num": 4 }));
    let ids: Vec<String> = std::thread::scope(|scope| {
        let ask = |n: usize| {
            let bay = &bay;
            scope.spawn(move || bay.ship_id(&format!("s{n}")))
        };
        let asked: Vec<_> = (0..6).map(ask).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let aboard = ids.iter().filter(|id| ship["id"] == id.as_str()).count();
    assert_eq!(aboard, 3, "{ids:?}");
    bay.end();
}

#[test]
fn a_pool_is_filled_used_and_emptied() {
    let bay = Bay::start(&["--pool", "2"]);
    let pooled = |bay: &Bay, n: usize| bay.get("/metrics").text().contains(&format!("shipyard_pool {n}"));
    crate::testkit::wait_until("the pool is full", || pooled(&bay, 2));
    let ship = bay.ship_id("one");
    assert_eq!(bay.sh(&ship, "one", "echo pooled"), "pooled");
    crate::testkit::wait_until("the pool is full again", || pooled(&bay, 2));
    let vessels = |bay: &Bay| bay.shell.call(["ls"]).in_json().succeeds().json().as_array().unwrap().len();
    assert_eq!(vessels(&bay), 3);
    pause(100);
    let mut bay = bay;
    bay.signal(rustix::process::Signal::KILL);
    bay.again(rustix::process::Signal::KILL);
    assert_eq!(bay.sh(&ship, "one", "echo again"), "again");
    crate::testkit::wait_until("what a crash left of the pool is gone", || {
        pooled(&bay, 2) && vessels(&bay) == 3
    });
    bay.end();
}
