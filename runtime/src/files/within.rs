//! File operations as a user of the vessel, in a directory that they do not leave.
//!
//! The kernel judges each access by the file system ids of this thread (setfsuid(2)), so that it can do what that user
//! could do inside, and what it makes is theirs. On top of that, the operation sees the directory as its root: what the path
//! leads to is found first, by all of the vessel's symlinks, and refused when it is elsewhere; then it is resolved once more
//! under the directory alone, so that nobody who changes the tree between the two gets further.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{AtFlags, CWD, OFlags};
use rustix::io::Errno;

use super::checked;
use super::fault::{Outcome, Problem};
use crate::root::Root;
use crate::shim::protocol::{Fault, FaultKind};

/// Why something is refused that is there, but not under the directory.
const OUTSIDE: &str = "it leads out of the directory that it must stay in";

/// A user and the directory that their operations stay in.
#[derive(Debug, Clone, Copy)]
pub struct Bounds<'a> {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// The directory, absolute; no symlink leads to it.
    pub base: &'a [u8],
}

impl Bounds<'_> {
    /// Does `work` as the user, on their directory as the root and with `path` below it. With `follow`, a symlink at the end
    /// of the path is followed before it is judged.
    ///
    /// # Errors
    /// [`FaultKind::Outside`] for a path that leads elsewhere; those of `work`.
    pub fn work<T>(
        &self,
        root: &Root,
        path: &[u8],
        follow: bool,
        work: impl FnOnce(&Root, &[u8]) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let (base, inside) = self.find(root, path, follow).map_err(|it| it.fault("find", &[path]))?;
        let _user = User::become_it(self.uid, self.gid).map_err(|it| it.fault("open", &[path]))?;
        work(&Root::new(base), inside.as_os_str().as_bytes())
    }

    /// The directory, and where in it `path` leads to.
    fn find(&self, root: &Root, path: &[u8], follow: bool) -> Outcome<(OwnedFd, PathBuf)> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let base = root.open_without_symlinks(checked(self.base)?, flags)?;
        let place = {
            let _user = User::become_it(self.uid, self.gid)?;
            opened(root, checked(path)?, follow)?
        };
        let (found, rest) = place;
        let place = place_of(&found)?.join(rest);
        match place.strip_prefix(place_of(&base)?) {
            Ok(inside) if inside.as_os_str().is_empty() => Ok((base, PathBuf::from("."))),
            Ok(inside) => Ok((base, inside.to_owned())),
            Err(_) => Err(Problem::Refused { kind: FaultKind::Outside, why: OUTSIDE }),
        }
    }
}

/// What of `path` exists, opened, and the names after it that do not.
fn opened(root: &Root, path: &Path, follow: bool) -> Outcome<(OwnedFd, PathBuf)> {
    let mut rest = PathBuf::new();
    let (mut above, mut flags) = (path, if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW });
    loop {
        let error = match root.open(above, flags, 0) {
            Ok(found) => return Ok((found, rest)),
            Err(error) => error,
        };
        let missing = Errno::from_io_error(&error) == Some(Errno::NOENT);
        let (Some(parent), Some(name)) = (above.parent(), above.file_name()) else {
            return Err(error.into());
        };
        if !missing {
            return Err(error.into());
        }
        rest = if rest.as_os_str().is_empty() { PathBuf::from(name) } else { Path::new(name).join(rest) };
        (above, flags) = (parent, OFlags::PATH);
    }
}

/// Where in this process's root the kernel says an open file is.
fn place_of(fd: &OwnedFd) -> Outcome<PathBuf> {
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let target = rustix::fs::readlinkat(CWD, link, Vec::new())?;
    if !target.as_bytes().starts_with(b"/") || rustix::fs::fstat(fd)?.st_nlink == 0 {
        return Err(Errno::NOENT.into());
    }
    Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
}

/// This thread's file system ids are those of a user while it lives.
struct User {
    uid: Uid,
    gid: Gid,
}

impl User {
    fn become_it(uid: u32, gid: u32) -> Outcome<Self> {
        let before = Self { gid: setfsgid(Gid::from_raw(gid)), uid: setfsuid(Uid::from_raw(uid)) };
        // They return what was before and never fail: asked once more, the answer is what is.
        let now = (setfsuid(Uid::from_raw(uid)), setfsgid(Gid::from_raw(gid)));
        if now == (Uid::from_raw(uid), Gid::from_raw(gid)) {
            return Ok(before);
        }
        drop(before);
        Err(Problem::refused("the user's ids are not among those of the vessel"))
    }
}

impl Drop for User {
    fn drop(&mut self) {
        setfsuid(self.uid);
        setfsgid(self.gid);
    }
}

/// Gives what is at `path` to a user; a symlink at its end is not followed.
///
/// # Errors
/// A [`Fault`]; [`FaultKind::InvalidArgument`] for ids that the vessel does not have.
pub fn set_owner(root: &Root, path: &[u8], uid: u32, gid: u32) -> Result<(), Fault> {
    let outcome = checked(path).and_then(|inside| {
        let found = root.open(inside, OFlags::PATH | OFlags::NOFOLLOW, 0)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        Ok(rustix::fs::chownat(&found, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
    });
    outcome.map_err(|it| it.fault("change the owner of", &[path]))
}
