//! Every step of what changes a vessel fails once: by an error of the kernel, and by the death of the process that
//! makes it. strace injects both. Afterwards it is the old state or the new, every snapshot that is listed can be restored,
//! nothing is left running, and a second attempt succeeds.
#![forbid(unsafe_code)]

mod merge;

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use vesselrt::{ErrorKind, Manager};

use crate::testkit::{BASE, Cap, Store, leftovers, need, tests};

tests!(
    a_snapshot_meets_faults_at_every_step,
    a_sealed_snapshot_meets_faults_at_every_step,
    a_garbage_collection_meets_faults_at_every_step,
    a_restore_meets_faults_at_every_step,
    a_removal_of_a_snapshot_meets_faults_at_every_step,
    a_deletion_of_a_vessel_meets_faults_at_every_step,
    a_fork_meets_errors_at_every_step,
    a_fork_is_killed_at_every_step,
    a_squash_meets_faults_at_every_step,
);

/// A system call that changes something, and how it fails where disks do.
const CALLS: [(&str, &str); 10] = [
    ("renameat", "ENOSPC"),
    ("renameat2", "EROFS"),
    ("mkdirat", "ENOSPC"),
    ("unlinkat", "EIO"),
    ("linkat", "ENOSPC"),
    ("fsync", "EIO"),
    ("syncfs", "EIO"),
    ("fsconfig", "ENOMEM"),
    ("move_mount", "ENOMEM"),
    ("umount2", "ENOMEM"),
];

/// Nothing makes one of them so often in one thread.
const MANY: usize = 64;

/// What is done, to a vessel with the snapshots `one` and `two`, the state `three`, and a name for what is told.
struct Operation {
    /// Its arguments; `ID`, `ONE` and `TWO` are replaced.
    args: &'static [&'static str],
    /// What the file `state` may say afterwards. `None`: the vessel may be gone.
    states: &'static [Option<&'static str>],
    /// What may be listed afterwards.
    listed: &'static [&'static [&'static str]],
}

/// A vessel before the operation.
struct Before {
    id: String,
    one: String,
    two: String,
}

async fn prepared(manager: &Manager) -> Before {
    let vessel = manager.create_vessel(BASE, "/work").await.unwrap();
    let mut ids = Vec::new();
    for state in ["one", "two"] {
        vessel.write_file("state", state, 0o644).await.unwrap();
        ids.push(vessel.create_snapshot(state).await.unwrap().id);
    }
    vessel.write_file("state", "three", 0o644).await.unwrap();
    vessel.close().await.unwrap();
    let two = ids.pop().unwrap();
    Before { id: vessel.id().to_owned(), one: ids.pop().unwrap(), two }
}

/// How a call is met.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Error,
    Kill,
}

/// Sweeps over all faults, on a new vessel each.
async fn sweep(store: &Store, operation: &Operation) {
    sweep_over(store, operation, &[Kind::Error, Kind::Kill]).await;
}

async fn sweep_over(store: &Store, operation: &Operation, kinds: &[Kind]) {
    if !need(&[Cap::Root, Cap::Strace]) {
        return;
    }
    let manager = store.stocked().await;
    let mut met = 0;
    for (call, error) in CALLS {
        for kind in kinds {
            let fault = match kind {
                Kind::Error => format!("error={error}"),
                Kind::Kill => "signal=KILL".to_owned(),
            };
            for nth in 1..=MANY {
                let before = prepared(&manager).await;
                let what = format!("{call}:{fault}:when={nth}");
                if !is_met(store, operation, &before, &what) {
                    // The operation itself may be its deletion.
                    let deleted = manager.delete_vessel(&before.id).await;
                    assert!(deleted.is_ok() || deleted.unwrap_err().kind() == ErrorKind::NotFound);
                    break;
                }
                assert!(nth < MANY, "{what}: still met");
                met += 1;
                either_old_or_new(store, &manager, operation, &before, &what).await;
            }
        }
    }
    assert!(met > 10, "only {met} faults were met");
    manager.close().await.unwrap();
}

fn arguments(operation: &Operation, before: &Before) -> Vec<String> {
    let filled = |arg: &&str| match *arg {
        "ID" => before.id.clone(),
        "ONE" => before.one.clone(),
        "TWO" => before.two.clone(),
        other => other.to_owned(),
    };
    operation.args.iter().map(filled).collect()
}

/// Runs the operation with a fault; false when nothing met it.
fn is_met(store: &Store, operation: &Operation, before: &Before, fault: &str) -> bool {
    let arguments = arguments(operation, before);
    let plain = store.cli(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let log = store.beside("strace");
    let call = fault.split(':').next().unwrap();
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "60", "strace", "-f", "-qq", "-o"]).arg(&log);
    command.args(["-e", &format!("trace={call}"), "-e", &format!("inject={fault}")]);
    command.arg(plain.get_program()).args(plain.get_args()).current_dir(store.beside("."));
    command.env_clear().envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = command.output().unwrap();
    let log = std::fs::read_to_string(&log).unwrap();
    assert_ne!(output.status.code(), Some(124), "{fault} makes {arguments:?} hang");
    let met = log.contains("(INJECTED)") || (fault.contains("signal=KILL") && has_lethal_call(&log, fault));
    if !met {
        assert!(output.status.success(), "{fault} was not met, but {arguments:?} failed: {output:?}");
    }
    met
}

/// Whether a thread came to the call that kills it: strace counts for each. That a call did not return says nothing, as what is
/// made ready for commands is killed when it is not needed any more.
fn has_lethal_call(log: &str, fault: &str) -> bool {
    let nth: usize = fault.rsplit('=').next().unwrap().parse().unwrap();
    let mut calls: HashMap<&str, usize> = HashMap::new();
    for line in log.lines() {
        let (pid, rest) = line.split_once(' ').unwrap();
        // Not the end of one, of a signal or of the thread.
        if !["<", "-", "+"].iter().any(|mark| rest.trim_start().starts_with(mark)) {
            *calls.entry(pid).or_default() += 1;
        }
    }
    calls.values().any(|&calls| calls >= nth)
}

async fn either_old_or_new(
    store: &Store,
    manager: &Manager,
    operation: &Operation,
    before: &Before,
    what: &str,
) {
    let id = &before.id;
    if !manager.list_vessels().await.unwrap().iter().any(|vessel| vessel.id == *id) {
        assert!(operation.states.contains(&None), "{what}: the vessel is gone");
        return;
    }
    let vessel = manager.open_vessel(id).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    let state = String::from_utf8(vessel.read_file("state").await.unwrap()).unwrap();
    assert!(operation.states.contains(&Some(&state)), "{what}: the state is {state:?}");
    let listed = vessel.list_snapshots().await.unwrap();
    let names: Vec<&str> = listed.iter().map(|snapshot| snapshot.message.as_str()).collect();
    assert!(operation.listed.contains(&names.as_slice()), "{what}: {names:?} are listed");
    vessel.close().await.unwrap();
    // A second attempt, which nothing disturbs. What was done already may be said to be so.
    let arguments = arguments(operation, before);
    let again = store.cli(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).output().unwrap();
    let text = String::from_utf8_lossy(&again.stderr);
    let done = text.contains("not found") || text.contains("exists already");
    assert!(again.status.success() || done, "{what}, again: {again:?}");
    forks_are_whole(store, manager, id, what).await;
    restorable(store, manager, id, what).await;
}

/// Vessels that the operation made are as it, and can be restored like it.
async fn forks_are_whole(store: &Store, manager: &Manager, id: &str, what: &str) {
    let mut forks: Vec<String> =
        manager.list_vessels().await.unwrap().into_iter().map(|vessel| vessel.id).collect();
    forks.retain(|fork| fork != id);
    for fork in &forks {
        let vessel = manager.open_vessel(fork).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(vessel.read_file("state").await.unwrap(), b"three", "{what}");
        vessel.close().await.unwrap();
    }
    // Before layers are taken away that others wait with.
    for waiting in manager.list_vessels().await.unwrap() {
        manager.wait_snapshot(&waiting.id, None).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    for fork in forks {
        restorable(store, manager, &fork, what).await;
    }
}

/// Every snapshot that is listed can be restored: from its layer, and from its archive alone.
async fn restorable(store: &Store, manager: &Manager, id: &str, what: &str) {
    if !manager.list_vessels().await.unwrap().iter().any(|vessel| vessel.id == id) {
        return;
    }
    for archives_alone in [false, true] {
        if archives_alone {
            manager.wait_snapshot(id, None).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            forget_layers(store, id);
        }
        let vessel = manager.open_vessel(id).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        for snapshot in vessel.list_snapshots().await.unwrap() {
            vessel.restore_snapshot(&snapshot.id).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            let state = vessel.read_file("state").await.unwrap();
            assert_eq!(String::from_utf8_lossy(&state), snapshot.message, "{what}");
        }
        vessel.close().await.unwrap();
    }
    manager.delete_vessel(id).await.unwrap();
    leftovers::none_locked(&store.root().join("vessels"));
}

/// Takes away what the storage does not need: the vessel's directory and the sealed layers.
fn forget_layers(store: &Store, id: &str) {
    // Garbage that was being collected may go by itself.
    let remove = |path: &Path| match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{}: {error}", path.display()),
        _ => {}
    };
    remove(&store.root().join("vessels").join(id));
    for layer in leftovers::entries(&store.root().join("layers")) {
        remove(&layer);
    }
}

async fn a_snapshot_meets_faults_at_every_step(store: &Store) {
    sweep(
        store,
        &Operation {
            args: &["snapshot", "create", "ID", "-m", "three"],
            states: &[Some("three")],
            listed: &[&["one", "two"], &["one", "two", "three"]],
        },
    )
    .await;
}

async fn a_sealed_snapshot_meets_faults_at_every_step(store: &Store) {
    sweep(
        store,
        &Operation {
            args: &["snapshot", "create", "ID", "-m", "three", "--fast"],
            states: &[Some("three")],
            listed: &[&["one", "two"], &["one", "two", "three"]],
        },
    )
    .await;
}

async fn a_garbage_collection_meets_faults_at_every_step(store: &Store) {
    sweep(store, &Operation { args: &["gc"], states: &[Some("three")], listed: &[&["one", "two"]] }).await;
}

async fn a_restore_meets_faults_at_every_step(store: &Store) {
    sweep(
        store,
        &Operation {
            args: &["snapshot", "restore", "ID", "ONE"],
            states: &[Some("three"), Some("one")],
            listed: &[&["one", "two"]],
        },
    )
    .await;
}

async fn a_removal_of_a_snapshot_meets_faults_at_every_step(store: &Store) {
    sweep(
        store,
        &Operation {
            // It is the current one: the vessel goes back to its parent.
            args: &["snapshot", "rm", "ID", "TWO"],
            states: &[Some("three"), Some("one")],
            listed: &[&["one", "two"], &["one"]],
        },
    )
    .await;
}

async fn a_deletion_of_a_vessel_meets_faults_at_every_step(store: &Store) {
    sweep(
        store,
        &Operation { args: &["rm", "ID"], states: &[None, Some("three")], listed: &[&["one", "two"]] },
    )
    .await;
}

/// What the vessel is now becomes a snapshot.
const FORK: Operation = Operation {
    args: &["fork", "ID", "--id", "fork", "-m", "three"],
    states: &[Some("three")],
    listed: &[&["one", "two"], &["one", "two", "three"]],
};

async fn a_fork_meets_errors_at_every_step(store: &Store) {
    sweep_over(store, &FORK, &[Kind::Error]).await;
}

async fn a_fork_is_killed_at_every_step(store: &Store) {
    sweep_over(store, &FORK, &[Kind::Kill]).await;
}

async fn a_squash_meets_faults_at_every_step(store: &Store) {
    sweep(
        store,
        &Operation {
            args: &["snapshot", "rm", "ID", "ONE", "--squash"],
            states: &[Some("three")],
            listed: &[&["one", "two"], &["two"]],
        },
    )
    .await;
}
