//! What a path of a caller means inside a vessel.
//!
//! A relative path begins at the vessel's working directory. The result is cleaned lexically and clamped at `/`, so
//! `../../../etc/passwd` is the vessel's `/etc/passwd`. Symlinks are not looked at here: the shim resolves what is left
//! under the root of the vessel.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The absolute path inside that `path` means.
///
/// # Errors
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a path with a NUL byte.
pub(crate) fn resolve(work_dir: &str, path: &Path) -> Result<PathBuf> {
    resolve_from(Path::new(work_dir), path)
}

/// [`resolve`] for a directory that need not be UTF-8.
///
/// # Errors
/// Those of [`resolve`].
pub(crate) fn resolve_from(dir: &Path, path: &Path) -> Result<PathBuf> {
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(Error::invalid(format!("path has a NUL byte: {path:?}")));
    }
    Ok(clean(&dir.join(path)))
}

/// `path` as bytes of a request.
pub(crate) fn bytes(path: PathBuf) -> Vec<u8> {
    path.into_os_string().into_vec()
}

/// The working directory of a new vessel: what was asked for, or the image's when nothing was (`""`); a relative one
/// is `/`.
///
/// # Errors
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a path with a NUL byte.
pub(crate) fn work_dir(asked: &str, image: Option<&str>) -> Result<String> {
    let chosen = if asked.is_empty() { image.unwrap_or_default() } else { asked };
    if !chosen.starts_with('/') {
        return Ok("/".to_owned());
    }
    let path = resolve("/", Path::new(chosen))?;
    path.into_os_string().into_string().map_err(|_| Error::invalid("working directory is not UTF-8"))
}

/// `path` from `/` on without `.`, `..` and empty components.
fn clean(path: &Path) -> PathBuf {
    let mut kept: Vec<&[u8]> = Vec::new();
    for component in path.as_os_str().as_bytes().split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    let mut clean = PathBuf::from("/");
    clean.extend(kept.into_iter().map(OsStr::from_bytes));
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_mean_what_the_table_says() {
        for (path, inside) in [
            ("a.txt", "/workspace/a.txt"),
            ("./a/./b", "/workspace/a/b"),
            ("", "/workspace"),
            (".", "/workspace"),
            ("..", "/"),
            ("../../../etc/passwd", "/etc/passwd"),
            ("a/../../b", "/b"),
            ("/", "/"),
            ("/tmp/f", "/tmp/f"),
            ("//tmp//f", "/tmp/f"),
            ("/../../x/", "/x"),
            ("..x", "/workspace/..x"),
        ] {
            assert_eq!(resolve("/workspace", Path::new(path)).unwrap(), Path::new(inside), "{path:?}");
        }
        let error = resolve("/workspace", Path::new("a\0b")).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument);
    }

    #[test]
    fn names_need_not_be_utf8() {
        let odd = Path::new(OsStr::from_bytes(b"a\xff/../b\xfe"));
        assert_eq!(bytes(resolve("/w", odd).unwrap()), b"/w/b\xfe");
    }

    #[test]
    fn working_directories_are_those_of_the_table() {
        for (asked, image, dir) in [
            ("", None, "/"),
            ("/", None, "/"),
            ("/home/user", Some("/srv"), "/home/user"),
            ("relative", Some("/srv"), "/"),
            ("home/user", None, "/"),
            ("", Some("/srv"), "/srv"),
            ("", Some(""), "/"),
            ("", Some("../.."), "/"),
            ("/a/../../b/", None, "/b"),
        ] {
            assert_eq!(work_dir(asked, image).unwrap(), dir, "{asked:?} {image:?}");
        }
    }

    proptest! {
        #[test]
        fn what_comes_out_is_absolute_clean_and_stable(text in "[a./]{0,24}") {
            let once = resolve("/w/d", Path::new(&text)).unwrap();
            let shown = once.to_str().unwrap();
            prop_assert!(shown.starts_with('/') && !shown.contains("//"));
            prop_assert!(!shown.split('/').any(|part| part == "." || part == ".."));
            prop_assert_eq!(resolve("/", &once).unwrap(), once);
        }
    }
}
