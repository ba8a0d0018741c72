//! [`Bay`]: a service of one test.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::http::{self, Answer};
use crate::shell::{BASE, Shell};
use crate::testkit::wait_until;

/// What its clients know.
pub(crate) const TOKEN: &str = "secret";

/// A running service on a store of its own, of which nothing may be left when it goes.
pub(crate) struct Bay {
    child: Child,
    address: String,
    pub(crate) shell: Shell,
    args: Vec<String>,
}

impl Bay {
    /// With the busybox image for ships.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::on(Shell::new(), args)
    }

    pub(crate) fn on(shell: Shell, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let (child, address) = launch(&shell, &args);
        Self { child, address, shell, args }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Descriptors that it has.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it, and starts another on the same state.
    pub(crate) fn again(&mut self, signal: Signal) {
        self.signal(signal);
        let ended = self.child.wait().unwrap();
        assert!(signal == Signal::KILL || ended.success(), "{ended}");
        (self.child, self.address) = launch(&self.shell, &self.args);
    }

    /// Ends it as an administrator does.
    #[track_caller]
    pub(crate) fn end(mut self) {
        self.signal(Signal::TERM);
        assert!(self.child.wait().unwrap().success());
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> Request<'_> {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        Request { bay: self, head, token: Some(TOKEN), body: Vec::new() }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path).send()
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path).send()
    }

    pub(crate) fn post(&self, path: &str, session: &str, body: &Value) -> Answer {
        self.request("POST", path).session(session).json(body).send()
    }

    /// A ship for a session.
    #[track_caller]
    pub(crate) fn ship(&self, session: &str, ask: &Value) -> Value {
        self.post("/ship", session, ask).is(201).json()
    }

    /// The id of a ship for a session, for an hour.
    #[track_caller]
    pub(crate) fn ship_id(&self, session: &str) -> String {
        self.ship(session, &json!({ "ttl": 3600 }))["id"].as_str().unwrap().to_owned()
    }

    /// What a command of a session answers.
    pub(crate) fn try_sh(&self, ship: &str, session: &str, command: &str) -> Answer {
        let body = json!({ "type": "shell/exec", "payload": { "command": command } });
        self.post(&format!("/ship/{ship}/exec"), session, &body)
    }

    /// What a command of a session, which must succeed, writes.
    #[track_caller]
    pub(crate) fn sh(&self, ship: &str, session: &str, command: &str) -> String {
        let answer = self.try_sh(ship, session, command).is(200).json();
        assert_eq!(answer["data"]["return_code"], 0, "{command}: {answer}");
        answer["data"]["stdout"].as_str().unwrap().to_owned()
    }

    /// The status of a ship as the list has it.
    pub(crate) fn listed(&self, ship: &str) -> Option<u64> {
        let all = self.get("/ships").is(200).json();
        let found = all.as_array().unwrap().iter().find(|listed| listed["id"] == ship)?;
        found["status"].as_u64()
    }

    /// Waits until a ship is stopped.
    pub(crate) fn until_stopped(&self, ship: &str) {
        wait_until("the ship is stopped", || self.listed(ship) == Some(0));
    }
}

impl Drop for Bay {
    fn drop(&mut self) {
        // One that has ended does not mind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(shell: &Shell, args: &[String]) -> (Child, String) {
    let mut command = shell.store().cli(&["serve", "--json", "--image", BASE]);
    command.args(args).env("ACCESS_TOKEN", TOKEN).stdout(Stdio::piped());
    if !args.iter().any(|arg| arg == "--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let started: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
    let url = started["url"].as_str().unwrap();
    (child, url.split_once("://").map_or(url, |(_, address)| address).to_owned())
}

/// A request to be sent.
pub(crate) struct Request<'a> {
    bay: &'a Bay,
    head: String,
    token: Option<&'a str>,
    body: Vec<u8>,
}

impl<'a> Request<'a> {
    pub(crate) fn token(mut self, token: Option<&'a str>) -> Self {
        self.token = token;
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    pub(crate) fn session(self, session: &str) -> Self {
        self.header("X-SESSION-ID", session)
    }

    pub(crate) fn body(mut self, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Content-Type", kind).header("Content-Length", &length)
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string())
    }

    /// A form with a file, and where it is to be put.
    pub(crate) fn form(self, path: Option<&str>, file: Option<&[u8]>) -> Self {
        let mut body = Vec::new();
        let mut part = |head: &str, content: &[u8]| {
            body.extend_from_slice(
                format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n").as_bytes(),
            );
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        };
        if let Some(file) = file {
            part("name=\"file\"; filename=\"upload\"", file);
        }
        if let Some(path) = path {
            part("name=\"file_path\"", path.as_bytes());
        }
        body.extend_from_slice(b"--b--\r\n");
        self.body("multipart/form-data; boundary=b", body)
    }

    pub(crate) fn send(self) -> Answer {
        let token = self.token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let mut bytes = format!("{}{token}\r\n", self.head).into_bytes();
        bytes.extend_from_slice(&self.body);
        http::parse(&http::raw(&self.bay.address, &bytes))
    }
}

/// A moment.
pub(crate) fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

/// Seconds from now until what an answer says.
pub(crate) fn seconds_left(stamp: &Value) -> f64 {
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;
    let at = OffsetDateTime::parse(stamp.as_str().unwrap(), &Rfc3339).unwrap();
    (at - OffsetDateTime::now_utc()).as_seconds_f64()
}
