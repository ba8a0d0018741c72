//! What image references may look like as paths, and the names of archives.
#![forbid(unsafe_code)]

use thiserror::Error;

use crate::compression::Compression;
use crate::error::{Result, StorageError, quoted};
use crate::id::validate_id;

/// The longest image reference, in bytes.
const MAX_REF_LEN: usize = 1024;
/// The longest component of one: a file name, less the longest suffix.
const MAX_COMPONENT_LEN: usize = 255 - ".tar.zst".len();

/// The order in which archives are looked for.
pub(crate) const LOOKUP: [Compression; 3] = [Compression::None, Compression::Zstd, Compression::Gzip];

/// What is wrong with an image reference as the name of a stored archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ImageRefError {
    /// The reference, or a component between slashes, is empty; this includes a leading slash.
    #[error("it has an empty component")]
    Empty,
    /// A component is `.` or `..`, or starts with a dot.
    #[error("a component starts with a dot")]
    Dot,
    /// A control character, NUL or backslash.
    #[error("it has a control character or a backslash")]
    BadCharacter,
    /// Longer than a path or file name may be.
    #[error("it is too long")]
    TooLong,
}

/// Checks that `image_ref` can be the path of an archive below `images/`: non-empty components that do not
/// start with a dot, of bounded length, without control characters. It need not be a well-formed OCI reference.
///
/// # Errors
/// [`ImageRefError`] says which rule is broken.
pub fn validate_image_ref(image_ref: &str) -> std::result::Result<(), ImageRefError> {
    if image_ref.len() > MAX_REF_LEN {
        return Err(ImageRefError::TooLong);
    }
    if image_ref.chars().any(|c| c.is_control() || c == '\\') {
        return Err(ImageRefError::BadCharacter);
    }
    for component in image_ref.split('/') {
        match component.as_bytes() {
            [] => return Err(ImageRefError::Empty),
            [b'.', ..] => return Err(ImageRefError::Dot),
            _ if component.len() > MAX_COMPONENT_LEN => return Err(ImageRefError::TooLong),
            _ => {}
        }
    }
    Ok(())
}

/// [`validate_id`] with the error of a backend.
pub(crate) fn check_id(what: &str, id: &str) -> Result<()> {
    validate_id(id).map_err(|e| StorageError::invalid(format!("{what} id {}", quoted(id)), e))
}

/// [`validate_image_ref`] with the error of a backend.
pub(crate) fn check_image_ref(image_ref: &str) -> Result<()> {
    validate_image_ref(image_ref)
        .map_err(|e| StorageError::invalid(format!("image reference {}", quoted(image_ref)), e))
}

/// The file name of the archive `stem`.
pub(crate) fn archive_name(stem: &str, compression: Compression) -> String {
    format!("{stem}.tar{}", compression.suffix())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_safe_paths() {
        for good in
            ["alpine", "docker.io/library/alpine:latest", "localhost:5000/a/b@sha256:ab", "a b", "Ünï"]
        {
            assert_eq!(validate_image_ref(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", ImageRefError::Empty),
            ("/etc/passwd", ImageRefError::Empty),
            ("a//b", ImageRefError::Empty),
            ("a/", ImageRefError::Empty),
            ("..", ImageRefError::Dot),
            ("../x", ImageRefError::Dot),
            ("a/../b", ImageRefError::Dot),
            ("a/.stage-0", ImageRefError::Dot),
            ("a\0b", ImageRefError::BadCharacter),
            ("a\nb", ImageRefError::BadCharacter),
            ("a\\..\\b", ImageRefError::BadCharacter),
            (&"a".repeat(248), ImageRefError::TooLong),
            (&"a/".repeat(600), ImageRefError::TooLong),
        ] {
            assert_eq!(validate_image_ref(bad), Err(why), "{bad:?}");
        }
    }
}
