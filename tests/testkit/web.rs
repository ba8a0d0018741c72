//! A web server of this host, on its loopback interface.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What it answers.
pub(crate) const HELLO: &str = "hello from outside\n";

/// A web server, until the end of the test's process.
#[derive(Debug, Clone)]
pub(crate) struct Web {
    pub(crate) port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Web {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = Self { port: listener.local_addr().unwrap().port(), heads: Arc::default() };
        let heads = Arc::clone(&web.heads);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let heads = Arc::clone(&heads);
                std::thread::spawn(move || answer(&client, &heads));
            }
        });
        web
    }

    /// The requests that came, without their ends.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn answer(mut client: &TcpStream, heads: &Mutex<Vec<String>>) {
    let lines = BufReader::new(client).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let head: Vec<String> = lines.collect();
    heads.lock().unwrap().push(head.join("\n"));
    let length = HELLO.len();
    let _ = write!(client, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{HELLO}");
}
