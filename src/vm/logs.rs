//! What a run writes, in files of its own, which `out/stdout.log` and `out/stderr.log` are other names of until the next run.
#![forbid(unsafe_code)]

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use time::OffsetDateTime;
use tokio::io::AsyncWrite;

use super::record::StorageLayout;
use super::stage::unique;
use crate::error::{Error, Result};
use crate::store::dirs;

/// Bytes of one stream that are kept: the first ones.
const KEPT: u64 = 64 << 20;
/// Runs whose files are kept.
const RUNS: usize = 16;

/// The files of one run.
#[derive(Debug)]
pub(super) struct RunLogs {
    pub(super) stdout_path: PathBuf,
    pub(super) stderr_path: PathBuf,
    pub(super) stdout: LogFile,
    pub(super) stderr: LogFile,
    pub(super) truncated: Arc<AtomicBool>,
}

impl RunLogs {
    /// Makes them, and removes those of runs that were long ago.
    pub(super) fn begin(storage: &StorageLayout) -> Result<Self> {
        let runs = runs(storage);
        let run = format!(
            "{:020}-{:08x}",
            OffsetDateTime::now_utc().unix_timestamp_nanos(),
            unique() & 0xffff_ffff
        );
        let dir = runs.join(run);
        let failed = |e| Error::io(format!("failed to make {}", dir.display()), e);
        DirBuilder::new().recursive(true).mode(0o750).create(&dir).map_err(failed)?;
        forget(&runs);
        let truncated = Arc::new(AtomicBool::new(false));
        let open = |name: &str| -> Result<(PathBuf, LogFile)> {
            let path = dir.join(name);
            let file =
                OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path).map_err(failed)?;
            // A guest may have made something else there, which is its own affair.
            let _ = publish(&path, &storage.output_path, name);
            Ok((path, LogFile { file, room: KEPT, truncated: Arc::clone(&truncated) }))
        };
        let ((stdout_path, stdout), (stderr_path, stderr)) = (open("stdout.log")?, open("stderr.log")?);
        Ok(Self { stdout_path, stderr_path, stdout, stderr, truncated })
    }
}

fn runs(storage: &StorageLayout) -> PathBuf {
    storage.root.join("runs")
}

/// Remembers that a command has ended, by the time of a directory: nothing of that is worth a transaction.
pub(super) fn ended(storage: &StorageLayout) -> Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    let path = runs(storage);
    match rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        // It was removed meanwhile.
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::io(format!("failed to set the time of {}", path.display()), e)),
    }
}

/// When a command began or ended last.
pub(super) fn last_run(storage: &StorageLayout) -> Option<OffsetDateTime> {
    let modified = std::fs::symlink_metadata(runs(storage)).and_then(|meta| meta.modified());
    modified.ok().map(OffsetDateTime::from)
}

/// Gives a file another name in the directory `out`, which a guest may write to: nothing there is followed.
fn publish(file: &Path, out: &Path, name: &str) -> Result<()> {
    let dir = dirs::open_path(out)?;
    let staged = format!(".{name}-{:016x}", unique());
    let failed = |e: rustix::io::Errno| Error::io(format!("failed to make {name} in {}", out.display()), e);
    rustix::fs::linkat(CWD, file, &dir, &staged, AtFlags::empty()).map_err(failed)?;
    rustix::fs::renameat(&dir, &staged, &dir, name).map_err(|e| {
        let _ = rustix::fs::unlinkat(&dir, &staged, AtFlags::empty());
        failed(e)
    })
}

/// Removes the oldest; what cannot be removed is another time.
fn forget(runs: &Path) {
    let Ok(entries) = std::fs::read_dir(runs) else { return };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    let old = names.len().saturating_sub(RUNS);
    for name in names.into_iter().take(old) {
        let _ = std::fs::remove_dir_all(runs.join(name));
    }
}

/// A file that takes so much and no more. Whoever writes to it is never stopped.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    room: u64,
    truncated: Arc<AtomicBool>,
}

impl AsyncWrite for LogFile {
    /// To the page cache: not worth a thread.
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let fits = usize::try_from(self.room).unwrap_or(usize::MAX).min(data.len());
        self.file.write_all(&data[..fits])?;
        self.room -= fits as u64;
        if fits < data.len() {
            self.truncated.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn each_run_has_files_of_its_own_and_no_link_of_a_guest_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let storage = super::super::launch::layout(dir.path(), "x", false, true);
        super::super::launch::make_directories(&storage).unwrap();
        std::os::unix::fs::symlink(&victim, storage.output_path.join("stdout.log")).unwrap();
        let (mut one, mut two) = (RunLogs::begin(&storage).unwrap(), RunLogs::begin(&storage).unwrap());
        one.stdout.write_all(b"one").await.unwrap();
        two.stdout.write_all(b"two").await.unwrap();
        assert_eq!(std::fs::read_to_string(&one.stdout_path).unwrap(), "one");
        assert_eq!(std::fs::read_to_string(storage.output_path.join("stdout.log")).unwrap(), "two");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        two.stdout.room = 2;
        two.stdout.write_all(b"xyz").await.unwrap();
        assert_eq!(std::fs::read_to_string(&two.stdout_path).unwrap(), "twoxy");
        assert!(two.truncated.load(Ordering::Relaxed));
        for _ in 0..20 {
            RunLogs::begin(&storage).unwrap();
        }
        assert_eq!(std::fs::read_dir(storage.root.join("runs")).unwrap().count(), RUNS);
    }
}
