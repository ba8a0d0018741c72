//! What the [gateway](vesselrt_runtime::gateway) of a vessel does: it forwards published ports, and is the proxy that is the
//! only way out of a vessel with an allowlist.
//!
//! It talks to guests, and to whoever can reach a published port: both are hostile. Everything they can make it hold is
//! bounded by number, size and time, and it may do nothing but open sockets.
#![forbid(unsafe_code)]

mod check;
mod forward;
mod http;
pub(crate) mod log;
mod proxy;
mod relay;
mod socks;
mod udp;

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use vesselrt_runtime::gateway::{Inside, Place, Shim};
use vesselrt_runtime::settings::network::{Network, PROXY, Protocol};

use log::Log;
use proxy::Proxy;

/// Most threads that resolve names or write to the log.
const MAX_THREADS: usize = 16;
/// How long to wait when no connection can be accepted, for want of descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Does the work of a gateway until the shim is gone; the exit code of the process.
pub(crate) fn main(place: Place, shim: Shim) -> i32 {
    // A thread of its own: `main` of a program may have an async runtime already.
    let worker = std::thread::Builder::new().name("gateway".into()).spawn(move || work(place, shim));
    worker.map_or(1, |worker| worker.join().unwrap_or(1))
}

fn work(place: Place, shim: Shim) -> i32 {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(MAX_THREADS).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            shim.fail(&format!("start the async runtime: {error}"));
            return 1;
        }
    };
    runtime.block_on(async {
        if let Err(error) = begin(place) {
            shim.fail(&format!("serve the network of the vessel: {error}"));
            return 1;
        }
        if shim.ready().is_err() {
            return 1;
        }
        // Its end is the only thing that a thread of its own waits for: whatever the runtime does, it is seen.
        let (gone, ended) = tokio::sync::oneshot::channel::<()>();
        let watch = move || {
            shim.wait();
            drop(gone);
        };
        if std::thread::Builder::new().name("shim".into()).spawn(watch).is_err() {
            return 1;
        }
        let _ = ended.await;
        0
    })
}

/// Everything listens when this returns.
fn begin(place: Place) -> io::Result<()> {
    let Place { network, inside, dir, published } = place;
    let inside = Arc::new(inside);
    if network.is_proxied() {
        let listener = inside.listen(PROXY)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let proxy = Proxy::new(network.clone(), Log::open(dir)?);
        tokio::spawn(proxy.serve(listener));
    }
    forward(&network, &inside, published)
}

fn forward(network: &Network, inside: &Arc<Inside>, published: Vec<OwnedFd>) -> io::Result<()> {
    if published.len() != network.publish.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not one socket for each published port"));
    }
    for (publish, socket) in network.publish.iter().zip(published) {
        let inside = Arc::clone(inside);
        match publish.protocol {
            Protocol::Tcp => {
                let listener = TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                let listener = tokio::net::TcpListener::from_std(listener)?;
                tokio::spawn(forward::serve(listener, inside, publish.guest));
            }
            Protocol::Udp => {
                let socket = std::net::UdpSocket::from(socket);
                socket.set_nonblocking(true)?;
                let socket = tokio::net::UdpSocket::from_std(socket)?;
                tokio::spawn(udp::serve(Arc::new(socket), inside, publish.guest));
            }
        }
    }
    Ok(())
}
