//! `TreePath`: a path inside a tree, cleaned; and how bytes from outside are shown.
#![forbid(unsafe_code)]

use std::fmt;

use super::limits::Limits;

/// A path relative to the root of a tree: components joined by single slashes, none of them empty, `.`, `..`, with
/// a NUL or too long. The empty path is the root itself. Bytes, not text.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TreePath(Vec<u8>);

/// Why a name is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The name is empty.
    #[error("the path is empty")]
    Empty,
    /// A component is `..`: no writer of layers makes one, and readers do not agree on its meaning.
    #[error("the path has a `..` component")]
    DotDot,
    /// A NUL byte, which no Linux path can hold.
    #[error("the path has a NUL byte")]
    Nul,
    /// A component is longer than [`Limits::name_len`].
    #[error("a component of the path has {len} bytes, more than {limit}")]
    NameTooLong {
        /// Its bytes.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// The path is longer than [`Limits::path_len`].
    #[error("the path has {len} bytes, more than {limit}")]
    TooLong {
        /// Its bytes.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// The path has more components than [`Limits::depth`].
    #[error("the path has more than {limit} components")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
}

impl TreePath {
    /// Cleans a name from an archive: leading and doubled slashes and `.` components vanish.
    pub(crate) fn clean(raw: &[u8], limits: &Limits) -> Result<Self, PathError> {
        if raw.is_empty() {
            return Err(PathError::Empty);
        }
        if raw.contains(&0) {
            return Err(PathError::Nul);
        }
        let mut clean = Vec::with_capacity(raw.len());
        let mut depth = 0;
        for part in raw.split(|&b| b == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return Err(PathError::DotDot),
                part if part.len() > limits.name_len => {
                    return Err(PathError::NameTooLong { len: part.len(), limit: limits.name_len });
                }
                _ => depth += 1,
            }
            if !clean.is_empty() {
                clean.push(b'/');
            }
            clean.extend_from_slice(part);
        }
        if clean.len() > limits.path_len {
            return Err(PathError::TooLong { len: clean.len(), limit: limits.path_len });
        }
        if depth > limits.depth {
            return Err(PathError::TooDeep { limit: limits.depth });
        }
        Ok(Self(clean))
    }

    /// The bytes; empty for the root.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root of the tree.
    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The last component; empty for the root.
    pub(crate) fn name(&self) -> &[u8] {
        split(&self.0).1
    }

    /// The path without its last component; the root for the root.
    pub(crate) fn parent(&self) -> &[u8] {
        split(&self.0).0
    }

    /// The components, first to last.
    pub(crate) fn components(&self) -> impl Iterator<Item = &[u8]> {
        components(&self.0)
    }

    /// The same directory, another name in it. `name` must be a clean component.
    pub(crate) fn with_name(&self, name: &[u8]) -> Self {
        Self(join(self.parent(), name))
    }

    /// The parent as a path of its own.
    pub(crate) fn to_parent(&self) -> Self {
        Self(self.parent().to_vec())
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

/// Splits a clean path into its parent and its last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// The components of a clean path.
pub(crate) fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|part| !part.is_empty())
}

/// Joins a clean path and a component.
pub(crate) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    path.extend_from_slice(parent);
    if !parent.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// How many characters of a name are shown.
const SHOWN: usize = 512;

/// Bytes from outside as a line of printable text: control and format characters (which steer terminals or turn
/// the reading direction), backslashes and invalid UTF-8 are escaped; long ones cut.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() || is_format(c) => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
        if text.len() > SHOWN {
            let end = (0..=SHOWN).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            text.truncate(end);
            text.push('…');
            break;
        }
    }
    if text.is_empty() { "/".to_owned() } else { text }
}

/// Invisible characters that change how others are shown.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(raw: &[u8]) -> Result<Vec<u8>, PathError> {
        TreePath::clean(raw, &Limits::default()).map(|path| path.0)
    }

    #[test]
    fn names_are_cleaned() {
        for (raw, expected) in [
            ("./a//b/./c/", "a/b/c"),
            ("/etc/x", "etc/x"),
            ("./", ""),
            ("/", ""),
            ("/.", ""),
            ("...", "..."),
            ("-x/..y", "-x/..y"),
        ] {
            assert_eq!(clean(raw.as_bytes()), Ok(expected.as_bytes().to_vec()), "{raw}");
        }
        assert_eq!(clean(b"\xff\n/b"), Ok(b"\xff\n/b".to_vec()));
    }

    #[test]
    fn bad_names_are_refused() {
        assert_eq!(clean(b""), Err(PathError::Empty));
        for raw in ["..", "../x", "/../x", "a/..", "a/../b"] {
            assert_eq!(clean(raw.as_bytes()), Err(PathError::DotDot), "{raw}");
        }
        assert_eq!(clean(b"a\0b"), Err(PathError::Nul));
        assert!(clean(&[b'a'; 255]).is_ok());
        assert!(matches!(clean(&[b'a'; 256]), Err(PathError::NameTooLong { len: 256, .. })));
        assert!(matches!(clean(&b"a/".repeat(16_385)), Err(PathError::TooDeep { .. })));
        assert!(matches!(clean(&b"aaaaaaa/".repeat(8193)), Err(PathError::TooLong { .. })));
    }

    #[test]
    fn shown_names_cannot_steer_a_terminal() {
        assert_eq!(escape(b"a\n\x1b[2J\\\xff"), "a\\n\\u{1b}[2J\\\\\\xff");
        assert_eq!(escape("x\u{202e}y".as_bytes()), "x\\u{202e}y");
        assert!(escape(&[b'a'; 10_000]).len() < 600);
    }
}
