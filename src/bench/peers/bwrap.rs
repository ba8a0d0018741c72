//! bubblewrap: a new sandbox for every command.
#![forbid(unsafe_code)]

use async_trait::async_trait;

use super::super::lab::Shared;
use super::super::race::{Clock, Entrant};
use super::command::{Cmd, Ground};
use crate::cli::Outcome;

/// `bwrap … true`.
pub(crate) struct Bwrap {
    lab: Shared,
    ground: Option<Ground>,
}

impl Bwrap {
    pub(super) fn new(lab: &Shared) -> Self {
        Self { lab: Shared::clone(lab), ground: None }
    }

    fn command(&self) -> Cmd {
        let command = Cmd::new("bwrap").arg("--bind").arg(&self.lab.base.rootfs).arg("/");
        let command = command.args(["--proc", "/proc", "--dev", "/dev", "--unshare-all"]);
        let command = match self.lab.base.variable() {
            Some((key, value)) => command.args(["--setenv", key]).arg(value),
            None => command,
        };
        command.arg("/bin/true")
    }
}

#[async_trait(?Send)]
impl Entrant for Bwrap {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        let command = self.command();
        let ground = match &mut self.ground {
            Some(ground) => ground,
            none => none.insert(Ground::host(self.lab.fresh("bwrap"))?),
        };
        clock.time(ground.run(&command)).await?;
        Ok(None)
    }
}
