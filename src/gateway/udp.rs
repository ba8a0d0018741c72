//! Published UDP ports: each client has a socket of its own inside, through which answers find back to it.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use vesselrt_runtime::gateway::{Inside, Socket};

use super::PAUSE;

/// Most clients at once. What others send is lost, as datagrams may be.
const MAX_CLIENTS: usize = 256;
/// How long a client is known that is not answered.
const SILENCE: Duration = Duration::from_secs(60);
/// The largest datagram.
const MAX_DATAGRAM: usize = 65_535;

type Clients = Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>;

/// Serves a published port for ever.
pub(super) async fn serve(outside: Arc<UdpSocket>, inside: Arc<Inside>, port: u16) {
    let clients: Arc<Clients> = Arc::default();
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        // An error is that of an answer to a client that is gone.
        let Ok((size, client)) = outside.recv_from(&mut buffer).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if let Ok(Some(socket)) = socket_of(&clients, client, &outside, &inside, port) {
            // One that cannot be taken now is lost.
            let _ = tokio::time::timeout(PAUSE, socket.send(&buffer[..size])).await;
        }
    }
}

/// The client's socket inside, if it can have one.
fn socket_of(
    clients: &Arc<Clients>,
    client: SocketAddr,
    outside: &Arc<UdpSocket>,
    inside: &Inside,
    port: u16,
) -> io::Result<Option<Arc<UdpSocket>>> {
    let mut known = clients.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(socket) = known.get(&client) {
        return Ok(Some(Arc::clone(socket)));
    }
    if known.len() >= MAX_CLIENTS {
        return Ok(None);
    }
    let socket = std::net::UdpSocket::from(inside.socket(Socket::UdpV4)?);
    socket.connect((Ipv4Addr::LOCALHOST, port))?;
    let socket = Arc::new(UdpSocket::from_std(socket)?);
    known.insert(client, Arc::clone(&socket));
    tokio::spawn(answer(Arc::clone(&socket), Arc::clone(outside), client, Arc::clone(clients)));
    Ok(Some(socket))
}

/// Takes answers to the client until there are none.
async fn answer(socket: Arc<UdpSocket>, outside: Arc<UdpSocket>, client: SocketAddr, clients: Arc<Clients>) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    // Refused: nothing listens inside, now.
    while let Ok(Ok(size)) = tokio::time::timeout(SILENCE, socket.recv(&mut buffer)).await {
        if outside.send_to(&buffer[..size], client).await.is_err() {
            break;
        }
    }
    clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&client);
}
