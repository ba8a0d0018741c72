//! A client of HTTP/1.1 that hides nothing: one connection, one request, the answer as it came.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body, which must be JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?} {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&str| line.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        self.head.lines().find(named).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    }

    /// The answer, which must have this status.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{} {}", self.head, self.text());
        self
    }

    /// The status and the detail, which must be these.
    #[track_caller]
    pub(crate) fn says(self, status: u16, detail: &str) {
        assert_eq!((self.status, self.json()["detail"].as_str()), (status, Some(detail)), "{}", self.text());
    }

    /// The only thing that is wrong with a request: its type, where, in which words.
    #[track_caller]
    pub(crate) fn complains(self, kind: &str, loc: Value, msg: &str) {
        let answer = self.is(422).json();
        let wrong = answer["detail"].as_array().unwrap();
        assert_eq!(wrong.len(), 1, "{answer}");
        let told = ["type", "loc", "msg"].map(|field| wrong[0][field].clone());
        assert_eq!(told, [kind.into(), loc, msg.into()]);
    }
}

/// Sends bytes, and gives what comes until the other side ends.
pub(crate) fn raw(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(100))).unwrap();
    // The other side may have heard enough.
    let _ = stream.write_all(bytes);
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    let _ = stream.shutdown(Shutdown::Both);
    all
}

/// The first answer in what came.
pub(crate) fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(bytes)));
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut answer = Answer { status, head, body: bytes[end + 4..].to_vec() };
    if answer.header("transfer-encoding") == Some("chunked") {
        answer.body = unchunked(&answer.body);
    } else if let Some(length) = answer.header("content-length") {
        answer.body.truncate(length.parse().unwrap());
    }
    answer
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(line) = bytes.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).unwrap(), 16).unwrap();
        let chunk = &bytes[line + 2..];
        if size == 0 || chunk.len() < size {
            break;
        }
        all.extend_from_slice(&chunk[..size]);
        bytes = &chunk[size + 2..];
    }
    all
}
