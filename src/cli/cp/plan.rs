//! Where a copy lands: the rules of `docker cp`, which are those of `cp -a` with `SRC/.` for the content of a directory. Pure.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What is to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// A directory, and not a file or a symlink.
    pub(super) is_dir: bool,
    /// What it is called.
    pub(super) name: OsString,
    /// It was written as `DIR/.`: its content, not itself.
    pub(super) content: bool,
}

/// What stands at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    Nothing,
    Directory,
    Other,
}

/// Where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Landing {
    /// Under `name` in the directory `dir`, which must exist.
    As { dir: PathBuf, name: OsString },
    /// The content into this directory, which exists.
    Into(PathBuf),
}

/// Why it goes nowhere: a text for the user.
pub(super) type Refusal = String;

/// Decides. `to` is the destination as typed.
pub(super) fn land(source: &Source, to: &Path, there: There) -> Result<Landing, Refusal> {
    let shown = to.display();
    let wants_dir = ends_as_directory(to);
    match there {
        There::Directory if source.is_dir && source.content => Ok(Landing::Into(to.to_owned())),
        There::Directory => Ok(Landing::As { dir: to.to_owned(), name: source.name.clone() }),
        There::Other if source.is_dir => Err(format!("{shown} is not a directory")),
        There::Other if wants_dir => Err(format!("{shown} is not a directory")),
        There::Nothing if wants_dir && !source.is_dir => Err(format!("{shown} is no directory that exists")),
        There::Nothing | There::Other => named(to),
    }
}

/// The last component is the new name.
fn named(to: &Path) -> Result<Landing, Refusal> {
    let name = to.file_name().ok_or_else(|| format!("{} names no file", to.display()))?;
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    Ok(Landing::As { dir: dir.to_owned(), name: name.to_owned() })
}

/// It ends with `/` or `/.`, or is a dot.
fn ends_as_directory(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.ends_with(b"/") || is_content(path)
}

/// It ends with `/.` or is `.`: what is in the directory is meant.
pub(super) fn is_content(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes == b"." || bytes.ends_with(b"/.")
}

/// The name that a path ends with; none for `..`, `/` and the like.
pub(super) fn last_name(path: &Path) -> Option<&OsStr> {
    path.file_name()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Source {
        Source { is_dir: false, name: "f".into(), content: false }
    }

    fn dir(content: bool) -> Source {
        Source { is_dir: true, name: "d".into(), content }
    }

    fn placed(at: &str, name: &str) -> Result<Landing, Refusal> {
        Ok(Landing::As { dir: at.into(), name: name.into() })
    }

    fn landing(source: &Source, to: &str, there: There) -> Result<Landing, Refusal> {
        land(source, Path::new(to), there)
    }

    #[test]
    fn files_land_under_their_name_in_a_directory_or_under_the_new_name() {
        assert_eq!(landing(&file(), "/w", There::Directory), placed("/w", "f"));
        assert_eq!(landing(&file(), "/w/", There::Directory), placed("/w/", "f"));
        assert_eq!(landing(&file(), "/w/g", There::Nothing), placed("/w", "g"));
        assert_eq!(landing(&file(), "/w/g", There::Other), placed("/w", "g"));
        assert_eq!(landing(&file(), "g", There::Nothing), placed(".", "g"));
        assert!(landing(&file(), "/w/g/", There::Nothing).is_err());
        assert!(landing(&file(), "/w/g/", There::Other).is_err());
    }

    #[test]
    fn directories_land_in_one_that_exists_and_become_one_that_does_not() {
        assert_eq!(landing(&dir(false), "/w", There::Directory), placed("/w", "d"));
        assert_eq!(landing(&dir(false), "/w/e", There::Nothing), placed("/w", "e"));
        assert_eq!(landing(&dir(false), "/w/e/", There::Nothing), placed("/w", "e"));
        assert!(landing(&dir(false), "/w/e", There::Other).is_err());
    }

    #[test]
    fn a_dot_means_the_content() {
        assert_eq!(landing(&dir(true), "/w", There::Directory), Ok(Landing::Into("/w".into())));
        assert_eq!(landing(&dir(true), "/w/e", There::Nothing), placed("/w", "e"));
        assert!(landing(&dir(true), "/w/e", There::Other).is_err());
        assert!(is_content(Path::new(".")) && is_content(Path::new("a/.")));
        assert!(!is_content(Path::new("a/")) && !is_content(Path::new("..")) && !is_content(Path::new("a.")));
    }
}
