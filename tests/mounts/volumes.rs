//! Volumes: they outlive vessels, are shared by them, and stay as long as one names them.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;

use vesselrt::settings::Mount;
use vesselrt::{ErrorKind, ExecOptions, ForkOptions};

use super::{options, vessel};
use crate::testkit::{Cap, Store, fails, fails_with, run_in, sh, tests, tests_on_each_driver};

tests_on_each_driver!(a_volume_outlives_its_vessels, two_vessels_share_a_volume_at_once);

tests!(
    a_volume_that_is_used_is_not_removed,
    what_a_guest_does_to_a_volume_keeps_nobody_from_removing_it,
    volumes_are_made_listed_and_removed,
    names_that_are_no_names_are_refused,
    a_new_volume_is_empty_and_closed_to_others,
    volumes_count_as_what_they_take,
    volumes_are_made_and_removed_while_vessels_start,
);

fn volume(name: &str) -> Mount {
    Mount::volume(name, "/vol").unwrap()
}

async fn a_volume_outlives_its_vessels(store: &Store) {
    let (manager, first) = vessel(store, [volume("kept")]).await;
    sh(&first, "echo one > /vol/f; ln /vol/f /vol/g; mkdir /vol/d; chmod 751 /vol/d").await;
    first.close().await.unwrap();
    manager.delete_vessel(first.id()).await.unwrap();
    manager.collect_garbage().await.unwrap();
    let second = manager.create_vessel_with(options([volume("kept")])).await.unwrap();
    assert_eq!(sh(&second, "cat /vol/g; stat -c %a:%u /vol/d").await, "one\n751:0\n");
    second.close().await.unwrap();
}

async fn two_vessels_share_a_volume_at_once(store: &Store) {
    let (manager, first) = vessel(store, [volume("both")]).await;
    let second = manager.create_vessel_with(options([volume("both").read_only(true)])).await.unwrap();
    for n in 0..3 {
        sh(&first, &format!("echo {n} > /vol/n")).await;
        assert_eq!(sh(&second, "cat /vol/n").await, format!("{n}\n"));
        assert_eq!(second.read_file("/vol/n").await.unwrap(), format!("{n}\n").as_bytes());
    }
    let ran = run_in(&second, ExecOptions::new(["touch", "/vol/no"])).await.unwrap();
    assert!(!ran.result.success());
    let fork = &manager.fork_vessel(first.id(), ForkOptions::default()).await.unwrap()[0];
    let fork = manager.open_vessel(&fork.id).await.unwrap();
    sh(&fork, "echo fork > /vol/n").await;
    assert_eq!(sh(&first, "cat /vol/n").await, "fork\n");
    for vessel in [first, second, fork] {
        vessel.close().await.unwrap();
    }
}

async fn a_volume_that_is_used_is_not_removed(store: &Store) {
    let (manager, vessel) = vessel(store, [volume("used")]).await;
    sh(&vessel, "echo x > /vol/f").await;
    for _ in ["it is open", "it is stopped"] {
        let error = fails_with(manager.remove_volume("used").await, &ErrorKind::Conflict, vessel.id());
        assert!(error.remedy().is_some());
        vessel.close().await.unwrap();
    }
    assert_eq!(manager.volume("used").await.unwrap().vessels, [vessel.id()]);
    manager.delete_vessel(vessel.id()).await.unwrap();
    manager.remove_volume("used").await.unwrap();
    fails_with(manager.volume("used").await, &ErrorKind::NotFound, "volume not found: used");
    assert!(manager.list_volumes().await.unwrap().is_empty());
}

async fn what_a_guest_does_to_a_volume_keeps_nobody_from_removing_it(store: &Store) {
    let (manager, vessel) = vessel(store, [volume("odd")]).await;
    let owner = if Cap::SubordinateIds.is_there() { "chown 1000:1000 /vol /vol/d/d;" } else { "" };
    sh(
        &vessel,
        &format!("mkdir -p /vol/d/d; echo x > /vol/d/d/f; mkfifo /vol/p; {owner} chmod 0 /vol/d /vol"),
    )
    .await;
    vessel.close().await.unwrap();
    manager.stop_vessel(vessel.id()).await.unwrap();
    let again = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&again, "cat /vol/d/d/f").await, "x\n");
    again.close().await.unwrap();
    assert!(manager.volume_usage("odd").await.unwrap() > 0);
    manager.delete_vessel(vessel.id()).await.unwrap();
    manager.remove_volume("odd").await.unwrap();
    manager.close().await.unwrap();
    let trash = std::fs::read_dir(store.root().join("trash")).unwrap();
    let left: Vec<_> = trash.map(|entry| entry.unwrap().file_name()).filter(|name| name != ".lock").collect();
    assert!(left.is_empty(), "{left:?}");
}

async fn volumes_are_made_listed_and_removed(store: &Store) {
    let manager = store.manager().await;
    let made = manager.create_volume(Some("b")).await.unwrap();
    assert_eq!((made.name.as_str(), made.vessels.len()), ("b", 0));
    let age = time::OffsetDateTime::now_utc() - made.create_time;
    assert!(age < time::Duration::minutes(5) && age > time::Duration::minutes(-1), "{age}");
    fails(manager.create_volume(Some("b")).await, &ErrorKind::AlreadyExists);
    let random = manager.create_volume(None).await.unwrap().name;
    manager.create_volume(Some("A")).await.unwrap();
    let names = async || -> Vec<String> {
        manager.list_volumes().await.unwrap().into_iter().map(|volume| volume.name).collect()
    };
    let mut wanted = vec!["A".to_owned(), "b".to_owned(), random.clone()];
    wanted.sort();
    assert_eq!(names().await, wanted);
    manager.remove_volume("b").await.unwrap();
    manager.remove_volume(&random).await.unwrap();
    fails(manager.remove_volume("b").await, &ErrorKind::NotFound);
    manager.collect_garbage().await.unwrap();
    assert_eq!(names().await, ["A"]);
}

async fn names_that_are_no_names_are_refused(store: &Store) {
    let manager = store.manager().await;
    for name in ["", ".", "..", "../vessels", "a/b", "/", "-x", ".hidden", "a b", &"n".repeat(65)] {
        fails(manager.create_volume(Some(name)).await, &ErrorKind::InvalidArgument);
        fails(manager.volume(name).await, &ErrorKind::InvalidArgument);
        fails(manager.remove_volume(name).await, &ErrorKind::InvalidArgument);
        Mount::volume(name, "/vol").unwrap_err();
    }
    assert!(store.root().join("vessels").is_dir());
}

async fn a_new_volume_is_empty_and_closed_to_others(store: &Store) {
    let (_manager, vessel) = vessel(store, [Mount::volume("new", "/srv").unwrap()]).await;
    assert_eq!(
        sh(&vessel, "ls -A /srv; stat -c %a:%u:%g /srv").await,
        "755:0:0\n",
        "the image has files there"
    );
    let mode = |path: &str| std::fs::metadata(store.root().join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!([mode("volumes"), mode("volumes/new")], [0o700, 0o700]);
    vessel.close().await.unwrap();
}

async fn volumes_count_as_what_they_take(store: &Store) {
    let (manager, vessel) = vessel(store, [volume("big")]).await;
    let before = manager.disk_usage(None).await.unwrap();
    sh(&vessel, "dd if=/dev/urandom of=/vol/f bs=64k count=32 2>/dev/null").await;
    let after = manager.disk_usage(None).await.unwrap();
    assert!(after.total.volumes >= before.total.volumes + (2 << 20), "{after:?}");
    assert!(
        after.vessels[0].own < before.vessels[0].own + (1 << 20),
        "it is none of the vessel's: {after:?}"
    );
    assert!(manager.volume_usage("big").await.unwrap() >= 2 << 20);
    fails(manager.volume_usage("none").await, &ErrorKind::NotFound);
    vessel.close().await.unwrap();
}

async fn volumes_are_made_and_removed_while_vessels_start(store: &Store) {
    let manager = store.stocked().await;
    let remover = {
        let manager = manager.clone();
        tokio::spawn(async move {
            let (mut removed, mut refused) = (0, 0);
            for _ in 0..200 {
                match manager.remove_volume("v").await {
                    Ok(()) => removed += 1,
                    Err(e) if e.kind() == ErrorKind::Conflict => refused += 1,
                    Err(e) => assert_eq!(e.kind(), ErrorKind::NotFound, "{}", e.chain()),
                }
                tokio::time::sleep(std::time::Duration::from_millis(3)).await;
            }
            (removed, refused)
        })
    };
    for n in 0..5 {
        let vessel = manager.create_vessel_with(options([volume("v")])).await.unwrap();
        sh(&vessel, &format!("echo {n} > /vol/{n}")).await;
        vessel.close().await.unwrap();
        manager.stop_vessel(vessel.id()).await.unwrap();
        let again = manager.open_vessel(vessel.id()).await.unwrap();
        assert_eq!(
            sh(&again, &format!("cat /vol/{n}")).await,
            format!("{n}\n"),
            "it was removed while it was used"
        );
        again.close().await.unwrap();
        manager.delete_vessel(vessel.id()).await.unwrap();
    }
    let (_removed, refused) = remover.await.unwrap();
    assert!(refused > 0, "nothing was tried while a vessel used it");
}
