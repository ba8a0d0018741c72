//! What this host can and cannot do, and what to do about it.
//!
//! Every check reads a few facts and judges them by a pure function; nothing is changed or mounted. Whether an overlay
//! really mounts is found by the caller, in a user namespace, and handed in with [`CheckInput`].
#![forbid(unsafe_code)]

mod cgroups;
mod fuse;
pub mod helper;
mod ids;
mod kernel;
mod network;
mod store;

use std::path::Path;

use serde::Serialize;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, with less: `found` says what is missing.
    Warn,
    /// Vessels cannot run, or not safely.
    Fail,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name for programs: `user-namespaces`.
    pub id: &'static str,
    /// Name for people.
    pub title: &'static str,
    /// How it ended.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// The exact commands that change it, or what else to do; never with [`Status::Ok`].
    pub remedy: Option<String>,
}

impl Check {
    fn new(id: &'static str, title: &'static str, verdict: Verdict) -> Self {
        let Verdict { status, found, remedy } = verdict;
        Self { id, title, status, found, remedy }
    }
}

/// What only the caller can try.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckInput {
    /// Whether an overlay with `userxattr` could be mounted in a user namespace on the store's file system; the error
    /// if not. `None`: not tried.
    pub overlay_mount: Option<Result<(), String>>,
}

/// The judgement of a check.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    status: Status,
    found: String,
    remedy: Option<String>,
}

impl Verdict {
    fn ok(found: impl Into<String>) -> Self {
        Self { status: Status::Ok, found: found.into(), remedy: None }
    }

    fn warn(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status: Status::Warn, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn fail(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status: Status::Fail, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// Runs every check for the user of this process; `store` is the root directory of the store, which may not exist yet.
#[must_use]
pub fn probe(store: &Path, input: &CheckInput) -> Vec<Check> {
    let uid = rustix::process::geteuid().as_raw();
    let store = store::read(store);
    let network = network::read();
    vec![
        Check::new("kernel", "Linux kernel", kernel::version(&kernel::release())),
        Check::new("user-namespaces", "User namespaces", kernel::user_namespaces(&kernel::read(), uid)),
        Check::new("apparmor", "AppArmor restriction", kernel::apparmor(&kernel::read(), uid, input)),
        Check::new("subordinate-ids", "Subordinate ids", ids::ranges(&ids::read(uid), uid)),
        Check::new("id-map-helpers", "newuidmap and newgidmap", ids::helpers(&ids::read_helpers(), uid)),
        Check::new("overlay", "Kernel overlayfs", kernel::overlay(&kernel::filesystems(), input)),
        Check::new("fuse-overlayfs", "fuse-overlayfs (fallback)", fuse::check(&fuse::read(), input)),
        Check::new("cgroups", "Control groups", cgroups::check(&cgroups::read())),
        Check::new("network-program", "pasta or slirp4netns", network::program(&network)),
        Check::new("network-device", "Device for networks", network::device(&network)),
        Check::new("store-filesystem", "File system of the store", store::filesystem(&store)),
        Check::new("store-directory", "Directory of the store", store::directory(&store, uid)),
        Check::new("store-space", "Space for the store", store::space(&store)),
    ]
}

/// A small file of /proc or /sys, trimmed; `None` if it is missing or cannot be read.
fn read_trimmed(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_answers_on_this_host() {
        let dir = tempfile::tempdir().unwrap();
        let checks = probe(dir.path(), &CheckInput { overlay_mount: Some(Ok(())) });
        let mut ids: Vec<_> = checks.iter().map(|check| check.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 13);
        for check in &checks {
            assert!(!check.found.is_empty(), "{check:?}");
            assert_eq!(check.remedy.is_some(), check.status != Status::Ok, "{check:?}");
        }
        let overlay = checks.iter().find(|check| check.id == "overlay").unwrap();
        assert_eq!(overlay.status, Status::Ok);
    }

    #[test]
    fn a_check_is_serialised_with_lower_case_states() {
        let check = Check::new("x", "X", Verdict::warn("found", "do this"));
        let json = serde_json::to_string(&check).unwrap();
        assert_eq!(json, r#"{"id":"x","title":"X","status":"warn","found":"found","remedy":"do this"}"#);
        assert!(Status::Ok < Status::Warn && Status::Warn < Status::Fail);
    }
}
