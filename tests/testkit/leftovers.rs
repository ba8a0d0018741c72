//! What a test must not leave behind: processes, mounts, locks, half-made and half-removed directories.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

/// A shim that nobody uses any more is gone after this time.
const LEAVING: Duration = Duration::from_secs(15);

/// Waits until no process uses anything below `dir`.
pub(crate) fn none_in_use(dir: &Path) {
    let start = Instant::now();
    loop {
        let users = users_of(dir);
        if users.is_empty() {
            return;
        }
        assert!(start.elapsed() < LEAVING, "still in use after {LEAVING:?}: {users:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Who uses something below `dir`: processes with a directory, a file or a mount of it, holders of a vessel's lock.
pub(crate) fn users_of(dir: &Path) -> Vec<String> {
    let mut users = locked(&dir.join("store/vessels"));
    for process in processes() {
        let uses = uses(&process, dir);
        if !uses.is_empty() {
            users.push(format!("{} uses {uses:?}", describe(&process)));
        }
    }
    users
}

/// The processes whose command line or name contains `text`.
pub(crate) fn processes_named(text: &str) -> Vec<String> {
    processes().iter().map(|process| describe(process)).filter(|name| name.contains(text)).collect()
}

fn processes() -> Vec<PathBuf> {
    let numbers = |name: &OsStr| name.as_bytes().iter().all(u8::is_ascii_digit);
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter(|entry| numbers(&entry.file_name())).map(|entry| entry.path()).collect()
}

fn describe(process: &Path) -> String {
    let command = fs::read(process.join("cmdline")).unwrap_or_default();
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    let stat: Vec<&str> = stat.split(' ').take(4).collect();
    format!("{} {}", stat.join(" "), String::from_utf8_lossy(&command).replace('\0', " "))
}

/// What of `dir` a process has. Processes of others that may not be looked into show their mounts only.
fn uses(process: &Path, dir: &Path) -> Vec<PathBuf> {
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let links = ["cwd", "root", "exe"].map(|name| process.join(name)).into_iter();
    let mut used: Vec<PathBuf> = links
        .chain(descriptors.map(|entry| entry.path()))
        .filter_map(|link| fs::read_link(link).ok())
        .filter(|target| target.starts_with(dir))
        .collect();
    let mounts = fs::read(process.join("mountinfo")).unwrap_or_default();
    if contains(&mounts, dir.as_os_str().as_bytes()) {
        used.push("(mounted)".into());
    }
    used
}

pub(crate) fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// A shim holds the lock of its vessel as long as it lives, whatever else of it can be seen.
fn locked(vessels: &Path) -> Vec<String> {
    let locks = fs::read_dir(vessels).into_iter().flatten().flatten().map(|entry| entry.path().join("lock"));
    let held = |path: &PathBuf| {
        let Ok(file) = File::open(path) else { return false };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
    };
    locks.filter(held).map(|path| format!("{path:?} is locked")).collect()
}

/// Waits until no shim holds the lock of a vessel in the directory `vessels`.
pub(crate) fn none_locked(vessels: &Path) {
    super::wait_until("no vessel is locked", || locked(vessels).is_empty());
}

/// Nothing half-made or half-removed is in the store at `root`.
pub(crate) fn none_staged(root: &Path) {
    let left = staged(root);
    assert!(left.is_empty(), "left behind: {left:#?}");
}

fn staged(root: &Path) -> Vec<PathBuf> {
    let mut left = Vec::new();
    for dir in ["", "vessels", "layers", "images", "images/layers", "data"] {
        let names =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".staging"));
        left.extend(entries(&root.join(dir)).into_iter().filter(names));
    }
    for dir in ["trash", "staging"] {
        let locks = |path: &PathBuf| path.file_name().is_some_and(|name| name == ".lock");
        left.extend(entries(&root.join(dir)).into_iter().filter(|path| !locks(path)));
    }
    left
}

/// The paths in a directory; none when there is no such directory.
pub(crate) fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort_unstable();
    paths
}
