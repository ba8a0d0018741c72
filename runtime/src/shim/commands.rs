//! Commands: each a container of libcontainer's with an init of ours ([`super::container_init`]).
//!
//! The only place that names libcontainer besides the init. It runs here, in a process of one thread, because it clones
//! without the C library knowing, changes the working directory and clears the dumpable flag of its caller.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use rustix::process::{Pid, PidfdFlags};

use super::container_init::{Init, Start, ToInit};
use super::house;
use super::mounted::{Dirs, Mounted, Scratch};
use super::protocol::{ExecRequest, ExitStatus, Fault, FaultKind};
use super::wire;
use crate::root::Root;
use crate::spec::{self, ContainerParams};
use crate::{files, seccomp, user};

/// Group of terminals on every Linux.
const TTY_GID: u32 = 5;

/// What all commands of a vessel have in common.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) hostname: String,
    /// Ids `0..ids` exist.
    pub(super) ids: u32,
    pub(super) masked: Vec<String>,
    /// `/sys` is the shim's: a new one cannot be mounted in the host's network.
    pub(super) bind_sys: bool,
}

/// A command that runs, or whose end has not been told yet.
#[derive(Debug)]
pub(super) struct Command {
    /// Connection that asked for it, while it is there.
    pub(super) client: Option<u64>,
    /// Socket to its init; `None` when that has closed.
    pub(super) control: Option<UnixStream>,
    pub(super) pidfd: OwnedFd,
    pub(super) pid: Pid,
    pub(super) status: Option<ExitStatus>,
    /// Why it could not be executed.
    pub(super) failure: Option<Fault>,
    /// Whether the client knows that it runs.
    pub(super) started: bool,
    /// What it is, for messages.
    pub(super) name: String,
    scratch: Option<Scratch>,
    container: Container,
}

impl Command {
    /// Starts a container for `request` and tells its init what to run. `placeholders` collects empty files that had
    /// to be made to mount something on.
    pub(super) fn new(
        number: u64,
        request: &ExecRequest,
        streams: &[OwnedFd],
        place: Place<'_>,
        placeholders: &mut Vec<PathBuf>,
    ) -> Result<Self, Fault> {
        let scratch = match request.ephemeral {
            true => Some(Scratch::new(number, place.mounted, place.dirs)?),
            false => None,
        };
        let launched = launch(number, request, streams, place, scratch.as_ref(), placeholders);
        let Launched { container, control, pid, pidfd } = launched.inspect_err(|_| {
            if let Some(scratch) = &scratch {
                scratch.remove(place.dirs);
            }
        })?;
        let name = request.argv.first().map(|a| a.escape_ascii().to_string()).unwrap_or_default();
        let control = Some(control);
        Ok(Self {
            client: None,
            control,
            pidfd,
            pid,
            status: None,
            failure: None,
            started: false,
            name,
            scratch,
            container,
        })
    }

    /// What it writes stays in the vessel.
    pub(super) fn persists(&self) -> bool {
        self.scratch.is_none()
    }

    /// Kills everything in the container. Its end is told by the pidfd.
    pub(super) fn kill(&self) {
        // ESRCH: it has ended.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
    }

    /// Sends a signal to the command's process group.
    pub(super) fn signal(&self, number: i32) {
        if let Some(control) = &self.control {
            let _ = wire::send(control, &ToInit::Signal(number), &[]);
        }
    }

    /// Takes the remains away; the processes have ended.
    pub(super) fn bury(mut self, dirs: &Dirs) {
        // Its cgroup was never made where we may not, and its state is in our tmpfs: nothing that could be left.
        let _ = self.container.delete(true);
        if let Some(scratch) = &self.scratch {
            scratch.remove(dirs);
        }
    }
}

/// Where a command runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) ground: &'a Ground,
    pub(super) mounted: &'a Mounted,
    pub(super) dirs: &'a Dirs,
}

struct Launched {
    container: Container,
    control: UnixStream,
    pid: Pid,
    pidfd: OwnedFd,
}

fn launch(
    number: u64,
    request: &ExecRequest,
    streams: &[OwnedFd],
    place: Place<'_>,
    scratch: Option<&Scratch>,
    placeholders: &mut Vec<PathBuf>,
) -> Result<Launched, Fault> {
    let rootfs = scratch.map_or_else(|| house::MERGED.to_owned(), Scratch::target);
    let root =
        Root::open_path(Path::new(&rootfs)).map_err(|e| Fault::io("open the root of the vessel", &e))?;
    let start = resolve(request, &root, place.ground)?;
    let points = spec::prepare_mount_points(&root).map_err(|e| mount_point_fault(&e))?;
    if scratch.is_none() {
        placeholders.extend(points.created);
    }
    let params = ContainerParams {
        rootfs: PathBuf::from(rootfs),
        hostname: place.ground.hostname.clone(),
        cgroups_path: PathBuf::from(format!("/vesselrt-{number}")),
        tty_gid_mapped: place.ground.ids > TTY_GID,
        files_dir: PathBuf::from(house::FILES),
        etc_files: points.etc_files,
        extra_masked: place.ground.masked.clone(),
        bind_sys: place.ground.bind_sys,
    };
    let (control, theirs) = UnixStream::pair().map_err(|e| Fault::io("socketpair", &e))?;
    let filter =
        seccomp::default_program().map_err(|e| Fault::internal("compile the system call filter", &e))?;
    let container = build(number, &params, Init::new(Rc::new(theirs), filter))?;
    let pid = container.pid().and_then(|pid| Pid::from_raw(pid.as_raw()));
    let pid = pid.ok_or_else(|| Fault::new(FaultKind::Internal, "libcontainer names no process"))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(|e| Fault::io("pidfd_open", &e.into()))?;
    let streams: Vec<_> = streams.iter().map(AsFd::as_fd).collect();
    wire::send(&control, &ToInit::Start(Box::new(start)), &streams)
        .map_err(|e| Fault::io("tell the command to its container", &e))?;
    Ok(Launched { container, control, pid, pidfd })
}

/// Names become numbers, the directory exists, the environment is whole.
fn resolve(request: &ExecRequest, root: &Root, ground: &Ground) -> Result<Start, Fault> {
    if request.argv.first().is_none_or(Vec::is_empty) {
        return Err(Fault::new(FaultKind::InvalidArgument, "command is required"));
    }
    let who = user::resolve(root, &request.user, ground.ids).map_err(|e| user_fault(&e))?;
    files::make_dir(root, &request.cwd, 0o755, true)?;
    let mut env = request.env.clone();
    let has = |env: &[Vec<u8>], key: &[u8]| env.iter().any(|e| e.starts_with(key));
    if !has(&env, b"HOME=") {
        env.push([b"HOME=", who.home.as_slice()].concat());
    }
    if request.terminal.is_some() && !has(&env, b"TERM=") {
        env.push(b"TERM=xterm".to_vec());
    }
    Ok(Start {
        argv: request.argv.clone(),
        env,
        cwd: request.cwd.clone(),
        uid: who.uid,
        gid: who.gid,
        groups: who.groups,
        terminal: request.terminal,
        single: ground.ids <= 1,
    })
}

fn build(number: u64, params: &ContainerParams, init: Init) -> Result<Container, Fault> {
    let failed = |step: &str, e: &dyn std::error::Error| Fault::internal(format!("{step} the container"), e);
    let bundle = Path::new(house::BUNDLE);
    spec::build(params).save(bundle.join("config.json")).map_err(|e| failed("describe", &e))?;
    let mut container = ContainerBuilder::new(format!("c{number}"), SyscallType::default())
        .with_executor(init)
        .with_root_path(house::STATE)
        .map_err(|e| failed("place", &e))?
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(|e| failed("create", &e))?;
    container.start().map_err(|e| failed("start", &e))?;
    Ok(container)
}

fn mount_point_fault(error: &spec::MountPointError) -> Fault {
    let fault = Fault::new(FaultKind::InvalidArgument, super::fault::chain(error));
    match error.remedy() {
        Some(remedy) => fault.with_remedy(remedy),
        None => fault,
    }
}

fn user_fault(error: &user::UserError) -> Fault {
    Fault::new(FaultKind::InvalidArgument, super::fault::chain(error))
}
