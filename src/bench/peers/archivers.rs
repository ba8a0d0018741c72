//! tar with zstd or gzip: what a snapshot would be without anything around it.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use async_trait::async_trait;

use super::super::lab::{self, Shared};
use super::super::race::{Clock, Entrant};
use super::command::{Cmd, Ground};
use crate::cli::{Failure, Outcome};

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// `tar -c | zstd -1 -T0`.
    Pack,
    /// `zstd -1 -T0` of a tar that is there.
    Compress,
    /// `zstd -d | tar -x`.
    Unpack,
    /// `tar -xz`.
    Gunzip,
}

/// tar.
pub(crate) struct Archiver {
    lab: Shared,
    work: Work,
    ground: Option<Ground>,
}

const PACK: &str = "tar -C \"$1\" --xattrs -cf - . | zstd -1 -T0 -q > \"$2\"";
const UNPACK: &str = "zstd -dcq \"$1\" | tar -C \"$2\" -xf -";

impl Archiver {
    pub(super) fn new(lab: &Shared, work: Work) -> Self {
        Self { lab: Shared::clone(lab), work, ground: None }
    }

    async fn pack(&self, ground: &mut Ground, clock: &mut Clock, command: &Cmd) -> Outcome<Option<u64>> {
        self.lab.settle().await?;
        clock.time(ground.run(command)).await?;
        let made = archive(ground);
        let size = std::fs::metadata(&made).map_err(|e| Failure::io("look at the archive", e))?.len();
        std::fs::remove_file(&made).map_err(|e| Failure::io("remove the archive", e))?;
        Ok(Some(size))
    }

    async fn unpack(&self, ground: &mut Ground, clock: &mut Clock) -> Outcome<Option<u64>> {
        let dest = ground.path("unpacked");
        std::fs::create_dir(&dest).map_err(|e| Failure::io("make a directory", e))?;
        let command = match self.work {
            Work::Gunzip => Cmd::new("tar").arg("-C").arg(&dest).arg("-xzf").arg(self.lab.gzip().await?),
            _ => {
                let made = archive(ground);
                if !made.exists() {
                    let tar = self.lab.tar().await?;
                    let compress = Cmd::new("zstd").args(["-1", "-T0", "-q"]).arg(tar).arg("-o").arg(&made);
                    ground.run(&compress).await?;
                }
                Cmd::bash(UNPACK, [made.as_os_str(), dest.as_os_str()])
            }
        };
        self.lab.settle().await?;
        let unpacked = clock.time(ground.run(&command)).await;
        lab::remove(dest).await?;
        unpacked.map(|()| None)
    }
}

fn archive(ground: &Ground) -> PathBuf {
    ground.path("tree.tar.zst")
}

#[async_trait(?Send)]
impl Entrant for Archiver {
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
        let mut ground = match self.ground.take() {
            Some(ground) => ground,
            None => Ground::host(self.lab.fresh("tar"))?,
        };
        let made = archive(&ground);
        let outcome = match self.work {
            Work::Pack => {
                let (tree, _) = self.lab.tree().await?;
                let command = Cmd::bash(PACK, [tree.as_os_str(), made.as_os_str()]);
                self.pack(&mut ground, clock, &command).await
            }
            Work::Compress => {
                let tar = self.lab.tar().await?;
                let command = Cmd::new("zstd").args(["-1", "-T0", "-q", "-f"]).arg(tar).arg("-o").arg(&made);
                self.pack(&mut ground, clock, &command).await
            }
            Work::Unpack | Work::Gunzip => self.unpack(&mut ground, clock).await,
        };
        self.ground = Some(ground);
        outcome
    }

    async fn end(&mut self) {
        if let Some(ground) = self.ground.take() {
            let _ = lab::remove(ground.dir().to_owned()).await;
        }
    }
}
