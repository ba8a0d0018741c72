//! What answers are made of, field by field, and what the original promises of them beyond their statuses.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vesselrt::Manager;
use vesselrt::serve::{Listen, ServeConfig, Service, Token, WhenFull};

use super::bay::{Bay, TOKEN, seconds_left};
use super::http::{parse, raw};
use crate::shell::{BASE, Shell};

#[track_caller]
fn has_exactly(value: &Value, names: &[&str]) {
    let found: BTreeSet<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(found, names.iter().copied().collect(), "{value}");
}

fn id(ship: &Value) -> String {
    ship["id"].as_str().unwrap().to_owned()
}

#[test]
fn answers_have_the_fields_of_the_original_and_no_others() {
    let bay = Bay::start(&[]);
    let ship = bay.ship("one", &json!({ "ttl": 600 }));
    let fields = [
        "id",
        "status",
        "created_at",
        "updated_at",
        "container_id",
        "ip_address",
        "ttl",
        "max_session_num",
        "current_session_num",
        "expires_at",
    ];
    has_exactly(&ship, &fields);
    assert!(ship["container_id"].is_string() && ship["ip_address"].is_null(), "{ship}");
    assert_eq!((&ship["max_session_num"], &ship["current_session_num"]), (&json!(1), &json!(1)));
    let ship = id(&ship);
    let session = [
        "id",
        "session_id",
        "ship_id",
        "created_at",
        "last_activity",
        "expires_at",
        "initial_ttl",
        "is_active",
    ];
    has_exactly(&bay.get("/sessions/one").is(200).json(), &session);
    let all = bay.get("/sessions").is(200).json();
    has_exactly(&all, &["sessions", "total"]);
    has_exactly(&all["sessions"][0], &session);
    has_exactly(
        &bay.get(&format!("/ship/{ship}/sessions")).is(200).json(),
        &["ship_id", "sessions", "total"],
    );
    has_exactly(&bay.try_sh(&ship, "one", "true").is(200).json(), &["success", "data", "error"]);
    has_exactly(&bay.get(&format!("/ship/logs/{ship}")).is(200).json(), &["logs"]);
    has_exactly(&bay.get("/stat").is(200).json(), &["service", "version", "status", "author"]);
    let overview = bay.get("/stat/overview").is(200).json();
    has_exactly(&overview, &["service", "version", "status", "ships", "sessions"]);
    bay.end();
}

#[test]
fn a_ship_is_up_until_the_last_of_its_sessions_expires() {
    let bay = Bay::start(&[]);
    let ship = id(&bay.ship("one", &json!({ "ttl": 600, "max_session_num": 2 })));
    bay.ship("two", &json!({ "ttl": 6000 }));
    let expires = |bay: &Bay| seconds_left(&bay.get(&format!("/ship/{ship}")).json()["expires_at"]);
    assert!((5900.0..=6000.0).contains(&expires(&bay)), "{}", expires(&bay));
    bay.delete("/sessions/two").is(204);
    assert!((500.0..=600.0).contains(&expires(&bay)), "{}", expires(&bay));
    bay.end();
}

#[test]
fn what_fails_gives_its_session_no_time() {
    let bay = Bay::start(&[]);
    let ship = id(&bay.ship("one", &json!({ "ttl": 600 })));
    bay.post(&format!("/ship/{ship}/extend-ttl"), "one", &json!({ "ttl": 60 })).is(200);
    let body = json!({ "type": "fs/read_file", "payload": { "path": "none" } });
    bay.post(&format!("/ship/{ship}/exec"), "one", &body)
        .says(400, "Ship returned 404: {\"detail\":\"File not found: none\"}");
    assert!(seconds_left(&bay.get(&format!("/ship/{ship}")).json()["expires_at"]) <= 60.0);
    bay.try_sh(&ship, "one", "exit 1").is(200);
    assert!(seconds_left(&bay.get(&format!("/ship/{ship}")).json()["expires_at"]) > 500.0);
    bay.end();
}

#[test]
fn a_ship_that_is_started_without_a_time_has_an_hour() {
    let bay = Bay::start(&[]);
    let ship = id(&bay.ship("one", &json!({ "ttl": 60 })));
    for body in [None, Some(json!(null)), Some(json!({}))] {
        bay.delete(&format!("/ship/{ship}")).is(204);
        let request = bay.request("POST", &format!("/ship/{ship}/start")).session("one");
        let request = if let Some(body) = &body { request.json(body) } else { request };
        let started = request.send().is(200).json();
        assert_eq!((&started["ttl"], &started["status"]), (&json!(3600), &json!(1)), "{body:?}");
        assert!((3500.0..=3600.0).contains(&seconds_left(&started["expires_at"])), "{body:?}: {started}");
    }
    bay.end();
}

#[test]
fn too_little_memory_and_disk_is_raised_to_what_the_original_gives() {
    let bay = Bay::start(&["--ship-memory", "300m"]);
    let limits = |session: &str, spec: Value| {
        let ask = json!({ "ttl": 60, "spec": spec, "force_create": true });
        let vessel = bay.ship(session, &ask)["container_id"].as_str().unwrap().to_owned();
        let limits = bay.shell.call(["inspect", &vessel]).in_json().succeeds().json()["limits"].clone();
        (limits["memory"].clone(), limits["disk"].clone())
    };
    let mib = |n: u64| json!(n << 20);
    assert_eq!(limits("one", json!({ "memory": "1m", "disk": "1K" })), (mib(128), mib(100)));
    assert_eq!(limits("two", json!({ "memory": "1Gi", "disk": "2gb" })), (mib(1024), mib(2048)));
    assert_eq!(limits("three", json!(null)), (mib(300), json!(null)), "what was not asked for");
    bay.end();
}

#[test]
fn kernels_are_asked_for_directly() {
    let bay = Bay::start(&[]);
    let ship = bay.ship_id("one");
    let ask = |method: &str, path: &str| {
        bay.request(method, &format!("/ship/{ship}/api/ipython/{path}")).session("one").send()
    };
    assert_eq!(ask("GET", "kernels").is(200).json(), json!({ "kernels": [] }));
    ask("GET", "kernel/status").says(404, "Kernel for session one not found");
    ask("DELETE", "kernel").says(404, "Kernel for session one not found");
    let made = ask("POST", "create_kernel").is(200).json();
    assert_eq!((&made["success"], &made["kernel_id"]), (&json!(true), &json!("one")), "{made}");
    assert_eq!(ask("GET", "kernels").is(200).json()["kernels"][0]["kernel_id"], "one");
    assert_eq!(ask("GET", "kernel/status").is(200).json()["has_kernel"], true);
    ask("DELETE", "kernel").is(200);
    assert_eq!(ask("GET", "kernels").is(200).json(), json!({ "kernels": [] }));
    bay.end();
}

#[test]
fn files_that_cannot_be_put_somewhere_are_a_400_and_what_arrives_directly_has_its_size() {
    let bay = Bay::start(&[]);
    let ship = bay.ship_id("one");
    bay.sh(&ship, "one", "mkdir dir");
    let put = |way: &str, path: &str| {
        bay.request("POST", &format!("/ship/{ship}/{way}"))
            .session("one")
            .form(Some(path), Some(b"xyz"))
            .send()
    };
    put("upload", "dir").says(400, "Path is a directory: dir");
    put("api/upload", "dir").says(400, "Path is a directory: dir");
    put("upload", &"x".repeat(5000)).says(400, "The path is too long");
    let done = put("api/upload", "f").is(200).json();
    let place = "/home/ship_one/workspace/f";
    assert_eq!(
        done,
        json!({ "success": true, "message": "File uploaded successfully", "file_path": place, "size": 3, "error": null })
    );
    bay.end();
}

#[test]
fn an_operation_has_the_time_that_it_asks_for_beyond_thirty_seconds() {
    let bay = Bay::start(&[]);
    let ship = bay.ship_id("one");
    let body =
        json!({ "type": "shell/exec", "payload": { "command": "sleep 31; echo done", "timeout": 300 } });
    let began = Instant::now();
    let mut answer = None;
    std::thread::scope(|scope| {
        let (bay, ship, body) = (&bay, &ship, &body);
        let asked = scope.spawn(move || long(bay, ship, body));
        assert_eq!(bay.sh(ship, "one", "echo meanwhile"), "meanwhile");
        answer = Some(asked.join().unwrap());
    });
    assert!(began.elapsed() >= Duration::from_secs(31));
    assert_eq!(answer.unwrap()["data"]["stdout"], "done");
    bay.end();
}

/// One that takes longer than what others are waited for.
fn long(bay: &Bay, ship: &str, body: &Value) -> Value {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(bay.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let (body, host) = (body.to_string(), bay.address());
    let head = format!("POST /ship/{ship}/exec HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    let rest = format!(
        "Authorization: Bearer {TOKEN}\r\nX-SESSION-ID: one\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{rest}{body}").as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    parse(&answer).is(200).json()
}

#[test]
fn who_waits_too_long_for_room_is_told_so() {
    let shell = Shell::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let answers = runtime.block_on(async {
        let manager = Manager::new(shell.store().config()).await.unwrap();
        let mut config = ServeConfig::new(shell.beside("state"));
        config.listen = "127.0.0.1:0".parse::<Listen>().unwrap();
        config.token = Some(Token::new(TOKEN));
        (config.image, config.max_ships) = (BASE.to_owned(), 1);
        (config.when_full, config.wait) = (WhenFull::Wait, Duration::from_millis(700));
        let service = Service::start(manager, config).await.unwrap();
        let address = service.url().strip_prefix("http://").unwrap().to_owned();
        let (leave, left) = tokio::sync::oneshot::channel::<()>();
        let run = tokio::spawn(service.run(async { drop(left.await) }));
        let ask = |session: &'static str| {
            let address = address.clone();
            tokio::task::spawn_blocking(move || {
                let body = "{\"ttl\":600}";
                let request = format!(
                    "POST /ship HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\
                     X-SESSION-ID: {session}\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                parse(&raw(&address, request.as_bytes()))
            })
        };
        let answers = [ask("one").await.unwrap(), ask("two").await.unwrap()];
        leave.send(()).unwrap();
        run.await.unwrap().unwrap();
        answers
    });
    drop(runtime);
    let [first, second] = answers;
    first.is(201);
    second.says(408, "Timed out waiting for an available ship slot");
}
