//! A file of this host for `/in`.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::error::{Error, Result};
use crate::store::dirs;

/// The copy, until it has its name.
const STAGED: &str = ".staging";

/// Copies a regular file into the directory `input`, under the name that it has. Whatever a guest put there under that name is
/// replaced, and not followed.
pub(super) fn stage(file: &Path, input: &Path) -> Result<()> {
    let failed = |e: io::Error| Error::io(format!("failed to stage {}", file.display()), e);
    let name = file.file_name().ok_or_else(|| Error::invalid("input file must not be a directory"))?;
    // Without waiting for the writer of a FIFO.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut source = File::from(rustix::fs::open(file, flags, Mode::empty()).map_err(|e| failed(e.into()))?);
    let kind = source.metadata().map_err(failed)?.file_type();
    if kind.is_dir() {
        return Err(Error::invalid("input file must not be a directory"));
    }
    if !kind.is_file() {
        return Err(Error::invalid("input file must be a regular file"));
    }
    let dir = dirs::open_path(input)?;
    let staged = format!("{STAGED}-{}-{:016x}", std::process::id(), unique());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut copy = || -> io::Result<()> {
        let mut target = File::from(rustix::fs::openat(&dir, &staged, flags, Mode::from_raw_mode(0o600))?);
        io::copy(&mut source, &mut target)?;
        rustix::fs::fchmod(&target, Mode::from_raw_mode(0o644))?;
        target.sync_all()?;
        Ok(rustix::fs::renameat(&dir, &staged, &dir, name)?)
    };
    copy().map_err(|e| {
        let _ = rustix::fs::unlinkat(&dir, &staged, AtFlags::empty());
        failed(e)
    })
}

/// For names that nothing has.
pub(super) fn unique() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_replaces_whatever_a_guest_put_there() {
        let dir = tempfile::tempdir().unwrap();
        let (input, source, victim) =
            (dir.path().join("in"), dir.path().join("f"), dir.path().join("victim"));
        fs::create_dir(&input).unwrap();
        fs::write(&source, "content").unwrap();
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, input.join("f")).unwrap();
        stage(&source, &input).unwrap();
        assert_eq!(fs::read_to_string(input.join("f")).unwrap(), "content");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read_dir(&input).unwrap().count(), 1);
        let refused = stage(&input, &input).unwrap_err();
        assert_eq!(refused.to_string(), "input file must not be a directory");
        assert_eq!(
            stage(Path::new(".."), &input).unwrap_err().to_string(),
            "input file must not be a directory"
        );
        assert!(stage(Path::new("/dev/zero"), &input).is_err());
        assert_eq!(stage(&dir.path().join("none"), &input).unwrap_err().kind(), crate::ErrorKind::NotFound);
    }
}
