//! Everything local is deleted: images and archives alone bring the same tree back.
#![forbid(unsafe_code)]

use serde_json::json;
use vesselrt::{ExecOptions, Manager, Vessel};

use crate::testkit::commands::must;
use crate::testkit::image::{BUSYBOX, attribute_tools_tar, oci_layout};
use crate::testkit::{BASE, Cap, Store, leftovers, need, sh, tests, tests_on_each_driver, tree};

tests_on_each_driver!(
    files_of_every_kind_come_back_from_the_archives,
    extended_attributes_and_capabilities_come_back,
    names_that_look_like_whiteouts_come_back,
);

tests!(
    a_private_file_of_a_user_is_readable_and_comes_back,
    sparse_files_stay_sparse,
    a_capability_of_the_image_survives_being_copied_up,
    only_the_layers_are_rebuilt_when_only_they_are_gone,
    unsnapshotted_work_is_all_that_is_lost,
);

/// Deletes all working copies: vessels and layers, not the images and not what the storage has.
pub(crate) fn wipe(store: &Store) {
    for dir in ["vessels", "layers"] {
        leftovers::none_locked(&store.root().join(dir));
        // Managers have the directories themselves open.
        for path in leftovers::entries(&store.root().join(dir)) {
            crate::testkit::store::remove(&path).unwrap();
        }
    }
}

/// A snapshot, then everything local is deleted and the vessel opened again.
async fn through_the_archive(store: &Store, manager: &Manager, vessel: &Vessel) -> Vessel {
    vessel.create_snapshot("all of it").await.unwrap();
    vessel.close().await.unwrap();
    wipe(store);
    manager.open_vessel(vessel.id()).await.unwrap()
}

async fn files_of_every_kind_come_back_from_the_archives(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    // Links of a layer below are no links any more once one name is changed; how, is each driver's own.
    sh(&vessel, "mkdir -p a/b/c; echo 1 > a/f; echo 2 > a/b/gone; mkdir a/opaque; echo x > a/opaque/x; ln a/opaque/x a/b/hard").await;
    vessel.create_snapshot("below").await.unwrap();
    let script = "
        rm a/b/gone; rm -r a/opaque; mkdir a/opaque; echo y > a/opaque/y; chmod 1750 a/b/c; mkfifo a/fifo
        ln -s ../../etc/motd a/link; ln -s nowhere a/dangling; echo long > a/$(printf 'n%.0s' $(seq 250)); chmod 4711 a/f
        mkdir -p deep; d=deep; for i in $(seq 60); do d=$d/d$i; done; mkdir -p $d; echo bottom > $d/f
        printf 'a\\nb' > \"a/new
line\"; printf x > 'a/ space'; printf x > a/-dash; : > a/empty; rm /etc/motd; rm -r /srv; mkdir /srv; mv /home /home2
        head -c 300000 /dev/urandom > a/random; ln a/random a/random2; ln a/random a/b/random3
        rm -r /var; echo file > /var; chmod 0 a/b; chmod 700 /work; touch -d @0 a/f; touch -d @4000000000 a/random
        touch -d '1965-03-04 05:06:07' a/empty; touch -h -d @77 a/link 2>/dev/null; touch -d @99 a/opaque a deep . /srv";
    sh(&vessel, script).await;
    let before =
        [tree::inside(&vessel, "/work", false).await, sh(&vessel, "find /srv /var /home2 /etc | sort").await];
    let vessel = through_the_archive(store, &manager, &vessel).await;
    let after =
        [tree::inside(&vessel, "/work", false).await, sh(&vessel, "find /srv /var /home2 /etc | sort").await];
    assert_eq!(after, before);
    assert!(after[0].contains("./a/random"), "{}", after[0]);
    vessel.close().await.unwrap();
}

async fn a_private_file_of_a_user_is_readable_and_comes_back(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let (manager, vessel) = store.vessel().await;
    let script =
        "umask 077; mkdir /tmp/private; echo secret > /tmp/private/file; echo more > ~/notes; mkfifo ~/fifo";
    must(&vessel, ExecOptions::new(["sh", "-c", script]).user("user").persist_result(true)).await;
    sh(
        &vessel,
        "echo x > many; chown 65534:12345 many; chown -h 1:2 /srv/link; mkdir d; chown 65535:65535 d",
    )
    .await;
    assert_eq!(vessel.read_file("/tmp/private/file").await.unwrap(), b"secret\n");
    let list =
        "find /tmp/private /home/user /work /srv | sort | xargs stat -c '%n %u %g %a'; cat /tmp/private/file";
    let before = sh(&vessel, list).await;
    assert!(before.contains("/tmp/private/file 1000 1000 600"), "{before}");
    let vessel = through_the_archive(store, &manager, &vessel).await;
    assert_eq!(sh(&vessel, list).await, before);
    let own = must(&vessel, ExecOptions::new(["cat", "/tmp/private/file"]).user("user")).await;
    assert_eq!(own, "secret\n");
    assert_eq!(vessel.read_file("/home/user/notes").await.unwrap(), b"more\n");
    vessel.close().await.unwrap();
}

async fn vessel_with_attribute_tools(store: &Store) -> (Manager, Vessel) {
    let tar = store.beside("attributes.tar");
    std::fs::write(&tar, attribute_tools_tar()).unwrap();
    let manager = store.manager().await;
    manager.import_image(&tar, BASE, |_| {}).await.unwrap();
    let vessel = manager.create_vessel(BASE, "/work").await.unwrap();
    (manager, vessel)
}

async fn extended_attributes_and_capabilities_come_back(store: &Store) {
    if !need(&[Cap::AttributeTools]) {
        return;
    }
    let (manager, vessel) = vessel_with_attribute_tools(store).await;
    let script = "
        mkdir d; echo x > f; echo y > d/g; cp /bin/busybox tool; ln tool tool2
        setfattr -n user.plain -v value f; setfattr -n user.empty f; setfattr -n user.binary -v 0x00ff0a3d20 f
        setfattr -n user.'odd = name' -v x f
        setfattr -n user.long -v $(printf 'v%.0s' $(seq 2000)) d/g
        setcap cap_net_bind_service,cap_chown=ep tool
        setfattr -n user.gone -v x f; setfattr -x user.gone f";
    sh(&vessel, script).await;
    // fuse-overlayfs 1.10 sets no attributes of directories.
    if store.driver() != vesselrt::OverlayDriver::Fuse {
        sh(&vessel, "setfattr -n user.on.dir -v dir d").await;
        assert!(tree::inside(&vessel, "/work", true).await.contains("user.on.dir=0x646972"));
    }
    let before = tree::inside(&vessel, "/work", true).await;
    for part in ["user.plain=0x76616c7565", "user.binary=0x00ff0a3d20", "security.capability=0x0100"] {
        assert!(before.contains(part), "{part} is not in {before}");
    }
    let vessel = through_the_archive(store, &manager, &vessel).await;
    assert_eq!(tree::inside(&vessel, "/work", true).await, before);
    let caps = sh(&vessel, "getcap tool tool2").await;
    assert_eq!(caps.matches("cap_chown,cap_net_bind_service=ep").count(), 2, "{caps}");
    // Attributes of overlayfs's own are a user's to set, and mean nothing.
    let own = vessel.exec(
        ExecOptions::new(["setfattr", "-n", "user.overlay.opaque", "-v", "y", "d"]).persist_result(true),
    );
    if own.await.unwrap().success() {
        let vessel = through_the_archive(store, &manager, &vessel).await;
        let after = sh(&vessel, "getfattr -d -m - d").await;
        assert!(after.contains("user.overlay.opaque=\"y\""), "{after}");
        assert_eq!(vessel.read_file("d/g").await.unwrap(), b"y\n");
        vessel.close().await.unwrap();
    }
    vessel.close().await.unwrap();
}

async fn a_capability_of_the_image_survives_being_copied_up(store: &Store) {
    if !need(&[Cap::AttributeTools]) {
        return;
    }
    // Version 2, cap_chown=ep.
    let value = [1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let busybox = std::fs::read(BUSYBOX).unwrap();
    let with_capability = crate::testkit::image::Layer::new().file_with_xattr(
        "usr/bin/tool",
        &busybox,
        "security.capability",
        &value,
    );
    let layout = store.beside("layout");
    oci_layout(&layout, &[attribute_tools_tar(), with_capability.finish()], &json!({}));
    let manager = store.manager().await;
    manager.import_image(&layout, BASE, |_| {}).await.unwrap();
    let vessel = manager.create_vessel(BASE, "/work").await.unwrap();
    assert_eq!(sh(&vessel, "getcap /usr/bin/tool").await, "/usr/bin/tool cap_chown=ep\n");
    sh(&vessel, "chmod 0711 /usr/bin/tool").await;
    let vessel = through_the_archive(store, &manager, &vessel).await;
    assert_eq!(
        sh(&vessel, "getcap /usr/bin/tool; stat -c %a /usr/bin/tool").await,
        "/usr/bin/tool cap_chown=ep\n711\n"
    );
    vessel.close().await.unwrap();
}

async fn names_that_look_like_whiteouts_come_back(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    // fuse-overlayfs keeps such names for itself.
    let made = vessel.exec(ExecOptions::new(["touch", ".wh.probe"]).persist_result(true)).await.unwrap();
    if store.driver() == vesselrt::OverlayDriver::Fuse && !made.success() {
        return vessel.close().await.unwrap();
    }
    let script = "rm -f .wh.probe; mkdir d; echo kept > d/x; echo data > .wh.x; echo y > d/.wh.x; echo z > d/.wh..wh..opq
        mkdir d/.wh.dir; echo deep > d/.wh.dir/f; echo a > .wh..wh.aufs; echo x > x; : > d/.wh.";
    sh(&vessel, script).await;
    let before = tree::inside(&vessel, "/work", false).await;
    assert!(before.contains("./d/.wh..wh..opq"), "{before}");
    let vessel = through_the_archive(store, &manager, &vessel).await;
    assert_eq!(tree::inside(&vessel, "/work", false).await, before);
    // And now with a layer below: they hide nothing of it.
    sh(&vessel, "echo again > d/.wh.x; echo again > .wh.x; rm d/.wh.").await;
    let vessel = through_the_archive(store, &manager, &vessel).await;
    assert_eq!(sh(&vessel, "cat x d/x d/.wh.x .wh.x; ls -A d | wc -l").await, "x\nkept\nagain\nagain\n4\n");
    vessel.close().await.unwrap();
}

async fn sparse_files_stay_sparse(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let script = "truncate -s 1G hole; echo end >> hole; truncate -s 100M empty
        dd if=/dev/urandom of=middle bs=4096 count=2 seek=10000 2>/dev/null; truncate -s 80M middle";
    sh(&vessel, script).await;
    let list = "for f in hole empty middle; do stat -c '%n %s' $f; done; sha256sum middle; tail -c 4 hole";
    let before = sh(&vessel, list).await;
    let snapshot = vessel.create_snapshot("").await.unwrap();
    assert!(snapshot.size < 1 << 20, "{} bytes", snapshot.size);
    vessel.close().await.unwrap();
    wipe(store);
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&vessel, list).await, before);
    let blocks = sh(&vessel, "stat -c %b hole empty middle").await;
    assert!(blocks.lines().all(|line| line.parse::<u64>().unwrap() <= 512), "{blocks}");
    vessel.close().await.unwrap();
}

async fn only_the_layers_are_rebuilt_when_only_they_are_gone(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "echo 1 > a").await;
    vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "echo 2 > b; rm /etc/motd").await;
    vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "echo 3 > c").await;
    vessel.close().await.unwrap();
    drop(manager);
    crate::testkit::store::remove(&store.root().join("layers")).unwrap();
    let manager = store.manager().await;
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&vessel, "cat a b c").await, "1\n2\n3\n", "also what was in no snapshot");
    vessel.close().await.unwrap();
    // Unpacked layers of images are working copies too.
    drop(manager);
    crate::testkit::store::remove(&store.root().join("images/layers")).unwrap();
    let manager = store.manager().await;
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&vessel, "cat a b c /srv/a; [ -e /etc/motd ] || echo gone").await, "1\n2\n3\na\ngone\n");
    vessel.close().await.unwrap();
}

async fn unsnapshotted_work_is_all_that_is_lost(store: &Store) {
    let manager = store.stocked().await;
    let vessel = manager.create_vessel(BASE, "/work/deep").await.unwrap();
    sh(&vessel, "echo lost > f").await;
    vessel.close().await.unwrap();
    wipe(store);
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&vessel, "ls -A; pwd").await, "/work/deep\n");
    sh(&vessel, "echo kept > g").await;
    vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "echo lost > h").await;
    vessel.close().await.unwrap();
    wipe(store);
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&vessel, "ls").await, "g\n");
    vessel.close().await.unwrap();
}
