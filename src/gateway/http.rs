//! The HTTP face of the proxy: CONNECT for everything, and requests with an absolute target for plain HTTP (RFC 9110 section
//! 9.3.6, RFC 9112 section 3.2).
//!
//! A plain request is the only one of its connection: what the client sends after it goes to the server that was allowed,
//! which is told to close.
#![forbid(unsafe_code)]

mod head;

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::check::NoConnection;
use super::proxy::{Proxy, timely};
use super::relay::relay;
use head::{Head, Malformed, Target};

/// Most bytes of a request line and its fields.
const MAX_HEAD: usize = 32 << 10;
/// The end of the fields.
const END: &[u8] = b"\r\n\r\n";

/// Serves a client whose first byte has been read.
pub(super) async fn attend(proxy: &Proxy, mut client: TcpStream, first: u8) -> io::Result<()> {
    let Some((head, rest)) = timely(read_head(&mut client, first)).await? else {
        return answer(&mut client, "431 Request Header Fields Too Large", "the request is too long").await;
    };
    let head = match Head::parse(&head) {
        Ok(head) => head,
        Err(malformed) => return refuse(&mut client, &malformed).await,
    };
    let Target { host, port } = &head.target;
    let via = if head.tunnel { "connect" } else { "http" };
    let mut server = match proxy.connect(via, host, *port).await {
        Ok(server) => server,
        Err(error) => return explain(&mut client, &head.target, &error).await,
    };
    if head.tunnel {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    } else {
        server.write_all(&head.forwarded).await?;
    }
    // What came with the head.
    server.write_all(&rest).await?;
    relay(client, server).await
}

/// The head with its end, and what came after it; `None` when it is too long.
async fn read_head(client: &mut TcpStream, first: u8) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let mut bytes = Vec::with_capacity(1024);
    bytes.push(first);
    let mut searched = 0;
    loop {
        let found = bytes[searched..].windows(END.len()).position(|window| window == END);
        if let Some(found) = found {
            let rest = bytes.split_off(searched + found + END.len());
            return Ok(Some((bytes, rest)));
        }
        if bytes.len() >= MAX_HEAD {
            return Ok(None);
        }
        searched = bytes.len().saturating_sub(END.len() - 1);
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn refuse(client: &mut TcpStream, malformed: &Malformed) -> io::Result<()> {
    let status = match malformed {
        Malformed::NotForProxy => "421 Misdirected Request",
        Malformed::Scheme => "501 Not Implemented",
        _ => "400 Bad Request",
    };
    answer(client, status, &malformed.to_string()).await
}

async fn explain(client: &mut TcpStream, target: &Target, error: &NoConnection) -> io::Result<()> {
    let (status, what) = match error {
        NoConnection::Refused(refusal) => ("403 Forbidden", refusal.to_string()),
        NoConnection::Unresolved(cause) | NoConnection::Unreachable(cause) => {
            ("502 Bad Gateway", format!("{error}: {cause}"))
        }
    };
    // The client has named it; nothing of it is taken for a line of ours.
    answer(client, status, &format!("{}:{}: {what}", target.host.escape_debug(), target.port)).await
}

async fn answer(client: &mut TcpStream, status: &str, text: &str) -> io::Result<()> {
    let body = format!("vesselrt: {text}\n");
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.write_all((head + &body).as_bytes()).await?;
    client.shutdown().await?;
    // A close with something unread would take the answer away before it is read.
    let mut left = [0; 1024];
    let drain = async {
        let mut drained = 0;
        while drained < MAX_HEAD {
            match client.read(&mut left).await {
                Ok(0) | Err(_) => break,
                Ok(read) => drained += read,
            }
        }
        Ok(())
    };
    timely(drain).await
}
