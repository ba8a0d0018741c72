//! Archives that are damaged in every place: what is restored or read out of them is right, or it is refused and nothing
//! has changed. And stores whose ids are not what they were.
#![forbid(unsafe_code)]

use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use vesselrt::{ErrorKind, Manager, SnapshotManifest, Vessel};

use super::{snapshot, state};
use crate::testkit::random::Random;
use crate::testkit::{Cap, Store, fails, need, sh, tests};

tests!(
    every_flipped_byte_of_a_small_archive_is_refused_or_harmless,
    frames_that_are_missing_doubled_or_swapped_are_refused,
    an_archive_that_ends_at_any_frame_is_refused,
    some_flipped_bytes_of_a_large_archive_are_refused,
    a_store_with_other_id_mappings_is_refused,
    a_store_of_another_user_is_refused,
);

/// A vessel that lies on `one`, has something unsaved, and needs the archive of `two` for going there.
struct Victim<'a> {
    store: &'a Store,
    manager: Manager,
    vessel: Vessel,
    two: SnapshotManifest,
    archive: PathBuf,
    good: Vec<u8>,
    content: Vec<u8>,
}

impl<'a> Victim<'a> {
    async fn new(store: &'a Store, content: Vec<u8>) -> Self {
        let (manager, vessel) = store.vessel().await;
        let one = snapshot(&vessel, "one").await;
        vessel.write_file("content", content.clone(), 0o644).await.unwrap();
        let two = snapshot(&vessel, "two").await;
        vessel.restore_snapshot(&one.id).await.unwrap();
        vessel.write_file("unsaved", "x", 0o644).await.unwrap();
        let archive = store.root().join(format!("data/vessels/{}/snapshots/{}.tar.zst", vessel.id(), two.id));
        let good = fs::read(&archive).unwrap();
        let victim = Self { store, manager, vessel, two, archive, good, content };
        victim.forget_layer();
        victim
    }

    fn forget_layer(&self) {
        crate::testkit::store::remove(&self.store.root().join("layers").join(&self.two.id)).unwrap();
    }

    /// Goes to `two` by this archive, and reads a file out of it; true when it was refused.
    async fn meets(&self, bad: &[u8], what: &str) -> bool {
        fs::write(&self.archive, bad).unwrap();
        let read = vesselrt::SnapshotRead::default();
        let file = self.manager.open_snapshot_file(self.vessel.id(), &self.two.id, "content", read).await;
        if let Ok(mut file) = file {
            let mut found = Vec::new();
            let read = tokio::io::AsyncReadExt::read_to_end(&mut file, &mut found).await;
            assert!(read.is_err() || found == self.content, "{what}: other content is read");
        }
        let refused = match self.vessel.restore_snapshot(&self.two.id).await {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::IntegrityViolation, "{what}: {}", error.chain());
                true
            }
            Ok(()) => {
                assert_eq!(self.vessel.read_file("content").await.unwrap(), self.content, "{what}");
                assert_eq!(state(&self.vessel).await, "two", "{what}");
                self.back().await;
                false
            }
        };
        assert_eq!(state(&self.vessel).await, "one", "{what}");
        assert_eq!(self.vessel.read_file("unsaved").await.unwrap(), b"x", "{what}");
        refused
    }

    /// Back to where it began.
    async fn back(&self) {
        let one = &self.vessel.list_snapshots().await.unwrap()[0];
        self.vessel.restore_snapshot(&one.id).await.unwrap();
        self.vessel.write_file("unsaved", "x", 0o644).await.unwrap();
        self.forget_layer();
    }

    async fn refuses(&self, bad: &[u8], what: &str) {
        assert!(bad != self.good && self.meets(bad, what).await, "{what} is taken");
    }

    /// What was wrong was the archive.
    async fn finish(self) {
        assert!(!self.meets(&self.good, "the good one").await);
        self.vessel.close().await.unwrap();
    }
}

/// Where each frame is, by the seek table: 12 bytes for each and 9 that end it, the first four of which are their number.
fn frames(archive: &[u8]) -> Vec<Range<usize>> {
    let word = |at: usize| u32::from_le_bytes(archive[at..at + 4].try_into().unwrap()) as usize;
    let end = archive.len() - 9;
    let count = word(end);
    let mut at = 0;
    let mut frames = Vec::new();
    for entry in 0..count {
        let len = word(end - 12 * (count - entry));
        frames.push(at..at + len);
        at += len;
    }
    assert_eq!(at, end - 12 * count - 8, "the table is behind the frames");
    frames
}

async fn every_flipped_byte_of_a_small_archive_is_refused_or_harmless(store: &Store) {
    let victim = Victim::new(store, b"a few words".to_vec()).await;
    let table = frames(&victim.good).last().unwrap().end;
    let mut harmless = Vec::new();
    for at in 0..victim.good.len() {
        let mut bad = victim.good.clone();
        bad[at] ^= 1 << (at % 8);
        if !victim.meets(&bad, &format!("byte {at} flipped")).await {
            harmless.push(at);
        }
    }
    // A restore reads from the beginning: of the table it needs nothing but its frame. And zstd has some bits without meaning.
    harmless.retain(|at| *at < table);
    assert!(harmless.len() <= table / 20, "of {table} bytes {harmless:?} are not looked at");
    victim.finish().await;
}

/// Several frames of 4 MiB that do not compress.
async fn large(store: &Store) -> (Victim<'_>, Vec<Range<usize>>) {
    let victim = Victim::new(store, Random::new().bytes(13 << 20)).await;
    let frames = frames(&victim.good);
    assert!(frames.len() >= 4, "{}", frames.len());
    (victim, frames)
}

async fn frames_that_are_missing_doubled_or_swapped_are_refused(store: &Store) {
    let (victim, frames) = large(store).await;
    let good = &victim.good;
    let table = &good[frames.last().unwrap().end..];
    let built = |order: &[usize]| {
        let mut bytes: Vec<u8> = order.iter().flat_map(|n| good[frames[*n].clone()].to_vec()).collect();
        bytes.extend(table);
        bytes
    };
    let all: Vec<usize> = (0..frames.len()).collect();
    assert_eq!(built(&all), *good);
    for n in 0..frames.len() - 1 {
        let mut order = all.clone();
        order.swap(n, n + 1);
        victim.refuses(&built(&order), &format!("frames {n} and {} swapped", n + 1)).await;
    }
    for n in 0..frames.len() {
        let mut order = all.clone();
        order.remove(n);
        victim.refuses(&built(&order), &format!("frame {n} missing")).await;
        order.insert(n, (n + 1) % frames.len());
        victim.refuses(&built(&order), &format!("another frame in place of {n}")).await;
        order.insert(n, n);
        victim.refuses(&built(&order), &format!("one frame too many at {n}")).await;
    }
    // A whole frame of somebody else's, valid in itself.
    let foreign = zstd::encode_all(&b"foreign".repeat(10_000)[..], 1).unwrap();
    for at in [frames[1].start, frames.last().unwrap().end] {
        let bad = [&good[..at], &foreign, &good[at..]].concat();
        victim.refuses(&bad, &format!("a foreign frame at {at}")).await;
    }
    victim.finish().await;
}

async fn an_archive_that_ends_at_any_frame_is_refused(store: &Store) {
    let (victim, frames) = large(store).await;
    for frame in &frames {
        for end in [frame.start.saturating_sub(1), frame.start, frame.start + 1] {
            victim.refuses(&victim.good[..end], &format!("only {end} bytes")).await;
        }
    }
    let end = frames.last().unwrap().end;
    victim.refuses(&victim.good[..end - 1], "the last frame cut").await;
    // All of the content is there; what is missing is the table, without which it is read from its beginning.
    for end in [end, end + 1, victim.good.len() - 1] {
        victim.meets(&victim.good[..end], &format!("only {end} bytes")).await;
    }
    victim.finish().await;
}

async fn some_flipped_bytes_of_a_large_archive_are_refused(store: &Store) {
    let (victim, frames) = large(store).await;
    let mut random = Random::new();
    let edges = frames.iter().flat_map(|frame| [frame.start, frame.start + 5, frame.end - 1]);
    let end = frames.last().unwrap().end as u64;
    let some: Vec<usize> = (0..25).map(|_| usize::try_from(random.below(end)).unwrap()).collect();
    for at in edges.chain(some) {
        let mut bad = victim.good.clone();
        bad[at] ^= 0x10;
        victim.refuses(&bad, &format!("byte {at} flipped")).await;
    }
    victim.finish().await;
}

async fn a_store_with_other_id_mappings_is_refused(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    snapshot(&vessel, "one").await;
    vessel.close().await.unwrap();
    manager.close().await.unwrap();
    drop(manager);
    let path = store.root().join("idmap.json");
    let good = fs::read_to_string(&path).unwrap();
    let mapping: serde_json::Value = serde_json::from_str(&good).unwrap();
    let mut bads = Vec::new();
    for (field, change) in [("outside", 7), ("count", -1)] {
        for ids in ["uids", "gids"] {
            let mut other = mapping.clone();
            let value = &mut other[ids].as_array_mut().unwrap().last_mut().unwrap()[field];
            *value = (value.as_i64().unwrap() + change).into();
            bads.push(other.to_string());
        }
    }
    for bad in bads {
        fs::write(&path, &bad).unwrap();
        let error = fails(vesselrt::Manager::new(store.config()).await, &ErrorKind::Conflict);
        assert!(error.to_string().contains("id mappings") && error.remedy().is_some(), "{error:?}");
        let refused = store.cli(&["exec", vessel.id(), "--", "true"]).output().unwrap();
        assert_eq!(refused.status.code(), Some(125));
        assert_eq!(fs::read_to_string(&path).unwrap(), bad, "and nothing is changed");
    }
    for damaged in ["", "{", "{\"uids\":[],\"gids\":"] {
        fs::write(&path, damaged).unwrap();
        fails(vesselrt::Manager::new(store.config()).await, &ErrorKind::IntegrityViolation);
    }
    fs::write(&path, good).unwrap();
    let vessel = store.manager().await.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(state(&vessel).await, "one");
    vessel.close().await.unwrap();
}

async fn a_store_of_another_user_is_refused(store: &Store) {
    if !need(&[Cap::Root]) {
        return;
    }
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "echo mine > state").await;
    vessel.close().await.unwrap();
    manager.close().await.unwrap();
    drop(manager);
    let give = |uid| std::os::unix::fs::chown(store.root(), Some(uid), None).unwrap();
    give(12345);
    let error = fails(vesselrt::Manager::new(store.config()).await, &ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("belongs to user 12345") && error.remedy().is_some(), "{error:?}");
    give(0);
    let vessel = store.manager().await.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(state(&vessel).await, "mine\n");
    vessel.close().await.unwrap();
}
