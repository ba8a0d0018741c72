//! crun and runc: a bundle of the base image, with the specification that they make themselves.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::super::base::Base;
use super::super::lab::{self, Shared};
use super::super::race::{Clock, Entrant};
use super::command::{Cmd, Ground};
use crate::cli::{Failure, Outcome};

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// `exec` in a container that runs.
    Exec,
    /// `run` of a new one.
    Run,
}

/// How long a container sleeps at most, should nobody be left to end it.
const SLEEP: &str = "900";

/// crun or runc.
pub(crate) struct Runtime {
    kit: Kit,
    ground: Option<Ground>,
    ready: bool,
    rounds: u32,
}

/// What does not change from round to round.
struct Kit {
    lab: Shared,
    program: &'static str,
    work: Work,
    /// The container that commands are run in; the name is also that of a cgroup, of which there is one on a host.
    sleeper: String,
}

impl Runtime {
    pub(super) fn new(lab: &Shared, program: &'static str, work: Work) -> Self {
        let sleeper = format!("vesselrt-bench-{}", std::process::id());
        let kit = Kit { lab: Shared::clone(lab), program, work, sleeper };
        Self { kit, ground: None, ready: false, rounds: 0 }
    }
}

impl Kit {
    fn command(&self, ground: &Ground) -> Cmd {
        Cmd::new(self.program).arg("--root").arg(ground.path("state"))
    }

    /// Only crun needs a shelter (from cgroups that it does not know); runc tells the pids of its containers by the host's.
    fn ground(&self) -> Outcome<Ground> {
        let dir = self.lab.fresh(self.program);
        if self.program == "crun" { Ground::sheltered(dir) } else { Ground::host(dir) }
    }

    async fn prepare(&self, ground: &mut Ground) -> Outcome {
        let bundle = ground.path("bundle");
        std::fs::create_dir(&bundle).map_err(|e| Failure::io("make a bundle", e))?;
        let script = "cd \"$2\" && exec \"$1\" spec $3";
        let rootless = if rustix::process::geteuid().is_root() { "" } else { "--rootless" };
        let words = [self.program.as_ref(), bundle.as_os_str(), rootless.as_ref()];
        ground.run(&Cmd::bash(script, words)).await?;
        let args = if self.work == Work::Exec { ["/bin/sleep", SLEEP].as_slice() } else { &["/bin/true"] };
        adapt(&bundle.join("config.json"), &self.lab.base, args)?;
        if self.work == Work::Exec {
            let start = self.command(ground).args(["run", "-d", "-b"]).arg(&bundle).arg(&self.sleeper);
            ground.run(&start).await?;
        }
        Ok(())
    }
}

/// Makes the specification one of our base image, without terminal and without limits that need privileges.
fn adapt(file: &Path, base: &Base, args: &[&str]) -> Outcome {
    let failed = |e| Failure::io("read the specification of a bundle", e);
    let text = std::fs::read(file).map_err(failed)?;
    let mut spec: Value =
        serde_json::from_slice(&text).map_err(|e| failed(std::io::Error::other(e.to_string())))?;
    spec["root"] = json!({ "path": base.rootfs, "readonly": false });
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(args);
    if let Some(process) = spec["process"].as_object_mut() {
        process.remove("rlimits");
    }
    if let (Some((key, value)), Some(env)) = (base.variable(), spec["process"]["env"].as_array_mut()) {
        env.push(json!(format!("{key}={}", PathBuf::from(value).display())));
    }
    std::fs::write(file, spec.to_string()).map_err(|e| Failure::io("write the specification of a bundle", e))
}

#[async_trait(?Send)]
impl Entrant for Runtime {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        let ground = match &mut self.ground {
            Some(ground) => ground,
            none => none.insert(self.kit.ground()?),
        };
        if !self.ready {
            self.kit.prepare(ground).await?;
            self.ready = true;
        }
        self.rounds += 1;
        let command = match self.kit.work {
            Work::Exec => self.kit.command(ground).args(["exec", &self.kit.sleeper, "/bin/true"]),
            Work::Run => {
                let id = format!("{}-{}", self.kit.sleeper, self.rounds);
                self.kit.command(ground).args(["run", "-b"]).arg(ground.path("bundle")).arg(id)
            }
        };
        clock.time(ground.run(&command)).await?;
        Ok(None)
    }

    async fn end(&mut self) {
        let Some(mut ground) = self.ground.take() else { return };
        if self.kit.work == Work::Exec {
            let _ = ground.run(&self.kit.command(&ground).args(["delete", "-f", &self.kit.sleeper])).await;
        }
        ground.end().await;
        let _ = lab::remove(ground.dir().to_owned()).await;
    }
}
