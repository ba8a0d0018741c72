//! What vessels share: copies of archives, and forks.
#![forbid(unsafe_code)]

use tokio::io::AsyncReadExt;

use super::{Verdict, Violation, body, expect, expect_kind, need};
use crate::backend::{Storage, VesselFork};
use crate::error::StorageErrorKind;

async fn load(
    case: &'static str,
    storage: &dyn Storage,
    vessel: &str,
    snapshot: &str,
) -> Result<Vec<u8>, Violation> {
    let mut stream = need(case, storage.load_snapshot(vessel, snapshot)).await?;
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes).await;
    need(case, async { read.map_err(|e| crate::StorageError::io("read", snapshot, e)) }).await?;
    Ok(bytes)
}

/// Either can be replaced and deleted without the other.
pub(super) async fn copies_are_on_their_own(storage: &dyn Storage) -> Verdict {
    let case = "copies of archives are on their own";
    need(case, storage.save_snapshot("v1", "s", body(b"one"))).await?;
    need(case, storage.copy_snapshot("v1", "s", "v2")).await?;
    need(case, storage.copy_snapshot("v1", "s", "v2")).await?;
    need(case, storage.copy_snapshot("v1", "s", "v1")).await?;
    need(case, storage.copy_snapshot("v2", "s", "v3")).await?;
    need(case, storage.save_snapshot("v2", "s", body(b"two"))).await?;
    expect(case, &b"one".to_vec(), &load(case, storage, "v1", "s").await?)?;
    need(case, storage.delete_vessel("v1")).await?;
    expect(case, &b"two".to_vec(), &load(case, storage, "v2", "s").await?)?;
    expect(case, &b"one".to_vec(), &load(case, storage, "v3", "s").await?)?;
    need(case, storage.copy_snapshot("v3", "s", "v2")).await?;
    need(case, storage.delete_snapshot("v3", "s")).await?;
    expect(case, &b"one".to_vec(), &load(case, storage, "v2", "s").await?)?;
    expect_kind(case, StorageErrorKind::NotFound, storage.copy_snapshot("v3", "s", "v2").await)?;
    expect_kind(case, StorageErrorKind::InvalidArgument, storage.copy_snapshot("v2", "../s", "v3").await)?;
    expect_kind(case, StorageErrorKind::InvalidArgument, storage.copy_snapshot("v2", "s", "..").await)?;
    expect(case, &b"one".to_vec(), &load(case, storage, "v2", "s").await?)?;
    for vessel in ["v1", "v2", "v3"] {
        need(case, storage.delete_vessel(vessel)).await?;
    }
    Ok(())
}

/// Some at once, one at once, and one of no snapshot.
pub(super) async fn forks_are_vessels(storage: &dyn Storage) -> Verdict {
    let case = "forks are vessels";
    let snapshots = ["a".to_owned(), "b".to_owned()];
    for id in &snapshots {
        need(case, storage.save_snapshot("v", id, body(id.as_bytes()))).await?;
    }
    // Left by one that never came to be.
    need(case, storage.save_snapshot("f2", "a", body(b"old"))).await?;
    let forks: Vec<VesselFork> =
        ["f1", "f2", "f3", "f4"].map(|id| VesselFork::new(id, id.as_bytes().to_vec())).into();
    need(case, storage.fork_vessel("v", &snapshots, &forks)).await?;
    need(case, storage.fork_vessel("f1", &snapshots[..1], &[VesselFork::new("g", b"g".to_vec())])).await?;
    need(case, storage.fork_vessel("v", &[], &[VesselFork::new("h", b"h".to_vec())])).await?;
    need(case, storage.delete_vessel("v")).await?;
    need(case, storage.delete_vessel("f1")).await?;
    let listed = need(case, storage.list_vessels()).await?;
    expect(case, &["f2", "f3", "f4", "g", "h"].map(str::to_owned).to_vec(), &listed)?;
    for id in ["f2", "f3", "f4"] {
        expect(case, &id.as_bytes().to_vec(), &need(case, storage.load_vessel_manifest(id)).await?)?;
        expect(case, &b"a".to_vec(), &load(case, storage, id, "a").await?)?;
        expect(case, &b"b".to_vec(), &load(case, storage, id, "b").await?)?;
    }
    expect(case, &b"a".to_vec(), &load(case, storage, "g", "a").await?)?;
    expect_kind(case, StorageErrorKind::NotFound, storage.load_snapshot("g", "b").await)?;
    let more = [VesselFork::new("i", Vec::new())];
    let unknown = storage.fork_vessel("g", &snapshots, &more).await;
    expect_kind(case, StorageErrorKind::NotFound, unknown)?;
    let bad = storage.fork_vessel("g", &snapshots, &[VesselFork::new("../x", Vec::new())]).await;
    expect_kind(case, StorageErrorKind::InvalidArgument, bad)?;
    for id in ["f2", "f3", "f4", "g", "h", "i"] {
        need(case, storage.delete_vessel(id)).await?;
    }
    expect(case, &Vec::new(), &need(case, storage.list_vessels()).await?)
}

/// A backend that cannot tell says so always.
pub(super) async fn archives_are_listed(storage: &dyn Storage) -> Verdict {
    let case = "archives are listed";
    let Some(none) = need(case, storage.list_archives("v")).await? else { return Ok(()) };
    expect(case, &0, &none.len())?;
    // Those that are the same may be kept once.
    for (id, content) in [("a", 7), ("b.c", 8)] {
        need(case, storage.save_snapshot("v", id, body(&[content; 5000]))).await?;
    }
    let listed = need(case, storage.list_archives("v")).await?.unwrap_or_default();
    let mut ids: Vec<&str> = listed.iter().map(|archive| archive.snapshot_id.as_str()).collect();
    ids.sort_unstable();
    expect(case, &vec!["a", "b.c"], &ids)?;
    expect(case, &true, &listed.iter().all(|archive| archive.bytes > 0 && archive.holders == 1))?;
    expect_kind(case, StorageErrorKind::InvalidArgument, storage.list_archives("../v").await)?;
    need(case, storage.delete_vessel("v")).await
}
