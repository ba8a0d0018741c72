//! Chromium without a window, spoken to by the DevTools protocol (chromedevtools.github.io/devtools-protocol).
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

/// How long something may take to be seen.
const PATIENCE: Duration = Duration::from_secs(30);

/// One tab.
pub(crate) struct Browser {
    child: Child,
    socket: WebSocket<TcpStream>,
    number: u64,
    /// What the page complained about.
    errors: Vec<String>,
    _profile: TempDir,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        // Its own sandbox needs what tests of namespaces may not leave it; the pages are ours.
        let mut child = Command::new("chromium")
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .args(["--remote-debugging-port=0", "--window-size=1200,800"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .env("HOME", profile.path())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let marker = "DevTools listening on ws://";
        let address = said.find_map(|line| Some(line.unwrap().split_once(marker)?.1.to_owned())).unwrap();
        std::thread::spawn(move || said.for_each(drop));
        let host = address.split('/').next().unwrap();
        let pages = pages(host);
        let page = pages.as_array().unwrap().iter().find(|one| one["type"] == "page").unwrap();
        let url = page["webSocketDebuggerUrl"].as_str().unwrap();
        let stream = TcpStream::connect(host).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client(url, stream).unwrap();
        let mut browser = Self { child, socket, number: 0, errors: Vec::new(), _profile: profile };
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.number += 1;
        let request = json!({ "id": self.number, "method": method, "params": params });
        self.socket.send(Message::text(request.to_string())).unwrap();
        loop {
            let Message::Text(text) = heard(&mut self.socket) else { continue };
            let heard: Value = serde_json::from_str(&text).unwrap();
            if heard["id"] == self.number {
                assert!(heard["error"].is_null(), "{method}: {heard}");
                return heard["result"].clone();
            }
            let level = &heard["params"]["entry"]["level"];
            if heard["method"] == "Runtime.exceptionThrown"
                || (heard["method"] == "Log.entryAdded" && level == "error")
            {
                self.errors.push(heard["params"].to_string());
            }
        }
    }

    pub(crate) fn go(&mut self, url: &str) {
        self.call("Page.navigate", &json!({ "url": url }));
        self.until("document.readyState === 'complete'");
    }

    /// The value of an expression; promises are waited for.
    #[track_caller]
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let ask = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", &ask);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub(crate) fn until(&mut self, expression: &str) {
        let end = Instant::now() + PATIENCE;
        while self.value(expression) != true {
            assert!(Instant::now() < end, "{expression} did not become true: {}", self.text());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What is to be read on the page.
    pub(crate) fn text(&mut self) -> String {
        self.value("document.body.innerText").as_str().unwrap().to_owned()
    }

    /// Waits until the page says something.
    #[track_caller]
    pub(crate) fn until_it_says(&mut self, text: &str) {
        self.until(&format!("document.body.innerText.includes({})", json!(text)));
    }

    /// Presses the button with this text.
    #[track_caller]
    pub(crate) fn press(&mut self, button: &str) {
        let found = format!(
            "[...document.querySelectorAll('button')].find((one) => one.textContent === {})",
            json!(button)
        );
        self.until(&format!("!!{found} && !{found}.disabled"));
        self.value(&format!("{found}.click()"));
    }

    /// Types where the focus is; a line feed is the Enter key.
    pub(crate) fn type_text(&mut self, text: &str) {
        for (at, line) in text.split('\n').enumerate() {
            if at > 0 {
                for kind in ["keyDown", "keyUp"] {
                    self.call("Input.dispatchKeyEvent", &json!({ "type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13 }));
                }
            }
            if !line.is_empty() {
                self.call("Input.insertText", &json!({ "text": line }));
            }
        }
    }

    pub(crate) fn resize(&mut self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", &size);
    }

    /// What went wrong on the page since this was asked.
    pub(crate) fn errors(&mut self) -> Vec<String> {
        // What was said before the answer has been heard with it.
        self.value("0");
        std::mem::take(&mut self.errors)
    }
}

/// The next message; a signal that was for others is none.
fn heard(socket: &mut WebSocket<TcpStream>) -> Message {
    loop {
        match socket.read() {
            Err(tungstenite::Error::Io(e)) if e.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other.unwrap(),
        }
    }
}

/// What is open. The browser keeps connections: the end of the answer is where its length says.
fn pages(host: &str) -> Value {
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /json HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut answer = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        answer.read_line(&mut line).unwrap();
        let line = line.trim().to_ascii_lowercase();
        if let Some(number) = line.strip_prefix("content-length:") {
            length = number.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    answer.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

impl Drop for Browser {
    fn drop(&mut self) {
        // One that has ended does not mind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
