//! Several managers, handles and processes at one vessel and one store.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::Duration;

use vesselrt::{CreateOptions, ErrorKind, ExecOptions, Manager, Vessel};

use crate::testkit::{BASE, PATIENCE, Store, fails, leftovers, sh, sh_ephemeral, tests, until, within};

tests!(
    a_second_manager_joins_the_running_shim,
    the_first_may_leave_while_the_second_stays,
    snapshots_at_once_are_made_one_after_the_other,
    opening_at_once_starts_one_shim,
    sixteen_vessels_are_created_at_once,
    one_id_is_created_once_whoever_is_first,
    one_image_is_imported_once_by_many,
    deleting_ends_commands_that_run,
    deleting_at_once_succeeds_once,
    opening_and_closing_at_once_loses_nothing,
    restoring_and_writing_at_once_ends_in_one_of_both,
    a_kept_vessel_runs_until_it_is_stopped,
    stopping_all_stops_what_runs,
    many_vessels_run_at_once,
    the_command_line_joins_a_vessel_that_is_open,
    a_vessel_that_somebody_keeps_locked_is_a_conflict,
    snapshots_wait_for_each_other_no_longer_than_told,
);

async fn two_handles(store: &Store) -> (Manager, Vessel, Manager, Vessel) {
    let (manager, vessel) = store.vessel().await;
    let other = store.manager().await;
    let joined = other.open_vessel(vessel.id()).await.unwrap();
    (manager, vessel, other, joined)
}

async fn a_second_manager_joins_the_running_shim(store: &Store) {
    let (_manager, one, _other, two) = two_handles(store).await;
    one.write_file("f", "from one", 0o644).await.unwrap();
    assert_eq!(two.read_file("f").await.unwrap(), b"from one");
    sh(&two, "echo from two > g").await;
    assert_eq!(one.read_file("g").await.unwrap(), b"from two\n");
    let snapshot = two.create_snapshot("by two").await.unwrap();
    one.write_file("f", "changed", 0o644).await.unwrap();
    assert_eq!(one.list_snapshots().await.unwrap(), std::slice::from_ref(&snapshot));
    two.restore_snapshot(&snapshot.id).await.unwrap();
    assert_eq!(one.read_file("f").await.unwrap(), b"from one");
    // What one runs keeps the other from exchanging the layers, and is in its snapshots.
    let running = one.spawn(ExecOptions::new(["sleep", "1000"])).await.unwrap();
    fails(two.restore_snapshot(&snapshot.id).await, &ErrorKind::Conflict);
    assert!(two.create_snapshot("").await.unwrap().pause_ms.is_some());
    drop(running);
    one.close().await.unwrap();
    two.close().await.unwrap();
}

async fn the_first_may_leave_while_the_second_stays(store: &Store) {
    let (manager, one, other, two) = two_handles(store).await;
    one.write_file("f", "x", 0o644).await.unwrap();
    let closing = within(PATIENCE, "closing", one.close());
    closing.await.unwrap();
    drop((one, manager));
    assert_eq!(two.read_file("f").await.unwrap(), b"x");
    assert_eq!(sh(&two, "cat f").await, "x");
    let snapshot = two.create_snapshot("").await.unwrap();
    two.restore_snapshot(&snapshot.id).await.unwrap();
    two.close().await.unwrap();
    until("the shim is gone", async || !other.vessel_status(two.id()).await.unwrap().running).await;
}

async fn snapshots_at_once_are_made_one_after_the_other(store: &Store) {
    let (_manager, one, _other, two) = two_handles(store).await;
    let tasks: Vec<_> = (0..8)
        .map(|i| {
            let vessel = if i % 2 == 0 { one.clone() } else { two.clone() };
            tokio::spawn(async move { vessel.create_snapshot(&i.to_string()).await })
        })
        .collect();
    let mut made = BTreeSet::new();
    for task in tasks {
        made.insert(task.await.unwrap().unwrap().id);
    }
    let listed = one.list_snapshots().await.unwrap();
    assert_eq!((made.len(), listed.len()), (8, 8));
    // One chain, none beside another.
    for pair in listed.windows(2) {
        assert_eq!(pair[1].parent_id, pair[0].id);
    }
    for snapshot in &listed {
        two.restore_snapshot(&snapshot.id).await.unwrap();
    }
    one.close().await.unwrap();
    two.close().await.unwrap();
}

async fn opening_at_once_starts_one_shim(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let id = vessel.id().to_owned();
    vessel.write_file("f", "x", 0o644).await.unwrap();
    vessel.close().await.unwrap();
    let tasks: Vec<_> = (0..12)
        .map(|i| {
            let (id, config, shared) = (id.clone(), store.config(), manager.clone());
            tokio::spawn(async move {
                let own = Manager::new(config).await.unwrap();
                let manager = if i % 2 == 0 { own } else { shared };
                let vessel = manager.open_vessel(&id).await.unwrap();
                assert_eq!(vessel.read_file("f").await.unwrap(), b"x");
                sh(&vessel, &format!("touch by-{i}")).await;
                vessel.close().await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let vessel = manager.open_vessel(&id).await.unwrap();
    assert_eq!(vessel.read_dir("").await.unwrap().len(), 13);
    vessel.close().await.unwrap();
}

async fn sixteen_vessels_are_created_at_once(store: &Store) {
    let manager = store.stocked().await;
    // Nothing is unpacked yet: all want the same layer.
    let tasks: Vec<_> = (0..16)
        .map(|i| {
            let manager = manager.clone();
            tokio::spawn(async move {
                let vessel = manager.create_vessel(BASE, "/work").await.unwrap();
                vessel.write_file("i", i.to_string(), 0o644).await.unwrap();
                assert_eq!(sh(&vessel, "cat i; wc -c < /etc/motd").await, format!("{i}15\n"));
                vessel.close().await.unwrap();
                vessel.id().to_owned()
            })
        })
        .collect();
    let mut ids = BTreeSet::new();
    for task in tasks {
        ids.insert(task.await.unwrap());
    }
    assert_eq!(ids.len(), 16);
    assert_eq!(manager.list_vessels().await.unwrap().len(), 16);
    for id in ids {
        manager.delete_vessel(&id).await.unwrap();
    }
    manager.close().await.unwrap();
}

async fn one_id_is_created_once_whoever_is_first(store: &Store) {
    let manager = store.stocked().await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let manager = manager.clone();
            tokio::spawn(async move { manager.create_vessel_with(CreateOptions::new(BASE).id("one")).await })
        })
        .collect();
    let mut made = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(vessel) => made.push(vessel),
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}", error.chain()),
        }
    }
    assert_eq!(made.len(), 1);
    sh(&made[0], "true").await;
    made[0].close().await.unwrap();
}

async fn one_image_is_imported_once_by_many(store: &Store) {
    let _ = store.manager().await;
    let images = store.root().join("data/images/localhost");
    std::fs::create_dir_all(&images).unwrap();
    std::fs::write(images.join("shared:1.tar"), crate::testkit::image::base_tar()).unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let config = store.config();
            tokio::spawn(async move {
                let manager = Manager::new(config).await.unwrap();
                let vessel = manager.create_vessel("localhost/shared:1", "/").await.unwrap();
                assert_eq!(sh_ephemeral(&vessel, "cat /srv/a").await, "a\n");
                vessel.close().await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.manager().await.list_images().await.unwrap().len(), 1);
}

async fn deleting_ends_commands_that_run(store: &Store) {
    let (manager, one, other, two) = two_handles(store).await;
    let mark = format!("{}.75", 2_000_000 + std::process::id());
    let running = one.clone();
    let options =
        ExecOptions::new(["sh", "-c", &format!("touch started; sleep {mark}")]).persist_result(true);
    let command = tokio::spawn(async move { running.exec(options).await });
    until("the command has started", async || two.stat("started").await.is_ok()).await;
    within(PATIENCE, "the deletion", other.delete_vessel(two.id())).await.unwrap();
    let ended = within(PATIENCE, "the command", command).await.unwrap();
    assert!(ended.is_err() || !ended.unwrap().success());
    until("no process is left", async || leftovers::processes_named(&mark).is_empty()).await;
    fails(manager.open_vessel(one.id()).await, &ErrorKind::NotFound);
    assert!(one.read_file("started").await.is_err() && two.create_snapshot("").await.is_err());
    assert!(manager.list_vessels().await.unwrap().is_empty());
}

async fn deleting_at_once_succeeds_once(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let id = vessel.id().to_owned();
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let (config, id) = (store.config(), id.clone());
            tokio::spawn(async move { Manager::new(config).await.unwrap().delete_vessel(&id).await })
        })
        .collect();
    let mut deleted = 0;
    for task in tasks {
        match within(PATIENCE, "the deletion", task).await.unwrap() {
            Ok(()) => deleted += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain()),
        }
    }
    assert!(deleted >= 1);
    drop(vessel);
}

async fn opening_and_closing_at_once_loses_nothing(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let id = vessel.id().to_owned();
    vessel.close().await.unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|i| {
            let (config, id) = (store.config(), id.clone());
            tokio::spawn(async move {
                let manager = Manager::new(config).await.unwrap();
                for round in 0..8 {
                    let vessel = manager.open_vessel(&id).await.unwrap();
                    vessel.write_file(format!("f{i}-{round}"), "x", 0o644).await.unwrap();
                    vessel.close().await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        within(PATIENCE * 2, "opening and closing", task).await.unwrap();
    }
    let vessel = manager.open_vessel(&id).await.unwrap();
    assert_eq!(vessel.read_dir("").await.unwrap().len(), 32);
    vessel.close().await.unwrap();
}

async fn restoring_and_writing_at_once_ends_in_one_of_both(store: &Store) {
    let (_manager, one, _other, two) = two_handles(store).await;
    one.write_file("state", "snapshot", 0o644).await.unwrap();
    let snapshot = one.create_snapshot("").await.unwrap();
    let writer = tokio::spawn(async move {
        for round in 0..60 {
            // A write waits for the restore, or comes before it; it is never half of it.
            two.write_file("state", format!("written {round}"), 0o644).await.unwrap();
            let read = two.read_file("state").await.unwrap();
            assert!(read == b"snapshot" || read.starts_with(b"written "), "{read:?}");
        }
        two
    });
    let mut restored = 0;
    while !writer.is_finished() {
        match one.restore_snapshot(&snapshot.id).await {
            Ok(()) => restored += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{}", error.chain()),
        }
    }
    let two = writer.await.unwrap();
    assert!(restored > 0);
    one.restore_snapshot(&snapshot.id).await.unwrap();
    assert_eq!(two.read_file("state").await.unwrap(), b"snapshot");
    one.close().await.unwrap();
    two.close().await.unwrap();
}

async fn a_kept_vessel_runs_until_it_is_stopped(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let id = vessel.id().to_owned();
    vessel.keep(true).await.unwrap();
    vessel.close().await.unwrap();
    drop((vessel, manager));
    let manager = store.manager().await;
    let status = manager.vessel_status(&id).await.unwrap();
    assert!(status.running && status.kept, "{status:?}");
    let vessel = manager.open_vessel(&id).await.unwrap();
    sh(&vessel, "echo x > f").await;
    vessel.close().await.unwrap();
    assert!(manager.vessel_status(&id).await.unwrap().running);
    assert!(manager.stop_vessel(&id).await.unwrap());
    assert!(!manager.vessel_status(&id).await.unwrap().running);
    assert!(!manager.stop_vessel(&id).await.unwrap(), "it did not run");
    let vessel = manager.open_vessel(&id).await.unwrap();
    assert_eq!(vessel.read_file("f").await.unwrap(), b"x\n");
    // Not kept any more: it leaves with the last who has it open.
    vessel.keep(true).await.unwrap();
    vessel.keep(false).await.unwrap();
    vessel.close().await.unwrap();
    until("the shim is gone", async || !manager.vessel_status(&id).await.unwrap().running).await;
}

async fn stopping_all_stops_what_runs(store: &Store) {
    let manager = store.stocked().await;
    let mut kept = BTreeSet::new();
    for i in 0..3 {
        let vessel = manager.create_vessel(BASE, "/").await.unwrap();
        if i > 0 {
            vessel.keep(true).await.unwrap();
            kept.insert(vessel.id().to_owned());
        }
        vessel.close().await.unwrap();
    }
    let stopped: BTreeSet<String> = manager.stop_all().await.unwrap().into_iter().collect();
    assert_eq!(stopped, kept);
    assert!(manager.stop_all().await.unwrap().is_empty());
}

async fn many_vessels_run_at_once(store: &Store) {
    let manager = store.stocked().await;
    let mut vessels = Vec::new();
    for i in 0..10 {
        let vessel = manager.create_vessel(BASE, "/work").await.unwrap();
        vessel.write_file("i", i.to_string(), 0o644).await.unwrap();
        vessels.push(vessel);
    }
    let tasks: Vec<_> = vessels
        .iter()
        .cloned()
        .map(|vessel| {
            tokio::spawn(async move { sh(&vessel, "cat i; hostname > /tmp/h; usleep 100000").await })
        })
        .collect();
    for (i, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), i.to_string());
    }
    for vessel in vessels {
        vessel.close().await.unwrap();
    }
}

async fn the_command_line_joins_a_vessel_that_is_open(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    vessel.write_file("f", "library\n", 0o644).await.unwrap();
    let mut command = store.cli(&["exec", vessel.id(), "--", "sh", "-c", "cat f; echo command > g"]);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "library\n", "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(vessel.read_file("g").await.unwrap(), b"command\n");
    let mut command = store.cli(&["snapshot", "create", vessel.id(), "-m", "by the command line"]);
    let made = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let id = String::from_utf8(made.stdout).unwrap();
    let listed = vessel.list_snapshots().await.unwrap();
    assert_eq!((listed[0].id.as_str(), listed[0].message.as_str()), (id.trim(), "by the command line"));
    vessel.write_file("f", "later\n", 0o644).await.unwrap();
    vessel.restore_snapshot(id.trim()).await.unwrap();
    assert_eq!(vessel.read_file("f").await.unwrap(), b"library\n");
    vessel.close().await.unwrap();
}

/// Holds a lock file of a vessel, as a process would that hangs.
fn hold(store: &Store, id: &str, name: &str) -> std::fs::File {
    let path = store.root().join("vessels").join(id).join(name);
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(path).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    file
}

async fn a_vessel_that_somebody_keeps_locked_is_a_conflict(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    vessel.write_file("f", "x", 0o644).await.unwrap();
    vessel.close().await.unwrap();
    let manager = Manager::new(store.config().lock_timeout(Duration::from_millis(300))).await.unwrap();
    let lock = hold(store, vessel.id(), "lock");
    let opening = within(PATIENCE, "opening", manager.open_vessel(vessel.id()));
    let error = fails(opening.await, &ErrorKind::Conflict);
    assert!(error.chain().contains("use"), "{}", error.chain());
    assert!(manager.list_vessels().await.unwrap().len() == 1, "listing needs no lock");
    drop(lock);
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(vessel.read_file("f").await.unwrap(), b"x");
    vessel.close().await.unwrap();
}

async fn snapshots_wait_for_each_other_no_longer_than_told(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    vessel.close().await.unwrap();
    let manager = Manager::new(store.config().lock_timeout(Duration::from_millis(300))).await.unwrap();
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    let lock = hold(store, vessel.id(), "ops.lock");
    fails(within(PATIENCE, "the snapshot", vessel.create_snapshot("")).await, &ErrorKind::Conflict);
    // What changes no snapshot goes on meanwhile.
    sh(&vessel, "echo x > f").await;
    drop(lock);
    let snapshot = vessel.create_snapshot("").await.unwrap();
    let lock = hold(store, vessel.id(), "ops.lock");
    fails(within(PATIENCE, "the restore", vessel.restore_snapshot(&snapshot.id)).await, &ErrorKind::Conflict);
    drop(lock);
    vessel.restore_snapshot(&snapshot.id).await.unwrap();
    vessel.close().await.unwrap();
}
