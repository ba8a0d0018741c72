//! [`World`]: a root file system of nothing, in namespaces of its own, in which every change outside the destination is seen.
//!
//! The process enters a user and a mount namespace and changes its root to a tmpfs, with only the directories of its own
//! arguments (corpus, artifacts) bound into it. So an unpacker that follows `/etc/f`, `../victim` or `/proc/self/cwd` out of
//! its destination harms nobody, and is caught.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};
use vesselrt_fixtures::archive::{Archive, Item};
use vesselrt_runtime::layer::{Dialect, IdPolicy, TreeFormat, UnpackOptions, remove_tree, unpack};

/// Files of the world besides directories. Every one is what some layer of the corpus aims at.
const FILES: [&str; 8] = [
    "victim/x",
    "victim/sub/y",
    "etc/passwd",
    "etc/f",
    "tmp/breakout",
    "x",
    "work/dest-evil/secret",
    "proc/self/cwd/f",
];

/// The world, and how it was at the beginning.
#[derive(Debug)]
pub struct World {
    work: OwnedFd,
    lower: OwnedFd,
    before: BTreeMap<PathBuf, [u64; 8]>,
}

/// What can be seen of a file; a change of anything changes its ctime.
fn look(path: &Path) -> [u64; 8] {
    let meta = fs::symlink_metadata(path).expect("what was listed is there");
    let time =
        |seconds: i64, nanos: i64| (seconds as u64).wrapping_mul(1_000_000_000).wrapping_add(nanos as u64);
    [
        meta.ino(),
        u64::from(meta.mode()),
        u64::from(meta.uid()),
        u64::from(meta.gid()),
        meta.nlink(),
        meta.size(),
        time(meta.mtime(), meta.mtime_nsec()),
        time(meta.ctime(), meta.ctime_nsec()),
    ]
}

fn list(root: &Path, skip: &[PathBuf]) -> BTreeMap<PathBuf, [u64; 8]> {
    let mut all = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        if path == Path::new("/work") {
            // The destination comes and goes here.
            let names =
                fs::read_dir(&path).expect("work is there").map(|entry| entry.expect("an entry").path());
            left.extend(names.filter(|name| !name.ends_with("dest")));
            continue;
        }
        if skip.contains(&path) {
            continue;
        }
        let seen = look(&path);
        if seen[1] & 0o170_000 == 0o040_000 {
            left.extend(
                fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()),
            );
        }
        all.insert(path, seen);
    }
    all
}

/// The directories that libFuzzer needs: all that its arguments name, and the current one.
fn needed() -> Vec<PathBuf> {
    let named = std::env::args().skip(1).map(|arg| match arg.split_once('=') {
        Some((_, value)) => PathBuf::from(value),
        None => PathBuf::from(arg),
    });
    let mut all: Vec<PathBuf> = named
        .chain([std::env::current_dir().expect("a current directory")])
        .filter_map(|path| fs::canonicalize(if path.is_dir() { &path } else { path.parent()? }).ok())
        .filter(|path| path != Path::new("/"))
        .collect();
    all.sort();
    all.dedup();
    // What is in another of them comes with it.
    let outer = all.clone();
    all.retain(|path| !outer.iter().any(|other| path != other && path.starts_with(other)));
    all
}

impl World {
    /// Enters the namespaces and makes the world. For the only thread of a process.
    ///
    /// # Panics
    /// When the machine has no user namespaces for this user.
    #[must_use]
    pub fn enter() -> Self {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let here = std::env::current_dir().expect("a current directory");
        let needed = needed();
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).expect("a user namespace");
        fs::write("/proc/self/setgroups", "deny").expect("setgroups");
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).expect("uid_map");
        fs::write("/proc/self/gid_map", format!("0 {gid} 1")).expect("gid_map");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
        mount(Some("world"), "/mnt", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).expect("a tmpfs");
        for dir in &needed {
            let inside = Path::new("/mnt").join(dir.strip_prefix("/").expect("canonical"));
            fs::create_dir_all(&inside).expect("a mount point");
            mount(Some(dir), &inside, none, MsFlags::MS_BIND, none).expect("a bind mount");
        }
        nix::unistd::chroot("/mnt").expect("chroot");
        std::env::set_current_dir(&here).expect("the current directory is bound");
        Self::make(&needed)
    }

    fn make(bound: &[PathBuf]) -> Self {
        for file in FILES {
            let path = Path::new("/").join(file);
            fs::create_dir_all(path.parent().expect("it has one")).expect("a directory of the world");
            fs::write(path, "untouched").expect("a file of the world");
        }
        symlink("x", "/victim/link").expect("a link of the world");
        fs::create_dir("/lower").expect("the lower layer");
        let open = |path: &str| {
            rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .expect("open")
        };
        let lower = open("/lower");
        let options = UnpackOptions::new(Dialect::Plain, TreeFormat::Plain, IdPolicy::Ignore);
        unpack(&lower_layer()[..], lower.as_fd(), &[], &options).expect("the lower layer is sound");
        // Mount points change nothing any more, what is in them does.
        let skip: Vec<PathBuf> = bound.to_vec();
        let before = list(Path::new("/"), &skip);
        BOUND.set(skip).expect("one world per process");
        Self { work: open("/work"), lower, before }
    }

    /// Unpacks into an empty directory of the world and checks that nothing else has changed.
    ///
    /// # Panics
    /// When something outside was touched, or something inside steers the overlay.
    pub fn unpack(&self, tar: &[u8], options: &UnpackOptions, on_lower: bool) {
        fs::create_dir("/work/dest").expect("the destination was removed");
        let dest = File::open("/work/dest").expect("open the destination");
        let lowers = if on_lower { vec![self.lower.as_fd()] } else { Vec::new() };
        let unpacked = unpack(tar, dest.as_fd(), &lowers, options);
        self.check();
        if unpacked.is_ok() {
            inspect(options);
        }
        self.clean();
    }

    /// Nothing outside the destination has changed.
    ///
    /// # Panics
    /// When something has.
    pub fn check(&self) {
        let now = list(Path::new("/"), BOUND.get().expect("set when the world was made"));
        for (path, seen) in &now {
            assert_eq!(self.before.get(path), Some(seen), "{path:?} was changed or added");
        }
        assert_eq!(now.len(), self.before.len(), "something was removed");
    }

    /// Removes the destination.
    ///
    /// # Panics
    /// When it cannot.
    pub fn clean(&self) {
        remove_tree(self.work.as_fd(), "dest".as_ref()).expect("the destination can be removed");
    }
}

static BOUND: std::sync::OnceLock<Vec<PathBuf>> = std::sync::OnceLock::new();

/// A layer below, with links that lead astray.
fn lower_layer() -> Vec<u8> {
    let items = [
        Item::dir("etc"),
        Item::file("etc/passwd", "root"),
        Item::symlink("l", "/victim"),
        Item::symlink("up", "../../victim"),
        Item::dir("d"),
        Item::file("d/f", "f"),
        Item::file("f", "f"),
        Item::symlink("d/loop", "loop"),
    ];
    Archive::new().all(&items).finish()
}

/// No attribute in an overlay's layer but `opaque` steers it, however the archive called it.
fn inspect(options: &UnpackOptions) {
    if options.format != TreeFormat::Overlay {
        return;
    }
    let mut left = vec![PathBuf::from("/work/dest")];
    let mut budget = 200;
    while let Some(path) = left.pop() {
        budget -= 1;
        if budget == 0 {
            return;
        }
        for name in attributes(&path) {
            let steers = name.starts_with("user.overlay.") && !name.starts_with("user.overlay.overlay.");
            assert!(!steers || name == "user.overlay.opaque", "{path:?} has {name}");
            assert!(!name.starts_with("trusted."), "{path:?} has {name}");
        }
        if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
            left.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
}

fn attributes(path: &Path) -> Vec<String> {
    let mut names = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = String::from_utf8_lossy(&names[..len]).into_owned();
    names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
