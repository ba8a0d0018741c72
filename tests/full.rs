//! A store on a small file system of its own, which is really full, or really read-only, at every step: the old state or the
//! new one, nothing listed that cannot be restored, and a second attempt works once there is room.
#![forbid(unsafe_code)]

mod small;

use std::process::Output;
use std::time::Duration;

use self::small::Small;
use crate::testkit::random::Random;
use crate::testkit::{Cap, Store, need, tests};

tests!(
    a_snapshot_in_a_full_store_is_there_or_not,
    a_sealed_snapshot_in_a_full_store_is_there_or_not,
    a_restore_in_a_full_store_happens_or_not,
    a_restore_from_the_archive_in_a_full_store_happens_or_not,
    a_fork_in_a_full_store_is_there_or_not,
    a_squash_in_a_full_store_happens_or_not,
    layers_are_merged_in_a_full_store_or_not,
    garbage_is_collected_in_a_full_store,
    a_store_that_becomes_read_only_changes_at_most_to_the_new_state,
    nothing_works_on_a_read_only_store_and_all_of_it_afterwards,
);

/// What is done, to a vessel with the snapshots `one` and `two` and the state `three`.
struct Operation {
    /// Its arguments; `ID`, `ONE` and `TWO` are replaced.
    args: &'static [&'static str],
    /// What the file `state` may say afterwards.
    states: &'static [&'static str],
    /// The messages of the snapshots that may be listed afterwards.
    listed: &'static [&'static [&'static str]],
    /// The layers are taken away before: they come from the archives.
    from_archive: bool,
}

const SNAPSHOT: Operation = Operation {
    args: &["snapshot", "create", "ID", "-m", "three"],
    states: &["three"],
    listed: &[&["one", "two"], &["one", "two", "three"]],
    from_archive: false,
};

const SEALED: Operation =
    Operation { args: &["snapshot", "create", "ID", "-m", "three", "--fast"], ..SNAPSHOT };

const FORK: Operation = Operation { args: &["fork", "ID", "--id", "fork", "-m", "three"], ..SNAPSHOT };

const RESTORE: Operation = Operation {
    args: &["snapshot", "restore", "ID", "ONE"],
    states: &["three", "one"],
    listed: &[&["one", "two"]],
    from_archive: false,
};

const SQUASH: Operation = Operation {
    args: &["snapshot", "rm", "ID", "ONE", "--squash"],
    states: &["three"],
    listed: &[&["one", "two"], &["two"]],
    from_archive: false,
};

const COLLECT: Operation =
    Operation { args: &["gc"], states: &["three"], listed: &[&["one", "two"]], from_archive: false };

/// A vessel before the operation.
struct Before {
    id: String,
    one: String,
    two: String,
}

impl Before {
    fn new(small: &Small) -> Self {
        let id = small.line(&["create", crate::testkit::BASE]);
        let snapshot = |state: &str| {
            small.write_state(&id, state);
            small.line(&["snapshot", "create", &id, "-m", state])
        };
        let (one, two) = (snapshot("one"), snapshot("two"));
        small.write_state(&id, "three");
        Self { id, one, two }
    }

    fn arguments(&self, operation: &Operation) -> Vec<String> {
        let filled = |arg: &&str| match *arg {
            "ID" => self.id.clone(),
            "ONE" => self.one.clone(),
            "TWO" => self.two.clone(),
            other => other.to_owned(),
        };
        operation.args.iter().map(filled).collect()
    }

    fn run(&self, small: &Small, operation: &Operation) -> Output {
        let arguments = self.arguments(operation);
        small.cli(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).output().unwrap()
    }

    /// The old state or the new; the same again works; and what is listed can be restored, from archives alone too.
    fn is_whole(&self, small: &Small, operation: &Operation, what: &str) {
        let state = small.state(&self.id);
        assert!(operation.states.contains(&state.as_str()), "{what}: the state is {state:?}");
        let messages: Vec<String> =
            small.snapshots(&self.id).into_iter().map(|(_, message)| message).collect();
        let listed: Vec<&str> = messages.iter().map(String::as_str).collect();
        assert!(operation.listed.contains(&listed.as_slice()), "{what}: {listed:?}");
        let again = self.run(small, operation);
        let text = String::from_utf8_lossy(&again.stderr);
        let done = text.contains("not found") || text.contains("exists already");
        assert!(again.status.success() || done, "{what}, again: {text}");
        for vessel in small.vessels() {
            small.line(&["snapshot", "wait", &vessel]);
        }
        for archives_alone in [false, true] {
            if archives_alone {
                small.forget_layers();
            }
            for vessel in small.vessels() {
                for (id, message) in small.snapshots(&vessel) {
                    small.line(&["snapshot", "restore", &vessel, &id]);
                    assert_eq!(small.state(&vessel), message, "{what}: {vessel}");
                }
            }
        }
        small.clear();
    }
}

/// What there is how little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scarce {
    Pages,
    Inodes,
}

/// So much is enough for anything here.
const ENOUGH: u64 = 4000;
/// After so many successes in a row more room makes no difference.
const SURE: usize = 3;

/// Does it with room for nothing more, then with some more, until it succeeds.
async fn sweep(store: &Store, operation: &Operation, steps: &[(Scarce, u64)]) {
    if !need(&[Cap::Root]) {
        return;
    }
    let small = Small::new(store);
    let (mut failures, mut advised) = (0, 0);
    for &(scarce, step) in steps {
        let mut successes = 0;
        for room in (0..ENOUGH).step_by(usize::try_from(step).unwrap()) {
            let before = Before::new(&small);
            if operation.from_archive {
                small.forget_layers();
            }
            small.leave_room(scarce, room);
            let done = before.run(&small, operation);
            small.make_room();
            let what = format!("room for {room} {scarce:?}");
            if done.status.success() {
                successes += 1;
            } else {
                successes = 0;
                failures += 1;
                let text = String::from_utf8_lossy(&done.stderr);
                assert!(!text.contains("panicked") && done.status.code() == Some(125), "{what}: {done:?}");
                assert!(text.contains("No space left on device"), "{what}: {text}");
                advised += usize::from(text.contains("remedy: make room"));
            }
            before.is_whole(&small, operation, &what);
            if successes == SURE {
                break;
            }
            assert!(room + step < ENOUGH, "{operation:?} never succeeds", operation = operation.args);
        }
    }
    assert!(failures > 2 || operation.args == ["gc"], "only {failures} attempts failed");
    assert_eq!(failures > 0, advised > 0, "what to do is told with {advised} of {failures} failures");
}

async fn a_snapshot_in_a_full_store_is_there_or_not(store: &Store) {
    sweep(store, &SNAPSHOT, &[(Scarce::Pages, 2), (Scarce::Inodes, 2)]).await;
}

async fn a_sealed_snapshot_in_a_full_store_is_there_or_not(store: &Store) {
    sweep(store, &SEALED, &[(Scarce::Pages, 1), (Scarce::Inodes, 2)]).await;
}

async fn a_restore_in_a_full_store_happens_or_not(store: &Store) {
    sweep(store, &RESTORE, &[(Scarce::Pages, 1), (Scarce::Inodes, 1)]).await;
}

async fn a_restore_from_the_archive_in_a_full_store_happens_or_not(store: &Store) {
    // What was in no snapshot goes with the vessel's directory.
    let operation = Operation { from_archive: true, states: &["two", "one"], ..RESTORE };
    sweep(store, &operation, &[(Scarce::Pages, 3), (Scarce::Inodes, 3)]).await;
}

async fn a_fork_in_a_full_store_is_there_or_not(store: &Store) {
    sweep(store, &FORK, &[(Scarce::Pages, 1), (Scarce::Inodes, 3)]).await;
}

async fn a_squash_in_a_full_store_happens_or_not(store: &Store) {
    sweep(store, &SQUASH, &[(Scarce::Pages, 1), (Scarce::Inodes, 2)]).await;
}

async fn garbage_is_collected_in_a_full_store(store: &Store) {
    sweep(store, &COLLECT, &[(Scarce::Pages, 1), (Scarce::Inodes, 1)]).await;
}

async fn layers_are_merged_in_a_full_store_or_not(store: &Store) {
    if !need(&[Cap::Root]) {
        return;
    }
    let small = Small::new(store);
    let id = small.line(&["create", crate::testkit::BASE]);
    for n in 0..9 {
        small.write_state(&id, &format!("{n}"));
        small.line(&["snapshot", "create", &id, "-m", &format!("{n}"), "--fast"]);
    }
    small.line(&["snapshot", "wait", &id]);
    let mut failures = 0;
    for room in 0..20 {
        small.forget_merged();
        small.leave_room(Scarce::Inodes, room);
        let done = small.cli(&["upkeep", &id]).output().unwrap();
        small.make_room();
        failures += usize::from(!done.status.success());
        assert_eq!(done.status.success(), small.merged() == 1, "{room}: {done:?}");
        assert_eq!(small.state(&id), "8");
        assert!(small.cli(&["upkeep", &id]).status().unwrap().success(), "{room}");
        assert_eq!((small.merged(), small.state(&id).as_str()), (1, "8"));
    }
    assert!(failures > 2, "only {failures} attempts failed");
}

async fn a_store_that_becomes_read_only_changes_at_most_to_the_new_state(store: &Store) {
    if !need(&[Cap::Root]) {
        return;
    }
    let small = Small::new(store);
    let (mut random, mut hit) = (Random::new(), 0);
    for round in 0..20 {
        for operation in [&SNAPSHOT, &SEALED, &RESTORE, &FORK, &SQUASH] {
            if hit == 5 || (hit > 0 && round > 5) {
                return;
            }
            let before = Before::new(&small);
            let arguments = before.arguments(operation);
            let mut command = small.cli(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
            let quiet = std::process::Stdio::null;
            let mut child = command.stdout(quiet()).stderr(quiet()).spawn().unwrap();
            std::thread::sleep(random.moment(Duration::from_millis(60 / (round + 1))));
            let mut becomes = small.becomes_read_only();
            let done = child.wait().unwrap();
            assert!(becomes.wait().unwrap().success());
            hit += usize::from(!done.success());
            small.writable();
            before.is_whole(&small, operation, &format!("{:?} in round {round}: {done}", operation.args));
        }
    }
    assert!(hit > 0, "none was interrupted");
}

async fn nothing_works_on_a_read_only_store_and_all_of_it_afterwards(store: &Store) {
    if !need(&[Cap::Root]) {
        return;
    }
    let small = Small::new(store);
    for operation in [&SNAPSHOT, &SEALED, &RESTORE, &FORK, &SQUASH] {
        let before = Before::new(&small);
        assert!(small.becomes_read_only().wait().unwrap().success());
        let done = before.run(&small, operation);
        let text = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(125), "{:?}: {text}", operation.args);
        assert!(text.contains("Read-only file system"), "{:?}: {text}", operation.args);
        small.writable();
        before.is_whole(&small, operation, &format!("{:?}", operation.args));
    }
}
