//! Doors for the fuzz targets (`fuzz/`) to what is otherwise private. No part of the API, and without any logic of its own.
#![forbid(unsafe_code)]

use crate::layer::entry::{Op, Rules, plan};
use crate::layer::path::TreePath;
use crate::layer::tar::TarReader;
use crate::layer::{Dialect, IdPolicy, Limits, ParseError, TreeFormat};

/// What became of an archive that was read to its end or to its first error, without touching a file system.
#[derive(Debug, Default)]
pub struct Judged {
    /// Entries that would be unpacked.
    pub accepted: u64,
    /// Entries that are refused.
    pub refused: u64,
    /// Why reading ended before the archive did.
    pub error: Option<ParseError>,
}

/// Reads all entries of an archive as it comes in pieces, and judges each.
///
/// # Panics
/// When an entry has more payload than it announced, or a plan names a path that is none: the laws that the fuzz targets
/// look for violations of.
#[must_use]
pub fn judge(tar: &[u8], dialect: Dialect, format: TreeFormat) -> Judged {
    let limits = Limits::default();
    let rules = Rules { dialect, format, ids: IdPolicy::Keep { count: 65_536 }, limits };
    let mut reader = TarReader::new(tar, limits, false);
    let mut judged = Judged::default();
    loop {
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => return judged,
            Err(error) => {
                judged.error = Some(error);
                return judged;
            }
        };
        let (stored, mut seen) = (entry.stored, 0);
        while let Ok(data) = reader.data() {
            let len = data.len();
            if len == 0 {
                break;
            }
            seen += len as u64;
            reader.consume(len);
        }
        assert!(seen <= stored, "{seen} bytes of {stored}");
        match plan(entry, &rules) {
            Ok(planned) => {
                assert_inside(&planned.op);
                judged.accepted += 1;
            }
            Err(_) => judged.refused += 1,
        }
    }
}

/// Every path of a plan is clean, whoever made it.
fn assert_inside(op: &Op) {
    let paths: [Option<&TreePath>; 2] = match op {
        Op::Directory { path, .. }
        | Op::File { path, .. }
        | Op::Symlink { path, .. }
        | Op::Fifo { path, .. }
        | Op::Whiteout { path } => [Some(path), None],
        Op::Hardlink { path, target } => [Some(path), Some(target)],
        Op::Opaque { directory } => [Some(directory), None],
        Op::Nothing => [None, None],
    };
    for path in paths.into_iter().flatten() {
        let bytes = path.as_bytes();
        let bad = |part: &[u8]| matches!(part, b"" | b"." | b"..") || part.contains(&0) || part.len() > 255;
        assert!(bytes.is_empty() || !bytes.split(|&b| b == b'/').any(bad), "{path} is no clean path");
    }
}
