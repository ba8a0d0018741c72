//! Running `true`: in an open vessel, by a command on a closed one, by a command on a started one, and in a new one.
#![forbid(unsafe_code)]

use async_trait::async_trait;
use tokio::task::JoinSet;
use vesselrt::Vessel;

use super::super::lab::{IMAGE, Shared};
use super::super::peers::command::{Cmd, Ground};
use super::super::race::{Clock, Entrant};
use crate::cli::{Failure, Outcome};

/// `Vessel::exec` in a vessel that stays open.
pub(crate) struct Library {
    lab: Shared,
    /// Both outputs are read to their ends.
    piped: bool,
    vessel: Option<Vessel>,
}

impl Library {
    pub(crate) fn new(lab: &Shared, piped: bool) -> Self {
        Self { lab: Shared::clone(lab), piped, vessel: None }
    }
}

#[async_trait(?Send)]
impl Entrant for Library {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        let vessel = match self.vessel.take() {
            Some(vessel) => vessel,
            None => self.lab.vessel().await?,
        };
        let options = match self.piped {
            true => self.lab.nothing().stdout(tokio::io::sink()).stderr(tokio::io::sink()),
            false => self.lab.nothing(),
        };
        let done = clock.time(async { Ok(vessel.exec(options).await?) }).await;
        self.vessel = Some(vessel);
        let done = done?;
        if !done.success() {
            return Err(Failure::conflict(format!("true ended with {}", done.exit_code)));
        }
        Ok(None)
    }

    async fn end(&mut self) {
        if let Some(vessel) = self.vessel.take() {
            let _ = self.lab.discard(&vessel).await;
        }
    }
}

/// Vessels in which commands run at the same time, and how many in each, one after the other.
const VESSELS: usize = 8;
const EACH: usize = 10;

/// `Vessel::exec` in vessels that stay open, in all of them at once.
pub(crate) struct AtOnce {
    lab: Shared,
    vessels: Vec<Vessel>,
}

impl AtOnce {
    pub(crate) fn new(lab: &Shared) -> Self {
        Self { lab: Shared::clone(lab), vessels: Vec::new() }
    }

    async fn run(&mut self) -> Outcome {
        let mut running = JoinSet::new();
        for vessel in self.vessels.drain(..) {
            let commands: Vec<_> = (0..EACH).map(|_| self.lab.nothing()).collect();
            running.spawn(async move {
                for options in commands {
                    let done = vessel.exec(options).await?;
                    if !done.success() {
                        return Err(Failure::conflict(format!("true ended with {}", done.exit_code)));
                    }
                }
                Ok(vessel)
            });
        }
        for ended in running.join_all().await {
            self.vessels.push(ended?);
        }
        Ok(())
    }
}

#[async_trait(?Send)]
impl Entrant for AtOnce {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        while self.vessels.len() < VESSELS {
            self.vessels.push(self.lab.vessel().await?);
        }
        clock.time(self.run()).await?;
        Ok(None)
    }

    async fn end(&mut self) {
        for vessel in self.vessels.drain(..) {
            let _ = self.lab.discard(&vessel).await;
        }
    }
}

/// Which command is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// `exec` in a vessel that nobody has open.
    Exec,
    /// `exec` in one that was started.
    ExecStarted,
    /// `run --rm`.
    Run,
}

/// A command of ours.
pub(crate) struct Command {
    lab: Shared,
    verb: Verb,
    ready: Option<(Ground, String)>,
}

impl Command {
    pub(crate) fn new(lab: &Shared, verb: Verb) -> Self {
        Self { lab: Shared::clone(lab), verb, ready: None }
    }

    async fn prepare(&self) -> Outcome<(Ground, String)> {
        let ground = self.lab.ground("command")?;
        if self.verb == Verb::Run {
            return Ok((ground, String::new()));
        }
        let vessel = self.lab.vessel().await?;
        if self.verb == Verb::ExecStarted {
            vessel.keep(true).await?;
        }
        vessel.close().await?;
        Ok((ground, vessel.id().to_owned()))
    }

    fn command(&self, id: &str) -> Outcome<Cmd> {
        let command = match self.verb {
            Verb::Run => self.lab.command()?.args(["run", "--rm"]),
            Verb::Exec | Verb::ExecStarted => self.lab.command()?.arg("exec"),
        };
        let command = match self.lab.base.variable() {
            Some((key, value)) => {
                let mut assigned = std::ffi::OsString::from(format!("{key}="));
                assigned.push(value);
                command.arg("-e").arg(assigned)
            }
            None => command,
        };
        let object = if self.verb == Verb::Run { IMAGE } else { id };
        Ok(command.args([object, "--", "/bin/true"]))
    }
}

#[async_trait(?Send)]
impl Entrant for Command {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        if self.ready.is_none() {
            self.ready = Some(self.prepare().await?);
        }
        let command = self.command(self.ready.as_ref().map_or("", |(_, id)| id))?;
        if let Some((ground, _)) = &mut self.ready {
            clock.time(ground.run(&command)).await?;
        }
        Ok(None)
    }

    async fn end(&mut self) {
        if let Some((_, id)) = self.ready.take()
            && !id.is_empty()
        {
            let _ = self.lab.manager.delete_vessel(&id).await;
        }
    }
}
