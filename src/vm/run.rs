//! Running a command in a machine.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::language::hello;
use super::launch::{self, BASH, SH};
use super::logs::{self, RunLogs};
use super::quick;
use super::record::{VmRecord, VmStatus};
use super::service::VmService;
use super::stage::stage;
use crate::error::{Error, ErrorKind, Result};
use crate::offload::{blocking, detached};
use crate::vessel::Vessel;
use crate::vessel::exec::ExecOptions;

/// The exit code of a command whose time was up.
pub(super) const TIMED_OUT: i32 = -1;
/// How many commands run side by side.
const AT_ONCE: usize = 64;

/// A command for a machine. The setters return the changed value, to be chained.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunOptions {
    /// The id of the machine.
    pub vm: String,
    /// A script for the shell of the image: bash if it has that.
    pub command: String,
    /// A file that is copied to `/in` first.
    pub file: Option<PathBuf>,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// Where the machine has no root file system, make it a new one instead of an error.
    pub relaunch: bool,
    /// The script is plain enough for any shell.
    plain: bool,
}

impl RunOptions {
    /// A script, for as long as it takes.
    #[must_use]
    pub fn new(vm: impl Into<String>, command: impl Into<String>) -> Self {
        let (vm, command) = (vm.into(), command.into());
        Self { vm, command, file: None, timeout: None, relaunch: true, plain: false }
    }

    /// Has the interpreter, or compiler, of a language say hello.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) "unsupported language".
    pub fn hello(vm: impl Into<String>, language: &str) -> Result<Self> {
        let command = hello(language)?;
        Ok(Self { plain: true, ..Self::new(vm, command) })
    }

    /// Copies a file to `/in` first.
    #[must_use]
    pub fn file(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = Some(file.into());
        self
    }

    /// Sets how long it may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets whether a machine that has no root file system gets a new one; it is an error otherwise.
    #[must_use]
    pub fn relaunch(mut self, relaunch: bool) -> Self {
        self.relaunch = relaunch;
        self
    }

    fn check(&self) -> Result<()> {
        if self.command.is_empty() {
            return Err(Error::invalid("cmd is required"));
        }
        match self.timeout {
            Some(time) if time.is_zero() => Err(Error::invalid("timeout must be positive")),
            _ => Ok(()),
        }
    }

    /// The shell that it is for, as far as that is known without looking.
    fn shell(&self, record: &VmRecord) -> Option<&'static str> {
        match (self.plain, record.has_bash) {
            (true, _) => Some(SH),
            (false, true) => Some(BASH),
            // One may have been installed since.
            (false, false) => None,
        }
    }
}

/// How a command ended, and where what it wrote is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct RunResult {
    /// The exit code; 128 + n when signal n ended it; -1 when its time was up.
    pub exit_code: i32,
    /// Its time was up.
    pub timed_out: bool,
    /// It was killed because the memory of the machine was used up.
    pub oom_killed: bool,
    /// What it wrote to standard output: the first 64 MiB.
    pub stdout_path: PathBuf,
    /// What it wrote to standard error.
    pub stderr_path: PathBuf,
    /// It wrote more than that to one of them.
    pub truncated: bool,
    /// How long it took.
    #[serde(rename = "DurationNanoseconds", serialize_with = "nanoseconds")]
    pub duration: Duration,
}

fn nanoseconds<S: serde::Serializer>(
    duration: &Duration,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

impl VmService {
    /// Runs a command in a machine to its end; one that was stopped gets a new root file system first. An exit code other
    /// than 0 is no error. Dropping the future kills the command with its whole process tree.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) "cmd is required", "timeout must be positive", "file staging requires
    /// guest volume sharing", "input file must not be a directory"; [`NotFound`](ErrorKind::NotFound) "vm not found: …";
    /// [`Conflict`](ErrorKind::Conflict) "vm is not available to run commands" while it is being made.
    pub async fn run(&self, options: RunOptions) -> Result<RunResult> {
        let record = self.recorded(&options.vm).await?;
        self.run_on(record, options).await
    }

    /// [`Self::run`] in many machines, side by side. What came of each is told in the order in which they end, with its place
    /// in `commands`.
    pub async fn run_many(
        &self,
        commands: Vec<(VmRecord, RunOptions)>,
        mut ended: impl FnMut(usize, Result<RunResult>),
    ) {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let mut tasks = JoinSet::new();
        for (place, (record, options)) in commands.into_iter().enumerate() {
            let (own, room) = (self.clone(), Arc::clone(&room));
            tasks.spawn(async move {
                let _room = room.acquire_owned().await;
                (place, own.run_on(record, options).await)
            });
        }
        while let Some(task) = tasks.join_next().await {
            let Ok((place, result)) = task else { continue };
            ended(place, result);
        }
    }

    async fn run_on(&self, record: VmRecord, options: RunOptions) -> Result<RunResult> {
        options.check()?;
        let storage = record.storage.clone();
        let result = match self.run_quickly(&record, &options).await? {
            Some(result) => result,
            None => self.run_thoroughly(record, options).await?,
        };
        // Of a directory that is in the cache: not worth a thread.
        logs::ended(&storage)?;
        Ok(result)
    }

    /// In a machine that is up; `None` for what is not as plain as that.
    async fn run_quickly(&self, record: &VmRecord, options: &RunOptions) -> Result<Option<RunResult>> {
        match options.shell(record) {
            Some(shell) if options.file.is_none() && record.status.is_up() => {
                quick::run(self, record, [shell, "-c", &options.command], options.timeout).await
            }
            _ => Ok(None),
        }
    }

    async fn run_thoroughly(&self, record: VmRecord, options: RunOptions) -> Result<RunResult> {
        let (vessel, record) = self.up_if(record, options.relaunch).await?;
        let ran = self.run_in(&vessel, &record, options).await;
        let rested = self.rest(&vessel).await;
        let result = ran?;
        rested.map(|()| result)
    }

    /// Opens the vessel of a machine, which is made if it is not there, and says what the machine is then.
    ///
    /// # Errors
    /// Those of [`Self::run`].
    pub async fn up(&self, record: VmRecord) -> Result<(Vessel, VmRecord)> {
        self.up_if(record, true).await
    }

    async fn up_if(&self, record: VmRecord, relaunch: bool) -> Result<(Vessel, VmRecord)> {
        if record.status == VmStatus::Provisioning {
            return Err(Error::conflict("vm is not available to run commands").with_remedy(
                "wait until it is made; if its making was interrupted, `vesselrt vm clean` it",
            ));
        }
        let own = self.clone();
        detached(async move {
            let storage = record.storage.clone();
            // What is mounted has to be there.
            blocking(move || launch::make_directories(&storage)).await?;
            match own.inner.manager.open_vessel(&record.id).await {
                Err(e) if e.kind() == ErrorKind::NotFound && relaunch => own.relaunch(record).await,
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    let gone = |record: &mut VmRecord| record.status = VmStatus::Stopped;
                    own.change(&record.id, gone).await?;
                    Err(Error::conflict(format!("vm {} is not ready or running", record.id)))
                }
                opened => opened.map(|vessel| (vessel, record)),
            }
        })
        .await
    }

    /// As volumes are shared now, whatever they were before.
    async fn relaunch(&self, mut record: VmRecord) -> Result<(Vessel, VmRecord)> {
        record.storage.disable_guest_volumes = !self.inner.config.guest_volumes;
        let storage = record.storage.clone();
        blocking(move || launch::make_directories(&storage)).await?;
        let vessel = launch::launch(&self.inner.manager, &mut record).await?;
        let (storage, has_bash) = (record.storage.clone(), record.has_bash);
        let ready = self.change(&record.id, move |record| {
            record.status = VmStatus::Ready;
            record.storage = storage;
            record.has_bash = has_bash;
        });
        match ready.await? {
            Some(record) => Ok((vessel, record)),
            None => {
                // It was removed while we made it.
                let _ = self.inner.manager.delete_vessel(&record.id).await;
                Err(super::service::unknown(&record.id))
            }
        }
    }

    async fn run_in(&self, vessel: &Vessel, record: &VmRecord, options: RunOptions) -> Result<RunResult> {
        if let Some(file) = options.file.clone() {
            if record.storage.disable_guest_volumes {
                return Err(Error::invalid("file staging requires guest volume sharing")
                    .with_remedy("stop the VM, and run again with AGENT_ENABLE_GUEST_VOLUMES=1"));
            }
            let input = record.storage.input_path.clone();
            blocking(move || stage(&file, &input)).await?;
        }
        let storage = record.storage.clone();
        let logs = blocking(move || RunLogs::begin(&storage)).await?;
        let mut exec = shell(vessel, &options).await?.stdout(logs.stdout).stderr(logs.stderr);
        if let Some(timeout) = options.timeout {
            exec = exec.timeout(timeout);
        }
        let begun = Instant::now();
        let ended = vessel.exec(exec).await?;
        Ok(RunResult {
            exit_code: if ended.timed_out { TIMED_OUT } else { ended.exit_code },
            timed_out: ended.timed_out,
            oom_killed: ended.oom_killed,
            stdout_path: logs.stdout_path,
            stderr_path: logs.stderr_path,
            truncated: logs.truncated.load(Ordering::Relaxed),
            duration: begun.elapsed(),
        })
    }
}

/// The script for the best shell that there is, as root, in the image's working directory.
async fn shell(vessel: &Vessel, options: &RunOptions) -> Result<ExecOptions> {
    let shell = match !options.plain && launch::has_bash(vessel).await? {
        true => BASH,
        false => SH,
    };
    Ok(ExecOptions::new([shell, "-c", &options.command]).user("0").persist_result(true))
}
