//! The same program without any sandbox: what a program would do that needs none.
#![forbid(unsafe_code)]

use std::process::Stdio;

use async_trait::async_trait;

use super::super::lab::Shared;
use super::super::race::{Clock, Entrant};
use crate::cli::{Failure, Outcome};

/// How it is started. `std` starts it by `posix_spawn(3)`, or by `vfork` and `execve` of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `tokio::process::Command::output`: two pipes that are read to their ends.
    Output,
    /// Nothing to read: `/dev/null` thrice, and waited for in this thread. It costs no less.
    Null,
}

/// `true` of the base image, on this host.
pub(crate) struct Spawn {
    lab: Shared,
    way: Way,
}

impl Spawn {
    pub(super) fn new(lab: &Shared, way: Way) -> Self {
        Self { lab: Shared::clone(lab), way }
    }

    fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(self.lab.base.rootfs.join("bin/true"));
        command.env_clear().envs(self.lab.base.variable()).stdin(Stdio::null());
        command
    }
}

#[async_trait(?Send)]
impl Entrant for Spawn {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        let failed = |e| Failure::io("run true", e);
        let mut command = self.command();
        let status = match self.way {
            Way::Output => {
                let mut command = tokio::process::Command::from(command);
                clock.time(async { command.output().await.map_err(failed) }).await?.status
            }
            Way::Null => {
                command.stdout(Stdio::null()).stderr(Stdio::null());
                clock.time(async { command.status().map_err(failed) }).await?
            }
        };
        match status.success() {
            true => Ok(None),
            false => Err(Failure::conflict(format!("true ended with {status}"))),
        }
    }
}
