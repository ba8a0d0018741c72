//! A sysfs for a shim in the host's network, where none can be mounted.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sched::CloneFlags;
use rustix::mount::MountAttrFlags;

use crate::shim::wire;
use crate::sys;

/// A sysfs of a network that nobody is in. Only who owns the network namespace may mount one, so it is mounted by a child in
/// a namespace of its own. It shows no interface of the host.
pub(super) fn of_nobody(attrs: MountAttrFlags) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let child = sys::fork(|| {
        let made = nix::sched::unshare(CloneFlags::CLONE_NEWNET)
            .map_err(io::Error::from)
            .and_then(|()| super::file_system("sysfs", &[], attrs))
            .and_then(|mount| wire::send(&theirs, &None::<i32>, &[mount.as_fd()]));
        let Err(error) = made else { return 0 };
        let _ = wire::send(&theirs, &error.raw_os_error(), &[]);
        1
    })?;
    drop(theirs);
    let heard = wire::recv::<Option<i32>>(&ours);
    // It fails only when there is nothing to wait for.
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child.as_raw_nonzero().get()), None);
    match heard? {
        Some((None, mut fds)) => fds.pop().ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
        Some((Some(errno), _)) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
