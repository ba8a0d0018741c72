//! What vessels take on disk.
#![forbid(unsafe_code)]

use vesselrt::{ErrorKind, ForkOptions};

use crate::testkit::{Store, fails_with, sh, tests};

tests!(usage_says_what_is_own_and_what_is_shared, what_nobody_has_is_told_and_collected);

const MIB: u64 = 1 << 20;

/// About as many bytes: what file systems need for themselves is not counted on.
#[track_caller]
fn about(bytes: u64, expected: u64) {
    assert!(bytes >= expected && bytes < expected + MIB / 2, "{bytes} instead of {expected}");
}

async fn usage_says_what_is_own_and_what_is_shared(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    // Of random bytes, so that archives are not smaller; sparse, and with two names for one file.
    sh(&vessel, "head -c 2097152 /dev/urandom > two; ln two again; dd if=/dev/null of=hole bs=1 seek=1000000000 2>/dev/null").await;
    let one = vessel.create_snapshot("one").await.unwrap();
    sh(&vessel, "head -c 1048576 /dev/urandom > three; chmod 700 .").await;
    let two = vessel.create_snapshot("two").await.unwrap();
    sh(&vessel, "head -c 3145728 /dev/urandom > now; mkdir -m 0 closed; mkdir -p a/b/c").await;
    vessel.close().await.unwrap();
    let usage = manager.disk_usage(None).await.unwrap();
    let alone = &usage.vessels[0];
    about(alone.writable, 3 * MIB);
    about(alone.own, 6 * MIB);
    about(alone.archive, 3 * MIB);
    assert_eq!((alone.shared, alone.id.as_str(), usage.vessels.len()), (0, vessel.id(), 1));
    assert!(alone.image > 100_000, "{alone:?}");
    let [first, second] = alone.snapshots.as_slice() else { panic!("{alone:?}") };
    about(first.layer, 2 * MIB);
    about(first.archive.unwrap(), 2 * MIB);
    about(second.layer, MIB);
    assert_eq!((&first.id, first.shared, &second.id, second.named), (&one.id, false, &two.id, true));
    assert_eq!(usage.total.layers + alone.writable, alone.own);
    assert_eq!((usage.total.unreferenced, usage.total.images), (0, alone.image));

    let fork = manager.fork_vessel(vessel.id(), ForkOptions::new().from(&one.id)).await.unwrap().remove(0);
    let both = manager.disk_usage(None).await.unwrap();
    assert_eq!(
        (both.total.layers, both.total.archives),
        (usage.total.layers, usage.total.archives),
        "kept once"
    );
    let of = |id: &str| both.vessels.iter().find(|vessel| vessel.id == id).unwrap();
    about(of(vessel.id()).own, 4 * MIB);
    about(of(vessel.id()).shared, 2 * MIB);
    about(of(&fork.id).shared, 2 * MIB);
    about(of(&fork.id).archive, 2 * MIB);
    assert!(of(&fork.id).own <= 64 << 10, "{:?}", of(&fork.id));
    assert_eq!(of(&fork.id).image, alone.image);
    assert!(of(&fork.id).snapshots[0].shared && !of(vessel.id()).snapshots[1].shared);

    let only = manager.disk_usage(Some(&fork.id)).await.unwrap();
    assert_eq!(only.vessels, [of(&fork.id).clone()]);
    let unknown = manager.disk_usage(Some("none")).await;
    fails_with(unknown, &ErrorKind::NotFound, "vessel not found: none");
}

async fn what_nobody_has_is_told_and_collected(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "head -c 1048576 /dev/urandom > f").await;
    vessel.create_snapshot("").await.unwrap();
    vessel.close().await.unwrap();
    let left = store.root().join("layers/0123456789abcdef/fs");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("f"), vec![1; 2 << 20]).unwrap();
    about(manager.disk_usage(None).await.unwrap().total.unreferenced, 2 * MIB);
    manager.collect_garbage().await.unwrap();
    let after = manager.disk_usage(None).await.unwrap();
    assert_eq!(after.total.unreferenced, 0);
    about(after.total.layers, MIB);
}
