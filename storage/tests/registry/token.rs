//! A token server whose tokens `docker-registry` believes: RS256, signed by openssl with a key made for the test.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::Url;

use crate::common::run;
use crate::mock::{Answer, Content, Mock, Request};

pub(crate) struct TokenServer {
    dir: tempfile::TempDir,
    mock: Mock,
}

impl TokenServer {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (key, cert) = (at("key.pem"), at("cert.pem"));
        run(
            "openssl",
            &[
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=t", "-keyout", &key, "-out",
                &cert,
            ],
        );
        let pem = std::fs::read_to_string(&cert).unwrap();
        let x5c: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let mock = Mock::start(Content::default(), move |r| Some(answer(r, Path::new(&key), &x5c))).await;
        Self { dir, mock }
    }

    pub(crate) fn host(&self) -> String {
        self.mock.host.clone()
    }

    /// Targets of the requests so far.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.mock.requests().into_iter().map(|request| request.target).collect()
    }

    /// The section of the registry's configuration.
    pub(crate) fn registry_settings(&self) -> String {
        format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: the-service\n    issuer: the-issuer\n    \
             rootcertbundle: {}/cert.pem",
            self.mock.host,
            self.dir.path().display()
        )
    }
}

/// All that is asked for, for the user; nothing for anybody else.
fn answer(request: &Request, key: &Path, x5c: &str) -> Answer {
    let user = format!("Basic {}", STANDARD.encode("user:hunter2"));
    let known = match request.header("authorization") {
        Some(shown) if shown == user => true,
        Some(_) => return Answer::new(401, r#"{"details":"incorrect username or password"}"#),
        None => false,
    };
    let url = Url::parse(&format!("http://x{}", request.target)).unwrap();
    let scopes = url.query_pairs().filter(|(name, _)| name == "scope").map(|(_, value)| value.into_owned());
    let access: Vec<serde_json::Value> = scopes
        .filter(|_| known)
        .map(|scope| {
            let parts: Vec<&str> = scope.splitn(3, ':').collect();
            let actions: Vec<&str> = parts[2].split(',').collect();
            serde_json::json!({"type": parts[0], "name": parts[1], "actions": actions})
        })
        .collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let header = serde_json::json!({"typ": "JWT", "alg": "RS256", "x5c": [x5c]});
    let claims = serde_json::json!({"iss": "the-issuer", "sub": "user", "aud": "the-service", "exp": now + 300,
        "nbf": now - 10, "iat": now, "jti": now.to_string(), "access": access});
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(sign(key, &signed)));
    Answer::new(200, serde_json::json!({"token": token, "expires_in": 300}).to_string())
}

fn sign(key: &Path, text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut command = Command::new("openssl");
    command.args(["dgst", "-sha256", "-sign"]).arg(key).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    out.stdout
}
