//! Slots as the shim sees them: places in the vessel's container, each made ready for one command before there is one.
#![forbid(unsafe_code)]

use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, sockopt};
use rustix::process::{Pid, PidfdFlags};

use super::container_init::{FromCommand, FromInit, Start, ToSandbox};
use super::mounted::{Dirs, Scratch};
use super::protocol::{Fault, FaultKind};
use super::wire;

/// How long making one may take; it takes a part of a millisecond, and some for the sandbox.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest report of a process that is ready or failed.
const REPORT: usize = 64 << 10;

/// One that was ordered, and may be ready.
#[derive(Debug)]
pub(super) struct Ordered {
    /// Socket to its init.
    control: UnixStream,
    /// Socket to the process that becomes the command.
    start: UnixStream,
    /// It throws away what is written.
    pub(super) scratch: Option<Scratch>,
}

/// One that is ready.
#[derive(Debug)]
pub(super) struct Slot {
    /// Socket to its init.
    pub(super) control: UnixStream,
    /// Socket to the process that becomes the command: closes when it is executed.
    pub(super) start: UnixStream,
    /// Its init.
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) scratch: Option<Scratch>,
}

impl Ordered {
    /// Orders one from the sandbox at the other end of `sandbox`; with `scratch`, whose mount is given, for a command that leaves
    /// nothing.
    pub(super) fn new(sandbox: &UnixStream, scratch: Option<(Scratch, OwnedFd)>) -> io::Result<Self> {
        let (control, init) = UnixStream::pair()?;
        let (start, command) = UnixStream::pair()?;
        for socket in [&control, &start] {
            socket.set_read_timeout(Some(PATIENCE))?;
            sockopt::set_socket_passcred(socket, true)?;
        }
        let (scratch, mount) = scratch.unzip();
        let mut fds = vec![init.as_fd(), command.as_fd()];
        fds.extend(mount.as_ref().map(AsFd::as_fd));
        wire::send(sandbox, &ToSandbox, &fds)?;
        Ok(Self { control, start, scratch })
    }

    /// Waits until it is ready, which it is if it was ordered a moment ago.
    pub(super) fn ready(self, dirs: &Dirs) -> Result<Slot, Fault> {
        match self.report() {
            Ok((pid, pidfd)) => {
                let Self { control, start, scratch } = self;
                Ok(Slot { control, start, pid, pidfd, scratch })
            }
            Err(fault) => {
                self.cancel(dirs);
                Err(fault)
            }
        }
    }

    fn report(&self) -> Result<(Pid, OwnedFd), Fault> {
        let failed = |e: io::Error| Fault::io("prepare a place for a command", &e);
        let (pid, said) = from::<FromInit>(&self.control).map_err(failed)?;
        match said {
            FromInit::Ready => {}
            FromInit::Failed(fault) => return Err(fault),
            FromInit::Exited(_) => return Err(failed(io::ErrorKind::InvalidData.into())),
        }
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|e| failed(e.into()))?;
        // Said by a child of that init, which was there when its number was looked up.
        let (_, said) = from::<FromCommand>(&self.start).map_err(failed)?;
        match said {
            FromCommand::Ready => Ok((pid, pidfd)),
            FromCommand::NotStarted(fault) => Err(fault),
            FromCommand::Terminal => Err(failed(io::ErrorKind::InvalidData.into())),
        }
    }

    /// Does without it.
    pub(super) fn cancel(self, dirs: &Dirs) {
        // Its init takes the closed socket for the end, and then the mount is gone.
        let Self { control, start, scratch } = self;
        drop((control, start));
        if let Some(scratch) = scratch {
            scratch.remove(dirs);
        }
    }
}

impl Slot {
    /// Tells the command.
    pub(super) fn start(&self, start: &Start, streams: &[OwnedFd]) -> Result<(), Fault> {
        let streams: Vec<_> = streams.iter().map(AsFd::as_fd).collect();
        wire::send(&self.start, start, &streams)
            .map_err(|e| Fault::io("tell the command to its container", &e))
    }
}

/// A frame without descriptors and who sent it, as the kernel tells it: unix(7), `SO_PASSCRED`.
fn from<T: serde::de::DeserializeOwned>(socket: &UnixStream) -> io::Result<(Pid, T)> {
    let mut header = [0u8; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let parts = &mut [IoSliceMut::new(&mut header)];
        match rustix::net::recvmsg(socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?.bytes,
        }
    };
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
        _ => None,
    });
    let mut socket: &UnixStream = socket;
    socket.read_exact(&mut header[got..])?;
    let [a, b, c, d, ..] = header;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > REPORT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body)?;
    let value = postcard::from_bytes(&body).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let sender = sender.ok_or_else(|| io::Error::other("the kernel names no sender"))?;
    sockopt::set_socket_passcred(socket, false)?;
    Ok((sender, value))
}

impl Slot {
    /// Why it is not to be used any more.
    pub(super) fn gone() -> Fault {
        Fault::new(FaultKind::Internal, "the container of the vessel is gone")
    }
}
