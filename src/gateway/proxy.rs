//! The proxy of a vessel with an allowlist: HTTP and SOCKS5 on one port, told apart by the first byte.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use vesselrt_runtime::settings::network::{Destination, Network, Refusal};

use super::check::{self, NoConnection};
use super::log::{Denial, Log};
use super::{PAUSE, http, socks};

/// Most connections; the next one waits in the queue of the kernel.
const MAX_CONNECTIONS: usize = 512;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(15);
/// The first byte of SOCKS5, RFC 1928.
const SOCKS5: u8 = 5;

/// The proxy of one vessel.
#[derive(Debug)]
pub(super) struct Proxy {
    network: Network,
    log: Log,
}

impl Proxy {
    pub(super) fn new(network: Network, log: Log) -> Arc<Self> {
        Arc::new(Self { network, log })
    }

    /// Serves for ever.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok((client, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let proxy = Arc::clone(&self);
            tokio::spawn(async move {
                // What goes wrong the client has been told, or is gone.
                let _ = proxy.attend(client).await;
                drop(place);
            });
        }
    }

    async fn attend(&self, mut client: TcpStream) -> io::Result<()> {
        let first = timely(client.read_u8()).await?;
        match first {
            SOCKS5 => socks::attend(self, client).await,
            other => http::attend(self, client, other).await,
        }
    }

    /// Connects to what the client has asked for. What is refused is written down.
    pub(super) async fn connect(&self, via: &str, host: &str, port: u16) -> Result<TcpStream, NoConnection> {
        let connected = match Destination::parse(host) {
            Ok(to) => check::connect(&self.network, &to, port).await,
            Err(refusal) => Err(refusal.into()),
        };
        if let Err(NoConnection::Refused(refusal)) = &connected {
            self.deny(via, host, port, *refusal).await;
        }
        connected
    }

    async fn deny(&self, via: &str, host: &str, port: u16, refusal: Refusal) {
        self.log.add(Denial::new(via, host, port, refusal.to_string())).await;
    }
}

/// `step` of a client that has yet to say what it wants.
pub(super) async fn timely<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, step).await.map_err(io::Error::from)?
}
