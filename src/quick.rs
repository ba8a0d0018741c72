//! A command in a vessel that is up already, for programs that do nothing else: no [`Manager`](crate::Manager), no async
//! runtime, one connection.
//!
//! Whatever is not as plain as that is left to the whole library: [`exec`] says so by `None`, and nothing has happened then.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use vesselrt_runtime::settings::Limits;
use vesselrt_runtime::shim::client::{CallError, Connection};
use vesselrt_runtime::shim::protocol::{Reply, Request, VERSION};
use vesselrt_storage::manifest::VesselManifest;

use crate::error::Result;
use crate::manager::open;
use crate::state::VesselState;
use crate::store::dirs;
use crate::vessel::exec::{ExecOptions, ExecResult, Input, Output};
use crate::vessel::pump;

/// Manifests in the default storage: of a vessel, and of one that is thrown away after use.
const MANIFESTS: [&str; 2] = ["vessel.dat", "volatile.dat"];
/// A manifest with some hundred snapshots has some hundred kilobytes.
const MAX_MANIFEST: u64 = 1 << 20;

/// Begins the start of a vessel that this program is going to open first of all: what is the same for every vessel is done
/// while the program finds out which one. Only for one that has called [`init`](crate::init).
pub fn expect_vessel() {
    vesselrt_runtime::launch::ahead();
}

/// A command that runs. Dropped, it is killed with its whole process tree.
#[derive(Debug)]
pub struct Command {
    connection: Connection,
}

/// Runs a command in the vessel `id` of the store at `root`, which uses the default storage; the vessel stays up for `linger`
/// afterwards. `None` when no shim is up or anything else is out of the ordinary: a stream that is to be copied, a terminal, a
/// timeout, an argument that is not valid, work that was left undone. A [`Manager`](crate::Manager) does it, or says why not.
///
/// # Errors
/// [`Unavailable`](crate::ErrorKind::Unavailable) when the shim was lost after the command had been sent.
pub fn exec(root: &Path, id: &str, options: ExecOptions, linger: Duration) -> Result<Option<Command>> {
    let Some(Prepared { mut connection, request, streams, linger_ms }) = prepare(root, id, options) else {
        return Ok(None);
    };
    let millis = u64::try_from(linger.as_millis()).unwrap_or(u64::MAX);
    // Every message to a client wakes it, and it would take the processor from the command.
    let lingers = millis == 0 || millis == linger_ms;
    if !lingers {
        connection.send(&Request::Linger { millis }, &[])?;
    }
    let fds: Vec<BorrowedFd<'_>> = streams.iter().map(AsFd::as_fd).collect();
    connection.send(&request, &fds)?;
    // The command begins meanwhile.
    if !lingers && !matches!(connection.receive()?.0, Reply::Done) {
        return Err(CallError::Unexpected("not done").into());
    }
    Ok(Some(Command { connection }))
}

struct Prepared {
    connection: Connection,
    request: Request,
    streams: Vec<OwnedFd>,
    /// How long the shim stays now.
    linger_ms: u64,
}

fn prepare(root: &Path, id: &str, options: ExecOptions) -> Option<Prepared> {
    vesselrt_storage::validate_id(id).ok()?;
    let root = private_directory(root)?;
    let vessel = dirs::open(dirs::open(root.as_fd(), "vessels").ok()??.as_fd(), id).ok()??;
    let mut connection = Connection::open_own(vessel.as_fd()).ok()??;
    // While it answers, the rest is read.
    connection.send(&Request::Hello, &[]).ok()?;
    if dirs::exists(vessel.as_fd(), open::SWITCHING).ok()? {
        return None;
    }
    let state = open::read_state(id, vessel.as_fd()).ok().filter(is_settled)?;
    let manifest = manifest(root.as_fd(), id)?;
    let limits = &state.settings.limits;
    if options.has_terminal()
        || options.timeout.is_some()
        || limits.timeout_ms.is_some()
        || options.limits != Limits::default()
    {
        return None;
    }
    let request = options.request(&manifest.work_dir, &state.image.defaults).ok()?;
    let streams = streams(options)?;
    match connection.receive().ok()?.0 {
        Reply::Hello { version: VERSION, linger_ms, .. } => {
            Some(Prepared { connection, request: Request::Run(Box::new(request)), streams, linger_ms })
        }
        _ => None,
    }
}

/// What [`Store::open`](crate::store::Store::open) insists on, of a store that is there.
fn private_directory(root: &Path) -> Option<OwnedFd> {
    let fd = dirs::open_path(root).ok()?;
    let stat = rustix::fs::fstat(&fd).ok()?;
    let own = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o022 == 0;
    own.then_some(fd)
}

/// Nothing was interrupted, nothing waits for somebody to go on with it.
fn is_settled(state: &VesselState) -> bool {
    state.pending.is_none() && state.packing.is_empty()
}

fn manifest(root: BorrowedFd<'_>, id: &str) -> Option<VesselManifest> {
    let data = dirs::open(root, "data").ok()??;
    let dir = dirs::open(dirs::open(data.as_fd(), "vessels").ok()??.as_fd(), id).ok()??;
    let read = |name: &&str| dirs::read_small(dir.as_fd(), name, MAX_MANIFEST).ok().flatten();
    let bytes = MANIFESTS.iter().find_map(read)?;
    VesselManifest::parse_for(id, &bytes).ok()
}

/// None where all three are nothing.
fn streams(options: ExecOptions) -> Option<Vec<OwnedFd>> {
    if let (Input::Null, Output::Null, Output::Null) = (&options.stdin, &options.stdout, &options.stderr) {
        return Some(Vec::new());
    }
    let input = match options.stdin {
        Input::Null => pump::null().ok()?,
        Input::Fd(fd) => fd,
        Input::Stream(_) => return None,
    };
    let output = |output: Output| match output {
        Output::Null => pump::null().ok(),
        Output::Fd(fd) => Some(fd),
        Output::Stream(_) => None,
    };
    Some(vec![input, output(options.stdout)?, output(options.stderr)?])
}

impl Command {
    /// Sends a signal to the command. One that has ended does not mind.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when the shim was killed.
    pub fn signal(&self, signal: i32) -> Result<()> {
        Ok(self.connection.send(&Request::Signal(signal), &[])?)
    }

    /// Waits for its end, as [`Vessel::exec`](crate::Vessel::exec) does. The descriptor of the command is readable when it ended.
    ///
    /// # Errors
    /// Those of [`Vessel::exec`](crate::Vessel::exec).
    pub fn wait(mut self) -> Result<ExecResult> {
        match self.connection.receive()?.0 {
            Reply::Exited(status) => Ok(status.into()),
            _ => Err(CallError::Unexpected("no exit status").into()),
        }
    }
}

impl AsRawFd for Command {
    fn as_raw_fd(&self) -> RawFd {
        self.connection.as_fd().as_raw_fd()
    }
}

impl AsFd for Command {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
