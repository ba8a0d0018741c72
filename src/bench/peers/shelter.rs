//! [`Shelter`]: a shell in a mount and a pid namespace of its own, in which commands of peers run as root.
//!
//! What they mount is seen nowhere else, and when the shell ends, however it ends, the kernel removes their mounts and
//! processes: daemons and monitors too. On hosts with both versions of cgroups the second is unmounted in there, because crun
//! refuses to work beside it; `/run` is empty.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::super::race::unable;
use super::command::Cmd;
use crate::cli::{Failure, Outcome};

/// Reads lines of shell, runs each, and tells its exit code on a line of its own.
const SCRIPT: &str = r#"
umount /sys/fs/cgroup/unified 2>/dev/null
case $0/ in /run/*) ;; *) mount -t tmpfs -o mode=755 none /run || exit 1 ;; esac
umask 022
cd "$0" || exit 1
exec 3>&1
echo ready
while IFS= read -r line; do
    eval "$line" </dev/null 3>&-
    echo $? >&3
done
"#;

/// How long it may take to begin and to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// A shell that waits for commands.
#[derive(Debug)]
pub(super) struct Shelter {
    child: Child,
    input: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    began: bool,
    /// A command was given up: what it answers would be taken for the answer to the next.
    lost: bool,
}

impl Shelter {
    /// Starts it in `dir`.
    ///
    /// # Errors
    /// When there is no unshare(1).
    pub(super) fn start(dir: &Path, environment: [(&'static str, OsString); 4]) -> Outcome<Self> {
        let mut child = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SCRIPT])
            .arg(dir)
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| Failure::io("run unshare", e))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::internal("a shell has no pipes"));
        };
        Ok(Self { child, input, answers: BufReader::new(output).lines(), began: false, lost: false })
    }

    /// Runs a command; its exit code, `None` for a signal that no shell can tell apart.
    ///
    /// # Errors
    /// When the shell is gone.
    pub(super) async fn run(&mut self, command: &Cmd, complaints: &Path) -> Outcome<Option<i32>> {
        if !self.began {
            let begun = tokio::time::timeout(PATIENCE, self.answer()).await;
            begun.map_err(|_| gone())?.map_err(|_| gone())?;
            self.began = true;
        }
        if self.lost {
            return Err(gone());
        }
        self.lost = true;
        let answer = self.ask(&line(command, complaints)).await.map_err(|_| gone())?;
        self.lost = false;
        Ok(answer.parse().ok())
    }

    async fn ask(&mut self, line: &[u8]) -> io::Result<String> {
        self.input.write_all(line).await?;
        self.answer().await
    }

    async fn answer(&mut self) -> io::Result<String> {
        self.answers.next_line().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Ends it.
    pub(super) async fn end(mut self) {
        drop(self.input);
        if self.lost || tokio::time::timeout(PATIENCE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

fn gone() -> Failure {
    unable("its namespaces could not be made, or are gone")
}

/// A command as a line of shell.
fn line(command: &Cmd, complaints: &Path) -> Vec<u8> {
    let mut line: Vec<u8> = Vec::new();
    for word in command.argv() {
        line.extend(quoted(word));
        line.push(b' ');
    }
    line.extend(b">");
    line.extend(command.output().map_or_else(|| b"/dev/null".to_vec(), |path| quoted(path.as_os_str())));
    line.extend(b" 2>");
    line.extend(quoted(complaints.as_os_str()));
    // A line is a command: what a word may contain besides must not end it.
    line.retain(|&byte| byte != b'\n');
    line.push(b'\n');
    line
}

fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(b"'\\''"),
            byte => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted() {
        let command = Cmd::new("a b").arg("it's").out("/x y");
        let line = line(&command, Path::new("/c"));
        assert_eq!(line, b"'a b' 'it'\\''s' >'/x y' 2>'/c'\n");
    }

    #[tokio::test]
    async fn what_runs_in_a_shelter_ends_with_it() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let environment = [("A", "1"), ("B", "2"), ("C", "3"), ("D", "4")].map(|(k, v)| (k, v.into()));
        let mut shelter = Shelter::start(dir.path(), environment).unwrap();
        let complaints = dir.path().join("complaints");
        let mut run = async |command: Cmd| shelter.run(&command, &complaints).await.unwrap();
        assert_eq!(run(Cmd::new("true")).await, Some(0));
        assert_eq!(run(Cmd::bash("echo no >&2; exit 9", [""; 0])).await, Some(9));
        let mount = Cmd::new("mount").args(["-t", "tmpfs", "none"]).arg(dir.path().join("m"));
        std::fs::create_dir(dir.path().join("m")).unwrap();
        assert_eq!(run(mount).await, Some(0));
        assert_eq!(run(Cmd::bash("sleep 1234 >/dev/null 2>&1 & echo $0 >m/f", [""; 0])).await, Some(0));
        assert!(!dir.path().join("m/f").exists(), "the mount is seen outside");
        let sleeping = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line == b"sleep\x001234\x00"
        };
        // The shell may not have become it yet.
        let mut sleeper = None;
        for _ in 0..500 {
            let below = super::super::super::memory::descendants(std::process::id());
            sleeper = below.into_iter().find(sleeping);
            if sleeper.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let sleeper = sleeper.expect("it sleeps");
        shelter.end().await;
        for _ in 0..100 {
            if !sleeping(&sleeper) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("still there: {sleeper}");
    }
}
