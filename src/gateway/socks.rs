//! SOCKS5, RFC 1928: no authentication, connections only.
#![forbid(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::check::NoConnection;
use super::proxy::{Proxy, timely};
use super::relay::relay;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const V4: u8 = 1;
const NAME: u8 = 3;
const V6: u8 = 4;

/// What a client is told, RFC 1928 section 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Said {
    Connected = 0,
    NotAllowed = 2,
    Unreachable = 4,
    Refused = 5,
    NoSuchCommand = 7,
    NoSuchAddress = 8,
}

/// Serves a client whose first byte has been read.
pub(super) async fn attend(proxy: &Proxy, mut client: TcpStream) -> io::Result<()> {
    if !timely(greet(&mut client)).await? {
        return Ok(());
    }
    let (host, port) = match timely(request(&mut client)).await? {
        Ok(wanted) => wanted,
        Err(said) => return say(&mut client, said).await,
    };
    let server = match proxy.connect("socks5", &host, port).await {
        Ok(server) => server,
        Err(error) => return say(&mut client, said(&error)).await,
    };
    say(&mut client, Said::Connected).await?;
    relay(client, server).await
}

fn said(error: &NoConnection) -> Said {
    match error {
        NoConnection::Refused(_) => Said::NotAllowed,
        NoConnection::Unreachable(e) if e.kind() == io::ErrorKind::ConnectionRefused => Said::Refused,
        NoConnection::Unresolved(_) | NoConnection::Unreachable(_) => Said::Unreachable,
    }
}

/// Whether the client can do without authentication.
async fn greet(client: &mut TcpStream) -> io::Result<bool> {
    let mut methods = vec![0; client.read_u8().await?.into()];
    client.read_exact(&mut methods).await?;
    let can = methods.contains(&NO_AUTHENTICATION);
    client.write_all(&[VERSION, if can { NO_AUTHENTICATION } else { NO_METHOD }]).await?;
    Ok(can)
}

async fn request(client: &mut TcpStream) -> io::Result<Result<(String, u16), Said>> {
    let mut head = [0; 4];
    client.read_exact(&mut head).await?;
    let [version, command, _, kind] = head;
    if version != VERSION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let host = match kind {
        V4 => Ipv4Addr::from(client.read_u32().await?).to_string(),
        V6 => Ipv6Addr::from(client.read_u128().await?).to_string(),
        NAME => {
            let mut name = vec![0; client.read_u8().await?.into()];
            client.read_exact(&mut name).await?;
            String::from_utf8_lossy(&name).into_owned()
        }
        _ => return Ok(Err(Said::NoSuchAddress)),
    };
    let port = client.read_u16().await?;
    Ok(if command == CONNECT { Ok((host, port)) } else { Err(Said::NoSuchCommand) })
}

/// With an address of nobody: ours is none of the client's business.
async fn say(client: &mut TcpStream, said: Said) -> io::Result<()> {
    client.write_all(&[VERSION, said as u8, 0, V4, 0, 0, 0, 0, 0, 0]).await
}
