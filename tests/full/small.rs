//! [`Small`]: a store on a tmpfs of its own, in a mount namespace of its own, whose size changes.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::Scarce;
use crate::testkit::image::{BASE, base_tar};
use crate::testkit::{Store, leftovers};

/// How large it is when nothing is scarce.
const PLENTY: &str = "size=64m,nr_inodes=60000";

/// The store, and the process whose mount namespace has it.
pub(super) struct Small<'a> {
    store: &'a Store,
    holder: Child,
    /// It leaves when this is closed.
    input: Option<ChildStdin>,
    /// A file of state that does not compress, so that archives take pages.
    noise: PathBuf,
}

impl<'a> Small<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        std::fs::create_dir_all(store.root()).unwrap();
        let script = format!("mount -t tmpfs -o mode=700,{PLENTY} small \"$0\" && echo ready && cat");
        let mut holder = Command::new("unshare");
        holder.args(["--mount", "--propagation", "private", "sh", "-c", &script]).arg(store.root());
        let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let noise = store.beside("noise");
        std::fs::write(&noise, crate::testkit::random::Random::new().bytes(40_000)).unwrap();
        let input = holder.stdin.take();
        let small = Self { store, holder, input, noise };
        let tar = store.beside("base.tar");
        std::fs::write(&tar, base_tar()).unwrap();
        small.line(&["image", "import", tar.to_str().unwrap(), "--ref", BASE]);
        small
    }

    /// A command in the mount namespace.
    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "60", "nsenter", "--mount", "--target", &self.holder.id().to_string()]);
        command.arg(program).stdin(Stdio::null()).current_dir(self.store.beside("."));
        command
    }

    pub(super) fn cli(&self, args: &[&str]) -> Command {
        let plain = self.store.cli(args);
        let mut command = self.inside(plain.get_program().to_str().unwrap());
        command.args(plain.get_args()).env_clear();
        command.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command
    }

    /// What a command that must succeed prints.
    pub(super) fn line(&self, args: &[&str]) -> String {
        let output = self.cli(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    pub(super) fn write_state(&self, id: &str, state: &str) {
        let to = |name: &str| format!("{id}:/{name}");
        self.line(&["cp", self.noise.to_str().unwrap(), &to("noise")]);
        self.line(&[
            "exec",
            id,
            "--",
            "sh",
            "-c",
            &format!("printf %s {state} > /state; cat /state >> /noise"),
        ]);
    }

    pub(super) fn state(&self, id: &str) -> String {
        self.line(&["exec", id, "--", "cat", "/state"])
    }

    pub(super) fn vessels(&self) -> Vec<String> {
        ids(&self.line(&["--json", "ls"])).into_iter().map(|(id, _)| id).collect()
    }

    /// Ids and messages.
    pub(super) fn snapshots(&self, id: &str) -> Vec<(String, String)> {
        ids(&self.line(&["--json", "snapshot", "ls", id]))
    }

    /// Removes all vessels.
    pub(super) fn clear(&self) {
        for id in self.vessels() {
            self.line(&["rm", &id]);
        }
        self.line(&["gc"]);
    }

    fn remount(&self, options: &str) -> bool {
        let mut mount = self.inside("mount");
        mount.args(["-o", &format!("remount,{options}")]).arg(self.store.root());
        mount.stderr(Stdio::null()).status().unwrap().success()
    }

    /// Room for so many more pages or inodes, when nobody uses the store any more.
    pub(super) fn leave_room(&self, scarce: Scarce, more: u64) {
        self.settled();
        let stat =
            self.inside("stat").args(["-f", "-c", "%b %f %c %d"]).arg(self.store.root()).output().unwrap();
        let text = String::from_utf8(stat.stdout).unwrap();
        let numbers: Vec<u64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
        let limit = match scarce {
            Scarce::Pages => format!("size={}", (numbers[0] - numbers[1] + more) * 4096),
            Scarce::Inodes => format!("nr_inodes={}", numbers[2] - numbers[3] + more),
        };
        assert!(self.remount(&limit), "{limit}");
    }

    pub(super) fn make_room(&self) {
        assert!(self.remount(PLENTY));
    }

    /// As soon as nobody is just writing.
    pub(super) fn becomes_read_only(&self) -> Child {
        let mut shell = self.inside("sh");
        let script = "until mount -o remount,ro \"$0\" 2>/dev/null; do :; done";
        shell.args(["-c", script]).arg(self.store.root()).spawn().unwrap()
    }

    pub(super) fn writable(&self) {
        assert!(self.remount("rw"));
    }

    /// The file system as this process sees it.
    fn root(&self) -> PathBuf {
        let below = self.store.root();
        Path::new("/proc")
            .join(self.holder.id().to_string())
            .join("root")
            .join(below.strip_prefix("/").unwrap())
    }

    /// Waits until no process uses the store.
    fn settled(&self) {
        leftovers::none_locked(&self.root().join("vessels"));
    }

    /// Leaves only what the storage has. Everything must be stored.
    pub(super) fn forget_layers(&self) {
        self.settled();
        for dir in ["vessels", "layers"] {
            for path in leftovers::entries(&self.root().join(dir)) {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
    }

    fn merged_layers(&self) -> Vec<PathBuf> {
        let mut layers = leftovers::entries(&self.root().join("layers"));
        layers.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with('+'));
        layers
    }

    pub(super) fn merged(&self) -> usize {
        self.merged_layers().len()
    }

    pub(super) fn forget_merged(&self) {
        self.settled();
        self.merged_layers().into_iter().for_each(|layer| std::fs::remove_dir_all(layer).unwrap());
    }
}

fn ids(json: &str) -> Vec<(String, String)> {
    let list: serde_json::Value = serde_json::from_str(json).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    list.as_array().unwrap().iter().map(|one| (text(&one["id"]), text(&one["message"]))).collect()
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.cli(&["stop", "--all"]).status();
        }
        drop(self.input.take());
        let _ = self.holder.wait();
    }
}
