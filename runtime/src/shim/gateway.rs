//! The shim's end of the [gateway](crate::gateway), and what a network means to the shim itself.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags};

use super::protocol::{Fault, FaultKind};
use super::wire;
use crate::entry;
use crate::gateway::{Answer, Task, Uplink};
use crate::settings::{Network, NetworkMode};

/// How long a gateway may take to be ready.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it may take to end.
const END: Duration = Duration::from_secs(2);
/// Most of a file of the host that is shown inside.
const MAX_FILE: u64 = 64 << 10;

/// The network of a vessel, as its shim has it.
#[derive(Debug)]
pub(super) struct Attached {
    gateway: Option<Gateway>,
    environment: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Gateway {
    socket: UnixStream,
    keeper: nix::unistd::Pid,
}

/// A network that is being connected.
#[derive(Debug)]
pub(super) struct Attaching {
    network: Network,
    uplink: Option<Uplink>,
    gateway: Option<Gateway>,
}

impl Attaching {
    /// Looks for what the network needs while the host's files are in sight.
    pub(super) fn new(network: Network, started: Option<entry::Gateway>) -> Result<Self, Fault> {
        let isolated = network.mode == NetworkMode::Isolated;
        let uplink = isolated.then(Uplink::find).transpose()?;
        let gateway = started.map(|entry::Gateway { socket, keeper }| Gateway {
            socket: UnixStream::from(socket),
            keeper: nix::unistd::Pid::from_raw(keeper.as_raw_nonzero().get()),
        });
        if network.needs_gateway() != gateway.is_some() {
            return Err(Fault::new(FaultKind::InvalidArgument, "the gateway of the vessel was not started"));
        }
        Ok(Self { network, uplink, gateway })
    }

    /// The content of `/etc/resolv.conf` inside.
    pub(super) fn resolv_conf(&self) -> String {
        let given = || self.network.dns.iter().map(|server| format!("nameserver {server}\n")).collect();
        match (self.network.mode, self.network.dns.is_empty()) {
            (NetworkMode::None, _) if self.network.is_proxied() => {
                "# names are resolved by the proxy of this vessel\n".to_owned()
            }
            (NetworkMode::None, _) => "# this vessel has no network\n".to_owned(),
            (_, false) => given(),
            (NetworkMode::Host, true) => host_file("/etc/resolv.conf"),
            (NetworkMode::Isolated, true) => {
                isolated_resolv_conf(&host_file("/etc/resolv.conf"), self.uplink.as_ref().map(Uplink::dns))
            }
        }
    }

    /// What `/etc/hosts` has inside besides the vessel's own name.
    pub(super) fn hosts(&self) -> String {
        match self.network.mode {
            NetworkMode::Host => host_file("/etc/hosts"),
            _ => "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned(),
        }
    }

    /// Tells the gateway what to do.
    pub(super) fn begin(&self, vessel: BorrowedFd<'_>, published: &[OwnedFd]) -> Result<(), Fault> {
        let Some(gateway) = &self.gateway else { return Ok(()) };
        let netns =
            File::open("/proc/self/ns/net").map_err(|e| Fault::io("open the network of the vessel", &e))?;
        let (network, uplink) = (self.network.clone(), self.uplink.clone());
        let task = Task { network, uplink };
        let fds = [netns.as_fd(), vessel].into_iter().chain(published.iter().map(AsFd::as_fd));
        let fds: Vec<_> = fds.collect();
        wire::send(&gateway.socket, &task, &fds).map_err(|e| Fault::io("tell the gateway its task", &e))
    }

    /// Waits until it works.
    pub(super) fn finish(self) -> Result<Attached, Fault> {
        if let Some(gateway) = &self.gateway {
            gateway.await_ready()?;
        }
        let pairs = self.network.environment();
        let environment =
            pairs.into_iter().map(|(name, value)| format!("{name}={value}").into_bytes()).collect();
        Ok(Attached { gateway: self.gateway, environment })
    }
}

impl Attached {
    /// Adds what leads a command to the proxy. What whoever runs it has set stays.
    pub(super) fn complete(&self, environment: &mut Vec<Vec<u8>>) {
        let name = |entry: &[u8]| entry.iter().position(|&b| b == b'=').unwrap_or(entry.len());
        for entry in &self.environment {
            let key = &entry[..=name(entry)];
            if !environment.iter().any(|other| other.starts_with(key)) {
                environment.push(entry.clone());
            }
        }
    }

    /// # Errors
    /// When the gateway has ended before the shim.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let gone = self.gateway.as_ref().is_some_and(Gateway::has_ended);
        if !gone {
            return Ok(());
        }
        Err(Fault::new(FaultKind::Internal, "what connects the vessel to its network has ended")
            .with_remedy("stop the vessel and open it again"))
    }

    /// Ends the gateway and waits for that, so that its ports are free.
    pub(super) fn end(&self) {
        if let Some(gateway) = &self.gateway {
            gateway.end();
        }
    }
}

impl Gateway {
    fn await_ready(&self) -> Result<(), Fault> {
        let failed = |e: std::io::Error| Fault::io("wait for the gateway of the vessel", &e);
        self.socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        match wire::recv::<Answer>(&self.socket).map_err(failed)? {
            Some((Answer::Ready, _)) => Ok(()),
            Some((Answer::Failed(fault), _)) => Err(fault),
            None => Err(Fault::new(FaultKind::Unsupported, "the gateway of the vessel ended without a word")
                .with_remedy("the executable's main must call vesselrt::init() first")),
        }
    }

    /// Nothing but the end is ever to be read after the first answer.
    fn has_ended(&self) -> bool {
        let mut poll = [PollFd::new(&self.socket, PollFlags::IN)];
        !matches!(rustix::event::poll(&mut poll, Some(&rustix::time::Timespec::default())), Ok(0))
    }

    fn end(&self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let begun = std::time::Instant::now();
        while begun.elapsed() < END {
            match waitpid(self.keeper, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(1)),
                _ => return,
            }
        }
        // The gateway dies with it.
        let _ = nix::sys::signal::kill(self.keeper, nix::sys::signal::Signal::SIGKILL);
        let _ = waitpid(self.keeper, None);
    }
}

/// The name servers of the host that can be reached from inside: those on its loopback interface cannot.
fn isolated_resolv_conf(host: &str, forwarder: Option<IpAddr>) -> String {
    let reachable = |server: &str| {
        server.parse().ok().filter(|server: &IpAddr| !server.is_loopback() && !server.is_unspecified())
    };
    let mut servers = 0;
    let mut lines = Vec::new();
    for line in host.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("nameserver"), Some(server)) => {
                let server = reachable(server);
                servers += usize::from(server.is_some());
                lines.extend(server.map(|server| format!("nameserver {server}\n")));
            }
            (Some("search" | "options"), Some(_)) => lines.push(format!("{}\n", line.trim())),
            _ => {}
        }
    }
    if servers == 0 {
        lines.extend(forwarder.map(|server| format!("nameserver {server}\n")));
    }
    lines.concat()
}

/// One that is not there is empty.
fn host_file(path: &str) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).map(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    if read.is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_the_loopback_interface_are_asked_by_the_uplink() {
        let forwarder = Some("169.254.1.1".parse().unwrap());
        let host = "# x\nnameserver 127.0.0.53\noptions edns0\nsearch a b\n";
        assert_eq!(
            isolated_resolv_conf(host, forwarder),
            "options edns0\nsearch a b\nnameserver 169.254.1.1\n"
        );
        let host =
            "nameserver 127.0.0.53\nnameserver 192.0.2.53\nnameserver 0.0.0.0\nnameserver fe80::1%eth0\n";
        assert_eq!(isolated_resolv_conf(host, forwarder), "nameserver 192.0.2.53\n");
    }

    #[test]
    fn variables_that_are_set_stay() {
        let attached = Attached { gateway: None, environment: vec![b"A=1".to_vec(), b"AB=2".to_vec()] };
        let mut environment = vec![b"AB=9".to_vec(), b"B=3".to_vec()];
        attached.complete(&mut environment);
        assert_eq!(environment, [b"AB=9".to_vec(), b"B=3".to_vec(), b"A=1".to_vec()]);
    }
}
