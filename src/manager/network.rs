//! The network of a vessel as its opener has it: the sockets of published ports, and what the proxy has denied.
#![forbid(unsafe_code)]

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use vesselrt_runtime::settings::Settings;
use vesselrt_runtime::settings::network::{Network, Protocol, Publish};

use super::ManagerInner;
use super::open::{dir_of, read_state, unknown};
use crate::error::{Error, ErrorKind, Result};
use crate::gateway::log::{self, DeniedConnection};
use crate::offload::blocking;
use crate::store::dirs;

/// How often, and after what time, a port is tried again that a vessel may have had until a moment ago.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(30);

/// The sockets of published ports, in their order.
///
/// # Errors
/// [`Conflict`](ErrorKind::Conflict) for a port that is taken; [`PermissionDenied`](ErrorKind::PermissionDenied) for one
/// below 1024 of an ordinary user.
pub(super) fn bind(network: &Network) -> Result<Vec<OwnedFd>> {
    network.publish.iter().map(bind_one).collect()
}

fn bind_one(publish: &Publish) -> Result<OwnedFd> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match try_bind(publish) {
            Ok(socket) => return Ok(socket),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && attempts < ATTEMPTS => {
                std::thread::sleep(PAUSE);
            }
            Err(e) => return Err(not_bound(publish, e)),
        }
    }
}

fn try_bind(publish: &Publish) -> io::Result<OwnedFd> {
    Ok(match publish.protocol {
        Protocol::Tcp => TcpListener::bind(publish.listens_on())?.into(),
        Protocol::Udp => UdpSocket::bind(publish.listens_on())?.into(),
    })
}

fn not_bound(publish: &Publish, error: io::Error) -> Error {
    let message = format!("failed to publish port {}", publish.host_side());
    let (kind, remedy) = match error.kind() {
        io::ErrorKind::AddrInUse => {
            (ErrorKind::Conflict, "end what listens on it, or make a vessel that publishes another one")
        }
        io::ErrorKind::AddrNotAvailable => {
            (ErrorKind::Conflict, "publish it on an address that this host has")
        }
        io::ErrorKind::PermissionDenied => (
            ErrorKind::PermissionDenied,
            "publish a port above 1023 (sysctl net.ipv4.ip_unprivileged_port_start)",
        ),
        _ => return Error::io(message, error),
    };
    Error::new(kind, message).with_remedy(remedy).with_source(error)
}

/// What a vessel may use of the host; nothing special where its local part is gone.
pub(super) async fn settings(manager: &Arc<ManagerInner>, id: &str) -> Result<Settings> {
    let Some(dir) = dir_of(manager, id).await? else { return Ok(Settings::default()) };
    let id = id.to_owned();
    blocking(move || Ok(read_state(&id, dir.as_fd())?.settings)).await
}

/// What the proxy of a vessel has denied, oldest first.
pub(super) async fn denied(manager: &Arc<ManagerInner>, id: &str) -> Result<Vec<DeniedConnection>> {
    let Some(dir) = dir_of(manager, id).await? else { return Err(unknown(id)) };
    blocking(move || {
        let mut entries = Vec::new();
        for name in [log::OLD_NAME, log::NAME] {
            let bytes = dirs::read_small(dir.as_fd(), name, log::MAX_BYTES)?.unwrap_or_default();
            entries.extend(DeniedConnection::read(&bytes));
        }
        Ok(entries)
    })
    .await
}
