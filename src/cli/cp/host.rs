//! The host's side of a copy. What comes out of a vessel may be hostile: it is put in place relative to descriptors, no name of it
//! is followed, and no name of it becomes part of a path string.
#![forbid(unsafe_code)]

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, futimens, mkdirat, openat,
    renameat, symlinkat, unlinkat, utimensat,
};
use rustix::rand::{GetRandomFlags, getrandom};
use vesselrt::FileInfo;
use vesselrt_runtime::layer::{
    Dialect, IdPolicy, PackOptions, TreeFormat, UnpackError, UnpackOptions, Warnings, extract, pack,
    pack_entry,
};

use super::plan::{Source, There, is_content, last_name};
use crate::cli::{Failure, Outcome};

/// Permissions that carry no privilege: what a vessel made set-user-ID is not so here.
const HARMLESS_MODE: u32 = 0o1777;

/// What is copied in.
#[derive(Debug)]
pub(super) struct Origin {
    source: Source,
    parent: OwnedFd,
    name: OsString,
    shown: String,
}

impl Origin {
    /// Looks at `path` as lstat(2) does, so that a slash at its end means what a symlink leads to.
    pub(super) fn new(path: &Path) -> Outcome<Self> {
        let shown = path.display().to_string();
        let failed = |e| Failure::io(format!("look at {shown}"), e);
        let meta = std::fs::symlink_metadata(path).map_err(failed)?;
        let (is_dir, content) = (meta.is_dir(), is_content(path));
        // The real name of `.`, `..`, and of what a symlink with a slash leads to.
        let real = if is_dir { std::fs::canonicalize(path).map_err(failed)? } else { path.to_owned() };
        let name = last_name(&real);
        let typed = last_name(path).filter(|_| !content).or(name).unwrap_or_default().to_owned();
        let source = Source { is_dir, name: typed, content: content || name.is_none() };
        // The root directory is packed as the content of itself.
        let parent = real.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = if name.is_none() { Path::new("/") } else { parent.unwrap_or_else(|| Path::new(".")) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = openat(CWD, parent, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let name = name.unwrap_or_else(|| OsStr::new(".")).to_owned();
        Ok(Self { source, parent, name, shown })
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// Packs it as `stored`, or its content, and returns what there is to be told.
    pub(super) fn pack(&self, stored: Option<&OsStr>, out: impl Write) -> Outcome<Vec<String>> {
        let options = PackOptions::new(Dialect::Plain, TreeFormat::Plain);
        let report = match stored {
            Some(stored) => pack_entry(self.parent.as_fd(), &self.name, stored, out, &options),
            None => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let tree = openat(&self.parent, &self.name, flags, Mode::empty())
                    .map_err(|e| Failure::io(format!("open {}", self.shown), e))?;
                pack(tree.as_fd(), out, &options)
            }
        };
        let report = report.map_err(|e| Failure::caused(format!("failed to copy {}", self.shown), &e))?;
        Ok(tell(&report.warnings))
    }
}

/// What stands at a path of the host; symlinks are followed, as the user named it.
pub(super) fn there(path: &Path) -> Outcome<There> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(There::Directory),
        Ok(_) => Ok(There::Other),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(There::Nothing),
        Err(e) => Err(Failure::io(format!("look at {}", path.display()), e)),
    }
}

/// A directory that something is put into.
#[derive(Debug)]
pub(super) struct Target {
    fd: OwnedFd,
    path: PathBuf,
}

/// Why nothing was extracted.
#[derive(Debug)]
pub(super) struct NotExtracted {
    failure: Failure,
    bad_archive: bool,
}

impl NotExtracted {
    pub(super) fn is_bad_archive(&self) -> bool {
        self.bad_archive
    }
}

impl From<NotExtracted> for Failure {
    fn from(error: NotExtracted) -> Self {
        error.failure
    }
}

impl Target {
    /// Opens a directory as the user named it.
    pub(super) fn open(path: &Path) -> Outcome<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let fd = openat(CWD, path, flags, Mode::empty())
            .map_err(|e| Failure::io(format!("open the directory {}", path.display()), e))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// The directory `name` in it, private at first if it is made.
    pub(super) fn directory(&self, name: &OsStr) -> Outcome<Self> {
        let path = self.path.join(name);
        match mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(Failure::io(format!("make the directory {}", path.display()), e)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::empty())
            .map_err(|e| Failure::io(format!("open the directory {}", path.display()), e))?;
        Ok(Self { fd, path })
    }

    /// Extracts an archive here, and gives the directory itself these attributes.
    pub(super) fn extract(
        &self,
        archive: impl Read,
        info: Option<&FileInfo>,
    ) -> Result<Vec<String>, NotExtracted> {
        let options = UnpackOptions::new(Dialect::Plain, TreeFormat::Plain, IdPolicy::Ignore);
        let shown = self.path.display();
        let report =
            extract(archive, self.fd.as_fd(), Path::new(""), &options).map_err(|e: UnpackError| {
                let bad_archive = e.is_bad_archive() || e.io_error().is_some_and(is_truncation);
                NotExtracted {
                    failure: Failure::caused(format!("failed to copy to {shown}"), &e),
                    bad_archive,
                }
            })?;
        if let Some(info) = info {
            let set = fchmod(&self.fd, Mode::from_raw_mode(info.mode & HARMLESS_MODE))
                .and_then(|()| futimens(&self.fd, &times(info.modified)));
            set.map_err(|e| NotExtracted {
                failure: Failure::io(format!("set mode and time of {shown}"), e),
                bad_archive: false,
            })?;
        }
        Ok(tell(&report.warnings))
    }

    /// Puts a symlink here, instead of whatever file had the name.
    pub(super) fn symlink(&self, name: &OsStr, text: &Path, info: &FileInfo) -> Outcome {
        let staged = staging_name()?;
        let failed =
            |e: rustix::io::Errno| Failure::io(format!("link {}", self.path.join(name).display()), e);
        symlinkat(text, &self.fd, &staged).map_err(failed)?;
        let placed = utimensat(&self.fd, &staged, &times(info.modified), AtFlags::SYMLINK_NOFOLLOW)
            .and_then(|()| renameat(&self.fd, &staged, &self.fd, name));
        if placed.is_err() {
            let _ = unlinkat(&self.fd, &staged, AtFlags::empty());
        }
        placed.map_err(failed)
    }

    /// A new file here that has no name of its own yet.
    pub(super) fn stage(&self) -> Outcome<Staged<'_>> {
        let name = staging_name()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Failure::io(format!("make a file in {}", self.path.display()), e))?;
        Ok(Staged { target: self, file: File::from(fd), name, published: false })
    }
}

/// A file that is being written; it disappears unless it is published.
#[derive(Debug)]
pub(super) struct Staged<'a> {
    target: &'a Target,
    file: File,
    name: OsString,
    published: bool,
}

impl Staged<'_> {
    /// A handle to write by.
    pub(super) fn file(&self) -> Outcome<File> {
        self.file.try_clone().map_err(|e| self.failed("duplicate", e))
    }

    pub(super) fn failed(&self, doing: &str, error: impl Into<io::Error>) -> Failure {
        Failure::io(format!("{doing} a file in {}", self.target.path.display()), error)
    }

    /// Gives it mode, time and name.
    pub(super) fn publish(mut self, name: &OsStr, info: &FileInfo) -> Outcome {
        let placed = fchmod(&self.file, Mode::from_raw_mode(info.mode & HARMLESS_MODE))
            .and_then(|()| futimens(&self.file, &times(info.modified)))
            .and_then(|()| renameat(&self.target.fd, &self.name, &self.target.fd, name));
        placed.map_err(|e| Failure::io(format!("write {}", self.target.path.join(name).display()), e))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.published {
            let _ = unlinkat(&self.target.fd, &self.name, AtFlags::empty());
        }
    }
}

fn staging_name() -> Outcome<OsString> {
    let mut random = [0u8; 8];
    getrandom(&mut random, GetRandomFlags::empty()).map_err(|e| Failure::io("get random bytes", e))?;
    Ok(format!(".vesselrt-{:016x}", u64::from_ne_bytes(random)).into())
}

/// Access time left alone, modification time set; a time that the kernel has no room for is 1970.
fn times(modified: SystemTime) -> Timestamps {
    let (seconds, nanos) = match modified.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(0), after.subsec_nanos()),
        Err(before) => match before.duration() {
            before if before.subsec_nanos() == 0 => (i64::try_from(before.as_secs()).map_or(0, |s| -s), 0),
            before => {
                (i64::try_from(before.as_secs()).map_or(0, |s| -s - 1), 1_000_000_000 - before.subsec_nanos())
            }
        },
    };
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
    }
}

fn is_truncation(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
}

/// One line for each kind of thing that was left out.
fn tell(warnings: &Warnings) -> Vec<String> {
    let first = |kind| warnings.list().iter().find(|w| w.kind == kind).map_or("", |w| w.path.as_str());
    warnings
        .counts()
        .iter()
        .map(|(&kind, count)| format!("{count} × {kind:?}, first: {}", first(kind)))
        .collect()
}

impl Failure {
    /// `message` with the whole chain of `error`; quiet if a reader has left.
    fn caused(message: String, error: &(dyn Error + 'static)) -> Self {
        let mut io_kind = None;
        let mut text = message;
        for cause in std::iter::successors(Some(error), |e| (*e).source()) {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            io_kind = cause.downcast_ref::<io::Error>().map(io::Error::kind).or(io_kind);
        }
        Self::of_io_kind(text, io_kind)
    }
}

#[cfg(test)]
mod tests;
