//! Published TCP ports: each connection is joined with one to the server inside.
#![forbid(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use vesselrt_runtime::gateway::{Inside, Socket};

use super::PAUSE;
use super::relay::relay;

/// Most connections of one port; the next one waits in the queue of the kernel.
const MAX_CONNECTIONS: usize = 512;
/// How long a server inside may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// Serves a published port for ever.
pub(super) async fn serve(listener: TcpListener, inside: Arc<Inside>, port: u16) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((outside, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let inside = Arc::clone(&inside);
        tokio::spawn(async move {
            // Whoever connected sees the connection close where there is no server.
            if let Ok(server) = connect(&inside, port).await {
                let _ = relay(outside, server).await;
            }
            drop(place);
        });
    }
}

/// To the loopback interface inside: IPv4, and IPv6 where nothing listens on that.
async fn connect(inside: &Inside, port: u16) -> io::Result<TcpStream> {
    let v4 = dial(inside.socket(Socket::TcpV4)?, (Ipv4Addr::LOCALHOST, port).into()).await;
    match v4 {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            dial(inside.socket(Socket::TcpV6)?, (Ipv6Addr::LOCALHOST, port).into()).await
        }
        other => other,
    }
}

async fn dial(socket: OwnedFd, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
    tokio::time::timeout(CONNECT, socket.connect(to)).await.map_err(io::Error::from)?
}
