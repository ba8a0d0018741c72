//! The process that uses a vessel is killed.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vesselrt::{ErrorKind, Vessel};

use super::victim::Victim;
use super::{BIG, all_snapshots_are_whole, kill, moment, shim_of, state};
use crate::testkit::random::Random;
use crate::testkit::{Store, leftovers, tests, until, wait_until};

tests!(
    the_library_s_process_is_killed_during_exec,
    the_library_s_process_is_killed_during_snapshots,
    the_library_s_process_is_killed_during_sealed_snapshots,
    the_library_s_process_is_killed_during_restores,
    the_library_s_process_is_killed_while_it_opens_and_closes,
    the_library_s_process_and_the_shim_are_killed_together,
    the_command_line_is_killed_during_exec,
    the_command_line_is_killed_during_snapshots_and_restores,
    the_command_line_is_killed_while_it_creates_and_deletes,
);

/// Times that each kill is tried.
const ROUNDS: usize = 8;

/// A closed vessel with some snapshots, whose messages are their states, and the state `begin`.
async fn prepared(store: &Store) -> Vessel {
    let (_manager, vessel) = store.vessel().await;
    vessel.write_file("big", Random::new().bytes(BIG), 0o644).await.unwrap();
    for value in ["first", "second"] {
        vessel.write_file("state", value, 0o644).await.unwrap();
        vessel.create_snapshot(value).await.unwrap();
    }
    vessel.write_file("state", "begin", 0o644).await.unwrap();
    vessel.close().await.unwrap();
    vessel
}

fn nothing_runs(store: &Store) {
    // The library's handles of this process have directories open; locks and shims are what must go.
    leftovers::none_locked(&store.root().join("vessels"));
}

async fn the_library_s_process_is_killed_during_exec(store: &Store) {
    let id = prepared(store).await.id().to_owned();
    let mark = format!("{}.25", 3_000_000 + std::process::id());
    let mut victim = Victim::start(store, &id, &mark);
    victim.wait_for("wrote");
    assert!(!leftovers::processes_named(&format!("sleep {mark}")).is_empty());
    victim.kill();
    wait_until("the command is dead", || leftovers::processes_named(&mark).is_empty());
    nothing_runs(store);
    let vessel = store.manager().await.open_vessel(&id).await.unwrap();
    assert_eq!(state(&vessel).await, "running", "what it had written is kept");
    all_snapshots_are_whole(&vessel).await;
    vessel.close().await.unwrap();
}

async fn the_library_s_process_is_killed_during_snapshots(store: &Store) {
    is_killed_during(store, "snapshot").await;
}

/// While it seals, while it packs what it has sealed, or both.
async fn the_library_s_process_is_killed_during_sealed_snapshots(store: &Store) {
    is_killed_during(store, "seal").await;
}

async fn is_killed_during(store: &Store, task: &str) {
    let id = prepared(store).await.id().to_owned();
    let mut random = Random::new();
    for _ in 0..ROUNDS {
        let mut victim = Victim::start(store, &id, task);
        victim.wait_for("wrote");
        std::thread::sleep(random.moment(Duration::from_millis(300)));
        victim.kill();
        nothing_runs(store);
        let (wrote, made) = (victim.said("wrote"), victim.said("made"));
        let manager = store.manager().await;
        let vessel = manager.open_vessel(&id).await.unwrap();
        let now = state(&vessel).await;
        // It may have written the next one and not said so any more.
        let last: Vec<u64> =
            [wrote.last().unwrap(), &now].map(|v| v.rsplit('-').next().unwrap().parse().unwrap()).into();
        assert!(last[1] == last[0] || last[1] == last[0] + 1, "{now} after {wrote:?}");
        let listed: Vec<String> =
            vessel.list_snapshots().await.unwrap().into_iter().map(|s| s.message).collect();
        assert!(made.iter().all(|message| listed.contains(message)), "{made:?} are not all in {listed:?}");
        vessel.create_snapshot(&now).await.unwrap();
        all_snapshots_are_whole(&vessel).await;
        assert_eq!(state(&vessel).await, now);
        // Archives of no snapshot take room for ever.
        let archives = leftovers::entries(&store.root().join(format!("data/vessels/{id}/snapshots")));
        assert_eq!(archives.len(), vessel.list_snapshots().await.unwrap().len(), "{archives:?}");
        vessel.close().await.unwrap();
    }
}

async fn the_library_s_process_is_killed_during_restores(store: &Store) {
    let id = prepared(store).await.id().to_owned();
    let mut random = Random::new();
    for _ in 0..ROUNDS {
        let mut victim = Victim::start(store, &id, "restore");
        victim.wait_for("wrote");
        std::thread::sleep(random.moment(Duration::from_millis(300)));
        victim.kill();
        nothing_runs(store);
        is_dirty_or_restored(store, &id, victim.said("wrote").len() - 1).await;
    }
}

/// The state is that of the snapshot which is current, or what was written on top of it in round `round` or the next.
async fn is_dirty_or_restored(store: &Store, id: &str, round: usize) {
    let manager = store.manager().await;
    let vessel = manager.open_vessel(id).await.unwrap();
    let (now, current) = (state(&vessel).await, vessel.manifest().current_snapshot_id);
    let listed = vessel.list_snapshots().await.unwrap();
    let current = &listed.iter().find(|snapshot| snapshot.id == current).unwrap().message;
    let may_be = [current.clone(), format!("dirty-{round}"), format!("dirty-{}", round + 1)];
    assert!(may_be.contains(&now), "{now} is none of {may_be:?}");
    all_snapshots_are_whole(&vessel).await;
    vessel.close().await.unwrap();
}

async fn the_library_s_process_is_killed_while_it_opens_and_closes(store: &Store) {
    let id = prepared(store).await.id().to_owned();
    let mut random = Random::new();
    for _ in 0..ROUNDS {
        let mut victim = Victim::start(store, &id, "open");
        victim.wait_for("wrote");
        std::thread::sleep(random.moment(Duration::from_millis(150)));
        victim.kill();
        nothing_runs(store);
        let last = victim.said("wrote").len() - 1;
        let vessel = store.manager().await.open_vessel(&id).await.unwrap();
        let now = state(&vessel).await;
        assert!(
            now == format!("opened-{last}") || now == format!("opened-{}", last + 1),
            "{now} after {last}"
        );
        vessel.close().await.unwrap();
    }
}

async fn the_library_s_process_and_the_shim_are_killed_together(store: &Store) {
    let id = prepared(store).await.id().to_owned();
    let mut random = Random::new();
    for task in ["snapshot", "restore", "snapshot", "restore"] {
        let mut victim = Victim::start(store, &id, task);
        victim.wait_for("wrote");
        std::thread::sleep(random.moment(Duration::from_millis(200)));
        let shim = shim_of(store, &id);
        victim.kill();
        if let Some(shim) = shim {
            kill(shim);
        }
        nothing_runs(store);
        let vessel = store.manager().await.open_vessel(&id).await.unwrap();
        let now = state(&vessel).await;
        assert!(!now.is_empty());
        all_snapshots_are_whole(&vessel).await;
        vessel.close().await.unwrap();
    }
}

/// Starts the command line and waits for its first line.
fn start(command: &mut Command, line: &str) -> std::process::Child {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first.trim(), line);
    child
}

async fn the_command_line_is_killed_during_exec(store: &Store) {
    let id = prepared(store).await.id().to_owned();
    let mark = format!("{}.125", 4_000_000 + std::process::id());
    let script = format!("echo -n running > state; (setsid sleep {mark} &); echo started; sleep {mark}");
    let mut child = start(&mut store.cli(&["exec", &id, "--", "sh", "-c", &script]), "started");
    kill(child.id());
    child.wait().unwrap();
    wait_until("the command is dead", || leftovers::processes_named(&mark).is_empty());
    nothing_runs(store);
    leftovers::none_in_use(&store.root().join("vessels").join(&id).join("gen-3"));
    let vessel = store.manager().await.open_vessel(&id).await.unwrap();
    assert_eq!(state(&vessel).await, "running");
    vessel.close().await.unwrap();
}

async fn the_command_line_is_killed_during_snapshots_and_restores(store: &Store) {
    let vessel = prepared(store).await;
    let (id, mut random) = (vessel.id().to_owned(), Random::new());
    let first = vessel.manifest().snapshots[0].id.clone();
    let mut usual = Vec::new();
    for args in [["snapshot", "create", &id, "-m", "begin"].as_slice(), &["snapshot", "restore", &id, &first]]
    {
        let start = Instant::now();
        assert!(store.cli(args).output().unwrap().status.success());
        usual.push(start.elapsed());
    }
    for round in 0..ROUNDS {
        let manager = store.manager().await;
        let open = manager.open_vessel(&id).await.unwrap();
        let written = format!("written {round}");
        open.write_file("state", &written, 0o644).await.unwrap();
        open.close().await.unwrap();
        let mut command = match round % 2 {
            0 => store.cli(&["snapshot", "create", &id, "-m", &written]),
            _ => store.cli(&["snapshot", "restore", &id, &first]),
        };
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(moment(&mut random, usual[round % 2]));
        kill(child.id());
        child.wait().unwrap();
        nothing_runs(store);
        let open = manager.open_vessel(&id).await.unwrap();
        let now = state(&open).await;
        assert!(now == written || (round % 2 == 1 && now == "first"), "{now} in round {round}");
        all_snapshots_are_whole(&open).await;
        open.close().await.unwrap();
    }
}

async fn the_command_line_is_killed_while_it_creates_and_deletes(store: &Store) {
    let manager = store.stocked().await;
    let mut random = Random::new();
    let start = Instant::now();
    assert!(
        store.cli(&["create", crate::testkit::BASE, "--id", "measured"]).output().unwrap().status.success()
    );
    let usual = start.elapsed();
    manager.delete_vessel("measured").await.unwrap();
    for round in 0..ROUNDS {
        let id = format!("v{round}");
        for args in [vec!["create", crate::testkit::BASE, "--id", &id], vec!["rm", &id]] {
            let mut child = store.cli(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(moment(&mut random, usual));
            kill(child.id());
            child.wait().unwrap();
            nothing_runs(store);
            // It is there and works, or it is not there.
            match manager.open_vessel(&id).await {
                Ok(vessel) => {
                    vessel.write_file("/f", "x", 0o644).await.unwrap();
                    vessel.close().await.unwrap();
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain()),
            }
        }
        // Whatever was left half-made or half-deleted hinders nobody.
        match manager.delete_vessel(&id).await {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain()),
        }
        let options = vesselrt::CreateOptions::new(crate::testkit::BASE).id(&id);
        let vessel = manager.create_vessel_with(options).await.unwrap();
        vessel.close().await.unwrap();
        manager.delete_vessel(&id).await.unwrap();
    }
    until("all is removed", async || {
        manager.collect_garbage().await.unwrap();
        leftovers::entries(&store.root().join("vessels")).iter().all(|path| !path.is_dir())
    })
    .await;
}
