//! Commands of peers: private directories, no terminal, nothing left running.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use super::super::race::unable;
use super::shelter::Shelter;
use crate::cli::{Failure, Outcome};

/// Where administrators' programs are, for users whose `PATH` lacks it.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// How much of a complaint is told.
const MAX_COMPLAINT: usize = 200;

/// A command to be run.
#[derive(Debug, Clone)]
pub(crate) struct Cmd {
    argv: Vec<OsString>,
    /// Where its output goes; `None`: nowhere.
    out: Option<PathBuf>,
}

impl Cmd {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self { argv: vec![program.as_ref().to_owned()], out: None }
    }

    /// A script of bash, in which `$1` and so on are `args`.
    pub(crate) fn bash<S: AsRef<OsStr>>(script: &str, args: impl IntoIterator<Item = S>) -> Self {
        Self::new("bash").args(["-o", "pipefail", "-c", script, "bash"]).args(args)
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.argv.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.argv.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(crate) fn out(mut self, path: impl Into<PathBuf>) -> Self {
        self.out = Some(path.into());
        self
    }

    pub(super) fn argv(&self) -> &[OsString] {
        &self.argv
    }

    pub(super) fn output(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    fn name(&self) -> String {
        Path::new(&self.argv[0]).file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// A directory of a peer's own, and whether its commands run on the host or in a shelter.
#[derive(Debug)]
pub(crate) struct Ground {
    dir: PathBuf,
    shelter: Option<Shelter>,
}

impl Ground {
    /// Commands run as they are.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub(crate) fn host(dir: PathBuf) -> Outcome<Self> {
        for dir in [dir.clone(), dir.join("run")] {
            std::fs::create_dir_all(&dir).map_err(|e| Failure::io(format!("make {}", dir.display()), e))?;
        }
        Ok(Self { dir, shelter: None })
    }

    /// As root, commands run in a mount and pid namespace that takes everything with it when it goes; otherwise as they are.
    ///
    /// # Errors
    /// Those of unshare(1).
    pub(crate) fn sheltered(dir: PathBuf) -> Outcome<Self> {
        let mut ground = Self::host(dir)?;
        if rustix::process::geteuid().is_root() {
            ground.shelter = Some(Shelter::start(&ground.dir, ground.environment())?);
        }
        Ok(ground)
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Peers see only what is in their directory.
    fn environment(&self) -> [(&'static str, OsString); 4] {
        let dir = |name: &str| self.dir.join(name).into_os_string();
        [("HOME", dir("")), ("TMPDIR", dir("")), ("XDG_RUNTIME_DIR", dir("run")), ("PATH", search_path())]
    }

    /// Runs a command, which must succeed. Dropped, it kills the command.
    ///
    /// # Errors
    /// The end of what it complained about.
    pub(crate) async fn run(&mut self, command: &Cmd) -> Outcome {
        let complaints = self.dir.join("complaints");
        let code = match &mut self.shelter {
            Some(shelter) => shelter.run(command, &complaints).await?,
            None => self.spawn(command, &complaints).await?,
        };
        if code == Some(0) {
            return Ok(());
        }
        let text = std::fs::read(&complaints).unwrap_or_default();
        Err(unable(format!("{}: {}", command.name(), complaint(&text, code))))
    }

    async fn spawn(&self, command: &Cmd, complaints: &Path) -> Outcome<Option<i32>> {
        let create = |path: &Path| {
            File::create(path).map_err(|e| Failure::io(format!("create {}", path.display()), e))
        };
        let out = command.output().map(create).transpose()?;
        let mut child = Command::new(&command.argv[0])
            .args(&command.argv[1..])
            .envs(self.environment())
            .env_remove("VESSELRT_ROOT")
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(out.map_or_else(Stdio::null, Stdio::from))
            .stderr(create(complaints)?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| Failure::io(format!("run {}", command.name()), e))?;
        let group = Group(child.id());
        let status =
            child.wait().await.map_err(|e| Failure::io(format!("wait for {}", command.name()), e))?;
        group.ended();
        Ok(status.code())
    }

    /// Ends the shelter, and everything in it.
    pub(crate) async fn end(&mut self) {
        if let Some(shelter) = self.shelter.take() {
            shelter.end().await;
        }
    }
}

/// A process group that is killed unless it ended.
struct Group(Option<u32>);

impl Group {
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let leader = self.0.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(leader) = leader {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// The last line that says something, or else the exit code.
fn complaint(text: &[u8], code: Option<i32>) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    match (line, code) {
        (Some(line), _) => line.chars().filter(|c| !c.is_control()).take(MAX_COMPLAINT).collect(),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "ended by a signal".to_owned(),
    }
}

fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(SBIN.iter().map(PathBuf::from));
    std::env::join_paths(dirs).unwrap_or(path)
}

/// Whether there is such a program.
pub(crate) fn installed(program: &str) -> bool {
    std::env::split_paths(&search_path()).any(|dir| dir.is_absolute() && dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_told() {
        assert_eq!(complaint(b"a\nb\x1b[31m: no\n\n", Some(1)), "b[31m: no");
        assert_eq!(complaint(b"\n", Some(7)), "exit code 7");
        assert_eq!(complaint(b"", None), "ended by a signal");
        assert_eq!(complaint(&[b'x'; 999], None).len(), MAX_COMPLAINT);
    }

    #[test]
    fn programs_are_found() {
        assert!(installed("sh"));
        assert!(!installed("no-such-program-as-this"));
    }

    #[tokio::test]
    async fn commands_run_in_their_own_directory_and_fail_with_reason() {
        let dir = tempfile::tempdir().unwrap();
        let mut ground = Ground::host(dir.path().join("g")).unwrap();
        let out = ground.path("out");
        ground.run(&Cmd::bash("pwd; echo $HOME; echo \"$1\"", ["a b'c"]).out(&out)).await.unwrap();
        let home = ground.path("");
        let text = std::fs::read_to_string(&out).unwrap();
        assert_eq!(text, format!("{}\n{}\na b'c\n", ground.dir().display(), home.display()));
        let failed = ground.run(&Cmd::bash("echo because >&2; exit 3", [""; 0])).await.unwrap_err();
        assert_eq!(failed.message(), "bash: because");
        assert!(ground.run(&Cmd::new("no-such-program-as-this")).await.is_err());
    }

    #[tokio::test]
    async fn a_command_that_is_given_up_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let mut ground = Ground::host(dir.path().join("g")).unwrap();
        let pids = ground.path("pids");
        let command = Cmd::bash("sleep 100 & echo $! $$; wait", [""; 0]).out(&pids);
        let limit = std::time::Duration::from_millis(300);
        assert!(tokio::time::timeout(limit, ground.run(&command)).await.is_err());
        let text = std::fs::read_to_string(&pids).unwrap();
        let pids: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(pids.len(), 2);
        let alive = |pid: &&str| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains("State:") && !status.contains("(zombie)")
        };
        for _ in 0..100 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            if !pids.iter().any(alive) {
                return;
            }
        }
        panic!("still there: {pids:?}");
    }
}
