//! The one file with `unsafe`: system calls that no crate of ours wraps safely.
//!
//! Every block says why it is needed (JUSTIFICATION) and why it is sound (SAFETY).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigHandler, Signal};
use rustix::process::Pid;

/// Runs before `main`, when the process has one thread whatever its `main` does: a `#[tokio::main]` has started its
/// workers before the first line of its body, and a process with threads cannot enter a user namespace.
// JUSTIFICATION: only a constructor runs early enough (as Go programs do it with a C constructor).
// SAFETY: `.init_array` holds pointers to functions of the C ABI; this is one. It returns at once unless the process
// was started as one of ours, and what it then uses of std (arguments, files, sockets) works before `main`: std stores
// the arguments in a constructor of an earlier priority.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    crate::entry::before_main();
}

/// Closes every descriptor from `first` on (close_range(2)).
///
/// Only for a process that has just begun or is about to be replaced: descriptors that some value owns are closed too.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // JUSTIFICATION: neither rustix nor nix wraps close_range.
    // SAFETY: no memory is involved. Closing owned descriptors could confuse their owners; callers are processes in
    // which such owners are never used or dropped afterwards (start of a shim, a forked child before exec or exit).
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

fn mount_setattr(mount: BorrowedFd<'_>, flags: libc::c_int, attr: &MountAttr) -> io::Result<()> {
    // JUSTIFICATION: neither rustix nor nix wraps mount_setattr.
    // SAFETY: the path is a NUL-terminated constant, `attr` outlives the call and its size is passed with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const *attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the mount whose root is `mount` is read-only or writable (mount_setattr(2)).
///
/// # Errors
/// `EBUSY` when it is to become read-only while something is open for writing on it.
pub(crate) fn set_mount_read_only(mount: impl AsFd, read_only: bool) -> io::Result<()> {
    const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    let (set, clear) = if read_only { (RDONLY, 0) } else { (0, RDONLY) };
    mount_setattr(mount.as_fd(), 0, &MountAttr { set, clear, propagation: 0, userns_fd: 0 })
}

/// Sets what holds for everything of the host in a vessel, on the mount whose root is `mount` and all below it: set-id bits and
/// devices do not work, what is mounted elsewhere later does not show, and if so nothing can be written. With `ids`, a user
/// namespace, ids on disk are what they are inside (mount_setattr(2), "ID-mapped mounts").
///
/// # Errors
/// Those of mount_setattr(2); `EINVAL` or `EPERM` for `ids` on a file system that cannot do it.
pub(crate) fn confine_mount(
    mount: impl AsFd,
    read_only: bool,
    ids: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if read_only {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    if ids.is_some() {
        set |= libc::MOUNT_ATTR_IDMAP;
    }
    let userns_fd = ids.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs()));
    let attr = MountAttr { set, clear: 0, propagation: libc::MS_PRIVATE, userns_fd };
    mount_setattr(mount.as_fd(), libc::AT_RECURSIVE, &attr)
}

/// Forks; the child runs `child` and exits with what it returns.
///
/// # Errors
/// Those of fork(2); `EDEADLK` when this process has more than one thread.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    require_one_thread()?;
    // JUSTIFICATION: workers and commands need this process's mounts and, in the case of commands, must not exec a
    // file before their credentials are dropped; posix_spawn cannot do that.
    // SAFETY: the process has one thread (checked above), so the child's copy of memory and locks is consistent and
    // may run any code, allocation included. The child never returns from here.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = child();
            // SAFETY: no memory is involved; destructors of the parent's values must not run in the child.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(Pid::from_raw(pid).expect("fork returns a positive pid to the parent")),
    }
}

/// [`fork`] into new namespaces: `namespaces` are `CLONE_NEW*` flags of clone(2).
///
/// # Errors
/// Those of clone(2); `EDEADLK` when this process has more than one thread.
pub(crate) fn fork_into(namespaces: CloneFlags, child: impl FnOnce() -> i32) -> io::Result<Pid> {
    require_one_thread()?;
    let flags = namespaces.bits() | libc::SIGCHLD;
    // JUSTIFICATION: the C library has no fork with flags, and its clone wants a stack of its own for the child.
    // SAFETY: without CLONE_VM and with no stack this is fork(2): the child has its own copy of the memory and goes on here. The
    // process has one thread (checked above), so that copy is consistent, locks of the C library included. The child never
    // returns from here.
    match unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = child();
            // SAFETY: no memory is involved; destructors of the parent's values must not run in the child.
            unsafe { libc::_exit(code) }
        }
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            Ok(pid.expect("clone returns a positive pid to the parent"))
        }
    }
}

fn require_one_thread() -> io::Result<()> {
    match std::fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EDEADLK)),
    }
}

/// Spawns `command`; the kernel kills it when this thread ends.
///
/// # Errors
/// Those of [`Command::spawn`].
pub(crate) fn spawn_tied(command: &mut Command) -> io::Result<Child> {
    let tie = || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .map_err(io::Error::from)
    };
    // JUSTIFICATION: std has no safe way to set the death signal of a child before it execs.
    // SAFETY: the closure makes one system call and does not allocate: it is async-signal-safe.
    unsafe { command.pre_exec(tie) };
    command.spawn()
}

/// Ends this process at once, without destructors: for a container's init, whose memory is a copy of the shim's.
pub(crate) fn exit_now(code: i32) -> ! {
    // JUSTIFICATION: `std::process::exit` runs the C library's exit handlers of the process this one was forked from.
    // SAFETY: no memory is involved.
    unsafe { libc::_exit(code) }
}

/// Moves `kept` to the numbers from `first` (3 or above) on and closes every other descriptor from 3 on.
///
/// Only for the inits of a container: the descriptors that it closes belong to values of the process that they were forked
/// from, whose memory they have a copy of and never use again.
pub(crate) fn keep_only<const N: usize>(kept: [BorrowedFd<'_>; N], first: RawFd) -> io::Result<[OwnedFd; N]> {
    let above = first + RawFd::try_from(N).map_err(io::Error::other)?;
    // Out of the way first: one may have the number that another one is to get.
    let mut high = Vec::with_capacity(N);
    for fd in kept {
        high.push(rustix::io::fcntl_dupfd_cloexec(fd, above)?);
    }
    let mut moved = Vec::with_capacity(N);
    for (number, fd) in (first..).zip(&high) {
        // JUSTIFICATION: dup3 onto a number and naming that number as owned have no safe interface.
        // SAFETY: `number` is closed or replaced, and its former owner, if any, is never used again in this process (see
        // above); after dup3 the number is open and owned by nobody else.
        moved.push(unsafe {
            if libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(number)
        });
    }
    high.into_iter().for_each(std::mem::forget); // closed at once
    close_from(above.unsigned_abs())?;
    moved.try_into().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Takes a descriptor that this process was executed with.
///
/// # Errors
/// `EBADF` when there is none of that number.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // JUSTIFICATION: a descriptor that survived an exec has no owner yet.
    // SAFETY: fcntl only looks at the number. That it is open and owned by nobody: its number comes from our own
    // former image, in this process's arguments, and is taken once, before anything else is opened.
    unsafe {
        if libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(number))
    }
}

/// Lets writes to a closed pipe fail with `EPIPE` instead of killing this process, as std does it before `main`. Kept
/// across exec.
pub(crate) fn ignore_broken_pipes() -> io::Result<()> {
    // JUSTIFICATION: nix has signal(2) as unsafe only, because of handlers.
    // SAFETY: ignoring a signal runs no code of this process.
    unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigIgn) }?;
    Ok(())
}

/// Gives a signal its default action.
pub(crate) fn reset_signal(signal: Signal) -> io::Result<()> {
    // JUSTIFICATION: nix has signal(2) as unsafe only, because of handlers.
    // SAFETY: the default action runs no code of this process.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }?;
    Ok(())
}
