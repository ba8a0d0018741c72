//! Every endpoint, with the statuses and the words of the original.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::bay::{Bay, seconds_left};

const UNKNOWN: &str = "00000000-0000-4000-8000-000000000000";

#[test]
fn what_needs_no_token_greets() {
    let bay = Bay::start(&[]);
    let open = |path: &str| bay.request("GET", path).token(None).send().is(200).json();
    assert_eq!(open("/"), json!({ "status": "ok", "message": "Welcome to Bay API" }));
    assert_eq!(open("/health"), json!({ "status": "ok", "message": "Bay service is running" }));
    let stat = open("/stat");
    assert_eq!(stat["service"], "bay");
    assert_eq!((&stat["status"], &stat["author"]), (&json!("running"), &json!("AstrBot Team")));
    assert!(stat["version"].as_str().is_some_and(|version| !version.is_empty()));
    let api = open("/openapi.json");
    assert!(api["openapi"].as_str().unwrap().starts_with("3.1"));
    let docs = bay.request("GET", "/docs").token(None).send().is(200);
    assert!(
        docs.header("content-type").unwrap().starts_with("text/html")
            && docs.text().contains("/ship/{ship_id}")
    );
    assert!(!docs.text().contains("http://") && !docs.text().contains("https://"), "it works offline");
    bay.request("GET", "/nowhere").token(None).send().says(404, "Not Found");
    bay.request("PUT", "/ships").send().says(405, "Method Not Allowed");
    bay.end();
}

#[test]
fn without_the_token_nothing_is_told() {
    let bay = Bay::start(&[]);
    let paths = [
        ("GET", "/ships"),
        ("POST", "/ship"),
        ("GET", "/ship/x"),
        ("DELETE", "/ship/x"),
        ("DELETE", "/ship/x/permanent"),
        ("POST", "/ship/x/start"),
        ("POST", "/ship/x/extend-ttl"),
        ("GET", "/ship/logs/x"),
        ("POST", "/ship/x/exec"),
        ("POST", "/ship/x/upload"),
        ("GET", "/ship/x/download"),
        ("GET", "/ship/x/sessions"),
        ("POST", "/ship/x/snapshots"),
        ("POST", "/ship/x/fork"),
        ("GET", "/ship/x/diff"),
        ("GET", "/ship/x/api/shell/cwd"),
        ("GET", "/sessions"),
        ("DELETE", "/sessions/x"),
        ("GET", "/stat/overview"),
        ("GET", "/metrics"),
    ];
    for (method, path) in paths {
        bay.request(method, path).token(None).send().says(403, "Not authenticated");
        bay.request(method, path).token(Some("wrong")).send().says(401, "Invalid access token");
        bay.request(method, path).token(Some("secre")).send().says(401, "Invalid access token");
        bay.request(method, path).token(None).header("Authorization", "Basic c2VjcmV0").send().is(403);
    }
    bay.end();
}

#[test]
fn a_ship_is_created_shown_listed_and_counted() {
    let bay = Bay::start(&[]);
    assert_eq!(bay.get("/ships").is(200).json(), json!([]));
    let ship = bay.ship("one", &json!({ "ttl": 600, "spec": { "cpus": 1.0, "memory": "512m", "disk": "1Gi" }, "max_session_num": 2 }));
    assert_eq!((&ship["status"], &ship["ttl"]), (&json!(1), &json!(600)));
    assert_eq!((&ship["max_session_num"], &ship["current_session_num"]), (&json!(2), &json!(1)));
    assert!((590.0..=600.0).contains(&seconds_left(&ship["expires_at"])), "{ship}");
    for stamp in ["created_at", "updated_at"] {
        assert!((-60.0..=0.0).contains(&seconds_left(&ship[stamp])), "{ship}");
    }
    let id = ship["id"].as_str().unwrap();
    assert_eq!(id.len(), 36);
    assert_eq!(bay.get(&format!("/ship/{id}")).is(200).json(), ship);
    let second = bay.ship("two", &json!({ "ttl": 60, "force_create": true }));
    let all = bay.get("/ships").is(200).json();
    assert_eq!(all[0]["id"], second["id"], "the newest is first");
    assert_eq!(all[1]["id"], ship["id"]);
    bay.delete(&format!("/ship/{id}")).is(204);
    let overview = bay.get("/stat/overview").is(200).json();
    assert_eq!(overview["ships"], json!({ "total": 2, "running": 1, "stopped": 1, "creating": 0 }));
    assert_eq!(overview["sessions"], json!({ "total": 2, "active": 1 }));
    bay.end();
}

#[test]
fn what_is_not_there_is_not_found() {
    let bay = Bay::start(&[]);
    let ship = |rest: &str| format!("/ship/{UNKNOWN}{rest}");
    bay.get(&ship("")).says(404, "Ship not found");
    bay.delete(&ship("")).says(404, "Ship not found");
    bay.delete(&ship("/permanent")).says(404, "Ship not found");
    bay.post(&ship("/start"), "s", &json!({})).says(404, "Ship not found");
    bay.post(&ship("/extend-ttl"), "s", &json!({ "ttl": 5 })).says(404, "Ship not found");
    bay.get(&ship("/sessions")).says(404, "Ship not found");
    bay.get(&ship("/snapshots")).says(404, "Ship not found");
    bay.post(&ship("/snapshots"), "s", &json!({})).says(404, "Ship not found");
    bay.post(&ship("/snapshots/x/restore"), "s", &json!({})).says(404, "Ship not found");
    bay.post(&ship("/fork"), "s", &json!({ "ttl": 5 })).says(404, "Ship not found");
    bay.get(&ship("/diff")).says(404, "Ship not found");
    bay.try_sh(UNKNOWN, "s", "true").says(400, "Ship not found or not running");
    let download = bay.request("GET", &ship("/download?file_path=x")).session("s").send();
    download.says(404, "Ship not found or not running");
    let upload = bay.request("POST", &ship("/upload")).session("s").form(Some("x"), Some(b"y")).send();
    upload.says(404, "Ship not found or not running");
    assert_eq!(bay.get(&format!("/ship/logs/{UNKNOWN}")).is(200).json(), json!({ "logs": "" }));
    bay.get("/sessions/none").says(404, "Session not found");
    bay.delete("/sessions/none").says(404, "Session not found");
    bay.post("/sessions/none/extend-ttl", "s", &json!({ "ttl": 5 })).says(404, "Session not found");
    bay.end();
}

#[test]
fn exec_answers_what_the_ship_answers_and_every_failure_is_a_400() {
    let bay = Bay::start(&[]);
    let id = bay.ship_id("one");
    let answer = bay.try_sh(&id, "one", "echo hello").is(200).json();
    assert_eq!((&answer["success"], &answer["error"]), (&json!(true), &Value::Null));
    assert_eq!(answer["data"]["stdout"], "hello");
    let failed = bay.try_sh(&id, "one", "exit 3").is(200).json();
    assert_eq!((&failed["success"], &failed["data"]["return_code"]), (&json!(true), &json!(3)));
    let exec = format!("/ship/{id}/exec");
    let unknown = bay.post(&exec, "one", &json!({ "type": "shell/../../health" }));
    unknown.says(400, "Ship returned 404: {\"detail\":\"Not Found\"}");
    bay.try_sh(&id, "stranger", "id").says(400, "Session does not have access to this ship");
    let stranger = bay.request("GET", &format!("/ship/{id}/download?file_path=x")).session("stranger").send();
    stranger.says(403, "Session does not have access to this ship");
    bay.delete(&format!("/ship/{id}")).is(204);
    bay.try_sh(&id, "one", "id").says(400, "Ship not found or not running");
    bay.end();
}

#[test]
fn the_ship_api_is_there_directly_with_its_own_statuses() {
    let bay = Bay::start(&[]);
    let id = bay.ship_id("one");
    let api = format!("/ship/{id}/api/shell/exec");
    let answer = bay.post(&api, "one", &json!({ "command": "echo direct" })).is(200).json();
    assert_eq!(answer["stdout"], "direct");
    bay.post(&format!("/ship/{id}/api/no/such"), "one", &json!({})).says(404, "Not Found");
    bay.post(&api, "stranger", &json!({})).says(400, "Session does not have access to this ship");
    bay.post(&api, "one", &json!([1])).is(422);
    bay.request("PATCH", &api).session("one").send().says(405, "Method Not Allowed");
    // What does something is not done by who only looks.
    for operation in ["shell/exec", "ipython/kernel", "fs/delete_file", "shell/kill"] {
        let path = format!("/ship/{id}/api/{operation}");
        bay.request("GET", &path).session("one").send().says(405, "Method Not Allowed");
    }
    bay.request("DELETE", &api).session("one").send().says(405, "Method Not Allowed");
    let ship = |path: &str| bay.get(&format!("/ship/{id}/api{path}")).is(200).json();
    for root in ["", "/"] {
        assert_eq!(ship(root), json!({ "message": "Ship API is running" }));
    }
    assert_eq!(ship("/health"), json!({ "status": "healthy" }));
    assert_eq!((&ship("/stat")["service"], &ship("/stat")["status"]), (&json!("ship"), &json!("running")));
    bay.get(&format!("/ship/{UNKNOWN}/api/health")).says(400, "Ship not found or not running");
    bay.end();
}

#[test]
fn metrics_count_what_happened_and_requests_have_names() {
    let bay = Bay::start(&[]);
    let id = bay.ship_id("one");
    bay.sh(&id, "one", "true");
    let answer = bay.get("/metrics").is(200);
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert_eq!(answer.header("x-request-id").map(str::len), Some(32));
    for line in [
        "shipyard_ships{state=\"running\"} 1",
        "shipyard_sessions_active 1",
        "shipyard_operations_total{operation=\"shell/exec\",status=\"200\"} 1",
        "shipyard_requests_total{method=\"POST\",route=\"/ship/{ship_id}/exec\",status=\"200\"} 1",
    ] {
        assert!(answer.text().contains(line), "{line}\n{}", answer.text());
    }
    bay.end();
}
