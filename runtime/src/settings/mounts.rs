//! What is mounted in a vessel besides its layers: files of the host, volumes of the store, file systems in memory.
//!
//! Texts are those of the command line ([`Mount::parse`], [`Mount::parse_short`]). A mount is local: it names things of this
//! host, and is in no manifest.
#![forbid(unsafe_code)]

mod parse;

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Most mounts of one vessel: each is a descriptor that is handed to its shim.
pub const MAX_MOUNTS: usize = 32;
/// Longest path, bytes: PATH_MAX with its NUL.
const MAX_PATH: usize = 4096;
/// Longest name of a volume.
const MAX_NAME: usize = 64;
/// Mode of the root of a file system in memory, as that of `/tmp`.
const TMPFS_MODE: u32 = 0o1777;
/// Where commands have what is not the vessel's.
const RESERVED: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Why something cannot be mounted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// A text that says no mount.
    #[error("failed to understand the mount {text:?}: {problem}")]
    Text {
        /// The text.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A place inside where nothing can be mounted.
    #[error("failed to mount at {path:?}: {problem}")]
    Destination {
        /// The place.
        path: String,
        /// Why not.
        problem: &'static str,
    },
    /// A path of the host that cannot be mounted.
    #[error("failed to mount {path:?} of the host: {problem}")]
    Source {
        /// The path.
        path: String,
        /// Why not.
        problem: &'static str,
    },
    /// No name of a volume.
    #[error(
        "invalid name of a volume: {name:?}; it may have letters, digits, `_`, `.` and `-`, must begin with a letter or \
         digit, and have no more than {MAX_NAME} characters"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Two mounts at one place.
    #[error("failed to mount twice at {path:?}")]
    Twice {
        /// The place.
        path: String,
    },
    /// More than [`MAX_MOUNTS`].
    #[error("failed to mount {count} things in one vessel: {MAX_MOUNTS} at most")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// The root of a file system in memory has a mode of its own: `0` to `07777`.
    #[error("invalid mode of a file system in memory: {mode:o}")]
    Mode {
        /// The mode.
        mode: u32,
    },
}

/// Where what is mounted comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
#[non_exhaustive]
pub enum MountSource {
    /// A directory, file or unix socket of the host, with everything that is mounted below it. It is looked up whenever the
    /// vessel is started.
    Bind {
        /// Absolute path.
        path: String,
    },
    /// A volume of the store, made when it is first used.
    Volume {
        /// Its name.
        name: String,
    },
    /// A file system in memory, empty whenever the vessel is started.
    Tmpfs {
        /// Bytes that it may hold; `None` is half of the memory of the host (tmpfs(5)).
        size: Option<u64>,
        /// Permission bits of its root.
        mode: u32,
    },
}

/// Something that is mounted in a vessel besides its layers. Set-id bits and devices never work on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    source: MountSource,
    destination: String,
    read_only: bool,
}

impl Mount {
    /// Mounts a directory, file or unix socket of the host at `destination`, both absolute paths. What is missing of
    /// `destination` is made in the writable layer; symlinks on the way mean what they mean inside.
    ///
    /// # Errors
    /// [`MountError::Source`], [`MountError::Destination`].
    pub fn bind(source: impl AsRef<Path>, destination: &str) -> Result<Self, MountError> {
        let wrong = |problem| MountError::Source { path: source.as_ref().display().to_string(), problem };
        let path = source.as_ref().to_str().ok_or_else(|| wrong("the path is not UTF-8"))?;
        if !path.starts_with('/') {
            return Err(wrong("the path must be absolute"));
        }
        if path.contains('\0') || path.len() >= MAX_PATH {
            return Err(wrong("that is no path"));
        }
        // Without `.`; what `..` means depends on what is there.
        let plain: PathBuf = Path::new(path).components().collect();
        let path = plain.to_str().unwrap_or(path).to_owned();
        Self::new(MountSource::Bind { path }, destination)
    }

    /// Mounts the volume `name` at `destination`, an absolute path.
    ///
    /// # Errors
    /// [`MountError::Name`], [`MountError::Destination`].
    pub fn volume(name: &str, destination: &str) -> Result<Self, MountError> {
        check_volume_name(name)?;
        Self::new(MountSource::Volume { name: name.to_owned() }, destination)
    }

    /// Mounts a file system in memory at `destination`, an absolute path.
    ///
    /// # Errors
    /// [`MountError::Destination`].
    pub fn tmpfs(destination: &str) -> Result<Self, MountError> {
        Self::new(MountSource::Tmpfs { size: None, mode: TMPFS_MODE }, destination)
    }

    fn new(source: MountSource, destination: &str) -> Result<Self, MountError> {
        Ok(Self { source, destination: clean(destination)?, read_only: false })
    }

    /// Sets whether nothing can be written there.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets how many bytes a file system in memory may hold; of anything else it changes nothing.
    #[must_use]
    pub fn size(mut self, bytes: u64) -> Self {
        if let MountSource::Tmpfs { size, .. } = &mut self.source {
            *size = Some(bytes);
        }
        self
    }

    /// Sets the permission bits of the root of a file system in memory; of anything else it changes nothing.
    #[must_use]
    pub fn mode(mut self, bits: u32) -> Self {
        if let MountSource::Tmpfs { mode, .. } = &mut self.source {
            *mode = bits;
        }
        self
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> &MountSource {
        &self.source
    }

    /// Where it is mounted: an absolute path inside, without `.` and `..`.
    #[must_use]
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// Whether nothing can be written there.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The name of the volume, if it is one.
    #[must_use]
    pub fn volume_name(&self) -> Option<&str> {
        match &self.source {
            MountSource::Volume { name } => Some(name),
            MountSource::Bind { .. } | MountSource::Tmpfs { .. } => None,
        }
    }

    /// What the constructors check: one that was read from somewhere did not go through them.
    fn check(&self) -> Result<(), MountError> {
        let made = match &self.source {
            MountSource::Bind { path } => Self::bind(path, &self.destination)?,
            MountSource::Volume { name } => Self::volume(name, &self.destination)?,
            MountSource::Tmpfs { mode, .. } if *mode > 0o7777 => {
                return Err(MountError::Mode { mode: *mode });
            }
            MountSource::Tmpfs { .. } => Self::tmpfs(&self.destination)?,
        };
        if made.destination == self.destination {
            Ok(())
        } else {
            Err(MountError::Destination { path: self.destination.clone(), problem: "the path is not plain" })
        }
    }
}

/// Checks the mounts of one vessel, each by itself and together.
///
/// # Errors
/// [`MountError`].
pub fn check_mounts(mounts: &[Mount]) -> Result<(), MountError> {
    if mounts.len() > MAX_MOUNTS {
        return Err(MountError::TooMany { count: mounts.len() });
    }
    for (place, mount) in mounts.iter().enumerate() {
        mount.check()?;
        if mounts[..place].iter().any(|other| other.destination == mount.destination) {
            return Err(MountError::Twice { path: mount.destination.clone() });
        }
    }
    Ok(())
}

/// A name of a volume: `[A-Za-z0-9][A-Za-z0-9_.-]*`, 64 characters at most.
///
/// # Errors
/// [`MountError::Name`].
pub fn check_volume_name(name: &str) -> Result<(), MountError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if begins && name.len() <= MAX_NAME && name.bytes().all(plain) {
        Ok(())
    } else {
        Err(MountError::Name { name: name.to_owned() })
    }
}

/// Why nothing can be mounted at a place, which has no `..`; `None` where something can be.
#[must_use]
pub(crate) fn reserved(path: &Path) -> Option<&'static str> {
    if path == Path::new("/") {
        return Some("the root is the vessel itself");
    }
    if path == Path::new("/etc") {
        return Some("generated files are in this directory; mount what is to be in it");
    }
    let is_below = RESERVED.iter().any(|dir| path.starts_with(dir));
    is_below.then_some("commands have /proc, /sys and /dev of their own")
}

/// The path without what does not matter in it.
fn clean(path: &str) -> Result<String, MountError> {
    let wrong = |problem| MountError::Destination { path: path.to_owned(), problem };
    if !path.starts_with('/') {
        return Err(wrong("the path must be absolute"));
    }
    if path.contains('\0') || path.len() >= MAX_PATH {
        return Err(wrong("that is no path"));
    }
    let mut cleaned = String::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => {
                cleaned.push('/');
                cleaned.push_str(name.to_str().ok_or_else(|| wrong("the path is not UTF-8"))?);
            }
            Component::ParentDir => return Err(wrong("the path must not have `..`")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let cleaned = if cleaned.is_empty() { "/".to_owned() } else { cleaned };
    match reserved(Path::new(&cleaned)) {
        Some(problem) => Err(wrong(problem)),
        None => Ok(cleaned),
    }
}

#[cfg(test)]
mod tests;
