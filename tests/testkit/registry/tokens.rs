//! A token server that `docker-registry` believes: RS256, signed by openssl with a key made for the test.
//!
//! Source: distribution's "Token Authentication Specification" and "Docker Registry v2 Bearer token specification".
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{PASSWORD, USER, certificate};
use crate::testkit::Store;

/// Listens until it is dropped.
#[derive(Debug)]
pub(crate) struct TokenServer {
    address: SocketAddr,
    certificate: PathBuf,
    ended: Arc<AtomicBool>,
    issued: Arc<AtomicUsize>,
}

/// Who signs, and how.
struct Signer {
    key: PathBuf,
    chain: String,
}

impl TokenServer {
    pub(crate) fn start(store: &Store) -> Self {
        let (certificate, key) = certificate::make(store, "tokens");
        let pem = std::fs::read_to_string(&certificate).unwrap();
        let chain = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (ended, issued) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let server = Self { address, certificate, ended: Arc::clone(&ended), issued: Arc::clone(&issued) };
        let signer = Signer { key, chain };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                // Whoever hangs up has what it wanted, or the test fails.
                issued.fetch_add(
                    usize::from(serve(stream, &signer).is_ok_and(|known| known)),
                    Ordering::Relaxed,
                );
            }
        });
        server
    }

    /// Host and port.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// How many tokens [`USER`] got so far.
    pub(crate) fn issued(&self) -> usize {
        self.issued.load(Ordering::Relaxed)
    }

    /// The section of the registry's configuration.
    pub(crate) fn registry_settings(&self) -> String {
        format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: the-service\n    issuer: the-issuer\n    \
             rootcertbundle: {}\n",
            self.host(),
            self.certificate.display()
        )
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // It looks when somebody comes.
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers one request; whether it was the user's.
fn serve(stream: TcpStream, signer: &Signer) -> std::io::Result<bool> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut shown = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("authorization")
        {
            shown = Some(value.trim().to_owned());
        }
    }
    let user = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let (status, body, known) = match shown {
        Some(shown) if shown != user => ("401 Unauthorized", json!({"details": "wrong"}), false),
        shown => ("200 OK", signer.answer(&request, shown.is_some()), shown.is_some()),
    };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    reader.get_mut().write_all(format!("{head}{body}").as_bytes())?;
    Ok(known)
}

impl Signer {
    /// All that is asked for, for the user; nothing for anybody else.
    fn answer(&self, request: &str, known: bool) -> Value {
        let target = request.split(' ').nth(1).unwrap_or_default();
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let scopes = query.split('&').filter_map(|pair| pair.strip_prefix("scope=")).filter(|_| known);
        let access: Vec<Value> = scopes.map(decoded).map(|scope| access(&scope)).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [self.chain]});
        let claims = json!({"iss": "the-issuer", "sub": USER, "aud": "the-service", "exp": now + 300,
            "nbf": now - 10, "iat": now, "jti": now.to_string(), "access": access});
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(sign(&self.key, &signed)));
        json!({"token": token, "expires_in": 300})
    }
}

/// `repository:NAME:ACTIONS`, where the name may have colons of its own.
fn access(scope: &str) -> Value {
    let (kind, rest) = scope.split_once(':').unwrap_or((scope, ""));
    let (name, actions) = rest.rsplit_once(':').unwrap_or((rest, ""));
    json!({"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()})
}

/// Without the percent signs of a query.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| first == b'%');
        bytes.push(escaped.unwrap_or(if first == b'+' { b' ' } else { first }));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap()
}

fn sign(key: &Path, text: &str) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(["dgst", "-sha256", "-sign"]).arg(key).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    out.stdout
}
