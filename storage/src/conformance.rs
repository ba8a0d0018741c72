//! What every [`Storage`] must do, as code: the contract of [`crate::backend`] checked case by case.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! vesselrt_storage::conformance::run(vesselrt_storage::MemoryStorage::new()).await.unwrap();
//! # });
//! ```
#![forbid(unsafe_code)]

mod sharing;

use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::backend::{ByteStream, Storage};
use crate::error::{Result, StorageErrorKind};

/// No operation of the suite takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a save whose future was dropped may need to disappear.
const SETTLE: Duration = Duration::from_millis(200);
/// Ids and references that must be refused.
const BAD_NAMES: [&str; 9] = ["", ".", "..", "../x", "/x", "a/../b", "a\0b", "a\nb", "a//b"];

/// A storage broke its contract.
#[derive(Debug, Error)]
#[error("{case}: expected {expected}, got {actual}")]
pub struct Violation {
    /// Which rule was tested.
    pub case: &'static str,
    /// What the contract says.
    pub expected: String,
    /// What happened.
    pub actual: String,
}

type Verdict = std::result::Result<(), Violation>;

/// Checks `storage`, which must be empty and is emptied again, against every rule of the contract.
///
/// # Errors
/// The first [`Violation`].
pub async fn run(storage: impl Storage) -> Verdict {
    let storage: Arc<dyn Storage> = Arc::new(storage);
    manifests_are_replaced(&*storage).await?;
    missing_is_not_found(&*storage).await?;
    bad_names_are_refused(&*storage).await?;
    too_large_a_manifest_is_refused(&*storage).await?;
    snapshots_round_trip(&*storage).await?;
    a_failing_body_changes_nothing(&*storage).await?;
    a_dropped_save_changes_nothing(&*storage).await?;
    deletes_are_idempotent(&*storage).await?;
    vessels_are_listed_by_manifest(&*storage).await?;
    concurrent_saves_leave_one_whole(&storage).await?;
    concurrent_deletes_all_succeed(&storage).await?;
    sharing::copies_are_on_their_own(&*storage).await?;
    sharing::forks_are_vessels(&*storage).await?;
    sharing::archives_are_listed(&*storage).await
}

fn expect<T: PartialEq + Debug>(case: &'static str, expected: &T, actual: &T) -> Verdict {
    if expected == actual {
        return Ok(());
    }
    let short = |value: &T| format!("{value:?}").chars().take(300).collect();
    Err(Violation { case, expected: short(expected), actual: short(actual) })
}

fn expect_kind<T>(case: &'static str, expected: StorageErrorKind, actual: Result<T>) -> Verdict {
    match actual {
        Ok(_) => Err(Violation { case, expected: format!("{expected:?}"), actual: "success".into() }),
        Err(error) => expect(case, &expected, &error.kind()),
    }
}

/// The value of an operation that has to succeed, and in time.
async fn need<T>(
    case: &'static str,
    operation: impl Future<Output = Result<T>>,
) -> std::result::Result<T, Violation> {
    let violated = |actual: String| Violation { case, expected: "success".into(), actual };
    match tokio::time::timeout(PATIENCE, operation).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(violated(format!("{error:?}"))),
        Err(_) => Err(violated("no answer".into())),
    }
}

fn body(bytes: &[u8]) -> ByteStream {
    Box::pin(io::Cursor::new(bytes.to_vec()))
}

async fn snapshot(
    storage: &dyn Storage,
    case: &'static str,
    id: &str,
) -> std::result::Result<Vec<u8>, Violation> {
    let mut stream = need(case, storage.load_snapshot("v", id)).await?;
    let mut bytes = Vec::new();
    let read =
        async { stream.read_to_end(&mut bytes).await.map_err(|e| crate::StorageError::io("read", id, e)) };
    need(case, read).await?;
    Ok(bytes)
}

/// Bytes that do not compress to nothing.
fn noise(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761).rotate_left(i % 31) >> 24) as u8).collect()
}

async fn manifests_are_replaced(storage: &dyn Storage) -> Verdict {
    let case = "manifests are replaced";
    for manifest in [&b"{\"a\":1}"[..], b"", b"\x00\xff", &noise(100_000), b"last"] {
        need(case, storage.save_vessel_manifest("v", manifest)).await?;
        let loaded = need(case, storage.load_vessel_manifest("v")).await?;
        expect(case, &manifest, &loaded.as_slice())?;
    }
    need(case, storage.delete_vessel("v")).await
}

async fn missing_is_not_found(storage: &dyn Storage) -> Verdict {
    let (case, kind) = ("missing is not found", StorageErrorKind::NotFound);
    expect_kind(case, kind, storage.load_vessel_manifest("none").await)?;
    expect_kind(case, kind, storage.load_snapshot("none", "none").await)?;
    expect_kind(case, kind, storage.load_image("docker.io/library/none:latest").await)?;
    need(case, storage.save_vessel_manifest("v", b"x")).await?;
    expect_kind(case, kind, storage.load_snapshot("v", "none").await)?;
    need(case, storage.delete_vessel("v")).await
}

async fn bad_names_are_refused(storage: &dyn Storage) -> Verdict {
    let (case, kind) = ("bad names are refused", StorageErrorKind::InvalidArgument);
    for bad in BAD_NAMES {
        expect_kind(case, kind, storage.save_vessel_manifest(bad, b"x").await)?;
        expect_kind(case, kind, storage.load_vessel_manifest(bad).await)?;
        expect_kind(case, kind, storage.load_image(bad).await)?;
        expect_kind(case, kind, storage.delete_vessel(bad).await)?;
        for (vessel, id) in [(bad, "s"), ("v", bad)] {
            expect_kind(case, kind, storage.save_snapshot(vessel, id, body(b"x")).await)?;
            expect_kind(case, kind, storage.load_snapshot(vessel, id).await)?;
            expect_kind(case, kind, storage.delete_snapshot(vessel, id).await)?;
        }
    }
    expect_kind(case, kind, storage.save_vessel_manifest("Upper", b"x").await)?;
    expect_kind(case, kind, storage.save_vessel_manifest(&"a".repeat(65), b"x").await)
}

async fn too_large_a_manifest_is_refused(storage: &dyn Storage) -> Verdict {
    let case = "too large a manifest is refused";
    let large = vec![b' '; usize::try_from(crate::backend::MAX_MANIFEST_BYTES).unwrap_or(usize::MAX) + 1];
    expect_kind(case, StorageErrorKind::LimitExceeded, storage.save_vessel_manifest("v", &large).await)?;
    expect_kind(case, StorageErrorKind::NotFound, storage.load_vessel_manifest("v").await)
}

async fn snapshots_round_trip(storage: &dyn Storage) -> Verdict {
    let case = "snapshots round-trip";
    for (id, len) in [("empty", 0), ("tiny", 1), ("odd", 262_145), ("large", 3_000_000)] {
        let bytes = noise(len);
        need(case, storage.save_snapshot("v", id, body(&bytes))).await?;
        expect(case, &bytes, &snapshot(storage, case, id).await?)?;
    }
    need(case, storage.save_snapshot("v", "large", body(b"replaced"))).await?;
    expect(case, &b"replaced".to_vec(), &snapshot(storage, case, "large").await?)?;
    expect(case, &noise(1), &snapshot(storage, case, "tiny").await?)?;
    need(case, storage.delete_vessel("v")).await
}

/// Gives some bytes, and then an error or nothing ever again.
struct Broken {
    bytes_left: usize,
    error: bool,
}

impl AsyncRead for Broken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = self.bytes_left.min(buf.remaining());
        if n > 0 {
            self.bytes_left -= n;
            buf.put_slice(&vec![b'x'; n]);
            return Poll::Ready(Ok(()));
        }
        if self.error { Poll::Ready(Err(io::Error::other("broken on purpose"))) } else { Poll::Pending }
    }
}

async fn a_failing_body_changes_nothing(storage: &dyn Storage) -> Verdict {
    let case = "a failing body changes nothing";
    need(case, storage.save_snapshot("v", "old", body(b"old"))).await?;
    for bytes_left in [0, 100, 2_000_000] {
        for id in ["old", "new"] {
            let broken = Box::pin(Broken { bytes_left, error: true });
            expect_kind(case, StorageErrorKind::Internal, storage.save_snapshot("v", id, broken).await)?;
        }
        expect_kind(case, StorageErrorKind::NotFound, storage.load_snapshot("v", "new").await)?;
        expect(case, &b"old".to_vec(), &snapshot(storage, case, "old").await?)?;
    }
    need(case, storage.delete_vessel("v")).await
}

async fn a_dropped_save_changes_nothing(storage: &dyn Storage) -> Verdict {
    let case = "a dropped save changes nothing";
    need(case, storage.save_snapshot("v", "old", body(b"old"))).await?;
    for bytes_left in [0, 100, 2_000_000] {
        for id in ["old", "new"] {
            let stuck = Box::pin(Broken { bytes_left, error: false });
            let save = tokio::time::timeout(SETTLE, storage.save_snapshot("v", id, stuck)).await;
            expect(case, &true, &save.is_err())?;
        }
        tokio::time::sleep(SETTLE).await;
        expect_kind(case, StorageErrorKind::NotFound, storage.load_snapshot("v", "new").await)?;
        expect(case, &b"old".to_vec(), &snapshot(storage, case, "old").await?)?;
    }
    need(case, storage.delete_vessel("v")).await
}

async fn deletes_are_idempotent(storage: &dyn Storage) -> Verdict {
    let (case, missing) = ("deletes are idempotent", StorageErrorKind::NotFound);
    need(case, storage.delete_vessel("v")).await?;
    need(case, storage.delete_snapshot("v", "s")).await?;
    need(case, storage.save_vessel_manifest("v", b"x")).await?;
    for id in ["s", "t"] {
        need(case, storage.save_snapshot("v", id, body(b"x"))).await?;
    }
    for _ in 0..2 {
        need(case, storage.delete_snapshot("v", "s")).await?;
        expect_kind(case, missing, storage.load_snapshot("v", "s").await)?;
    }
    expect(case, &b"x".to_vec(), &snapshot(storage, case, "t").await?)?;
    for _ in 0..2 {
        need(case, storage.delete_vessel("v")).await?;
        expect_kind(case, missing, storage.load_vessel_manifest("v").await)?;
        expect_kind(case, missing, storage.load_snapshot("v", "t").await)?;
    }
    Ok(())
}

async fn vessels_are_listed_by_manifest(storage: &dyn Storage) -> Verdict {
    let case = "vessels are listed by manifest";
    expect(case, &Vec::new(), &need(case, storage.list_vessels()).await?)?;
    need(case, storage.save_snapshot("only-a-snapshot", "s", body(b"x"))).await?;
    for id in ["b", "a", "c.0"] {
        need(case, storage.save_vessel_manifest(id, b"x")).await?;
    }
    need(case, storage.delete_vessel("b")).await?;
    let listed = need(case, storage.list_vessels()).await?;
    expect(case, &vec!["a".to_owned(), "c.0".to_owned()], &listed)?;
    for id in ["a", "c.0", "only-a-snapshot"] {
        need(case, storage.delete_vessel(id)).await?;
    }
    expect(case, &Vec::new(), &need(case, storage.list_vessels()).await?)
}

async fn concurrent_saves_leave_one_whole(storage: &Arc<dyn Storage>) -> Verdict {
    let case = "concurrent saves leave one, whole";
    let mut saves = tokio::task::JoinSet::new();
    for n in 0..8u8 {
        let storage = Arc::clone(storage);
        saves.spawn(async move {
            need(case, storage.save_vessel_manifest("v", &vec![n; 50_000])).await?;
            need(case, storage.save_snapshot("v", "s", body(&vec![n; 700_000]))).await
        });
    }
    while let Some(joined) = saves.join_next().await {
        joined.map_err(|e| Violation { case, expected: "no panic".into(), actual: e.to_string() })??;
    }
    let manifest = need(case, storage.load_vessel_manifest("v")).await?;
    expect(case, &vec![manifest[0]; 50_000], &manifest)?;
    let bytes = snapshot(&**storage, case, "s").await?;
    expect(case, &vec![bytes[0]; 700_000], &bytes)?;
    need(case, storage.delete_vessel("v")).await
}

async fn concurrent_deletes_all_succeed(storage: &Arc<dyn Storage>) -> Verdict {
    let case = "concurrent deletes all succeed";
    for n in 0..6 {
        need(case, storage.save_vessel_manifest(&format!("v{n}"), b"x")).await?;
        for snapshot in 0..5 {
            need(case, storage.save_snapshot(&format!("v{n}"), &format!("s{snapshot}"), body(b"x"))).await?;
        }
    }
    let mut deletes = tokio::task::JoinSet::new();
    for n in 0..12 {
        let (id, storage) = (format!("v{}", n / 2), Arc::clone(storage));
        deletes.spawn(async move { need(case, storage.delete_vessel(&id)).await });
    }
    while let Some(joined) = deletes.join_next().await {
        joined.map_err(|e| Violation { case, expected: "no panic".into(), actual: e.to_string() })??;
    }
    expect(case, &Vec::new(), &need(case, storage.list_vessels()).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Fault, MemoryStorage};
    use crate::{CompressedStorage, LocalStorage};

    #[tokio::test(flavor = "multi_thread")]
    async fn local() {
        let tmp = tempfile::tempdir().unwrap();
        run(LocalStorage::new(tmp.path()).unwrap()).await.unwrap();
        let left: Vec<_> = std::fs::read_dir(tmp.path().join("vessels")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn local_compressed() {
        let tmp = tempfile::tempdir().unwrap();
        run(CompressedStorage::local(tmp.path()).unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn memory() {
        run(MemoryStorage::new()).await.unwrap();
    }

    #[tokio::test]
    async fn memory_compressed() {
        run(CompressedStorage::new(MemoryStorage::new())).await.unwrap();
    }

    #[tokio::test]
    async fn behind_a_pointer() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        run(storage).await.unwrap();
    }

    /// The suite must notice: a storage that fails once, wherever, does not pass.
    #[tokio::test]
    async fn a_storage_that_fails_does_not_pass() {
        for n in [1, 2, 3, 12, 40] {
            assert!(run(MemoryStorage::new().with_fault(Fault::OnCall(n))).await.is_err(), "call {n}");
        }
        for n in [10, 100_000, 4_000_000] {
            assert!(run(MemoryStorage::new().with_fault(Fault::AfterBytes(n))).await.is_err(), "{n} bytes");
        }
    }
}
