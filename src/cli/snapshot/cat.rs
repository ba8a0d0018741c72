//! `snapshot cat`: a file of a snapshot on standard output.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::Args;
use tokio::io::AsyncReadExt;
use vesselrt::SnapshotRead;

use super::super::{Context, Failure, Outcome};

/// What is printed at once, in bytes.
const CHUNK: usize = 256 << 10;

/// Arguments of `snapshot cat`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Only the parts of the archives that are needed are read and decompressed, and what is read is verified by the checksums in \
the archives. With --verify all of every archive is read first and compared with its SHA-256 in the manifest, which a \
restore always does.

Example:
  vesselrt snapshot cat build 6e2b1f0c9d3a4785 /etc/os-release")]
pub(in crate::cli) struct Cat {
    /// Id of the vessel
    id: String,
    /// Id of the snapshot
    #[arg(value_name = "SNAP")]
    snapshot: String,
    /// Path of a file; symlinks are followed
    path: PathBuf,
    /// Verify the whole archives first
    #[arg(long)]
    verify: bool,
}

pub(super) async fn run(args: &Cat, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    let read = SnapshotRead::default().verify(args.verify);
    let mut file = manager.open_snapshot_file(&args.id, &args.snapshot, &args.path, read).await?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = file.read(&mut chunk).await;
        match read
            .map_err(|e| Failure::io(format!("read {:?} of snapshot {}", args.path, args.snapshot), e))?
        {
            0 => return Ok(()),
            n => context.print_bytes(&chunk[..n])?,
        }
    }
}
