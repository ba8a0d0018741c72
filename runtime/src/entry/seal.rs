//! An executable of ours that nobody inside a vessel can write, whatever they find under `/proc/PID/exe`.
//!
//! In a rootless vessel root inside *is* the user who owns the executable, so CVE-2019-5736 would be worse than it was.
//! Cheap way: a read-only mount of the file that belongs to no mount namespace. Where that does not work: a sealed copy
//! in memory (memfd_create(2)).
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mount::OpenTreeFlags;

use crate::sys;

const SELF: &str = "/proc/self/exe";

/// This process's executable, sealed, to be passed to execveat(2).
pub(super) fn own_executable() -> io::Result<OwnedFd> {
    read_only_mount().or_else(|_| sealed_copy())
}

/// Needs the mount namespace of our own; the path must still lead to the file that runs.
fn read_only_mount() -> io::Result<OwnedFd> {
    let path = std::fs::read_link(SELF)?;
    let mount = rustix::mount::open_tree(
        CWD,
        &path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    let (ours, running) = (rustix::fs::fstat(&mount)?, rustix::fs::stat(Path::new(SELF))?);
    // Everybody must be able to execute it: real root's vessels run under another user.
    let executable = ours.st_mode & 0o001 != 0;
    if (ours.st_dev, ours.st_ino) != (running.st_dev, running.st_ino) || !executable {
        return Err(io::ErrorKind::NotFound.into());
    }
    sys::set_mount_read_only(&mount, true)?;
    Ok(mount)
}

/// This process's executable for a process that no vessel ever sees.
pub(super) fn plain_executable() -> io::Result<OwnedFd> {
    let file = rustix::fs::open(SELF, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let executable = rustix::fs::fstat(&file)?.st_mode & 0o001 != 0;
    if executable { Ok(file) } else { sealed_copy() }
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let from = rustix::fs::open(SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let memory = rustix::fs::memfd_create("vesselrt", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = File::from(memory);
    io::copy(&mut File::from(from), &mut copy)?;
    let memory = OwnedFd::from(copy);
    rustix::fs::fchmod(&memory, Mode::from_raw_mode(0o555))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    // A file open for writing cannot be executed (ETXTBSY).
    let readable = format!("/proc/self/fd/{}", memory.as_raw_fd());
    Ok(rustix::fs::open(readable, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}
