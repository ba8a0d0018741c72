//! What is wrong with requests, in the words of FastAPI.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::bay::Bay;

const EXTRA: &str = "Extra inputs are not permitted";

#[test]
fn unknown_keys_are_forbidden_wherever_there_is_a_body() {
    let bay = Bay::start(&[]);
    let id = bay.ship_id("s");
    for (path, body) in [
        ("/ship".to_owned(), json!({ "ttl": 5, "x": 1 })),
        (format!("/ship/{id}/exec"), json!({ "type": "shell/exec", "x": 1 })),
        (format!("/ship/{id}/extend-ttl"), json!({ "ttl": 5, "x": 1 })),
        (format!("/ship/{id}/start"), json!({ "x": 1 })),
        (format!("/ship/{id}/fork"), json!({ "ttl": 5, "x": 1 })),
        (format!("/ship/{id}/snapshots"), json!({ "x": 1 })),
        ("/sessions/s/extend-ttl".to_owned(), json!({ "ttl": 5, "x": 1 })),
    ] {
        let answer = bay.post(&path, "s", &body);
        assert_eq!(answer.json()["detail"][0]["input"], 1, "{path}");
        answer.complains("extra_forbidden", json!(["body", "x"]), EXTRA);
    }
    let spec = bay.post("/ship", "s", &json!({ "ttl": 5, "spec": { "gpu": 1 } }));
    spec.complains("extra_forbidden", json!(["body", "spec", "gpu"]), EXTRA);
    bay.end();
}

#[test]
fn a_missing_session_is_told_with_its_header() {
    let bay = Bay::start(&[]);
    let loc = || json!(["header", "X-SESSION-ID"]);
    let create = bay.request("POST", "/ship").json(&json!({ "ttl": 5 })).send();
    create.complains("missing", loc(), "Field required");
    let exec = bay.request("POST", "/ship/x/exec").json(&json!({ "type": "shell/exec" })).send();
    exec.complains("missing", loc(), "Field required");
    bay.request("GET", "/ship/x/download?file_path=y").send().complains("missing", loc(), "Field required");
    let upload = bay.request("POST", "/ship/x/upload").form(Some("a"), Some(b"b")).send();
    upload.complains("missing", loc(), "Field required");
    let both = bay.request("POST", "/ship").json(&json!({})).send().is(422).json();
    assert_eq!(both["detail"].as_array().map(Vec::len), Some(2), "all of it is told: {both}");
    bay.request("POST", "/ship").session("").json(&json!({ "ttl": 5 })).send().is(422);
    bay.request("POST", "/ship").session(&"x".repeat(257)).json(&json!({ "ttl": 5 })).send().is(422);
    bay.end();
}

#[test]
fn times_are_whole_and_positive_and_not_for_ever() {
    let bay = Bay::start(&[]);
    let id = bay.ship_id("s");
    for (ttl, kind) in [
        (json!(0), "greater_than"),
        (json!(-5), "greater_than"),
        (json!(1.5), "int_from_float"),
        (json!("60"), "int_type"),
        (json!(null), "int_type"),
        (json!(true), "int_type"),
        (json!(u64::MAX), "less_than_equal"),
        (json!(9_223_372_036_854_775_808_u64), "less_than_equal"),
        (json!(1e30), "less_than_equal"),
    ] {
        for path in ["/ship".to_owned(), format!("/ship/{id}/extend-ttl"), format!("/ship/{id}/start")] {
            let answer = bay.post(&path, "s", &json!({ "ttl": ttl })).is(422).json();
            assert_eq!(answer["detail"][0]["type"], kind, "{path} {ttl}");
            assert_eq!(answer["detail"][0]["loc"], json!(["body", "ttl"]));
        }
    }
    for ttl in [json!(0), json!(-1)] {
        bay.post("/sessions/s/extend-ttl", "s", &json!({ "ttl": ttl }))
            .says(400, "TTL must be greater than 0");
    }
    bay.post("/ship", "s", &json!({ "max_session_num": 1 })).complains(
        "missing",
        json!(["body", "ttl"]),
        "Field required",
    );
    bay.end();
}

#[test]
fn specs_are_sizes_and_numbers() {
    let bay = Bay::start(&[]);
    for (spec, kind) in [
        (json!({ "cpus": 0 }), "greater_than"),
        (json!({ "cpus": -1.5 }), "greater_than"),
        (json!({ "cpus": 1e9 }), "less_than_equal"),
        (json!({ "cpus": "1" }), "float_type"),
        (json!({ "memory": "lots" }), "value_error"),
        (json!({ "memory": 512 }), "string_type"),
        (json!({ "disk": "-1g" }), "value_error"),
        (json!("small"), "model_attributes_type"),
    ] {
        let answer = bay.post("/ship", "s", &json!({ "ttl": 5, "spec": spec })).is(422).json();
        assert_eq!(answer["detail"][0]["type"], kind, "{spec}");
    }
    for sessions in [json!(0), json!(-1), json!("2")] {
        bay.post("/ship", "s", &json!({ "ttl": 5, "max_session_num": sessions })).is(422);
    }
    assert_eq!(bay.get("/ships").json(), json!([]), "nothing was made");
    bay.end();
}

#[test]
fn bodies_that_are_no_objects_are_told() {
    let bay = Bay::start(&[]);
    let send = |kind: &str, body: &[u8]| bay.request("POST", "/ship").session("s").body(kind, body).send();
    let json = |body: &[u8]| send("application/json", body);
    json(b"{\"ttl\":").complains("json_invalid", json!(["body"]), "JSON decode error");
    json(b"\xff\xfe").complains("json_invalid", json!(["body"]), "JSON decode error");
    json("[".repeat(100_000).as_bytes()).complains("json_invalid", json!(["body"]), "JSON decode error");
    json(b"").complains("missing", json!(["body"]), "Field required");
    for body in ["[1]", "null", "3", "\"x\""] {
        assert_eq!(json(body.as_bytes()).is(422).json()["detail"][0]["loc"], json!(["body"]), "{body}");
    }
    let text = send("text/plain", b"{\"ttl\": 5}").is(422).json();
    assert_eq!(text["detail"][0]["type"], "model_attributes_type");
    let deep = json(format!("{{\"ttl\": 5, \"x\": {}1{}}}", "[".repeat(90), "]".repeat(90)).as_bytes());
    assert_eq!(deep.is(422).json()["detail"][0]["type"], "extra_forbidden");
    let exec = |body: &Value| bay.post("/ship/x/exec", "s", body);
    exec(&json!({ "type": 1 })).complains(
        "string_type",
        json!(["body", "type"]),
        "Input should be a valid string",
    );
    let payload = exec(&json!({ "type": "shell/exec", "payload": [] }));
    payload.complains("dict_type", json!(["body", "payload"]), "Input should be a valid dictionary");
    bay.end();
}

#[test]
fn forms_without_their_parts_are_told() {
    let bay = Bay::start(&["--max-upload", "1k"]);
    let id = bay.ship_id("s");
    let path = format!("/ship/{id}/upload");
    let send =
        |at: Option<&str>, file: Option<&[u8]>| bay.request("POST", &path).session("s").form(at, file).send();
    send(None, Some(b"x")).complains("missing", json!(["body", "file_path"]), "Field required");
    send(Some("a"), None).complains("missing", json!(["body", "file"]), "Field required");
    let large = vec![b'x'; 1025];
    send(Some("a"), Some(&large))
        .says(413, "File size (1025 bytes) exceeds maximum allowed size (1024 bytes)");
    let text = bay.request("POST", &path).session("s").body("text/plain", "x").send().is(422).json();
    assert_eq!(text["detail"].as_array().map(Vec::len), Some(2), "{text}");
    let query = bay.request("GET", &format!("/ship/{id}/download")).session("s").send();
    query.complains("missing", json!(["query", "file_path"]), "Field required");
    assert_eq!(std::fs::read_dir(bay.shell.root().join("serve/uploads")).unwrap().count(), 0);
    bay.end();
}
