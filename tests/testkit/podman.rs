//! podman with a storage beside the store, as whichever user the tests have.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};

use super::listing::{self, Tree};
use super::tools::{command, tool};
use super::{Store, caps};

/// Enough for what containers of tests do, and no more than everybody has. Left alone, podman asks for more than it may
/// have where nobody has CAP_SYS_RESOURCE.
const LIMIT: u64 = 1024;

/// It takes with it what an unprivileged podman leaves running.
pub(crate) struct Podman<'a> {
    store: &'a Store,
}

impl<'a> Podman<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Self { store }
    }

    /// The words before those of a call: nothing that needs an overlay, systemd or somebody else's directory.
    fn words(&self) -> Vec<String> {
        let dir = |flag: &str, name: &str| format!("--{flag}={}", self.store.beside(name).display());
        let fixed = [
            "--log-level=error",
            "--storage-driver=vfs",
            "--cgroup-manager=cgroupfs",
            "--events-backend=none",
        ];
        // Fifty characters are the most that it takes.
        let mut words = vec!["podman".to_owned(), dir("root", "podman"), dir("runroot", "run")];
        words.extend(fixed.map(str::to_owned));
        // crun refuses hosts that have cgroups of both versions.
        words.extend(caps::which("runc").map(|path| format!("--runtime={}", path.display())));
        words
    }

    /// What a call that must succeed writes.
    #[track_caller]
    pub(crate) fn call(&self, args: &[&str]) -> String {
        let words = self.words();
        let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        tool(self.store, "podman", &[&words[..], args].concat())
    }

    /// What a command in a new container of `image` writes, and nothing of it is kept. It has no network.
    #[track_caller]
    pub(crate) fn run(&self, image: &str, argv: &[&str]) -> String {
        let run = self.run_args(image, argv);
        self.call(&run.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn run_args(&self, image: &str, argv: &[&str]) -> Vec<String> {
        let limit = |name: &str, resource| {
            let most = getrlimit(resource).maximum.map_or(LIMIT, |limit| limit.min(LIMIT));
            format!("--ulimit={name}={most}:{most}")
        };
        let (files, processes) = (limit("nofile", Resource::Nofile), limit("nproc", Resource::Nproc));
        let fixed = ["run", "--rm", "--pull=never", "--network=none", "--security-opt=seccomp=unconfined"];
        let own = fixed.into_iter().map(str::to_owned).chain([files, processes, image.to_owned()]);
        own.chain(argv.iter().map(|&word| word.to_owned())).collect()
    }

    /// The tree of an image as podman unpacked it.
    pub(crate) fn tree(&self, image: &str) -> Tree {
        // Only in podman's own user namespace are its files whose they are.
        let mounted = "image=$1; shift; dir=$(\"$@\" image mount \"$image\") && cd \"$dir\" && exec ";
        let script = format!("{mounted}{}", listing::TAR);
        let shell = ["sh", "-c", &script, "sh", image].map(str::to_owned);
        let words = self.words();
        let inside = shell.into_iter().chain(words.clone());
        let all: Vec<String> = match super::unprivileged() {
            true => words.into_iter().chain(["unshare".to_owned()]).chain(inside).collect(),
            false => inside.collect(),
        };
        let args: Vec<&str> = all.iter().skip(1).map(String::as_str).collect();
        let tree = listing::of_output(command(self.store, &all[0], &args));
        if !super::unprivileged() {
            self.call(&["image", "umount", "--all"]);
        }
        tree
    }

    /// The tree that a container of an image finds, with what podman puts into it.
    pub(crate) fn tree_of_container(&self, image: &str) -> Tree {
        let script = format!("cd / && exec {}", listing::TAR);
        let all: Vec<String> =
            self.words().into_iter().chain(self.run_args(image, &["sh", "-c", &script])).collect();
        let args: Vec<&str> = all.iter().skip(1).map(String::as_str).collect();
        listing::of_output(command(self.store, "podman", &args))
    }

    fn pause_file(&self) -> PathBuf {
        self.store.beside("run/libpod/tmp/pause.pid")
    }
}

impl Drop for Podman<'_> {
    /// An unprivileged podman leaves a process behind that holds its user namespace.
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.pause_file()).unwrap_or_default();
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            // It may be gone already.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
