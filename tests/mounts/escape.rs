//! Destinations that lead out, and sources that change: what is mounted lands in the vessel, and is what was asked for.
#![forbid(unsafe_code)]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use vesselrt::settings::Mount;
use vesselrt::{CreateOptions, ErrorKind, ExecOptions};

use super::{bind, host_dir, options, vessel};
use crate::testkit::canary::Canary;
use crate::testkit::{
    Store, fails_with, image, run_in, sh, sh_ephemeral, tests, tests_on_each_driver, until,
};

tests_on_each_driver!(
    a_destination_that_is_a_link_is_looked_up_inside,
    a_link_that_takes_the_place_of_a_parent_leads_nowhere_else,
);

tests!(
    a_destination_that_leads_to_kernel_files_is_refused,
    a_guest_that_swaps_directories_for_links_stays_inside,
    a_source_that_is_swapped_for_a_link_is_never_something_else,
    a_vessel_that_shares_a_volume_cannot_lead_mounts_of_another_out,
    links_in_what_is_mounted_lead_nowhere,
    a_mount_that_was_moved_is_not_written_to_by_its_old_name,
);

/// An image whose directories are links out.
async fn import_links(store: &Store, manager: &vesselrt::Manager, victim: &str) -> String {
    let layer = image::base_layer()
        .symlink("absolute", victim)
        .symlink("relative", &format!("../../../../../../../..{victim}"))
        .symlink("etcetera", "/etc")
        .symlink("kernel", "/proc")
        .symlink("devices", "dev/../dev")
        .symlink("top", "/");
    let tar = store.beside("links.tar");
    fs::write(&tar, layer.finish()).unwrap();
    let reference = "localhost/links:1";
    manager.import_image(&tar, reference, |_| {}).await.unwrap();
    reference.to_owned()
}

fn on(image: &str, mounts: impl IntoIterator<Item = Mount>) -> CreateOptions {
    mounts.into_iter().fold(CreateOptions::new(image), CreateOptions::mount)
}

async fn a_destination_that_is_a_link_is_looked_up_inside(store: &Store) {
    let canary = Canary::new(store);
    let victim = canary.victim().to_str().unwrap().to_owned();
    let manager = store.manager().await;
    let image = import_links(store, &manager, &victim).await;
    let host = host_dir(store, "host");
    fs::write(host.join("f"), "mounted").unwrap();
    let mounts = [
        bind(&host, "/absolute/one"),
        bind(&host, "/relative/two/deep"),
        bind(&host, "/etcetera/app"),
        Mount::volume("v", "/absolute/three").unwrap(),
    ];
    let vessel = manager.create_vessel_with(on(&image, mounts)).await.unwrap();
    let script = format!("cat {victim}/one/f {victim}/two/deep/f /etc/app/f; echo v > {victim}/three/v");
    assert_eq!(sh(&vessel, &script).await, "mounted".repeat(3));
    assert_eq!(sh_ephemeral(&vessel, &format!("cat /absolute/one/f {victim}/three/v")).await, "mountedv\n");
    assert_eq!(vessel.read_file("/relative/two/deep/f").await.unwrap(), b"mounted");
    canary.is_unharmed();
    vessel.close().await.unwrap();
}

async fn a_destination_that_leads_to_kernel_files_is_refused(store: &Store) {
    let manager = store.manager().await;
    let image = import_links(store, &manager, "/nowhere").await;
    for destination in ["/kernel", "/kernel/sys", "/devices", "/devices/shm", "/top", "/etcetera"] {
        let mounts = [Mount::tmpfs(destination).unwrap()];
        let made = manager.create_vessel_with(on(&image, mounts)).await;
        fails_with(made, &ErrorKind::InvalidArgument, destination);
    }
    assert!(manager.list_vessels().await.unwrap().is_empty());
}

async fn a_link_that_takes_the_place_of_a_parent_leads_nowhere_else(store: &Store) {
    let canary = Canary::new(store);
    let victim = canary.victim().to_str().unwrap().to_owned();
    let host = host_dir(store, "host");
    fs::write(host.join("f"), "mounted").unwrap();
    let (manager, mut vessel) = vessel(store, [bind(&host, "/p/data")]).await;
    for (target, there) in
        [("/etc", "/etc/data"), (victim.as_str(), &format!("{victim}/data")), ("../..", "/data")]
    {
        sh(&vessel, &format!("mkdir -p {target}; rm -rf /q; mv /p /q; ln -s {target} /p")).await;
        for persist in [true, false] {
            let script = format!("cat /p/data/f {there}/f; echo x > /p/data/x; ls /q/data");
            let ran = run_in(&vessel, ExecOptions::new(["sh", "-c", &script]).persist_result(persist))
                .await
                .unwrap();
            assert_eq!(ran.out, "mountedmounted", "{target}: {ran:?}");
        }
        assert_eq!(vessel.read_file("/p/data/x").await.unwrap(), b"x\n");
        canary.is_unharmed();
        // The same for one that is started anew.
        vessel.close().await.unwrap();
        manager.stop_vessel(vessel.id()).await.unwrap();
        vessel = manager.open_vessel(vessel.id()).await.unwrap();
        assert_eq!(sh(&vessel, &format!("cat {there}/f; rm /p; mkdir /p")).await, "mounted");
        canary.is_unharmed();
    }
    assert!(host.join("x").exists());
    vessel.close().await.unwrap();
}

async fn a_guest_that_swaps_directories_for_links_stays_inside(store: &Store) {
    let canary = Canary::new(store);
    let victim = canary.victim().to_str().unwrap().to_owned();
    let host = host_dir(store, "host");
    fs::write(host.join("f"), "mounted").unwrap();
    let (_manager, vessel) = vessel(store, [bind(&host, "/p/data"), Mount::tmpfs("/p/mem").unwrap()]).await;
    let swapper = format!(
        "mkdir -p {victim} /other; ln -s {victim} /link; n=0; while [ $n -lt 400 ]; do n=$((n+1)); mv /p /q; mv /link /p; \
         mv /p /link; mv /q /p; done"
    );
    let running = vessel.spawn(ExecOptions::new(["sh", "-c", &swapper]).persist_result(true)).await.unwrap();
    for n in 0..25 {
        // What it finds depends on the moment: a place inside, or none.
        let script = format!("echo {n} > /p/data/n; echo {n} > /p/mem/n");
        let _ = run_in(&vessel, ExecOptions::new(["sh", "-c", &script]).persist_result(n % 2 == 0)).await;
        let _ = vessel.write_file("/p/data/by-api", b"x", 0o644).await;
        canary.is_unharmed();
    }
    drop(running);
    until("it is well again", async || {
        let ran = run_in(
            &vessel,
            ExecOptions::new(["sh", "-c", "rm -rf /q; [ -d /p ] || mkdir /p; cat /p/data/f"])
                .persist_result(true),
        )
        .await;
        ran.is_ok_and(|ran| ran.out == "mounted")
    })
    .await;
    canary.is_unharmed();
    vessel.close().await.unwrap();
}

async fn a_source_that_is_swapped_for_a_link_is_never_something_else(store: &Store) {
    let canary = Canary::new(store);
    let host = host_dir(store, "host");
    fs::write(host.join("f"), "mounted").unwrap();
    let (manager, vessel) = vessel(store, [bind(&host, "/data")]).await;
    vessel.close().await.unwrap();
    let (away, link, stop) = (store.beside("away"), store.beside("link"), AtomicBool::new(false));
    std::os::unix::fs::symlink(store.root(), &link).unwrap();
    let mut opened = 0;
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    fs::rename(&host, &away).unwrap();
                    fs::rename(&link, &host).unwrap();
                    fs::rename(&host, &link).unwrap();
                    fs::rename(&away, &host).unwrap();
                }
            });
            tokio::runtime::Handle::current().block_on(async {
                for _ in 0..30 {
                    // The store is never mounted: it is refused, or the directory is.
                    let Ok(vessel) = manager.open_vessel(vessel.id()).await else { continue };
                    opened += 1;
                    let found = sh(&vessel, "ls /data").await;
                    vessel.close().await.unwrap();
                    manager.stop_vessel(vessel.id()).await.unwrap();
                    assert_eq!(found, "f\n");
                }
            });
            stop.store(true, Ordering::Relaxed);
        });
    });
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&vessel, "cat /data/f").await, "mounted", "it was opened {opened} times before");
    vessel.close().await.unwrap();
    canary.is_unharmed();
}

async fn a_vessel_that_shares_a_volume_cannot_lead_mounts_of_another_out(store: &Store) {
    let canary = Canary::new(store);
    let victim = canary.victim().to_str().unwrap().to_owned();
    let host = host_dir(store, "host");
    fs::write(host.join("f"), "mounted").unwrap();
    let shared = || Mount::volume("shared", "/p").unwrap();
    let (manager, swapper) = vessel(store, [shared()]).await;
    let script = format!(
        "mkdir -p /p/in/data; ln -s {victim} /p/link; touch /p/begun; while :; do mv /p/in /p/away; mv /p/link /p/in; \
         mv /p/in /p/link; mv /p/away /p/in; done"
    );
    let running = swapper.spawn(ExecOptions::new(["sh", "-c", &script]).persist_result(true)).await.unwrap();
    until("it swaps", async || swapper.read_file("/p/begun").await.is_ok()).await;
    let mounts = || [bind(&host, "/p/in/data"), shared()];
    let mut made = 0;
    for n in 0..20 {
        // What it finds depends on the moment.
        if let Ok(other) = manager.create_vessel_with(options(mounts())).await {
            made += 1;
            let script = format!("echo {n} > /p/in/data/n");
            let options = ExecOptions::new(["sh", "-c", &script]).persist_result(n % 2 == 0);
            let _ = run_in(&other, options).await;
            let _ = other.write_file("/p/in/data/by-api", b"x", 0o644).await;
            other.close().await.unwrap();
            manager.delete_vessel(other.id()).await.unwrap();
        }
        canary.is_unharmed();
    }
    drop(running);
    until("the swapper is gone", async || manager.vessel_status(swapper.id()).await.unwrap().commands == 0)
        .await;
    // Whatever came of that.
    sh(&swapper, "rm -rf /p/in /p/away /p/link").await;
    let other = manager.create_vessel_with(options(mounts())).await.unwrap();
    assert_eq!(sh(&other, "cat /p/in/data/f").await, "mounted", "{made} were made before");
    other.close().await.unwrap();
    swapper.close().await.unwrap();
    canary.is_unharmed();
}

async fn links_in_what_is_mounted_lead_nowhere(store: &Store) {
    let canary = Canary::new(store);
    let victim = canary.victim().to_str().unwrap().to_owned();
    let host = host_dir(store, "host");
    std::os::unix::fs::symlink(&victim, host.join("link")).unwrap();
    std::os::unix::fs::symlink("../canary/victim", host.join("up")).unwrap();
    let (_manager, vessel) = vessel(store, [bind(&host, "/data")]).await;
    for path in ["/data/link/secret", "/data/up/secret", "/data/../canary/victim/secret"] {
        vessel.read_file(path).await.unwrap_err();
        vessel.write_file(path, b"changed", 0o644).await.unwrap_err();
        let ran = run_in(&vessel, ExecOptions::new(["cat", path])).await.unwrap();
        assert!(!ran.result.success() && !canary.is_told_by(ran.out.as_bytes()), "{ran:?}");
    }
    canary.is_unharmed();
    vessel.close().await.unwrap();
}

async fn a_mount_that_was_moved_is_not_written_to_by_its_old_name(store: &Store) {
    let host = host_dir(store, "host");
    let (_manager, vessel) = vessel(store, [bind(&host, "/p/data")]).await;
    sh(&vessel, "mv /p /q; echo moved > /q/data/f").await;
    assert_eq!(fs::read_to_string(host.join("f")).unwrap(), "moved\n", "in that command it went along");
    // The next one has it where it belongs, and what it was mounted on is an empty directory.
    assert_eq!(sh(&vessel, "ls /p/data /q/data").await, "/p/data:\nf\n\n/q/data:\n");
    sh(&vessel, "echo own > /q/data/own").await;
    assert_eq!(sh_ephemeral(&vessel, "cat /q/data/own; ls /p/data").await, "own\nf\n");
    assert!(!host.join("own").exists());
    vessel.close().await.unwrap();
}
