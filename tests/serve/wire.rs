//! Bytes that no client of ours sends.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::bay::{Bay, TOKEN};
use super::http::{parse, raw};

#[test]
fn who_is_slow_to_say_what_is_wanted_is_not_waited_for() {
    let bay = Bay::start(&["--head-timeout", "1s"]);
    let mut slow = TcpStream::connect(bay.address()).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let began = Instant::now();
    slow.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n").unwrap();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(rest.is_empty() || parse(&rest).status == 408, "{}", String::from_utf8_lossy(&rest));
    bay.get("/health").is(200);
    bay.end();
}

#[test]
fn who_takes_nothing_of_an_answer_is_not_waited_for() {
    let bay = Bay::start(&["--head-timeout", "1s"]);
    let id = bay.ship_id("one");
    bay.sh(&id, "one", "head -c 40000000 /dev/zero > large");
    let before = bay.descriptors();
    let mut slow = TcpStream::connect(bay.address()).unwrap();
    let request = format!(
        "GET /ship/{id}/download?file_path=large HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\nX-SESSION-ID: one\r\n\r\n",
        bay.address()
    );
    slow.write_all(request.as_bytes()).unwrap();
    slow.read_exact(&mut [0; 100]).unwrap();
    assert!(bay.descriptors() > before, "it is being answered");
    crate::testkit::wait_until("it is given up", || bay.descriptors() <= before);
    drop(slow);
    bay.end();
}

#[test]
fn many_idle_connections_do_not_keep_others_out_for_long() {
    let bay = Bay::start(&["--max-connections", "4", "--head-timeout", "1s"]);
    let idle: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(bay.address()).unwrap()).collect();
    bay.get("/health").is(200);
    drop(idle);
    bay.end();
}

#[test]
fn a_request_with_two_lengths_is_refused_and_is_not_two_requests() {
    let bay = Bay::start(&[]);
    let auth = format!("Authorization: Bearer {TOKEN}\r\n");
    let smuggled = format!("GET /ships HTTP/1.1\r\nHost: x\r\n{auth}\r\n");
    let both = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nX: y\r\ncontent-length: 0\r\n\r\n0\r\n\r\n",
        "Content-Length: 5\r\nContent-Length: 0\r\n\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Content-Length: +5\r\n\r\nhello",
        "Content-Length: 5, 5\r\n\r\nhello",
        "Content-Length : 5\r\n\r\nhello",
    ];
    for rest in both {
        for (method, auth) in [("POST", auth.as_str()), ("POST", ""), ("GET", "")] {
            let head = format!("{method} /ship HTTP/1.1\r\nHost: {}\r\n{auth}", bay.address());
            let answer = raw(bay.address(), format!("{head}{rest}{smuggled}").as_bytes());
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{rest:?}: {text}");
            assert_eq!(parse(&answer).status, 400, "{rest:?}: {text}");
        }
    }
    bay.end();
}

#[test]
fn two_lengths_are_found_wherever_the_request_is_cut_and_whatever_came_before() {
    let bay = Bay::start(&[]);
    let head = format!("Host: {}\r\n", bay.address());
    let good = format!("POST /health HTTP/1.1\r\n{head}Content-Length: 5\r\n\r\nhello");
    let also =
        format!("POST /nowhere HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let bad = format!(
        "POST /ship HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
    );
    for cut in (1..bad.len()).step_by(7) {
        let mut stream = TcpStream::connect(bay.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(format!("{good}{also}{good}{}", &bad[..cut]).as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(3));
        stream.write_all(&bad.as_bytes()[cut..]).unwrap();
        let mut answers = Vec::new();
        stream.read_to_end(&mut answers).unwrap();
        let text = String::from_utf8_lossy(&answers).into_owned();
        let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
        assert_eq!(statuses, ["405", "404", "405", "400"], "{cut}: {text}");
        assert!(text.contains("More than one Content-Length or Transfer-Encoding"), "{cut}: {text}");
    }
    bay.end();
}

#[test]
fn headers_that_come_twice_are_refused() {
    let bay = Bay::start(&[]);
    let twice =
        |name: &str, value: &str| bay.request("GET", "/ships").header(name, value).header(name, value).send();
    twice("X-SESSION-ID", "one").says(400, "Duplicate header: x-session-id");
    twice("Content-Type", "application/json").says(400, "Duplicate header: content-type");
    bay.request("GET", "/ships")
        .header("Authorization", "Bearer x")
        .send()
        .says(400, "Duplicate header: authorization");
    bay.request("GET", "/ships").header("Host", "localhost").send().says(400, "Duplicate header: host");
    bay.end();
}

#[test]
fn hosts_and_origins_of_others_are_refused() {
    let bay = Bay::start(&["--allow-host", "bay.example", "--cors", "https://page.example"]);
    let ask = |extra: &str| {
        let request = format!(
            "GET /ships HTTP/1.1\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n{extra}\r\n"
        );
        parse(&raw(bay.address(), request.as_bytes()))
    };
    ask("Host: evil.example\r\n").says(403, "Host is not allowed");
    ask("Host: bay.example:8156\r\n").is(200);
    ask("Host: localhost\r\nOrigin: https://evil.example\r\n").says(403, "Origin is not allowed");
    ask("Host: localhost\r\nOrigin: null\r\n").says(403, "Origin is not allowed");
    ask("Host: localhost:1\r\nOrigin: http://localhost:1\r\n").is(200);
    let page = ask("Host: localhost\r\nOrigin: https://page.example\r\n").is(200);
    assert_eq!(page.header("access-control-allow-origin"), Some("https://page.example"));
    let asked = bay.request("OPTIONS", "/ship").token(None).header("Origin", "https://page.example");
    let asked = asked.header("Access-Control-Request-Method", "POST").send().is(204);
    assert!(asked.header("access-control-allow-headers").unwrap().contains("x-session-id"));
    bay.end();
}

#[test]
fn what_is_no_http_is_refused_and_the_service_goes_on() {
    let bay = Bay::start(&[]);
    let many: String = (0..100).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "y".repeat(200_000));
    for bytes in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"\0\0\0\0\r\n\r\n".to_vec(),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n").into_bytes(),
        long.into_bytes(),
        b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Name: x\r\n\r\n".to_vec(),
    ] {
        let answer = raw(bay.address(), &bytes);
        assert!(
            answer.is_empty() || (400..500).contains(&parse(&answer).status),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    bay.get("/health").is(200);
    bay.end();
}

#[test]
fn what_is_not_utf_8_is_refused_with_a_message() {
    let bay = Bay::start(&[]);
    let head = format!(
        "POST /ship HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n",
        bay.address()
    );
    let mut bytes = format!("{head}X-SESSION-ID: ").into_bytes();
    bytes.extend_from_slice(b"\xff\xfe\r\nContent-Length: 9\r\n\r\n{\"ttl\":5}");
    let answer = parse(&raw(bay.address(), &bytes)).is(422).json();
    assert_eq!(answer["detail"][0]["type"], "string_unicode");
    bay.get("/ship/%ff%fe").says(400, "Bad Request");
    bay.get("/ship/%00").says(404, "Ship not found");
    bay.get("/ship/..%2f..%2fetc").says(404, "Ship not found");
    bay.end();
}

#[test]
fn uploads_that_are_too_large_are_refused_before_they_are_read() {
    let bay = Bay::start(&["--max-upload", "1m"]);
    let id = bay.ship_id("one");
    let head = format!(
        "POST /ship/{id}/upload HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\nX-SESSION-ID: one\r\n\
         Content-Type: multipart/form-data; boundary=b\r\n",
        bay.address()
    );
    let answer = raw(bay.address(), format!("{head}Content-Length: 1073741824\r\n\r\n").as_bytes());
    parse(&answer).says(413, "File size (1073741824 bytes) exceeds maximum allowed size (1048576 bytes)");
    // One that does not say how long it is.
    let part = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n";
    let mut bytes =
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{part}\r\n", part.len()).into_bytes();
    for _ in 0..17 {
        bytes.extend_from_slice(b"10000\r\n");
        bytes.resize(bytes.len() + 0x10000, b'x');
        bytes.extend_from_slice(b"\r\n");
    }
    assert_eq!(parse(&raw(bay.address(), &bytes)).status, 413);
    assert_eq!(std::fs::read_dir(bay.shell.root().join("serve/uploads")).unwrap().count(), 0);
    bay.end();
}

#[test]
fn clients_that_leave_in_any_phase_leave_nothing() {
    let bay = Bay::start(&[]);
    let id = bay.ship_id("one");
    let whole = format!(
        "POST /ship/{id}/exec HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\nX-SESSION-ID: one\r\n\
         Content-Length: 62\r\n\r\n{{\"type\":\"shell/exec\",\"payload\":{{\"command\":\"sleep 1; echo x\"}}}} ",
        bay.address()
    );
    for cut in [1, 20, whole.len() / 2, whole.len() - 5, whole.len()] {
        let mut stream = TcpStream::connect(bay.address()).unwrap();
        stream.write_all(&whole.as_bytes()[..cut]).unwrap();
        std::thread::sleep(Duration::from_millis(30));
    }
    assert_eq!(bay.sh(&id, "one", "echo fine"), "fine");
    let sessions = bay.get("/sessions").json();
    assert_eq!(sessions["total"], json!(1));
    bay.end();
}

#[test]
fn clients_that_leave_files_and_terminals_half_way_leave_nothing() {
    let bay = Bay::start(&[]);
    let id = bay.ship_id("one");
    bay.sh(&id, "one", "head -c 20000000 /dev/zero > large");
    let before = bay.descriptors();
    let common = format!("Host: {}\r\nAuthorization: Bearer {TOKEN}\r\nX-SESSION-ID: one\r\n", bay.address());
    let part = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\nbegun";
    let upload = format!(
        "POST /ship/{id}/upload HTTP/1.1\r\n{common}Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n{part}"
    );
    let download = format!("GET /ship/{id}/download?file_path=large HTTP/1.1\r\n{common}\r\n");
    let term = format!(
        "GET /ship/{id}/term?session_id=one HTTP/1.1\r\n{common}Connection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    for (request, cuts) in [(&upload, 6), (&download, 3), (&term, 3)] {
        for cut in 1..=cuts {
            let mut stream = TcpStream::connect(bay.address()).unwrap();
            stream.write_all(&request.as_bytes()[..request.len() * cut / cuts]).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            if cut == cuts {
                // It has begun to answer, but for the upload.
                stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
                let _ = stream.read(&mut [0; 100]);
            }
        }
    }
    crate::testkit::wait_until("everything is closed", || bay.descriptors() <= before);
    assert_eq!(std::fs::read_dir(bay.shell.root().join("serve/uploads")).unwrap().count(), 0);
    assert_eq!(bay.sh(&id, "one", "ls -A"), "large");
    bay.end();
}
