//! The base image of all vessels and containers that are measured: a static busybox where the host has one, otherwise the
//! host's own shell and tools.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tar::{Archive, Builder, EntryType};

use crate::cli::{Failure, Outcome};
use crate::demo;
use crate::demo::rootfs::header;
use crate::demo::tools;

/// What is linked to busybox.
const APPLETS: [&str; 8] = ["sh", "true", "sleep", "cat", "ls", "rm", "mkdir", "cp"];
const DIRECTORIES: [&str; 8] = ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "work"];

/// A root file system, as an archive and as a directory.
#[derive(Debug)]
pub(crate) struct Base {
    /// A tar of it.
    pub(crate) tar: PathBuf,
    /// The directory.
    pub(crate) rootfs: PathBuf,
    /// Where its programs find their libraries, if they need any.
    pub(crate) library_path: Option<OsString>,
}

impl Base {
    /// Makes it in the directory `dir`.
    ///
    /// # Errors
    /// When the host has neither.
    pub(crate) fn make(dir: &Path) -> Outcome<Self> {
        let (tar, rootfs) = (dir.join("base.tar"), dir.join("base"));
        let library_path = match tools::static_program("busybox") {
            Some(busybox) => {
                write(&tar, &busybox).map_err(|e| Failure::io("make the base image", e))?;
                None
            }
            None => Some(demo::write_host_image(&tar)?.library_path()),
        };
        extract(&tar, &rootfs).map_err(|e| Failure::io("unpack the base image", e))?;
        Ok(Self { tar, rootfs, library_path })
    }

    /// The variable that commands in it need.
    pub(crate) fn variable(&self) -> Option<(&'static str, &OsString)> {
        self.library_path.as_ref().map(|path| ("LD_LIBRARY_PATH", path))
    }
}

fn write(tar: &Path, busybox: &Path) -> io::Result<()> {
    let mut tar = Builder::new(File::create_new(tar)?);
    for dir in DIRECTORIES {
        let mode = if dir == "tmp" { 0o1777 } else { 0o755 };
        tar.append_data(&mut header(EntryType::Directory, mode, 0), dir, io::empty())?;
    }
    for (name, content) in [("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("etc/group", "root:x:0:\n")] {
        let mut header = header(EntryType::Regular, 0o644, content.len() as u64);
        tar.append_data(&mut header, name, content.as_bytes())?;
    }
    let program = std::fs::read(busybox)?;
    let mut head = header(EntryType::Regular, 0o755, program.len() as u64);
    tar.append_data(&mut head, "bin/busybox", program.as_slice())?;
    for applet in APPLETS {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, Path::new("bin").join(applet), "busybox")?;
    }
    tar.into_inner()?.sync_all()
}

/// It is an archive of our own: nothing in it leads out.
fn extract(tar: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir(to)?;
    let mut archive = Archive::new(File::open(tar)?);
    archive.set_preserve_permissions(true);
    archive.unpack(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_what_is_run_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let base = Base::make(dir.path()).unwrap();
        for name in ["bin/true", "bin/sh", "etc/passwd", "proc", "tmp"] {
            assert!(base.rootfs.join(name).exists(), "{name}");
        }
        let mut archive = Archive::new(File::open(&base.tar).unwrap());
        assert!(archive.entries().unwrap().all(|entry| entry.unwrap().header().uid().unwrap() == 0));
    }
}
