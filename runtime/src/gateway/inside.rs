//! Sockets in the network of a vessel, made by a process that is outside.
#![forbid(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;

/// What kind of socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// TCP on IPv4.
    TcpV4,
    /// TCP on IPv6.
    TcpV6,
    /// UDP on IPv4.
    UdpV4,
}

type Order = (Socket, Sender<io::Result<OwnedFd>>);

/// A thread that is in the network of the vessel: a socket belongs to the network namespace of the thread that makes it, and
/// can be used by every other one.
#[derive(Debug, Clone)]
pub struct Inside {
    orders: Sender<Order>,
}

impl Inside {
    /// Starts the thread.
    pub(super) fn enter(netns: OwnedFd) -> io::Result<Self> {
        let (orders, taken) = channel();
        let (tell, entered) = channel();
        std::thread::Builder::new().name("inside".into()).stack_size(64 << 10).spawn(move || {
            let result =
                rustix::thread::move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(io::Error::from)
                    .and_then(|()| super::give_up_capabilities());
            let entered = result.is_ok();
            // Whoever asked is waiting for it.
            let _ = tell.send(result);
            if entered {
                serve(&taken);
            }
        })?;
        entered.recv().map_err(io::Error::other)??;
        Ok(Self { orders })
    }

    /// A new socket, which does not block.
    ///
    /// # Errors
    /// Those of socket(2).
    pub fn socket(&self, kind: Socket) -> io::Result<OwnedFd> {
        let (answer, made) = channel();
        self.orders.send((kind, answer)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        made.recv().map_err(io::Error::other)?
    }

    /// A socket that listens, and does not block.
    ///
    /// # Errors
    /// Those of bind(2) and listen(2).
    pub fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let kind = if address.is_ipv4() { Socket::TcpV4 } else { Socket::TcpV6 };
        let socket = self.socket(kind)?;
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, 128)?;
        Ok(socket.into())
    }
}

fn serve(orders: &Receiver<Order>) {
    while let Ok((kind, answer)) = orders.recv() {
        let (family, kind) = match kind {
            Socket::TcpV4 => (AddressFamily::INET, SocketType::STREAM),
            Socket::TcpV6 => (AddressFamily::INET6, SocketType::STREAM),
            Socket::UdpV4 => (AddressFamily::INET, SocketType::DGRAM),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Whoever asked may be gone.
        let _ = answer.send(rustix::net::socket_with(family, kind, flags, None).map_err(io::Error::from));
    }
}
