//! Pulls that are killed, and images that are pruned while they are needed.
#![forbid(unsafe_code)]

use std::process::Stdio;
use std::time::Instant;

use tokio::task::JoinHandle;
use vesselrt::{BlobState, CommitOptions, CreateOptions, ErrorKind, PullOptions, PullProgress};

use super::{manager, vessel};
use crate::commit::commit;
use crate::testkit::image::{self, BASE};
use crate::testkit::random::Random;
use crate::testkit::registry::Registry;
use crate::testkit::{Cap, Store, leftovers, need, sh, tests, until};

tests!(
    a_killed_pull_goes_on_where_it_was,
    half_a_pull_is_garbage_when_nobody_goes_on,
    what_is_needed_survives_pruning,
);

/// How often a pull is killed, each time at another moment.
const KILLS: usize = 50;

async fn a_killed_pull_goes_on_where_it_was(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let here = manager(store, "store").await;
    let mut random = Random::new();
    let (one, two) = (random.bytes(6 << 20), random.bytes(6 << 20));
    let layer = |name: &str, data: &[u8]| image::Layer::new().file(name, 0o644, 0, data).finish();
    let layers = [image::base_tar().to_vec(), layer("one", &one), layer("two", &two)];
    image::oci_layout(&store.beside("layout"), &layers, &serde_json::json!({ "Cmd": ["sh"] }));
    let name = registry.reference("large:1");
    here.import_image(store.beside("layout"), &name, |_| {}).await.unwrap();
    here.push_image(&name, None, |_| {}).await.unwrap();
    let pull = |root: &str| {
        let root = store.beside(root);
        let mut command = store.cli(&["--root", root.to_str().unwrap(), "pull", &name]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let begun = Instant::now();
    assert!(pull("whole").status().unwrap().success());
    let whole = begun.elapsed();
    // A pull that ended before it was killed has nothing to go on with: the next one begins anew.
    let (mut killed, mut ended) = (0, 0);
    while killed < KILLS {
        let mut child = pull("there").spawn().unwrap();
        tokio::time::sleep(random.moment(whole)).await;
        let done = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        match done {
            None => killed += 1,
            Some(status) => {
                assert!(status.success() && ended < 10 * KILLS, "{status}, after {killed} kills");
                ended += 1;
                crate::testkit::leftovers::none_in_use(&store.beside("there"));
                crate::testkit::store::remove(&store.beside("there")).unwrap();
            }
        }
    }
    let status = pull("there").status().unwrap();
    assert!(status.success(), "{status}");
    let there = manager(store, "there").await;
    let report = there.verify_images(Some(&name), false).await.unwrap();
    assert_eq!((report.blobs, report.damaged.len()), (5, 0));
    let vessel = there.create_vessel(&name, "").await.unwrap();
    assert_eq!(sh(&vessel, "sha256sum < /one | cut -c1-64").await.trim(), image::sha256(&one));
    vessel.close().await.unwrap();
    there.collect_garbage().await.unwrap();
    leftovers::none_staged(&store.beside("there"));
    assert!(leftovers::entries(&store.beside("there/images/.ingest")).is_empty());
    there.close().await.unwrap();
}

async fn half_a_pull_is_garbage_when_nobody_goes_on(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let here = manager(store, "store").await;
    let large = image::Layer::new().file("large", 0o644, 0, &Random::new().bytes(48 << 20)).finish();
    image::oci_layout(&store.beside("layout"), &[large], &serde_json::json!({}));
    let name = registry.reference("large:1");
    here.import_image(store.beside("layout"), &name, |_| {}).await.unwrap();
    here.push_image(&name, None, |_| {}).await.unwrap();
    let there = manager(store, "there").await;
    let (tell, begun) = tokio::sync::oneshot::channel();
    let mut tell = Some(tell);
    let hear = move |at: PullProgress| {
        if let PullProgress::Blob {
            state: BlobState::Downloading { done: 1.., total: 1_000_000.. }, ..
        } = at
        {
            tell.take().map(|tell| tell.send(()));
        }
    };
    // Cancelled in the middle, as it would be by a signal.
    let pull = there.pull_image(PullOptions::new(&name), hear);
    tokio::select! {
        _ = pull => panic!("it was too fast to be stopped"),
        begun = begun => begun.unwrap(),
    }
    until("the garbage is collected", async || {
        there.collect_garbage().await.unwrap();
        leftovers::entries(&store.beside("there/images/.ingest")).is_empty()
    })
    .await;
    assert!(leftovers::entries(&store.beside("there/images/blobs/sha256")).is_empty());
    there.close().await.unwrap();
}

/// Somebody prunes everything again and again, while others pull, commit and run.
async fn what_is_needed_survives_pruning(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let (here, vessel) = vessel(store).await;
    let name = registry.reference("base:1");
    here.push_image(BASE, Some(&name), |_| {}).await.unwrap();
    let other = manager(store, "store").await;
    let pruning: JoinHandle<()> = tokio::spawn(async move {
        loop {
            // It may refuse while something is pulled or committed.
            if let Err(e) = other.prune_images(true).await {
                assert_eq!(e.kind(), ErrorKind::Unavailable, "{}", e.chain());
            }
        }
    });
    for round in 0..4 {
        let made = commit(&here, vessel.id(), CommitOptions::new(format!("made:{round}"))).await;
        assert_eq!(made.layers.len(), 4);
        let pulled = here.create_vessel_with(CreateOptions::new(&name)).await.unwrap();
        assert_eq!(sh(&pulled, "cat /etc/motd").await.as_bytes(), image::MOTD);
        pulled.close().await.unwrap();
        here.delete_vessel(pulled.id()).await.unwrap();
        here.pull_image(PullOptions::new(&name), |_| {}).await.unwrap();
    }
    pruning.abort();
    assert!(pruning.await.unwrap_err().is_cancelled());
    assert_eq!(sh(&vessel, "cat /work/three").await, "three\n");
    vessel.close().await.unwrap();
}
