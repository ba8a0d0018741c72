//! [`merge`]: several layers of an overlay as one that looks the same.
//!
//! Files are hard links to those of the layers, which never change; directories are made anew. Source for what hides what:
//! Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::files;
use crate::shim::protocol::{Fault, FaultKind};

/// Directories below each other: as many descriptors of every layer are open.
const MAX_DEPTH: usize = 64;
/// What a directory that hides everything below it has (`userxattr`).
const OPAQUE: &CStr = c"user.overlay.opaque";
/// Directories that every vessel has below all of its layers.
const SKELETON: [&CStr; 4] = [c"dev", c"etc", c"proc", c"sys"];

/// Makes the directory `name` in `to`: it looks like `layers` (topmost first) do above `below`.
///
/// # Errors
/// A [`Fault`]; what was made is to be thrown away then.
pub(crate) fn merge(
    layers: Vec<OwnedFd>,
    below: Vec<OwnedFd>,
    to: BorrowedFd<'_>,
    name: &CStr,
) -> Result<(), Fault> {
    let level = Level { layers, below, skeleton: true, opaque: false };
    directory(&level, to, name, 0)
}

/// A directory as it is in several layers.
struct Level {
    /// Topmost first; each is seen.
    layers: Vec<OwnedFd>,
    /// As it is in the layers below those that are merged.
    below: Vec<OwnedFd>,
    /// It is in the lowest layer of every vessel too.
    skeleton: bool,
    /// Nothing below it is seen.
    opaque: bool,
}

fn failed(step: &'static str, name: &CStr) -> impl FnOnce(Errno) -> Fault {
    let name = name.to_bytes().escape_ascii().to_string();
    move |errno| Fault::io(format!("{step} \"{name}\""), &errno.into())
}

fn directory(level: &Level, to: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<(), Fault> {
    if depth > MAX_DEPTH {
        return Err(Fault::new(FaultKind::LimitExceeded, "directories are nested too deeply to be merged"));
    }
    rustix::fs::mkdirat(to, name, Mode::RWXU).map_err(failed("make the directory", name))?;
    let made = open(to, name).map_err(failed("open the directory", name))?;
    let hides = level.skeleton || !level.below.is_empty();
    for (name, at) in entries(&level.layers).map_err(|e| Fault::io("list a layer", &e))? {
        let top = &level.layers[at[0]];
        let stat =
            rustix::fs::statat(top, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("stat", &name))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                directory(&child(level, &name, &at, depth)?, made.as_fd(), &name, depth + 1)?;
            }
            // The overlay would list it where there is nothing to hide.
            FileType::CharacterDevice if stat.st_rdev == 0 && !hides => {}
            _ => link(top.as_fd(), &name, made.as_fd())?,
        }
    }
    files::copy_metadata(level.layers[0].as_fd(), made.as_fd(), name)?;
    if level.opaque {
        rustix::fs::fsetxattr(&made, OPAQUE, b"y", XattrFlags::empty())
            .map_err(failed("make opaque", name))?;
    }
    Ok(())
}

/// The directory `name`, which is in the layers `at`, topmost first.
fn child(level: &Level, name: &CStr, at: &[usize], depth: usize) -> Result<Level, Fault> {
    let mut seen = Level {
        layers: Vec::new(),
        below: Vec::new(),
        skeleton: depth == 0 && SKELETON.contains(&name),
        opaque: false,
    };
    for &layer in at {
        match open(level.layers[layer].as_fd(), name) {
            Ok(dir) => {
                seen.opaque = is_opaque(&dir).map_err(failed("look at the attributes of", name))?;
                seen.layers.push(dir);
            }
            // A file or a whiteout, which the directory above it replaced.
            Err(Errno::NOTDIR | Errno::LOOP) => seen.opaque = true,
            Err(errno) => return Err(failed("open the directory", name)(errno)),
        }
        if seen.opaque {
            seen.skeleton = false;
            return Ok(seen);
        }
    }
    for lower in &level.below {
        match open(lower.as_fd(), name) {
            Ok(dir) => seen.below.push(dir),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(failed("open the directory", name)(errno)),
        }
    }
    Ok(seen)
}

fn open(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// `y`: hides what is below. `x`, for whiteouts that are attributes, is never written by the mounts of this runtime.
fn is_opaque(dir: &OwnedFd) -> rustix::io::Result<bool> {
    let mut value = [0u8; 8];
    match rustix::fs::fgetxattr(dir, OPAQUE, value.as_mut_slice()) {
        Ok(length) => match &value[..length] {
            b"y" => Ok(true),
            _ => Err(Errno::OPNOTSUPP),
        },
        Err(Errno::NODATA) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The names in the directories, and which of them have each.
fn entries(layers: &[OwnedFd]) -> io::Result<BTreeMap<CString, Vec<usize>>> {
    let mut entries: BTreeMap<CString, Vec<usize>> = BTreeMap::new();
    for (at, layer) in layers.iter().enumerate() {
        for entry in Dir::read_from(layer)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                entries.entry(name.to_owned()).or_default().push(at);
            }
        }
    }
    Ok(entries)
}

/// Another name of the same file; a copy where it has too many already.
fn link(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>) -> Result<(), Fault> {
    match rustix::fs::linkat(from, name, to, name, AtFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::MLINK | Errno::XDEV) => files::copy_layer(from, name, to).map(drop),
        Err(errno) => Err(failed("link", name)(errno)),
    }
}
