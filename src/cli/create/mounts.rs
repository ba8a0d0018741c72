//! The flags of what is mounted in a vessel.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use vesselrt::settings::{Mount, MountSource};

use crate::cli::context::GLOBAL;

const HEADING: &str = "Mounts";

/// Flags of what is mounted in a vessel.
#[derive(Debug, Args)]
#[group(skip)]
pub(in crate::cli) struct MountFlags {
    /// Mount a directory or file of this host (type=bind), a volume, or a file system in memory (type=tmpfs)
    #[arg(help_heading = HEADING, long, value_name = "type=TYPE,src=SRC,dst=DST[,ro]", value_parser = long)]
    mount: Vec<Mount>,
    /// Mount SRC at DST: a path of this host if it has a slash, the name of a volume otherwise
    #[arg(help_heading = HEADING, short = 'v', long, value_name = "SRC:DST[:ro]", value_parser = short)]
    volume: Vec<Mount>,
    // The global flag without its letter, which is that of volumes here. What it says is taken from where it is global.
    /// Tell more on standard error
    #[arg(help_heading = GLOBAL, id = "verbose", long = "verbose")]
    _verbose: bool,
}

impl From<MountFlags> for Vec<Mount> {
    fn from(flags: MountFlags) -> Self {
        flags.mount.into_iter().chain(flags.volume).collect()
    }
}

fn long(text: &str) -> Result<Mount, String> {
    Mount::parse(text, &here()?).map_err(|e| e.to_string())
}

fn short(text: &str) -> Result<Mount, String> {
    Mount::parse_short(text, &here()?).map_err(|e| e.to_string())
}

/// Where relative paths begin.
fn here() -> Result<PathBuf, String> {
    std::env::current_dir().map_err(|e| format!("failed to find the working directory: {e}"))
}

/// The lines of `inspect`.
pub(super) fn rows(mounts: &[Mount]) -> Vec<[String; 2]> {
    mounts.iter().map(|mount| ["mount".to_owned(), mount.to_string()]).collect()
}

/// What `inspect --json` says, in the words of the command line.
pub(super) fn to_json(mounts: &[Mount]) -> Value {
    let one = |mount: &Mount| {
        let (kind, source, size, mode) = match mount.source() {
            MountSource::Bind { path } => ("bind", Some(path), None, None),
            MountSource::Volume { name } => ("volume", Some(name), None, None),
            MountSource::Tmpfs { size, mode } => ("tmpfs", None, *size, Some(format!("{mode:o}"))),
            _ => ("unknown", None, None, None),
        };
        json!({
            "type": kind,
            "source": source,
            "destination": mount.destination(),
            "read_only": mount.is_read_only(),
            "size": size,
            "mode": mode,
        })
    };
    mounts.iter().map(one).collect()
}
