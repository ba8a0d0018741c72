//! [`LocalFallback`]: commands of a project on this host itself.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::capture::{Capture, ExecOutput};
use super::config::WORKSPACE;
use super::layout::Layout;
use super::name::ProjectName;
use crate::error::{Error, Result};

/// Runs commands of projects on this host itself, in the directory of the project: as this user, with everything that this user
/// may do. There is no isolation of any kind. Nothing uses it that was not given one.
#[derive(Debug, Clone)]
pub struct LocalFallback {
    layout: Layout,
}

impl LocalFallback {
    /// For the projects below `base_dir`.
    ///
    /// # Errors
    /// Those of finding the base directory.
    pub fn new(base_dir: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { layout: Layout::new(base_dir.as_ref())? })
    }

    /// Runs a command to its end in the directory of the project, or in `work_dir` below it (`/workspace/…` is that, too),
    /// with the environment of this process and `env`. Dropping the future kills its process group.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) "command is required", and for a directory outside of the
    /// project; those of execve(2) by kind.
    pub async fn exec(
        &self,
        project: &str,
        argv: &[String],
        work_dir: &str,
        env: &BTreeMap<String, String>,
    ) -> Result<ExecOutput> {
        let dir = self.directory(&ProjectName::parse(project)?, work_dir)?;
        let Some((program, arguments)) = argv.split_first().filter(|(program, _)| !program.is_empty()) else {
            return Err(Error::invalid("command is required"));
        };
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).envs(env).current_dir(&dir).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|e| Error::io(format!("failed to execute {program:?}"), e))?;
        let mut group = Group::of(child.id());
        let (out, err) = (Capture::default(), Capture::default());
        let copies = async { tokio::join!(copy(child.stdout.take(), &out), copy(child.stderr.take(), &err)) };
        let copied = copies.await;
        let status = child.wait().await.map_err(|e| Error::io("failed to wait for the command", e))?;
        // What it left in the background goes on, as in a shell.
        group.0 = None;
        copied.0.and(copied.1).map_err(|e| Error::io("failed to read what the command writes", e))?;
        Ok(ExecOutput::new(exit_code(status), &out, &err))
    }

    fn directory(&self, name: &ProjectName, work_dir: &str) -> Result<PathBuf> {
        let outside = || Error::invalid(format!("not a directory of project {name}: {work_dir:?}"));
        let path = Path::new(work_dir);
        let below = match path.strip_prefix(WORKSPACE) {
            Ok(below) => below,
            Err(_) if path.is_absolute() => return Err(outside()),
            Err(_) => path,
        };
        if below.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(outside());
        }
        Ok(self.layout.project(name).join(below))
    }
}

async fn copy(stream: Option<impl AsyncRead + Unpin>, into: &Capture) -> std::io::Result<()> {
    let Some(mut stream) = stream else { return Ok(()) };
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            n => into.push(&buffer[..n]),
        }
    }
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// A process group, killed when this goes before its leader was waited for.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: Option<u32>) -> Self {
        Self(leader.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    /// Its leader is at most a zombie of ours: its id belongs to nobody else.
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}
