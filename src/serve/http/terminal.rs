//! A terminal of a ship over a WebSocket (RFC 6455): what is typed comes as text, what is shown goes as text.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::answer::Trouble;
use super::fields::{self, Invalid};
use super::guard;
use crate::serve::fleet::Fleet;
use crate::serve::problem::Problem;
use crate::serve::ship::Terminal;

/// Bytes of a message, at most.
const LARGEST: usize = 256 << 10;
/// Bytes that were typed and that the shell has not read yet.
const UNREAD: usize = 1 << 20;
/// How long a client may take to accept what is shown.
const SLOWEST: Duration = Duration::from_secs(30);
/// How often a client is asked whether it is still there.
const PING: Duration = Duration::from_secs(30);

/// How long what a shell wrote last is waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A message that is not typed.
#[derive(Debug, Deserialize)]
struct Resize {
    #[serde(rename = "type")]
    kind: String,
    cols: u16,
    rows: u16,
}

/// Connects to a new shell of the session. What is refused is refused before the connection is one: with 403.
#[utoipa::path(get, path = "/ship/{ship_id}/term", tag = "operations",
    params(("ship_id" = String, Path, description = "The ship"), ("token" = Option<String>, Query, description = "The token, unless the header has it"), ("session_id" = String, Query, description = "The session"),
        ("cols" = Option<u16>, Query, description = "Columns; 80 unless given", minimum = 1), ("rows" = Option<u16>, Query, description = "Rows; 24 unless given", minimum = 1)),
    responses((status = 101, description = "A WebSocket: text is typed and shown, `{\"type\":\"resize\",\"cols\":…,\"rows\":…}` resizes"), (status = 400, body = super::answer::Detail, description = "It is no WebSocket")))]
pub(super) async fn connect(
    State(fleet): State<Arc<Fleet>>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response {
    let token = match query.get("token") {
        Some(token) => Ok(token.as_str()),
        None => guard::given(request.headers()),
    };
    if !token.is_ok_and(|token| fleet.knows(token)) {
        return refused("Invalid access token");
    }
    let (mut parts, _) = request.into_parts();
    let Ok(socket) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await else {
        return Trouble::from(Problem::new(400, "This is a WebSocket")).into_response();
    };
    let size = |name: &str, default: u16| match query.get(name) {
        None => Some(default),
        Some(text) => text.parse().ok().filter(|size| *size > 0),
    };
    let (Some(cols), Some(rows)) = (size("cols", 80), size("rows", 24)) else {
        return refused("cols and rows are numbers from 1 to 65535");
    };
    let mut wrong = Invalid::default();
    let session = query.get("session_id").map(String::as_str).unwrap_or_default();
    let session = fields::name(session, &["query", "session_id"], &mut wrong);
    if wrong.check().is_err() {
        return refused("session_id is missing or wrong");
    }
    match fleet.terminal(&id, &session, cols, rows).await {
        Err(problem) => refused(&problem.detail),
        Ok(terminal) => socket
            .max_message_size(LARGEST)
            .max_frame_size(LARGEST)
            .on_upgrade(async move |socket| converse(socket, terminal, &fleet, &id, &session).await),
    }
}

/// As the original: whatever the reason, it is 403 at the handshake.
fn refused(detail: &str) -> Response {
    Trouble::from(Problem::new(403, detail)).into_response()
}

/// What one round of a conversation brought.
enum Heard {
    Typed(Option<Result<Message, axum::Error>>),
    Shown(std::io::Result<usize>),
    Read(std::io::Result<usize>),
    /// The shell or its session has ended.
    Ended,
    /// What it wrote last has been shown, as far as it could be.
    Late,
    Quiet,
    Leaving,
}

/// Passes on what is typed and shown until one side ends. Either may be slow: neither keeps the other from being heard.
async fn converse(mut socket: WebSocket, mut terminal: Terminal, fleet: &Fleet, id: &str, session: &str) {
    let (mut typed, mut shown, mut text) = (Vec::new(), vec![0; 16 << 10], Utf8::default());
    let mut ping = tokio::time::interval(PING);
    // Apart, so that its end can be waited for meanwhile.
    let mut reader = std::mem::replace(&mut terminal.reader, tokio::io::duplex(1).0);
    let mut writer = std::mem::replace(&mut terminal.writer, tokio::io::duplex(1).0);
    let mut last: Option<tokio::time::Instant> = None;
    let end = loop {
        let heard = tokio::select! {
            message = socket.recv(), if typed.len() < UNREAD => Heard::Typed(message),
            read = reader.read(&mut shown) => Heard::Shown(read),
            written = writer.write(&typed), if !typed.is_empty() => Heard::Read(written),
            _ = terminal.wait(), if last.is_none() => Heard::Ended,
            () = until(last), if last.is_some() => Heard::Late,
            _ = ping.tick() => Heard::Quiet,
            () = fleet.leaving() => Heard::Leaving,
        };
        let sent = match heard {
            Heard::Typed(Some(Ok(message))) => {
                fleet.touch(id, session);
                if hear(message, &terminal, &mut typed) {
                    continue;
                }
                break None;
            }
            Heard::Typed(_) => break None,
            Heard::Shown(Ok(0) | Err(_)) | Heard::Late => break Some(close_code::NORMAL),
            Heard::Ended => {
                last = Some(tokio::time::Instant::now() + LAST_WORDS);
                continue;
            }
            Heard::Shown(Ok(n)) => match text.take(&shown[..n]) {
                text if text.is_empty() => continue,
                text => send(&mut socket, Message::Text(text.into())).await,
            },
            Heard::Read(Ok(n)) => {
                typed.drain(..n);
                continue;
            }
            // Nobody reads any more: what is shown says the rest.
            Heard::Read(Err(_)) => {
                typed.clear();
                continue;
            }
            Heard::Quiet => send(&mut socket, Message::Ping(axum::body::Bytes::new())).await,
            Heard::Leaving => break Some(close_code::AWAY),
        };
        if !sent {
            break None;
        }
    };
    if let Some(code) = end {
        let frame = CloseFrame { code, reason: "".into() };
        send(&mut socket, Message::Close(Some(frame))).await;
    }
}

async fn until(moment: Option<tokio::time::Instant>) {
    if let Some(moment) = moment {
        tokio::time::sleep_until(moment).await;
    }
}

async fn send(socket: &mut WebSocket, message: Message) -> bool {
    tokio::time::timeout(SLOWEST, socket.send(message)).await.is_ok_and(|sent| sent.is_ok())
}

/// False when the client says that it is the end.
fn hear(message: Message, terminal: &Terminal, typed: &mut Vec<u8>) -> bool {
    match message {
        Message::Text(text) => match serde_json::from_str::<Resize>(&text) {
            Ok(size) if size.kind == "resize" => {
                if size.cols > 0 && size.rows > 0 {
                    // A terminal that has just ended has no size.
                    let _ = terminal.resize(size.cols, size.rows);
                }
            }
            _ => typed.extend_from_slice(text.as_bytes()),
        },
        Message::Binary(bytes) => typed.extend_from_slice(&bytes),
        Message::Close(_) => return false,
        Message::Ping(_) | Message::Pong(_) => {}
    }
    true
}

/// Text out of bytes that are cut anywhere.
#[derive(Debug, Default)]
struct Utf8(Vec<u8>);

impl Utf8 {
    /// What is whole; the beginning of a character waits for its rest.
    fn take(&mut self, bytes: &[u8]) -> String {
        self.0.extend_from_slice(bytes);
        let mut whole = self.0.len();
        if let Some(last) = self.0.utf8_chunks().last()
            && !last.invalid().is_empty()
            && begins_character(last.invalid())
        {
            whole -= last.invalid().len();
        }
        let rest = self.0.split_off(whole);
        let text = String::from_utf8_lossy(&self.0).into_owned();
        self.0 = rest;
        text
    }
}

/// Whether more bytes could make a character of these, which are none.
fn begins_character(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::Utf8;

    #[test]
    fn characters_that_are_cut_come_whole() {
        let all = "a€ü😀z".as_bytes();
        for cut in 0..=all.len() {
            let mut text = Utf8::default();
            let joined = text.take(&all[..cut]) + &text.take(&all[cut..]);
            assert_eq!(joined, "a€ü😀z", "{cut}");
        }
        let mut text = Utf8::default();
        assert_eq!(text.take(b"a\xffb"), "a\u{fffd}b");
        assert_eq!(text.take(b"\xe2\x82"), "");
        assert_eq!(text.take(b"x"), "\u{fffd}x");
    }
}
