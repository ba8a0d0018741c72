//! What is mounted is no part of the vessel: not of snapshots, archives, comparisons and forks. And it stays where it is when
//! layers are exchanged below it.
#![forbid(unsafe_code)]

use std::fs;

use vesselrt::settings::Mount;
use vesselrt::{DiffOptions, ErrorKind, ExecOptions, ForkOptions, OpenOptions, SnapshotOptions};

use super::{bind, host_dir, vessel};
use crate::testkit::{
    Store, fails, fails_with, leftovers, run_in, sh, sh_ephemeral, tests, tests_on_each_driver, until,
};

tests_on_each_driver!(
    what_is_mounted_is_in_no_snapshot_and_no_archive,
    mounts_are_there_after_a_snapshot_and_after_a_restore,
    a_running_vessel_is_snapshotted_without_its_mounts,
    a_fork_has_the_mounts_of_its_vessel,
);

tests!(
    what_is_open_below_a_mount_hinders_no_snapshot,
    only_what_it_is_mounted_on_differs,
    a_place_that_became_a_file_keeps_commands_out_and_nothing_else,
    what_is_mended_while_it_runs_is_mounted_for_the_next_command,
    a_vessel_that_was_rebuilt_from_its_archives_has_no_mounts,
);

const NEEDLE: &str = "gjBfQ2bT7wxyNEEDLEzzk1";

async fn what_is_mounted_is_in_no_snapshot_and_no_archive(store: &Store) {
    let host = host_dir(store, "host");
    let mounts = [bind(&host, "/data"), Mount::volume("v", "/vol").unwrap(), Mount::tmpfs("/mem").unwrap()];
    let (manager, vessel) = vessel(store, mounts).await;
    sh(
        &vessel,
        &format!("for d in data vol mem; do echo {NEEDLE} > /$d/{NEEDLE}; done; echo own > /work/own"),
    )
    .await;
    let durable = vessel.create_snapshot("durable").await.unwrap();
    sh(&vessel, "echo more > /work/more").await;
    let fast = vessel.create_snapshot_with(SnapshotOptions::new("fast").sealed()).await.unwrap();
    manager.wait_snapshot(vessel.id(), None).await.unwrap();
    for snapshot in [&durable.id, &fast.id] {
        let path = store.root().join(format!("data/vessels/{}/snapshots/{snapshot}.tar.zst", vessel.id()));
        let tar = zstd::decode_all(fs::File::open(path).unwrap()).unwrap();
        assert!(!leftovers::contains(&tar, NEEDLE.as_bytes()), "{snapshot}");
        for place in ["/data", "/vol", "/mem"] {
            fails(
                vessel.read_snapshot_file(snapshot, format!("{place}/{NEEDLE}")).await,
                &ErrorKind::NotFound,
            );
        }
    }
    assert_eq!(vessel.read_snapshot_file(&durable.id, "/work/own").await.unwrap(), b"own\n");
    assert_eq!(
        sh(&vessel, &format!("cat /data/{NEEDLE} /vol/{NEEDLE}")).await,
        format!("{NEEDLE}\n").repeat(2)
    );
    vessel.close().await.unwrap();
}

async fn mounts_are_there_after_a_snapshot_and_after_a_restore(store: &Store) {
    let host = host_dir(store, "host");
    let (_manager, vessel) =
        vessel(store, [bind(&host, "/data"), Mount::volume("v", "/new/vol").unwrap()]).await;
    let mut snapshots = Vec::new();
    for n in 0..3 {
        sh(&vessel, &format!("echo {n} > /data/n; echo {n} > /new/vol/n; echo {n} > /work/n")).await;
        let options = SnapshotOptions::new("s");
        let options = if n == 1 { options.sealed() } else { options };
        snapshots.push(vessel.create_snapshot_with(options).await.unwrap());
        assert_eq!(sh_ephemeral(&vessel, "cat /data/n /new/vol/n").await, format!("{n}\n{n}\n"));
    }
    for (n, snapshot) in snapshots.iter().enumerate() {
        vessel.restore_snapshot(&snapshot.id).await.unwrap();
        assert_eq!(sh(&vessel, "cat /data/n /new/vol/n /work/n").await, format!("2\n2\n{n}\n"));
        assert_eq!(vessel.read_file("/data/n").await.unwrap(), b"2\n");
        assert_eq!(sh_ephemeral(&vessel, "cat /data/n /new/vol/n").await, "2\n2\n");
    }
    vessel.write_file("/new/vol/by-api", b"x", 0o600).await.unwrap();
    assert_eq!(sh(&vessel, "cat /new/vol/by-api").await, "x");
    vessel.close().await.unwrap();
}

async fn a_running_vessel_is_snapshotted_without_its_mounts(store: &Store) {
    let host = host_dir(store, "host");
    let (_manager, vessel) = vessel(store, [bind(&host, "/data")]).await;
    let script = format!(
        "echo {NEEDLE} > /data/{NEEDLE}; echo begun > begun; exec 3>>/data/log; while :; do echo x >&3; sleep 0.02; done"
    );
    let running = vessel.spawn(ExecOptions::new(["sh", "-c", &script]).persist_result(true)).await.unwrap();
    until("it has begun", async || vessel.read_file("begun").await.is_ok()).await;
    let snapshot = vessel.create_snapshot("running").await.unwrap();
    assert_eq!(vessel.read_snapshot_file(&snapshot.id, "begun").await.unwrap(), b"begun\n");
    fails(vessel.read_snapshot_file(&snapshot.id, format!("/data/{NEEDLE}")).await, &ErrorKind::NotFound);
    let before = fs::metadata(host.join("log")).unwrap().len();
    until("it goes on", async || fs::metadata(host.join("log")).unwrap().len() > before + 4).await;
    drop(running);
    vessel.close().await.unwrap();
}

async fn a_fork_has_the_mounts_of_its_vessel(store: &Store) {
    let host = host_dir(store, "host");
    let mounts = vec![bind(&host, "/data"), Mount::tmpfs("/mem").unwrap().size(1 << 20)];
    let (manager, vessel) = vessel(store, mounts.clone()).await;
    sh(&vessel, "echo shared > /data/f; echo own > /work/f; echo mem > /mem/f").await;
    let fork = manager.fork_vessel(vessel.id(), ForkOptions::default()).await.unwrap().remove(0);
    assert_eq!(manager.vessel_settings(&fork.id).await.unwrap().mounts, mounts);
    let fork = manager.open_vessel(&fork.id).await.unwrap();
    assert_eq!(sh(&fork, "cat /data/f /work/f; ls -A /mem; echo fork > /data/f").await, "shared\nown\n");
    assert_eq!(sh(&vessel, "cat /data/f").await, "fork\n");
    fork.close().await.unwrap();
    vessel.close().await.unwrap();
}

async fn what_is_open_below_a_mount_hinders_no_snapshot(store: &Store) {
    let host = host_dir(store, "host");
    let (_manager, vessel) = vessel(store, [bind(&host, "/data"), Mount::volume("v", "/vol").unwrap()]).await;
    let options = OpenOptions::new().write(true).create(true);
    let file = vessel.open_file("/data/open", &options).await.unwrap();
    let other = vessel.open_file("/vol/open", &options).await.unwrap();
    let snapshot = vessel.create_snapshot("open").await.unwrap();
    vessel.restore_snapshot(&snapshot.id).await.unwrap();
    assert_eq!(sh(&vessel, "ls /data /vol").await, "/data:\nopen\n\n/vol:\nopen\n");
    drop((file, other));
    vessel.close().await.unwrap();
}

async fn only_what_it_is_mounted_on_differs(store: &Store) {
    let host = host_dir(store, "host");
    let (_manager, vessel) = vessel(store, [bind(&host, "/data/deep"), bind(&host, "/srv")]).await;
    sh(&vessel, "echo x > /data/deep/x; rm -f /srv/x; mkdir /srv/d").await;
    let diff = vessel.diff(DiffOptions::new()).await.unwrap();
    let mut paths: Vec<_> =
        diff.changes.iter().map(|change| change.path.to_str().unwrap().to_owned()).collect();
    paths.sort();
    let places: Vec<_> = paths.iter().map(|path| path.trim_start_matches('/')).collect();
    assert_eq!(places, ["data", "data/deep", "work"]);
    vessel.close().await.unwrap();
}

async fn a_place_that_became_a_file_keeps_commands_out_and_nothing_else(store: &Store) {
    let host = host_dir(store, "host");
    fs::write(host.join("f"), "mounted").unwrap();
    let mounts =
        [bind(&host, "/p/data"), Mount::tmpfs("/p/data/mem").unwrap(), Mount::volume("v", "/vol").unwrap()];
    let (manager, mut vessel) = vessel(store, mounts).await;
    sh(&vessel, "echo v > /vol/v; mv /p /q; echo file > /p").await;
    for _ in ["while it runs", "when it is started", "after a snapshot"] {
        for persist in [true, false] {
            let refused = vessel.exec(ExecOptions::new(["true"]).persist_result(persist)).await;
            let error = fails_with(refused, &ErrorKind::InvalidArgument, "/p/data");
            assert!(error.remedy().is_some());
        }
        assert_eq!(vessel.read_file("/p").await.unwrap(), b"file\n");
        assert_eq!(vessel.read_file("/vol/v").await.unwrap(), b"v\n", "what is not in the way is mounted");
        vessel.close().await.unwrap();
        manager.stop_vessel(vessel.id()).await.unwrap();
        vessel = manager.open_vessel(vessel.id()).await.unwrap();
        vessel.create_snapshot("broken").await.unwrap();
    }
    vessel.delete_file("/p").await.unwrap();
    assert_eq!(vessel.read_file("/p/data/f").await.unwrap(), b"mounted");
    assert_eq!(
        sh(&vessel, "cat /p/data/f; ls -A /p/data/mem /q/data").await,
        "mounted/p/data/mem:\n\n/q/data:\n"
    );
    vessel.close().await.unwrap();
}

async fn what_is_mended_while_it_runs_is_mounted_for_the_next_command(store: &Store) {
    let host = host_dir(store, "host");
    fs::write(host.join("f"), "mounted").unwrap();
    let (_manager, vessel) = vessel(store, [bind(&host, "/p/data")]).await;
    for n in 0..2 {
        sh(&vessel, "rm -rf /q; mv /p /q; echo file > /p").await;
        fails(vessel.exec(ExecOptions::new(["true"])).await, &ErrorKind::InvalidArgument);
        vessel.delete_file("/p").await.unwrap();
        assert_eq!(vessel.read_file("/p/data/f").await.unwrap(), b"mounted");
        for persist in [true, false] {
            let script = format!("cat /p/data/f; echo x > /p/data/{n}-{persist}; ls -A /q/data");
            let ran = run_in(&vessel, ExecOptions::new(["sh", "-c", &script]).persist_result(persist))
                .await
                .unwrap();
            assert_eq!(ran.out, "mounted", "{ran:?}");
            assert!(host.join(format!("{n}-{persist}")).exists());
        }
    }
    vessel.close().await.unwrap();
}

async fn a_vessel_that_was_rebuilt_from_its_archives_has_no_mounts(store: &Store) {
    let host = host_dir(store, "host");
    let (manager, vessel) = vessel(store, [bind(&host, "/data")]).await;
    sh(&vessel, "echo x > /work/x; echo y > /data/y").await;
    vessel.create_snapshot("kept").await.unwrap();
    vessel.close().await.unwrap();
    manager.stop_vessel(vessel.id()).await.unwrap();
    drop(manager);
    crate::persistence::wipe(store);
    let manager = store.manager().await;
    let again = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(
        sh(&again, "cat /work/x; ls -A /data").await,
        "x\n",
        "what it may use of a host stays on that host"
    );
    assert!(manager.vessel_settings(vessel.id()).await.unwrap().mounts.is_empty());
    again.close().await.unwrap();
}
