//! The id maps of a new user namespace: which ids this user can have, and writing them.
//!
//! Sources: user_namespaces(7), newuidmap(1).
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::{LaunchError, step};
use crate::idmap::{Extent, IdMapping};
use crate::subid::{self, IdRange};

/// First host id of real root's vessels. systemd leaves 0x70000000..0x7ffeffff to nobody (its UIDS-GIDS document),
/// and the tables of subordinate ids begin at 100000 and end at 600100000: nothing else lives there.
const ROOT_BASE: u32 = 0x7000_0000;
/// Ids of a vessel of real root: what an image may name.
const ROOT_COUNT: u32 = 65536;

/// The mapping that this user can have on this host: all of the user's subordinate ids where there are any and
/// `newuidmap`/`newgidmap` are installed, one id otherwise; for real root a high range of its own.
///
/// # Errors
/// [`LaunchError::Start`] when the tables of subordinate ids cannot be read.
pub fn host_mapping() -> Result<IdMapping, LaunchError> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if uid == 0 {
        let all = vec![Extent { inside: 0, outside: ROOT_BASE, count: ROOT_COUNT }];
        return Ok(IdMapping { uids: all.clone(), gids: all });
    }
    let helpers = helper("newuidmap").is_some() && helper("newgidmap").is_some();
    let ranges = subid::subid_ranges(subid::login_name(uid).as_deref(), uid)
        .map_err(|e| step("read the subordinate ids", std::io::Error::other(e)))?;
    if !helpers || ranges.uids.is_empty() || ranges.gids.is_empty() {
        return Ok(IdMapping { uids: extents(uid, &[]), gids: extents(gid, &[]) });
    }
    Ok(IdMapping { uids: extents(uid, &ranges.uids), gids: extents(gid, &ranges.gids) })
}

/// The user's own id is root inside; the subordinate ranges follow without gaps.
fn extents(own: u32, ranges: &[IdRange]) -> Vec<Extent> {
    let mut next = 1;
    let mut extents = vec![Extent { inside: 0, outside: own, count: 1 }];
    for range in ranges {
        extents.push(Extent { inside: next, outside: range.start, count: range.count });
        next += range.count;
    }
    extents
}

/// Writes the maps of the process `pid`, which has entered a new user namespace and waits.
pub(super) fn write(pid: u32, ids: &IdMapping) -> Result<(), LaunchError> {
    if rustix::process::geteuid().is_root() || ids.is_single() {
        write_directly(pid, ids)
    } else {
        run_helper("newuidmap", pid, &ids.uids)?;
        run_helper("newgidmap", pid, &ids.gids)
    }
}

fn write_directly(pid: u32, ids: &IdMapping) -> Result<(), LaunchError> {
    for (file, extents) in [("gid_map", &ids.gids), ("uid_map", &ids.uids)] {
        let path = format!("/proc/{pid}/{file}");
        let lines: String =
            extents.iter().map(|e| format!("{} {} {}\n", e.inside, e.outside, e.count)).collect();
        fs::write(&path, lines).map_err(|e| step(format!("write {path}"), e))?;
    }
    Ok(())
}

fn run_helper(name: &str, pid: u32, extents: &[Extent]) -> Result<(), LaunchError> {
    let program = helper(name).ok_or_else(|| LaunchError::Unsupported {
        what: format!("{name} is not installed, but this store was made with it"),
        remedy: "install the package uidmap (shadow-utils)".to_owned(),
    })?;
    let numbers = extents.iter().flat_map(|e| [e.inside, e.outside, e.count]).map(|n| n.to_string());
    let output = Command::new(&program)
        .arg(pid.to_string())
        .args(numbers)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|e| step(format!("run {}", program.display()), e))?;
    if output.status.success() { Ok(()) } else { Err(refused(name, extents, &output)) }
}

fn refused(name: &str, extents: &[Extent], output: &Output) -> LaunchError {
    let said = String::from_utf8_lossy(&output.stderr);
    LaunchError::Unsupported {
        what: format!("{name} refused the map {extents:?}: {}", said.trim()),
        remedy: format!(
            "check that /etc/subuid and /etc/subgid give this user the ranges and that {name} is set-uid root or has \
             its file capability"
        ),
    }
}

/// Where a helper program is installed: in the system's own directories only, whatever `PATH` says.
pub(crate) fn helper(name: &str) -> Option<PathBuf> {
    crate::doctor::helper::find(name).ok().map(|found| found.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_id_is_root_and_ranges_follow_without_gaps() {
        let ranges = [IdRange { start: 100_000, count: 65536 }, IdRange { start: 500_000, count: 10 }];
        let extents = extents(1001, &ranges);
        let mapping = IdMapping { uids: extents.clone(), gids: extents.clone() };
        assert_eq!(mapping.root(), (1001, 1001));
        assert_eq!(mapping.count(), 1 + 65536 + 10);
        assert_eq!(extents[2], Extent { inside: 65537, outside: 500_000, count: 10 });
    }
}
