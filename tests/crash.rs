//! `kill -9` of the command line, of a process with the library, and of the shim, at any moment: nothing is left running,
//! mounted or locked, nothing that was written is lost, every snapshot that is listed is whole.
#![forbid(unsafe_code)]

mod killed;
mod shim;
mod victim;

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use vesselrt::{SnapshotManifest, Vessel};

use crate::testkit::random::Random;
use crate::testkit::{Store, leftovers};

/// Ends a process that this test started.
fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // It may just have ended by itself.
    let _ = rustix::process::kill_process(pid, Signal::KILL);
}

/// The shim of a vessel of this store, if one runs.
pub(crate) fn shim_of(store: &Store, id: &str) -> Option<u32> {
    let mount = format!("{}/vessels/{id} ", store.root().display());
    let is_shim = |pid: &u32| {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        read("cmdline").starts_with(b"vesselrt-shim")
            && leftovers::contains(&read("mountinfo"), mount.as_bytes())
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_shim)
}

/// A random moment in an operation that takes about as long as `before` did.
fn moment(random: &mut Random, before: Duration) -> Duration {
    random.moment(before + before / 4 + Duration::from_micros(1))
}

/// The content of the file `state`.
async fn state(vessel: &Vessel) -> String {
    String::from_utf8(vessel.read_file("state").await.unwrap()).unwrap()
}

/// Every snapshot can be restored, and has the state that its message says. Then back to what is `current`.
async fn all_snapshots_are_whole(vessel: &Vessel) -> Vec<SnapshotManifest> {
    let listed = vessel.list_snapshots().await.unwrap();
    let ids: BTreeMap<&str, &SnapshotManifest> = listed.iter().map(|s| (s.id.as_str(), s)).collect();
    for snapshot in &listed {
        assert!(snapshot.parent_id.is_empty() || ids.contains_key(snapshot.parent_id.as_str()));
        vessel.restore_snapshot(&snapshot.id).await.unwrap();
        assert_eq!(state(vessel).await, snapshot.message);
        assert_eq!(vessel.read_file("big").await.unwrap().len(), BIG, "{}", snapshot.message);
    }
    listed
}

/// Bytes of the file `big`, so that archives take some time.
const BIG: usize = 3 << 20;
