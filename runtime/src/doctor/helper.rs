//! Programs of the host that vesselrt runs: found in fixed directories, never by `PATH`.
//!
//! Whoever can write such a program, or a directory above it, would run code as the user: all of them must be root's.
#![forbid(unsafe_code)]

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Where helpers are looked for, in this order.
pub const DIRECTORIES: [&str; 6] =
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/local/sbin"];

/// A helper that may be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helper {
    /// Absolute path, symlinks resolved.
    pub path: PathBuf,
    /// It has the setuid bit (and is root's) or file capabilities.
    pub privileged: bool,
}

/// Why a helper cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelperError {
    /// None of the [`DIRECTORIES`] has it.
    #[error("failed to find {name} in {}", DIRECTORIES.join(", "))]
    NotFound {
        /// File name.
        name: String,
    },
    /// Someone else than root could have written it.
    #[error("failed to trust {path:?}: it or a directory above it is not root's alone to write")]
    Untrusted {
        /// What is not trusted.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("failed to look at {path:?}")]
    Io {
        /// Path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Finds the program `name`.
///
/// # Errors
/// None there; the first one there is not executable, regular, or root's alone to write.
pub fn find(name: &str) -> Result<Helper, HelperError> {
    find_in(&DIRECTORIES.map(Path::new), name, 0)
}

/// [`find`] for a process whose user namespace does not map the host's root, which then looks like any id that is not
/// mapped. Source: `user_namespaces(7)`, "Unmapped user and group IDs".
///
/// # Errors
/// Those of [`find`].
pub(crate) fn find_inside(name: &str) -> Result<Helper, HelperError> {
    const DEFAULT_OVERFLOW_UID: u32 = 65534;
    let text = std::fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
    find_in(&DIRECTORIES.map(Path::new), name, text.trim().parse().unwrap_or(DEFAULT_OVERFLOW_UID))
}

fn find_in(directories: &[&Path], name: &str, owner: u32) -> Result<Helper, HelperError> {
    for directory in directories {
        let path = directory.join(name);
        match path.canonicalize() {
            Ok(path) => return examine(path, owner),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(source) => return Err(HelperError::Io { path, source }),
        }
    }
    Err(HelperError::NotFound { name: name.to_owned() })
}

fn examine(path: PathBuf, owner: u32) -> Result<Helper, HelperError> {
    for part in path.ancestors() {
        let failed = |source| HelperError::Io { path: part.into(), source };
        let metadata = part.symlink_metadata().map_err(failed)?;
        let writable = metadata.permissions().mode() & 0o022 != 0;
        // A sticky directory keeps others from replacing what is not theirs.
        let sticky = metadata.is_dir() && metadata.permissions().mode() & 0o1000 != 0;
        if !(metadata.uid() == owner || metadata.uid() == 0) || (writable && !sticky) {
            return Err(HelperError::Untrusted { path: part.into() });
        }
    }
    let metadata = path.metadata().map_err(|source| HelperError::Io { path: path.clone(), source })?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(HelperError::Untrusted { path });
    }
    let setuid = metadata.permissions().mode() & 0o4000 != 0 && metadata.uid() == 0;
    let privileged = setuid || has_capabilities(&path)?;
    Ok(Helper { path, privileged })
}

fn has_capabilities(path: &Path) -> Result<bool, HelperError> {
    match rustix::fs::getxattr(path, "security.capability", &mut [0; 64][..]) {
        Ok(length) => Ok(length > 0),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(HelperError::Io { path: path.into(), source: errno.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The temporary directory is below a sticky /tmp, as the trust rule allows.
    fn program(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tool");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    fn look(dir: &Path) -> Result<Helper, HelperError> {
        find_in(&[Path::new("/nonexistent"), dir], "tool", rustix::process::geteuid().as_raw())
    }

    #[test]
    fn only_programs_that_nobody_else_can_write_are_used() {
        let (dir, path) = program(0o755);
        let found = look(dir.path()).unwrap();
        assert_eq!(found, Helper { path: path.canonicalize().unwrap(), privileged: false });
        for mode in [0o775, 0o757, 0o644] {
            let (dir, _path) = program(mode);
            assert!(matches!(look(dir.path()), Err(HelperError::Untrusted { .. })), "{mode:o}");
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(
            matches!(look(dir.path()), Err(HelperError::Untrusted { path }) if path == dir.path().canonicalize().unwrap())
        );
    }

    #[test]
    fn a_symlink_is_judged_by_what_it_leads_to() {
        let (dir, path) = program(0o777);
        let other = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(&path, other.path().join("tool")).unwrap();
        assert!(matches!(look(other.path()), Err(HelperError::Untrusted { .. })));
        drop(dir);
        assert!(matches!(look(other.path()), Err(HelperError::NotFound { .. })));
    }

    #[test]
    fn the_shell_of_the_host_is_found_by_name_and_path_has_no_say() {
        assert!(!find("sh").unwrap().privileged);
        assert!(matches!(find("no-such-program"), Err(HelperError::NotFound { .. })));
    }
}
