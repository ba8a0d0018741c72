//! The same by TLS, over a unix socket, and with a token that nobody chose.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::bay::{Bay, TOKEN};
use crate::shell::Shell;
use crate::testkit::caps::{Cap, which};
use crate::testkit::need;

/// What curl, which must succeed, writes.
fn curl(args: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--max-time", "20"])
        .args(args)
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_speaks_to_it_by_tls() {
    if !need(&[Cap::OpenSsl]) || which("curl").is_none() {
        return;
    }
    let shell = Shell::new();
    let (cert, key) = (shell.beside("cert.pem"), shell.beside("key.pem"));
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert])
        .output();
    assert!(made.unwrap().status.success());
    let bay = Bay::on(shell, &["--tls-cert", cert, "--tls-key", key]);
    let url = format!("https://{}", bay.address());
    let bearer = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(curl(&["--cacert", cert, "-H", &bearer, &format!("{url}/ships")]), "[]");
    let ship = curl(&[
        "--cacert",
        cert,
        "-H",
        &bearer,
        "-H",
        "X-SESSION-ID: one",
        "--json",
        "{\"ttl\": 60}",
        &format!("{url}/ship"),
    ]);
    assert!(ship.contains("\"status\":1"), "{ship}");
    // Whoever speaks no TLS is not answered.
    assert!(!Command::new("curl").args(["-s", "-m", "5", &bay.url()]).status().unwrap().success());
    bay.end();
}

#[test]
fn a_certificate_that_is_none_is_told() {
    let shell = Shell::new();
    let file = shell.file("none.pem", b"nothing");
    let file = file.to_str().unwrap();
    let args = ["serve", "--json", "--listen", "127.0.0.1:0", "--tls-cert", file, "--tls-key", file];
    let refused = shell.store().cli(&args).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stdout).contains("there is no certificate in"), "{refused:?}");
}

#[test]
fn it_listens_on_a_unix_socket_that_only_its_user_reaches() {
    let shell = Shell::new();
    let socket = shell.beside("sock");
    std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let place = format!("unix:{}", socket.display());
    // One that a crash left is replaced.
    let bay = Bay::on(shell, &["--listen", &place]);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    if which("curl").is_some() {
        let bearer = format!("Authorization: Bearer {TOKEN}");
        let path = socket.to_str().unwrap();
        assert_eq!(curl(&["--unix-socket", path, "-H", &bearer, "http://any.host/ships"]), "[]");
    }
    bay.end();
    assert!(!socket.exists());
}

#[test]
fn without_a_token_there_is_a_random_one_in_a_file() {
    let shell = Shell::new();
    let mut command = shell.store().cli(&["serve", "--listen", "127.0.0.1:0"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let (first, second) = (lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap());
    let file = shell.root().join("serve/token");
    assert!(second.contains(file.to_str().unwrap()), "{second}");
    let token = std::fs::read_to_string(&file).unwrap();
    let address = first.strip_prefix("listening on http://").unwrap();
    let ask = |token: &str| {
        let request = format!(
            "GET /ships HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        super::http::parse(&super::http::raw(address, request.as_bytes())).status
    };
    assert_eq!((ask(token.trim()), ask("secret-token"), ask("")), (200, 401, 403));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)
        .unwrap();
    assert!(child.wait().unwrap().success());
}
