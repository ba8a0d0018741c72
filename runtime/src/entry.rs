//! How a process becomes a shim or a worker.
//!
//! ```text
//! client ── spawn ──▶ outer stage ── unshare(user), maps, unshare(the rest), seal the executable ── exec ──▶ inner stage
//! ```
//!
//! The second exec matters twice: a process that was exec'd before it entered a user namespace is not
//! ptrace-accessible from inside it (`/proc/PID/ns` answers EACCES), and from then on the executable that
//! `/proc/PID/exe` names is one that nobody can write (CVE-2019-5736).
#![forbid(unsafe_code)]

mod gateway;
mod seal;

pub(crate) use gateway::Started as Gateway;

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::AtFlags;
use nix::sched::CloneFlags;
use rustix::mount::OpenTreeFlags;
use rustix::process::{Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::shim::protocol::{Fault, FaultKind};
use crate::shim::{server, wire};
use crate::{sys, worker};

static CALLED: AtomicBool = AtomicBool::new(false);

/// What a process is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Shim,
    Worker,
}

impl Role {
    /// `argv[0]` before the user namespace is entered.
    pub(crate) fn outer_name(self) -> &'static str {
        match self {
            Self::Shim => "vesselrt-shim-outer",
            Self::Worker => "vesselrt-worker-outer",
        }
    }

    fn inner_name(self) -> &'static CStr {
        match self {
            Self::Shim => c"vesselrt-shim",
            Self::Worker => c"vesselrt-worker",
        }
    }

    /// What else is unshared. The shim's network namespace is the vessel's: one for all of its commands.
    fn namespaces(self, surroundings: Surroundings) -> CloneFlags {
        let mount = CloneFlags::CLONE_NEWNS;
        let network = match surroundings {
            Surroundings::HostNetwork => CloneFlags::empty(),
            Surroundings::Alone | Surroundings::Gateway => CloneFlags::CLONE_NEWNET,
        };
        match self {
            Self::Shim => mount | network | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWCGROUP,
            Self::Worker => mount,
        }
    }
}

/// What of the host's network a new process is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Surroundings {
    /// Nothing.
    Alone,
    /// All of it.
    HostNetwork,
    /// Nothing, but with a [gateway](crate::gateway) beside it.
    Gateway,
}

/// The conversation of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Boot {
    /// Client: go on. `single` when only one id will be mapped. `dirs` are directories of the host that the new process
    /// mounts from: only a mount of its own mount namespace will do, so it needs them by path. `trees` are others, with all that
    /// is mounted below them.
    Begin { single: bool, dirs: Vec<Vec<u8>>, trees: Vec<Vec<u8>>, surroundings: Surroundings },
    /// New process: in the user namespace, needs its maps.
    Unshared,
    /// Client: maps are written.
    Mapped,
    /// New process: in all namespaces, about to exec itself.
    Ready,
    /// New process: gives up.
    Failed(Fault),
}

/// Whether [`init`] ran in this process.
pub(crate) fn init_was_called() -> bool {
    CALLED.load(Ordering::Relaxed)
}

/// Becomes a shim or a worker when this process was started as one, and then does not return; otherwise returns at
/// once and remembers that it was called. Must be the first line of `main`, before any thread exists.
///
/// On glibc the work is done even before `main`; the call is what tells that this program means it.
pub fn init() {
    CALLED.store(true, Ordering::Relaxed);
    before_main();
}

/// Makes this process one of its own: a session without a terminal, and no descriptor but the standard streams. To be
/// called by a `main` that has begun, before it opens anything.
///
/// # Errors
/// Those of close_range(2).
pub fn detach() -> io::Result<()> {
    // EPERM: it leads a process group, which is a session of its own already or will not hear of our terminal.
    let _ = rustix::process::setsid();
    sys::close_from(3)
}

/// Does not return in a process that was started as a shim or a worker.
pub(crate) fn before_main() {
    let Some(name) = std::env::args_os().next() else { return };
    let is = |role: Role, name: &OsStr| name == role.outer_name();
    for role in [Role::Shim, Role::Worker] {
        if is(role, &name) {
            outer(role);
        }
        if name.as_encoded_bytes() == role.inner_name().to_bytes() {
            inner(role);
        }
    }
}

/// The socket to the client arrives as standard input, the one descriptor that survives an exec by convention.
pub(crate) fn take_socket() -> io::Result<UnixStream> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    Ok(UnixStream::from(socket))
}

fn outer(role: Role) -> ! {
    let _ = sys::ignore_broken_pipes();
    let code = match sys::close_from(3).and_then(|()| take_socket()) {
        Err(_) => 1,
        Ok(socket) => match enter(role, &socket) {
            Ok(never) => match never {},
            Err(fault) => {
                // Nobody else to tell it to: standard error is /dev/null.
                let _ = wire::send(&socket, &Boot::Failed(fault), &[]);
                1
            }
        },
    };
    sys::exit_now(code)
}

fn enter(role: Role, socket: &UnixStream) -> Result<std::convert::Infallible, Fault> {
    let Some((Boot::Begin { single, dirs, trees, surroundings }, _)) =
        wire::recv(socket).map_err(|e| fault("read the boot frame", &e))?
    else {
        return Err(fault("read the boot frame", &io::ErrorKind::InvalidData.into()));
    };
    // Away from the terminal and the process group of the client: its Ctrl-C is not ours.
    let _ = rustix::process::setsid();
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER).map_err(no_user_namespace)?;
    if single {
        std::fs::write("/proc/self/setgroups", "deny")
            .map_err(|e| fault("write /proc/self/setgroups", &e))?;
    }
    wire::send(socket, &Boot::Unshared, &[]).map_err(|e| fault("ask for id maps", &e))?;
    match wire::recv(socket).map_err(|e| fault("wait for id maps", &e))? {
        Some((Boot::Mapped, _)) => {}
        _ => return Err(fault("wait for id maps", &io::ErrorKind::UnexpectedEof.into())),
    }
    // While the host's network is the one that is at hand.
    let gateway = match surroundings {
        Surroundings::Gateway => Some(gateway::start(single)?),
        Surroundings::Alone | Surroundings::HostNetwork => None,
    };
    nix::sched::unshare(role.namespaces(surroundings)).map_err(no_namespaces)?;
    let mut mounts = clone_mounts(&dirs, OpenTreeFlags::empty())?;
    // A part of what this user may not take apart: only the whole of it.
    mounts.extend(clone_mounts(&trees, OpenTreeFlags::AT_RECURSIVE)?);
    let exe = seal::own_executable().map_err(|e| fault("seal the executable", &e))?;
    become_root(single).map_err(|e| fault("become root of the user namespace", &e))?;
    wire::send(socket, &Boot::Ready, &[]).map_err(|e| fault("report readiness", &e))?;
    exec_sealed(role, &exe, &mounts, gateway.as_ref()).map_err(|e| fault("execute the sealed executable", &e))
}

/// Root inside, without the groups of the user outside.
fn become_root(single: bool) -> io::Result<()> {
    if !single {
        rustix::thread::set_thread_groups(&[])?;
    }
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Copies of the mounts with these directories, in no mount namespace yet. Done before the change of user: real root
/// may walk paths that the root of its vessels may not.
fn clone_mounts(dirs: &[Vec<u8>], how: OpenTreeFlags) -> Result<Vec<OwnedFd>, Fault> {
    let clone = |path: &Vec<u8>| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | how;
        rustix::mount::open_tree(rustix::fs::CWD, path.as_slice(), flags)
            .map_err(|e| fault(&format!("open_tree(\"{}\")", path.escape_ascii()), &e.into()).of_host())
    };
    dirs.iter().map(clone).collect()
}

/// The cloned mounts and the socket to the gateway stay open across the exec; their numbers are the arguments.
fn exec_sealed(
    role: Role,
    exe: &OwnedFd,
    mounts: &[OwnedFd],
    gateway: Option<&gateway::Started>,
) -> io::Result<std::convert::Infallible> {
    let numbers = mounts.iter().map(|fd| fd.as_raw_fd().to_string());
    let mut arguments = vec![role.inner_name().to_owned()];
    for argument in numbers.chain(gateway.map(gateway::Started::argument)) {
        arguments.push(CString::new(argument).map_err(io::Error::other)?);
    }
    let environment: [CString; 0] = [];
    let flags = AtFlags::AT_EMPTY_PATH;
    Ok(nix::unistd::execveat(Some(exe.as_raw_fd()), c"", &arguments, &environment, flags)?)
}

/// The descriptors that [`exec_sealed`] passed.
fn take_mounts() -> io::Result<Vec<OwnedFd>> {
    let number = |arg: String| arg.parse().map_err(io::Error::other).and_then(sys::inherited);
    std::env::args().skip(1).filter(|arg| !gateway::is_argument(arg)).map(number).collect()
}

fn inner(role: Role) -> ! {
    let taken = take_mounts().and_then(|mounts| Ok((mounts, gateway::take()?, take_socket()?)));
    let code = match taken.and_then(|taken| quiet_streams().map(|()| taken)) {
        Err(_) => 1,
        Ok((mounts, gateway, socket)) => match role {
            Role::Shim => server::run(socket, mounts, gateway),
            Role::Worker => worker::serve(&socket),
        },
    };
    sys::exit_now(code)
}

/// Standard streams are /dev/null from here on: a command's streams are its own, never ours.
fn quiet_streams() -> io::Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

fn fault(step: &str, error: &io::Error) -> Fault {
    Fault {
        kind: FaultKind::Internal,
        message: format!("{step}: {error}"),
        errno: error.raw_os_error(),
        remedy: None,
    }
}

fn no_user_namespace(errno: nix::Error) -> Fault {
    let fault = Fault {
        kind: FaultKind::Unsupported,
        message: format!("unshare(CLONE_NEWUSER): {errno}"),
        errno: Some(errno as i32),
        remedy: Some(
            "let this user create user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             on Ubuntu an AppArmor profile with userns); `vesselrt doctor` says which"
                .to_owned(),
        ),
    };
    // None at all is another thing than all in use.
    let forbidden =
        std::fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|max| max.trim() == "0");
    if forbidden { fault } else { fault.of_host() }
}

fn no_namespaces(errno: nix::Error) -> Fault {
    Fault {
        kind: FaultKind::Unsupported,
        message: format!("unshare the namespaces of a vessel: {errno}"),
        errno: Some(errno as i32),
        remedy: Some(
            "the user namespace has no capabilities here: on Ubuntu 23.10 and later allow them with an AppArmor profile \
             for vesselrt, or sysctl kernel.apparmor_restrict_unprivileged_userns=0; `vesselrt doctor` says which"
                .to_owned(),
        ),
    }
    .of_host()
}
