//! What a layer lost on its way, and how that is reported: bounded lists and exact counts.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::path::escape;

/// How many warnings of a kind are kept in full, so that a flood of one does not hide another. All are counted.
const KEPT: u64 = 16;

/// What kind of thing was left out or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WarningKind {
    /// A device node: no user namespace can make one.
    DeviceSkipped,
    /// A socket: it means nothing without its process.
    SocketSkipped,
    /// An extended attribute that is never carried (other namespaces, other overlay drivers' private ones).
    XattrDropped,
    /// An extended attribute that the kernel or the file system did not let us set.
    XattrDenied,
    /// An owner that was changed to 0 because only one id is mapped.
    OwnerSquashed,
    /// Whiteouts that had nothing to hide in the tree they were unpacked to.
    WhiteoutIgnored,
}

impl fmt::Display for WarningKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DeviceSkipped => "device skipped",
            Self::SocketSkipped => "socket skipped",
            Self::XattrDropped => "attribute dropped",
            Self::XattrDenied => "attribute refused by the file system",
            Self::OwnerSquashed => "owner changed to root",
            Self::WhiteoutIgnored => "whiteout ignored",
        })
    }
}

/// One thing that was left out or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What happened.
    pub kind: WarningKind,
    /// To what: the path, escaped for display.
    pub path: String,
    /// The name of the attribute, escaped; empty where there is none.
    pub detail: String,
}

impl Warning {
    pub(crate) fn new(kind: WarningKind, path: &[u8], detail: &[u8]) -> Self {
        let detail = if detail.is_empty() { String::new() } else { escape(detail) };
        Self { kind, path: escape(path), detail }
    }
}

impl Warning {
    /// What it is about: the path, and the attribute if there is one.
    #[must_use]
    pub fn subject(&self) -> String {
        if self.detail.is_empty() { self.path.clone() } else { format!("{} ({})", self.path, self.detail) }
    }
}

/// All warnings of one run: the first of every kind in full, every one counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warnings {
    list: Vec<Warning>,
    counts: BTreeMap<WarningKind, u64>,
}

impl Warnings {
    /// The first warnings, at most 16 of a kind.
    #[must_use]
    pub fn list(&self) -> &[Warning] {
        &self.list
    }

    /// How often each kind occurred.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<WarningKind, u64> {
        &self.counts
    }

    /// How often `kind` occurred.
    #[must_use]
    pub fn count(&self, kind: WarningKind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub(crate) fn push(&mut self, warning: Warning) {
        let count = self.counts.entry(warning.kind).or_default();
        *count += 1;
        if *count <= KEPT {
            self.list.push(warning);
        }
    }
}

/// What an unpacked archive amounted to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpackReport {
    /// Entries read.
    pub entries: u64,
    /// Bytes of file content written, holes not counted.
    pub bytes: u64,
    /// What was left out or changed.
    pub warnings: Warnings,
}

/// What a packed tree amounted to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackReport {
    /// Entries written.
    pub entries: u64,
    /// Bytes of the archive.
    pub size: u64,
    /// What was left out.
    pub warnings: Warnings,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_warnings_is_counted_and_not_kept() {
        let mut warnings = Warnings::default();
        for _ in 0..100_000 {
            warnings.push(Warning::new(WarningKind::DeviceSkipped, b"dev/x\n", b""));
        }
        assert_eq!(warnings.count(WarningKind::DeviceSkipped), 100_000);
        warnings.push(Warning::new(WarningKind::SocketSkipped, b"s", b""));
        assert_eq!(warnings.list().len() as u64, KEPT + 1);
        assert_eq!(warnings.list()[0].path, "dev/x\\n");
    }
}
