//! What of the host a process and all that it started have: counted before and after.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::testkit::leftovers::{contains, entries};

/// What there is, each by a name of its own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Count {
    /// Processes below this one, itself left out.
    pub(super) processes: BTreeSet<String>,
    /// Mounts below the store, in whatever namespace a process of ours or this one is.
    pub(super) mounts: BTreeSet<String>,
    /// Control groups of vessels of the store.
    pub(super) groups: BTreeSet<PathBuf>,
    /// Namespaces of this process and those below it, by kind and inode.
    pub(super) namespaces: BTreeSet<PathBuf>,
    /// Unix sockets that are bound below the store, and sockets that processes of ours have.
    pub(super) sockets: BTreeSet<String>,
    /// Descriptors of this process.
    pub(super) descriptors: usize,
}

impl Count {
    /// Of the store at `root`, whose vessels have ids with `mark` in them. Children that have ended are reaped.
    pub(super) fn now(root: &Path, mark: &str) -> Self {
        while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
        let own = descendants(std::process::id());
        let all = || own.iter().map(|pid| format!("/proc/{pid}")).chain(["/proc/self".to_owned()]);
        let root = root.to_str().unwrap();
        Self {
            processes: own.iter().map(|pid| describe(*pid)).collect(),
            mounts: all().flat_map(|process| lines(&format!("{process}/mountinfo"), root)).collect(),
            groups: groups(mark),
            namespaces: all().flat_map(|process| links(&format!("{process}/ns"))).collect(),
            sockets: all()
                .flat_map(|process| links(&format!("{process}/fd")))
                .filter(|target| target.to_string_lossy().starts_with("socket:"))
                .map(|target| target.to_string_lossy().into_owned())
                .chain(lines("/proc/net/unix", root))
                .collect(),
            descriptors: links("/proc/self/fd").len(),
        }
    }
}

/// Everything that was started by `pid` or by something that it started, while `pid` is who orphans are given to.
pub(super) fn descendants(pid: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for process in entries(Path::new("/proc")) {
        let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
        let number = process.file_name().and_then(|name| name.to_str()?.parse().ok());
        // The name in parentheses may have anything in it (proc_pid_stat(5)).
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let (Some(number), Some(parent)) = (number, parent) {
            children.entry(parent).or_default().push(number);
        }
    }
    let (mut found, mut next) = (Vec::new(), vec![pid]);
    while let Some(pid) = next.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        next.extend(&below);
        found.extend(below);
    }
    found
}

fn describe(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {}", String::from_utf8_lossy(&line).replace('\0', " "))
}

fn lines(path: &str, part: &str) -> Vec<String> {
    let text = fs::read(path).unwrap_or_default();
    let lines = text.split(|&byte| byte == b'\n').filter(|line| contains(line, part.as_bytes()));
    lines.map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}

fn links(dir: &str) -> Vec<PathBuf> {
    entries(Path::new(dir)).iter().filter_map(|link| fs::read_link(link).ok()).collect()
}

fn groups(mark: &str) -> BTreeSet<PathBuf> {
    let (mut found, mut dirs) = (BTreeSet::new(), vec![PathBuf::from("/sys/fs/cgroup")]);
    while let Some(dir) = dirs.pop() {
        for entry in entries(&dir).into_iter().filter(|path| path.is_dir() && !path.is_symlink()) {
            if entry.file_name().is_some_and(|name| contains(name.as_encoded_bytes(), mark.as_bytes())) {
                found.insert(entry.clone());
            }
            dirs.push(entry);
        }
    }
    found
}
