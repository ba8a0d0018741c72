//! Subordinate ids and the helpers that map them.
#![forbid(unsafe_code)]

use super::Verdict;
use super::helper::{Helper, HelperError, find};
use crate::subid::{IdRange, SubIdError, SubIds, login_name, subid_ranges};

/// Ids that images expect: 0 to 65535.
const WANTED: u64 = 65_536;

/// What the ranges of a user were found to be.
#[derive(Debug)]
pub(super) struct Ids {
    pub(super) user: String,
    pub(super) ranges: Result<SubIds, SubIdError>,
    /// First id that no line of either file has, where a new range can start.
    pub(super) free: u64,
}

pub(super) fn read(uid: u32) -> Ids {
    let name = login_name(uid);
    let ranges = subid_ranges(name.as_deref(), uid);
    let files =
        [crate::subid::SUBUID, crate::subid::SUBGID].map(|path| std::fs::read(path).unwrap_or_default());
    Ids { user: name.unwrap_or_else(|| uid.to_string()), ranges, free: free_start(&files.concat()) }
}

/// The first multiple of 65536 from 100000 on, as useradd(8) counts, after every range of the text.
fn free_start(text: &[u8]) -> u64 {
    let end_of = |line: &str| {
        let mut fields = line.split(':').skip(1);
        let (start, count): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        start.checked_add(count)
    };
    let used = String::from_utf8_lossy(text).lines().filter_map(end_of).max().unwrap_or(0);
    100_000 + used.saturating_sub(100_000).div_ceil(WANTED) * WANTED
}

fn total(ranges: &[IdRange]) -> u64 {
    ranges.iter().map(|range| u64::from(range.count)).sum()
}

pub(super) fn ranges(ids: &Ids, uid: u32) -> Verdict {
    if uid == 0 {
        return Verdict::ok("not needed by root, which maps a range of its own");
    }
    let Ids { user, ranges, free } = ids;
    let last = free + WANTED - 1;
    let remedy = format!("sudo usermod --add-subuids {free}-{last} --add-subgids {free}-{last} {user}");
    match ranges {
        Err(error) => {
            let cause =
                std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
            Verdict::fail(
                format!("{error}{cause}"),
                "correct the file (subuid(5)), or remove the line and: ".to_owned() + &remedy,
            )
        }
        Ok(ranges) => match (total(&ranges.uids), total(&ranges.gids)) {
            (0, _) | (_, 0) => Verdict::warn(
                format!("none for {user}: vessels have root alone; other users, apt and su fail in them"),
                remedy,
            ),
            (uids, gids) if uids.min(gids) < WANTED - 1 => {
                Verdict::warn(format!("{uids} uids and {gids} gids for {user}: images expect 65536"), remedy)
            }
            (uids, gids) => Verdict::ok(format!("{uids} uids and {gids} gids for {user}")),
        },
    }
}

/// newuidmap and newgidmap.
pub(super) type Helpers = [Result<Helper, HelperError>; 2];

pub(super) fn read_helpers() -> Helpers {
    ["newuidmap", "newgidmap"].map(find)
}

pub(super) fn helpers(helpers: &Helpers, uid: u32) -> Verdict {
    const INSTALL: &str =
        "sudo apt-get install uidmap (Debian, Ubuntu); sudo dnf install shadow-utils (Fedora)";
    if uid == 0 {
        return Verdict::ok("not needed by root");
    }
    let problems: Vec<String> = helpers
        .iter()
        .filter_map(|helper| match helper {
            Ok(helper) if helper.privileged => None,
            Ok(helper) => {
                Some(format!("{} has neither the setuid bit nor capabilities", helper.path.display()))
            }
            Err(error) => Some(error.to_string()),
        })
        .collect();
    match helpers {
        [Ok(one), Ok(other)] if problems.is_empty() => {
            Verdict::ok(format!("{} and {}", one.path.display(), other.path.display()))
        }
        [Ok(one), Ok(other)] => {
            let (one, other) = (one.path.display(), other.path.display());
            Verdict::warn(problems.join("; "), format!("sudo chmod u+s {one} {other}"))
        }
        _ => Verdict::warn(problems.join("; "), INSTALL),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status::{Fail, Ok as Good, Warn};
    use super::*;
    use crate::subid::LineError;

    fn ids(uids: &[u32], gids: &[u32]) -> Ids {
        let ranges = |counts: &[u32]| counts.iter().map(|&count| IdRange { start: 1, count }).collect();
        Ids {
            user: "ann".into(),
            ranges: Ok(SubIds { uids: ranges(uids), gids: ranges(gids) }),
            free: 165_536,
        }
    }

    #[test]
    fn ranges_by_size() {
        assert_eq!(ranges(&ids(&[65536], &[65536]), 1000).status, Good);
        assert_eq!(ranges(&ids(&[40000, 30000], &[65535]), 1000).status, Good);
        assert_eq!(ranges(&ids(&[1000], &[65536]), 1000).status, Warn);
        assert_eq!(ranges(&ids(&[], &[]), 0).status, Good);
        let none = ranges(&ids(&[65536], &[]), 1000);
        assert_eq!(none.status, Warn);
        let remedy = "sudo usermod --add-subuids 165536-231071 --add-subgids 165536-231071 ann";
        assert_eq!(none.remedy.unwrap(), remedy);
    }

    #[test]
    fn a_broken_line_is_told_with_its_cause() {
        let error = SubIdError::Line { path: "/etc/subuid".into(), line: 3, source: LineError::Number };
        let verdict = ranges(&Ids { ranges: Err(error), ..ids(&[], &[]) }, 1000);
        assert_eq!(verdict.status, Fail);
        assert!(verdict.found.contains("line 3: start or count"), "{}", verdict.found);
    }

    #[test]
    fn a_new_range_starts_after_all_others() {
        assert_eq!(free_start(b""), 100_000);
        assert_eq!(free_start(b"a:100000:65536\n"), 165_536);
        assert_eq!(free_start(b"a:100000:65536\nb:165536:65537\nx\nroot:1:2"), 296_608);
    }

    #[test]
    fn helpers_must_be_there_and_privileged() {
        let good = |privileged| Ok(Helper { path: "/usr/bin/newuidmap".into(), privileged });
        let gone = || Err(HelperError::NotFound { name: "newuidmap".into() });
        assert_eq!(helpers(&[good(true), good(true)], 1000).status, Good);
        assert!(helpers(&[good(true), good(false)], 1000).remedy.unwrap().contains("chmod u+s"));
        assert!(helpers(&[gone(), good(true)], 1000).remedy.unwrap().contains("uidmap"));
        assert_eq!(helpers(&[gone(), gone()], 0).status, Good);
    }
}
