//! Files, terminals and logs of sessions, over HTTP.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde_json::json;

use super::bay::{Bay, TOKEN};
use super::websocket::Socket;
use crate::testkit::wait_until;

#[test]
fn a_file_is_uploaded_and_downloaded_as_it_is() {
    let bay = Bay::start(&[]);
    let id = bay.ship_id("one");
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect();
    let upload = |path: &str, content: &[u8]| {
        bay.request("POST", &format!("/ship/{id}/upload"))
            .session("one")
            .form(Some(path), Some(content))
            .send()
    };
    let done = upload("größe/a b.bin", &content).is(200).json();
    let place = done["file_path"].as_str().unwrap();
    assert!(place.starts_with("/home/ship_one/") && place.ends_with("/größe/a b.bin"), "{place}");
    assert_eq!(
        done,
        json!({ "success": true, "message": "File uploaded successfully", "file_path": place, "error": null })
    );
    let download = |path: &str| {
        bay.request("GET", &format!("/ship/{id}/download?file_path={path}")).session("one").send()
    };
    let got = download("gr%C3%B6%C3%9Fe/a%20b.bin").is(200);
    assert!(got.body == content);
    assert_eq!(got.header("content-type"), Some("application/octet-stream"));
    assert_eq!(got.header("content-length"), Some("3000000"));
    assert_eq!(got.header("content-disposition"), Some("attachment; filename=\"a b.bin\""));
    upload("ü.txt", b"").is(200);
    let odd = download("%C3%BC.txt").is(200);
    assert_eq!(
        odd.header("content-disposition"),
        Some("attachment; filename=\"_.txt\"; filename*=UTF-8''%C3%BC.txt")
    );
    download("none").is(404);
    download(".").is(400);
    download("../../../etc/passwd").is(403);
    upload("../../../etc/passwd", b"x").is(403);
    let direct =
        bay.request("POST", &format!("/ship/{id}/api/upload")).session("one").form(Some("d"), Some(b"xyz"));
    assert_eq!(direct.send().is(200).json()["size"], 3);
    let direct = bay.request("GET", &format!("/ship/{id}/api/download?file_path=d")).session("one").send();
    assert_eq!(direct.is(200).text(), "xyz");
    bay.end();
}

#[test]
fn what_the_original_promises_of_processes_is_answered() {
    let bay = Bay::start(&[]);
    let id = bay.ship_id("one");
    let exec = |kind: &str, payload: serde_json::Value| {
        bay.post(&format!("/ship/{id}/exec"), "one", &json!({ "type": kind, "payload": payload }))
            .is(200)
            .json()
    };
    let begun = exec("shell/exec", json!({ "command": "sleep 100", "background": true }));
    assert_eq!(begun["data"]["process_id"].as_str().map(str::len), Some(8), "{begun}");
    let list = exec("shell/processes", json!({}));
    assert_eq!(list["data"]["processes"][0]["process_id"], begun["data"]["process_id"]);
    assert_eq!(list["data"]["processes"][0]["status"], "running");
    let cwd = exec("shell/cwd", json!({}));
    assert_eq!(cwd["data"]["cwd"], "/home/ship_one/workspace");
    let direct =
        bay.request("GET", &format!("/ship/{id}/api/shell/processes")).session("one").send().is(200).json();
    assert_eq!(direct["processes"][0]["process_id"], begun["data"]["process_id"]);
    let process = format!("/ship/{id}/api/shell/processes/{}", begun["data"]["process_id"].as_str().unwrap());
    bay.request("DELETE", &process)
        .session("two")
        .send()
        .says(400, "Session does not have access to this ship");
    bay.request("GET", &process).session("one").send().says(405, "Method Not Allowed");
    let killed = bay.request("DELETE", &process).session("one").send().is(200).json();
    assert_eq!((&killed["success"], &killed["status"]), (&json!(true), &json!("failed")), "{killed}");
    let unknown = format!("/ship/{id}/api/shell/processes/00000000");
    bay.request("DELETE", &unknown).session("one").send().says(404, "Process not found: 00000000");
    let gone = exec("shell/kill", json!({ "process_id": begun["data"]["process_id"], "signal": null }));
    assert_eq!(gone["data"]["status"], "failed");
    let logs = bay.get(&format!("/ship/logs/{id}")).is(200).json();
    assert!(logs["logs"].as_str().unwrap().contains("shell/exec"), "{logs}");
    bay.end();
}

#[test]
fn one_session_reads_nothing_of_another() {
    let bay = Bay::start(&[]);
    let id = bay.ship("one", &json!({ "ttl": 600, "max_session_num": 2 }))["id"].as_str().unwrap().to_owned();
    bay.ship("two", &json!({ "ttl": 600 }));
    bay.sh(&id, "one", "echo mine > secret");
    let read = bay.try_sh(&id, "two", "cat /home/ship_one/workspace/secret").is(200).json();
    assert_ne!(read["data"]["return_code"], 0, "{read}");
    bay.request("GET", &format!("/ship/{id}/download?file_path=/home/ship_one/workspace/secret"))
        .session("two")
        .send()
        .is(403);
    assert_eq!(bay.sh(&id, "one", "cat secret"), "mine");
    bay.end();
}

#[test]
fn a_terminal_is_typed_at_shown_and_resized() {
    let bay = Bay::start(&[]);
    let id = bay.ship_id("one");
    let path = format!("/ship/{id}/term?token={TOKEN}&session_id=one&cols=100&rows=30");
    let mut terminal = Socket::connect(bay.address(), &path).unwrap();
    terminal.text("stty size; echo $((6*7))größe\n");
    let shown = terminal.until("42größe");
    assert!(shown.contains("30 100"), "{shown}");
    terminal.text("{\"type\":\"resize\",\"cols\":132,\"rows\":43}");
    wait_until("the size is known", || {
        terminal.text("stty size\n");
        std::thread::sleep(Duration::from_millis(50));
        terminal.next().unwrap().contains("43 132")
    });
    terminal.text("exit\n");
    while terminal.next().is_some() {}
    bay.end();
}

#[test]
fn a_terminal_ends_with_its_session() {
    let bay = Bay::start(&[]);
    let id = bay.ship("one", &json!({ "ttl": 600, "max_session_num": 2 }))["id"].as_str().unwrap().to_owned();
    bay.ship("two", &json!({ "ttl": 600 }));
    let path = format!("/ship/{id}/term?token={TOKEN}&session_id=one");
    let mut terminal = Socket::connect(bay.address(), &path).unwrap();
    terminal.text("echo $((6*7))\n");
    terminal.until("42");
    bay.delete("/sessions/one").is(204);
    while terminal.next().is_some() {}
    bay.sh(&id, "two", "true");
    bay.end();
}

#[test]
fn terminals_are_refused_before_they_begin() {
    let bay = Bay::start(&[]);
    let id = bay.ship_id("one");
    let refused = |path: String| Socket::connect(bay.address(), &path).err().expect("it is refused");
    let term = |id: &str, query: &str| refused(format!("/ship/{id}/term?{query}"));
    term(&id, "session_id=one").says(403, "Invalid access token");
    term(&id, "token=wrong&session_id=one").says(403, "Invalid access token");
    term(&id, "token=secret&session_id=two").says(403, "Session does not have access to this ship");
    term("none", "token=secret&session_id=one").says(403, "Ship not found or not running");
    term(&id, "token=secret").is(403);
    for size in ["cols=0", "rows=99999", "cols=x", "rows=-1"] {
        term(&id, &format!("token=secret&session_id=one&{size}")).is(403);
    }
    bay.get(&format!("/ship/{id}/term?session_id=one")).says(400, "This is a WebSocket");
    bay.end();
}
