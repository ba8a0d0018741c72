//! What people use instead, as far as it is installed: each in private directories, with a limit of time, removed at the end.
#![forbid(unsafe_code)]

mod archivers;
mod bwrap;
pub(crate) mod command;
mod containerd;
mod podman;
mod runtimes;
mod shelter;
mod spawn;
mod umoci;

use clap::ValueEnum;
use serde::Serialize;

use self::archivers::{Archiver, Work as Archive};
use self::command::installed;
use self::containerd::Containerd;
use self::podman::Podman;
use self::runtimes::{Runtime, Work as Container};
use self::umoci::{Umoci, Work as Layout};
use super::lab::Shared;
use super::race::{Lane, Missing};
use super::{Benchmark, LIBRARY, PIPED};

/// A peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Peer {
    /// tar with zstd or gzip
    Tar,
    /// umoci
    Umoci,
    /// podman
    Podman,
    /// containerd with ctr (as root)
    Containerd,
    /// crun
    Crun,
    /// runc
    Runc,
    /// bubblewrap
    Bwrap,
    /// no sandbox at all
    Spawn,
}

/// Which peers are asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peers(Vec<Peer>);

impl Peers {
    pub(crate) fn new(wanted: &[Peer]) -> Self {
        Self(wanted.to_vec())
    }

    /// The lanes of those that can do what `benchmark` is about.
    pub(super) fn lanes(&self, benchmark: Benchmark, lab: &Shared) -> Vec<Lane> {
        let wanted = Peer::value_variants().iter().filter(|peer| self.0.contains(peer));
        wanted.flat_map(|peer| lanes(*peer, benchmark, lab)).collect()
    }
}

fn lanes(peer: Peer, benchmark: Benchmark, lab: &Shared) -> Vec<Lane> {
    match peer {
        Peer::Tar => tar(benchmark, lab),
        Peer::Umoci => umoci(benchmark, lab),
        Peer::Podman => podman(benchmark, lab),
        Peer::Containerd => containerd(benchmark, lab),
        Peer::Crun => runtime("crun", benchmark, lab),
        Peer::Runc => runtime("runc", benchmark, lab),
        Peer::Bwrap => match benchmark {
            Benchmark::Exec | Benchmark::Run => {
                vec![Lane::peer("bwrap (new sandbox)", have(&["bwrap"]).map(|()| bwrap::Bwrap::new(lab)))]
            }
            _ => Vec::new(),
        },
        Peer::Spawn => spawn(benchmark, lab),
    }
}

fn spawn(benchmark: Benchmark, lab: &Shared) -> Vec<Lane> {
    let lane = |name, way| Lane::peer(name, Ok(spawn::Spawn::new(lab, way)));
    match benchmark {
        Benchmark::Exec => vec![
            lane("plain spawn (tokio, piped)", spawn::Way::Output).against(PIPED),
            lane("plain spawn (null streams)", spawn::Way::Null).against(LIBRARY),
        ],
        _ => Vec::new(),
    }
}

fn tar(benchmark: Benchmark, lab: &Shared) -> Vec<Lane> {
    let lane =
        |name, tool, work| Lane::peer(name, have(&["tar", tool, "bash"]).map(|()| Archiver::new(lab, work)));
    match benchmark {
        Benchmark::Snapshot | Benchmark::Pack => vec![
            lane("tar | zstd -1 -T0", "zstd", Archive::Pack),
            lane("zstd -1 -T0 of a ready tar", "zstd", Archive::Compress),
        ],
        Benchmark::Restore | Benchmark::RestoreArchive | Benchmark::Unpack => {
            vec![lane("zstd -d | tar -x", "zstd", Archive::Unpack)]
        }
        Benchmark::Import => vec![lane("tar -xz", "gzip", Archive::Gunzip)],
        _ => Vec::new(),
    }
}

fn umoci(benchmark: Benchmark, lab: &Shared) -> Vec<Lane> {
    let lane = |name, work| vec![Lane::peer(name, have(&["umoci", "cp"]).map(|()| Umoci::new(lab, work)))];
    match benchmark {
        Benchmark::Snapshot | Benchmark::Pack => lane("umoci repack (gzip)", Layout::Repack),
        Benchmark::Unpack | Benchmark::RestoreArchive | Benchmark::Import => {
            lane("umoci unpack", Layout::Unpack)
        }
        _ => Vec::new(),
    }
}

fn podman(benchmark: Benchmark, lab: &Shared) -> Vec<Lane> {
    let lane = |name, work| vec![Lane::peer(name, have(&["podman"]).map(|()| Podman::new(lab, work)))];
    match benchmark {
        Benchmark::Exec => lane("podman exec", podman::Work::Exec),
        Benchmark::Run => lane("podman run --rm", podman::Work::Run),
        Benchmark::Snapshot => lane("podman commit", podman::Work::Commit),
        Benchmark::Diff => lane("podman diff", podman::Work::Diff),
        Benchmark::Import => lane("podman import", podman::Work::Import),
        _ => Vec::new(),
    }
}

fn containerd(benchmark: Benchmark, lab: &Shared) -> Vec<Lane> {
    let lane = |name, work| {
        let there = have(&["containerd", "ctr", "runc", "bash"]).and_then(|()| as_root());
        vec![Lane::peer(name, there.map(|()| Containerd::new(lab, work)))]
    };
    match benchmark {
        Benchmark::Exec => lane("ctr task exec", containerd::Work::Exec),
        Benchmark::Run => lane("ctr run --rm", containerd::Work::Run),
        Benchmark::Snapshot => lane("ctr snapshot diff (gzip)", containerd::Work::Diff),
        Benchmark::Import => lane("ctr image import", containerd::Work::Import),
        _ => Vec::new(),
    }
}

fn runtime(program: &'static str, benchmark: Benchmark, lab: &Shared) -> Vec<Lane> {
    let lane = |verb, work| {
        let entrant = have(&[program]).map(|()| Runtime::new(lab, program, work));
        vec![Lane::peer(&format!("{program} {verb}"), entrant)]
    };
    match benchmark {
        Benchmark::Exec => lane("exec", Container::Exec),
        Benchmark::Run => lane("run", Container::Run),
        _ => Vec::new(),
    }
}

/// All of these programs, the first of which is the peer itself.
fn have(programs: &[&str]) -> Result<(), Missing> {
    match programs.iter().position(|program| !installed(program)) {
        None => Ok(()),
        Some(0) => Err(Missing::Absent),
        Some(missing) => Err(Missing::Unable(format!("{} is not installed", programs[missing]))),
    }
}

fn as_root() -> Result<(), Missing> {
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err(Missing::Unable("needs root".to_owned())),
    }
}
