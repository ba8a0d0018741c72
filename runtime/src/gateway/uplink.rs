//! Programs of the host that connect the network of a vessel to the host's: pasta(1) and slirp4netns(1).
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::doctor::helper;
use crate::shim::protocol::{Fault, FaultKind};
use crate::sys;

/// What both need, and hang without.
const TUN: &str = "/dev/net/tun";
/// The network namespace, as they are told of it.
const NETNS: &str = "/proc/self/fd/0";
/// Most of a complaint that is shown.
const MAX_COMPLAINT: u64 = 2048;

/// A program that connects the network of a vessel to the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Uplink {
    /// `pasta`, of the package passt.
    Pasta(PathBuf),
    /// `slirp4netns`.
    Slirp(PathBuf),
}

impl Uplink {
    /// What this host has of them.
    ///
    /// # Errors
    /// [`FaultKind::Unsupported`] with the remedy.
    pub(crate) fn find() -> Result<Self, Fault> {
        // Opened and let go of: it is made when its interface is.
        File::options().read(true).write(true).open(TUN).map_err(|e| {
            Fault::new(
                FaultKind::Unsupported,
                format!("{TUN} cannot be used, which an isolated network needs: {e}"),
            )
            .with_remedy(format!("load the module tun and let everybody open it: chmod 0666 {TUN}"))
        })?;
        let pasta = helper::find_inside("pasta").map(|found| Self::Pasta(found.path));
        pasta.or_else(|_| helper::find_inside("slirp4netns").map(|found| Self::Slirp(found.path))).map_err(
            |_| {
                Fault::new(
                    FaultKind::Unsupported,
                    "an isolated network needs pasta or slirp4netns, and neither is installed",
                )
                .with_remedy(
                    "install the package passt (pasta), or slirp4netns; or use --network none or host",
                )
            },
        )
    }

    /// The address inside where it answers for the name servers of the host.
    pub(crate) fn dns(&self) -> IpAddr {
        match self {
            Self::Pasta(_) => IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)),
            Self::Slirp(_) => IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3)),
        }
    }

    /// Connects the network namespace `netns`. Returns when it works, and ends this process when it has ended: a vessel whose
    /// commands cannot reach anything any more says so.
    pub(super) fn start(self, netns: OwnedFd) -> Result<(), Fault> {
        match &self {
            Self::Pasta(program) => self.start_pasta(program, netns),
            Self::Slirp(program) => Self::start_slirp(program, netns),
        }
    }

    /// The first process ends when the interface is up; another one goes on and has become our child by then, since we are
    /// process 1.
    fn start_pasta(&self, program: &Path, netns: OwnedFd) -> Result<(), Fault> {
        let mut command = prepared(program, netns);
        // It is passt, unless it is called pasta.
        command.arg0("pasta");
        command.args(["--config-net", "--no-netns-quit", "--quiet"]);
        // Neither what listens inside nor what listens on the host is to be found on the other side.
        command.args(["-t", "none", "-u", "none", "-T", "none", "-U", "none", "--no-map-gw"]);
        command.args(["--dns-forward", &self.dns().to_string(), "--netns-only", "--netns", NETNS]);
        let mut child = command.spawn().map_err(|e| failed(program, &e.to_string()))?;
        let complaint = complaint(child.stderr.take());
        let status = child.wait().map_err(|e| failed(program, &e.to_string()))?;
        if !status.success() {
            return Err(failed(program, &complaint));
        }
        end_with(None)
    }

    fn start_slirp(program: &Path, netns: OwnedFd) -> Result<(), Fault> {
        let mut command = prepared(program, netns);
        command.args(["--configure", "--mtu=65520", "--disable-host-loopback", "--ready-fd=1"]);
        command.args(["--netns-type=path", NETNS, "tap0"]).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| failed(program, &e.to_string()))?;
        if !is_ready(child.stdout.take()) {
            return Err(failed(program, &complaint(child.stderr.take())));
        }
        end_with(Some(child))
    }
}

/// The namespace is the standard input: pasta closes every other descriptor that it inherits, and may not look into processes
/// that are more capable than it makes itself, which all of ours are.
fn prepared(program: &Path, netns: OwnedFd) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir("/").stdin(netns).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn is_ready(from: Option<ChildStdout>) -> bool {
    from.is_some_and(|mut from| matches!(from.read(&mut [0; 1]), Ok(1)))
}

/// What a program wrote before it ended, or closed its stream.
fn complaint(from: Option<ChildStderr>) -> String {
    let mut text = Vec::new();
    if let Some(from) = from {
        // What there is of it is shown.
        let _ = from.take(MAX_COMPLAINT).read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    // pasta says of each line that there is no system log, where there is none.
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.ends_with("to syslog"));
    lines.collect::<Vec<_>>().join("; ")
}

/// Ends this process when there is no child left.
fn end_with(child: Option<Child>) -> Result<(), Fault> {
    let wait = move || {
        // Their streams stay open for as long.
        let _child = child;
        while nix::sys::wait::wait() != Err(nix::Error::ECHILD) {}
        sys::exit_now(1)
    };
    let thread = std::thread::Builder::new().name("uplink".into()).stack_size(64 << 10);
    thread.spawn(wait).map(drop).map_err(|e| Fault::io("start a thread", &e))
}

fn failed(program: &Path, complaint: &str) -> Fault {
    let name = program.display();
    Fault::new(
        FaultKind::Unsupported,
        format!("{name} could not connect the vessel to a network: {complaint}"),
    )
    .with_remedy(format!(
        "see whether {} works for this user, and whether the host has a network itself",
        program.display()
    ))
}
