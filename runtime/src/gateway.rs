//! The gateway of a vessel: a process outside that lives as long as its shim, for what a network needs outside.
//!
//! It runs in the host's network and mount namespaces and in the user namespace of the vessel, so that it may make sockets
//! in the vessel's network ([`Inside`]) and connect programs such as pasta to it ([`Uplink`]). How it starts and ends is in
//! `entry/gateway.rs`. What it does with all that, forwarding and the proxy, is not of this crate: a program becomes one in
//! its `main`, where [`become_gateway`] is called first of all.
//!
//! ```text
//! shim ── Task, descriptors ──▶ gateway        gateway ── Answer ──▶ shim        the end of the socket is the end of both
//! ```
#![forbid(unsafe_code)]

mod inside;
mod uplink;

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

pub use inside::{Inside, Socket};
pub use uplink::Uplink;

use crate::entry;
use crate::settings::Network;
use crate::shim::protocol::{Fault, FaultKind};
use crate::shim::wire;
use crate::sys;

/// `argv[0]` of a gateway.
pub(crate) const NAME: &CStr = c"vesselrt-gateway";

/// What a gateway is to do. Descriptors with it, in order: the network namespace of the vessel, the vessel's directory, the
/// sockets of published ports.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) network: Network,
    pub(crate) uplink: Option<Uplink>,
}

/// What it says to that.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Everything works.
    Ready,
    /// It ends.
    Failed(Fault),
}

/// What a gateway works with.
#[derive(Debug)]
pub struct Place {
    /// What it is to do.
    pub network: Network,
    /// The vessel's network.
    pub inside: Inside,
    /// The vessel's directory.
    pub dir: OwnedFd,
    /// The sockets for [`Network::publish`], in that order.
    pub published: Vec<OwnedFd>,
}

/// The way back to the shim.
#[derive(Debug)]
pub struct Shim(UnixStream);

impl Shim {
    /// Tells it that everything works.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn ready(&self) -> std::io::Result<()> {
        wire::send(&self.0, &Answer::Ready, &[])
    }

    /// Tells it why not.
    pub fn fail(&self, message: &str) {
        let fault = Fault::new(FaultKind::Internal, message);
        // Nobody to tell it to is the end, too.
        let _ = wire::send(&self.0, &Answer::Failed(fault), &[]);
    }

    /// Waits for its end.
    pub fn wait(&self) {
        // It has nothing more to say.
        let _ = wire::recv::<Task>(&self.0);
    }
}

/// Becomes a gateway if this process was started as one, and does not return then: `work` is what it does, until it has to
/// end. Must come before any other work of `main`.
pub fn become_gateway(work: impl FnOnce(Place, Shim) -> i32) {
    if std::env::args_os().next().is_none_or(|name| name.as_encoded_bytes() != NAME.to_bytes()) {
        return;
    }
    let code = match entry::take_socket() {
        Err(_) => 1,
        Ok(socket) => match take_place(&socket) {
            Ok(place) => work(place, Shim(socket)),
            Err(fault) => {
                let _ = wire::send(&socket, &Answer::Failed(fault), &[]);
                1
            }
        },
    };
    sys::exit_now(code)
}

/// From a fresh process to one that has all it needs and may do nothing more.
fn take_place(socket: &UnixStream) -> Result<Place, Fault> {
    let wrong = || Fault::new(FaultKind::InvalidArgument, "a gateway needs its task");
    let (task, fds) =
        wire::recv::<Task>(socket).map_err(|e| Fault::io("read the task", &e))?.ok_or_else(wrong)?;
    let mut fds = fds.into_iter();
    let (netns, dir) = (fds.next().ok_or_else(wrong)?, fds.next().ok_or_else(wrong)?);
    raise_descriptor_limit();
    let for_uplink = netns.try_clone().map_err(|e| Fault::io("duplicate a descriptor", &e))?;
    let inside = Inside::enter(netns).map_err(|e| Fault::io("enter the network of the vessel", &e))?;
    if let Some(uplink) = task.uplink {
        uplink.start(for_uplink)?;
    }
    give_up_capabilities().map_err(|e| Fault::io("give up the capabilities of the gateway", &e))?;
    Ok(Place { network: task.network, inside, dir, published: fds.collect() })
}

/// Two for each connection.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Without it there are fewer connections at once.
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
}

/// Of this thread and those that it starts: they read what guests and strangers send.
fn give_up_capabilities() -> std::io::Result<()> {
    let none = CapabilitySet::empty();
    rustix::thread::set_no_new_privs(true)?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )?;
    Ok(())
}
