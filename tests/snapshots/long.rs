//! Long chains: mounted as few layers, and looking as they did as many.
#![forbid(unsafe_code)]

use vesselrt::{Manager, Packer, SnapshotOptions, Vessel};

use crate::testkit::leftovers::entries;
use crate::testkit::{Store, sh, tests, tree};

tests!(six_hundred_snapshots_meet_no_limit, merged_layers_look_like_those_they_are_made_of);

async fn seal(vessel: &Vessel, message: &str) -> String {
    vessel.create_snapshot_with(SnapshotOptions::new(message).sealed()).await.unwrap().id
}

fn merged(store: &Store) -> usize {
    let is_merged = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with('+');
    entries(&store.root().join("layers")).iter().filter(|path| is_merged(path)).count()
}

/// The layers below the writable one that the kernel has mounted for a vessel.
fn mounted(store: &Store, vessel: &Vessel) -> usize {
    let shim = crate::crash::shim_of(store, vessel.id()).expect("its shim runs");
    let table = std::fs::read_to_string(format!("/proc/{shim}/mountinfo")).unwrap();
    let line = table.lines().rfind(|line| line.contains(" /merged ")).unwrap();
    line.matches("lowerdir+=").count().max(line.matches(':').count())
}

/// Nobody packs or merges in the background.
async fn idle(store: &Store) -> (Manager, Vessel) {
    let (_manager, vessel) = store.vessel().await;
    vessel.close().await.unwrap();
    let never = Packer::Process { program: "/bin/true".into(), arguments: Vec::new() };
    let manager = Manager::new(store.config().packer(never)).await.unwrap();
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    (manager, vessel)
}

/// What is where something is changed, but for how many names files have in other layers.
async fn look(vessel: &Vessel) -> String {
    let mut all = String::new();
    for dir in ["/work", "/srv", "/etc", "/usr"] {
        all.push_str(&tree::inside(vessel, dir, false).await.replace(" links\n", "\n"));
    }
    all
}

async fn six_hundred_snapshots_meet_no_limit(store: &Store) {
    // What is needed is done when it is needed.
    let (manager, vessel) = idle(store).await;
    let mut ids = Vec::new();
    for n in 0..600 {
        vessel.write_file(format!("f{}", n % 7), format!("{n}"), 0o644).await.unwrap();
        ids.push(seal(&vessel, &format!("{n}")).await);
    }
    assert!(merged(store) > 10);
    assert_eq!(sh(&vessel, "cat f5 f4; ls | wc -l").await, "5935997\n");
    for n in [0, 255, 300, 599] {
        vessel.restore_snapshot(&ids[n]).await.unwrap();
        assert_eq!(sh(&vessel, &format!("cat f{}", n % 7)).await, format!("{n}"));
    }
    vessel.close().await.unwrap();
    manager.collect_garbage().await.unwrap();
    assert!(merged(store) > 10, "what may be mounted is no garbage");
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&vessel, "cat f5 f4; ls | wc -l").await, "5935997\n");
    assert_eq!(vessel.list_snapshots().await.unwrap().len(), 600);
    vessel.close().await.unwrap();
    manager.delete_vessel(vessel.id()).await.unwrap();
    manager.collect_garbage().await.unwrap();
    assert_eq!(merged(store), 0);
}

async fn merged_layers_look_like_those_they_are_made_of(store: &Store) {
    let (manager, vessel) = idle(store).await;
    let mut seen = Vec::new();
    for n in 0..70 {
        let script = format!(
            "mkdir -p new/{n} both; echo {n} > both/same; echo {n} > both/own-{n}; ln both/same both/link-{n}; \
             rm -f both/own-$(({n} - 3)) both/link-$(({n} - 2)); [ {n} = 5 ] && rm /etc/motd; \
             [ {n} = 9 ] && rm -r /srv/sub && mkdir -p /srv/sub/opaque; [ {n} = 12 ] && rm -r new; \
             [ {n} = 14 ] && rm -r both && echo file > both; [ {n} = 15 ] && rm both; \
             [ {n} = 20 ] && mv new moved; [ {n} = 22 ] && rm -r /usr/bin && ln -s /bin /usr/bin; \
             mkdir -p deep/a/b; echo {n} > deep/a/b/x; rm -f deep/a/b/x; chmod 7{}5 deep/a; true",
            n % 8
        );
        sh(&vessel, &script).await;
        let id = seal(&vessel, &format!("{n}")).await;
        seen.push((id, look(&vessel).await));
    }
    let many = mounted(store, &vessel);
    manager.upkeep_vessel(vessel.id()).await.unwrap();
    assert_eq!(merged(store), 8 + 1);
    for (id, before) in &seen {
        vessel.restore_snapshot(id).await.unwrap();
        let now = look(&vessel).await;
        assert_eq!(&now, before, "snapshot {id}");
    }
    let few = mounted(store, &vessel);
    assert!(few + 50 < many, "{few} layers are mounted, and were {many}");
    // What is made upon them is as upon the others.
    sh(&vessel, "rm -r deep moved; mkdir deep; echo x > deep/y").await;
    let last = seal(&vessel, "last").await;
    vessel.restore_snapshot(&last).await.unwrap();
    assert_eq!(sh(&vessel, "ls deep; [ -e moved ] || echo gone").await, "y\ngone\n");
    vessel.close().await.unwrap();
    manager.close().await.unwrap();
    crate::persistence::wipe(store);
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    for (id, before) in seen.iter().rev().step_by(7) {
        vessel.restore_snapshot(id).await.unwrap();
        assert_eq!(&look(&vessel).await, before);
    }
    vessel.close().await.unwrap();
}
