//! Images and histories to a real registry and back.
#![forbid(unsafe_code)]

mod committed;
mod disturbed;
mod histories;
mod trees;

use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use vesselrt::registry::Sources;
use vesselrt::{
    BlobState, CommitOptions, CreateOptions, ErrorKind, Manager, ManagerConfig, PullOptions, PullPolicy,
    PullProgress, Registries, Vessel,
};

use crate::commit::{LIVED_IN, commit, lived_in};
use crate::testkit::image::{self, BASE};
use crate::testkit::podman::Podman;
use crate::testkit::registry::{PASSWORD, Registry, USER};
use crate::testkit::tools::tool;
use crate::testkit::{Cap, Store, fails, fails_with, need, sh, tests, tree};

tests!(
    a_pushed_commit_has_the_same_tree_elsewhere,
    a_second_push_sends_nothing_and_a_change_sends_its_layer,
    a_second_pull_asks_once,
    blobs_are_taken_over_from_other_repositories,
    images_of_other_tools_are_pulled_as_podman_sees_them,
    two_pulls_of_one_image_download_it_once,
    creating_pulls_what_is_missing_and_only_then,
    who_is_offline_is_told_that_the_image_is_not_here,
    an_unknown_image_and_a_registry_that_is_gone_are_told_apart,
    a_registry_with_passwords_wants_a_login,
    damaged_blobs_are_had_again,
    every_event_is_a_line_of_json,
    a_layer_that_cannot_be_unpacked_ends_the_pull,
);

/// The configuration of a store that knows the registries of the test.
pub(crate) fn config(store: &Store, name: &str) -> ManagerConfig {
    let sources = Sources { home: Some(store.beside("")), ..Sources::default() };
    store.config().root(store.beside(name)).registries(Registries::Load(sources))
}

/// The manager of the store called `name`; the test's own is `store`.
pub(crate) async fn manager(store: &Store, name: &str) -> Manager {
    Manager::new(config(store, name)).await.unwrap()
}

/// A vessel that was lived in, in a store that knows the registries.
pub(crate) async fn vessel(store: &Store) -> (Manager, Vessel) {
    let (plain, vessel) = lived_in(store).await;
    vessel.close().await.unwrap();
    plain.close().await.unwrap();
    let manager = manager(store, "store").await;
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    (manager, vessel)
}

pub(crate) async fn same_trees(one: &Vessel, other: &Vessel) {
    for dir in LIVED_IN {
        let dir = format!("/{dir}");
        assert_eq!(tree::inside(one, &dir, false).await, tree::inside(other, &dir, false).await, "{dir}");
    }
}

async fn a_pushed_commit_has_the_same_tree_elsewhere(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let (here, vessel) = vessel(store).await;
    let name = registry.reference("team/made:1");
    let made = commit(&here, vessel.id(), CommitOptions::new(&name)).await;
    let report = here.push_image(&name, None, |_| {}).await.unwrap();
    assert_eq!((report.digest, report.uploaded, report.existing), (made.manifest_digest.clone(), 5, 0));
    let there = manager(store, "there").await;
    let pulled = there.pull_image(PullOptions::new(&name), |_| {}).await.unwrap();
    assert_eq!(pulled.image.manifest_digest, made.manifest_digest);
    assert!(pulled.transferred > 0 && pulled.warnings.is_empty());
    let copy = there.create_vessel(&name, "").await.unwrap();
    same_trees(&vessel, &copy).await;
    copy.close().await.unwrap();
    vessel.close().await.unwrap();
    there.close().await.unwrap();
}

async fn a_second_push_sends_nothing_and_a_change_sends_its_layer(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let (here, vessel) = vessel(store).await;
    let name = registry.reference("made");
    commit(&here, vessel.id(), CommitOptions::new(&name)).await;
    here.push_image(&name, None, |_| {}).await.unwrap();
    // Committed again, it is the same, and the registry has all of it.
    commit(&here, vessel.id(), CommitOptions::new(&name)).await;
    registry.forget();
    let again = here.push_image(&name, None, |_| {}).await.unwrap();
    assert_eq!((again.uploaded, again.mounted, again.existing), (0, 0, 5));
    assert_eq!(registry.asked(), ["HEAD /v2/made/manifests/latest"]);
    // What was in no snapshot is in one now, and one line more.
    vessel.create_snapshot("third").await.unwrap();
    sh(&vessel, "echo more > /work/more").await;
    commit(&here, vessel.id(), CommitOptions::new(&name)).await;
    registry.forget();
    let changed = here.push_image(&name, None, |_| {}).await.unwrap();
    // The new layer and the configuration: the layers of all snapshots were there.
    assert_eq!((changed.uploaded, changed.existing), (2, 4), "{:?}", registry.uploads());
    assert!(changed.uploaded_bytes < 20_000, "{changed:?}");
    vessel.close().await.unwrap();
}

async fn a_second_pull_asks_once(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let name = pushed_base(store, &registry, "base:1").await;
    let there = manager(store, "there").await;
    there.pull_image(PullOptions::new(&name), |_| {}).await.unwrap();
    registry.forget();
    let again = there.pull_image(PullOptions::new(&name), |_| {}).await.unwrap();
    assert_eq!((registry.asked(), again.transferred), (vec!["HEAD /v2/base/manifests/1".to_owned()], 0));
    there.close().await.unwrap();
}

/// The base image, pushed as `name`; its reference there.
async fn pushed_base(store: &Store, registry: &Registry, name: &str) -> String {
    let here = manager(store, "store").await;
    store.stock(&here).await;
    let name = registry.reference(name);
    here.push_image(BASE, Some(&name), |_| {}).await.unwrap();
    name
}

async fn blobs_are_taken_over_from_other_repositories(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let here = manager(store, "store").await;
    store.stock(&here).await;
    let (one, two) = (registry.reference("one:1"), registry.reference("two:1"));
    here.tag_image(BASE, &one).await.unwrap();
    here.push_image(&one, None, |_| {}).await.unwrap();
    let report = here.push_image(&one, Some(&two), |_| {}).await.unwrap();
    assert_eq!((report.mounted, report.uploaded), (1, 1), "the layer is mounted, the configuration sent");
    let there = manager(store, "there").await;
    there.pull_image(PullOptions::new(&two), |_| {}).await.unwrap();
    there.close().await.unwrap();
}

/// Images of three layers with whiteouts, opaque directories and links, in docker's and OCI's form, gzip and zstd.
async fn images_of_other_tools_are_pulled_as_podman_sees_them(store: &Store) {
    if !need(&[Cap::Registry, Cap::Skopeo, Cap::Podman, Cap::Root]) {
        return;
    }
    let registry = Registry::open(store);
    // As builders write them: with the directories that changed, and links with the metadata of what they link.
    let second = image::Layer::new()
        .dir("srv", 0o755, 0)
        .file("srv/.wh.a", 0o644, 0, b"")
        .dir("srv/sub", 0o750, 0)
        .file("srv/sub/.wh..wh..opq", 0o644, 0, b"")
        .file("srv/sub/new", 0o644, 0, b"new\n")
        .file("srv/sub/other", 0o4755, 7, b"other\n")
        .hardlink("srv/sub/newer", "srv/sub/new");
    let third = image::Layer::new()
        .dir("srv", 0o755, 0)
        .dir("srv/sub", 0o750, 0)
        .file_with_xattr("srv/sub/marked", b"m", "user.k", b"v")
        .symlink("srv/link", "nowhere")
        .file("srv/sub/.wh.newer", 0o644, 0, b"")
        .hardlink("srv/newest", "srv/sub/new");
    let layers = [image::base_tar().to_vec(), second.finish(), third.finish()];
    image::oci_layout(&store.beside("layout"), &layers, &serde_json::json!({ "Cmd": ["sh"] }));
    let there = manager(store, "there").await;
    for (tag, format, compression) in [("d", "v2s2", "gzip"), ("g", "oci", "gzip"), ("z", "oci", "zstd")] {
        let name = registry.reference(&format!("made:{tag}"));
        let target = format!("docker://{name}");
        let args = ["--insecure-policy", "copy", "--dest-tls-verify=false", "--format", format];
        let compress = ["--dest-compress-format", compression, "oci:layout:latest", &target];
        tool(store, "skopeo", &[&args[..], &compress].concat());
        there.pull_image(PullOptions::new(&name), |_| {}).await.unwrap();
        let ours = there.create_vessel(&name, "").await.unwrap();
        Podman::new(store).call(&["pull", "--tls-verify=false", &name]);
        let theirs = Podman::new(store).call(&["image", "mount", &name]);
        for dir in ["srv", "home", "bin", "root"] {
            // An overlay counts names that a higher layer deleted; which are one file is listed at the end.
            let plain = |list: String| list.replace(" links\n", "\n");
            let listed = plain(tree::outside(&std::path::Path::new(theirs.trim()).join(dir), false));
            assert_eq!(plain(tree::inside(&ours, &format!("/{dir}"), false).await), listed, "{tag} {dir}");
        }
        Podman::new(store).call(&["image", "umount", "--all"]);
        ours.close().await.unwrap();
    }
    there.close().await.unwrap();
}

async fn two_pulls_of_one_image_download_it_once(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let name = pushed_base(store, &registry, "base:1").await;
    registry.forget();
    let (one, two) = (manager(store, "there").await, manager(store, "there").await);
    let pulls = tokio::join!(
        one.pull_image(PullOptions::new(&name), |_| {}),
        two.pull_image(PullOptions::new(&name), |_| {}),
    );
    assert_eq!(pulls.0.unwrap().image.manifest_digest, pulls.1.unwrap().image.manifest_digest);
    let downloads =
        registry.asked().into_iter().filter(|line| line.starts_with("GET /v2/base/blobs/")).count();
    assert_eq!(downloads, 2, "configuration and layer once each: {:?}", registry.asked());
    one.close().await.unwrap();
    two.close().await.unwrap();
}

async fn creating_pulls_what_is_missing_and_only_then(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let name = pushed_base(store, &registry, "base:1").await;
    let there = manager(store, "there").await;
    let create = async |policy| there.create_vessel_with(CreateOptions::new(&name).pull(policy)).await;
    fails_with(create(PullPolicy::Never).await, &ErrorKind::NotFound, "image not found");
    let vessel = create(PullPolicy::Missing).await.unwrap();
    assert_eq!(sh(&vessel, "cat /etc/motd").await.as_bytes(), image::MOTD);
    vessel.close().await.unwrap();
    registry.forget();
    create(PullPolicy::Missing).await.unwrap().close().await.unwrap();
    assert!(registry.asked().is_empty());
    create(PullPolicy::Always).await.unwrap().close().await.unwrap();
    assert_eq!(registry.asked(), ["HEAD /v2/base/manifests/1"]);
    // A tag that means something else now is looked at only when asked to.
    let here = manager(store, "store").await;
    let other = here.create_vessel(BASE, "/work").await.unwrap();
    sh(&other, "echo other > /etc/motd").await;
    other.close().await.unwrap();
    commit(&here, other.id(), CommitOptions::new(&name)).await;
    here.push_image(&name, None, |_| {}).await.unwrap();
    for (policy, motd) in [(PullPolicy::Missing, "the base image\n"), (PullPolicy::Always, "other\n")] {
        let vessel = create(policy).await.unwrap();
        assert_eq!(sh(&vessel, "cat /etc/motd").await, motd);
        vessel.close().await.unwrap();
    }
    drop(registry);
    create(PullPolicy::Missing).await.unwrap().close().await.unwrap();
    fails(create(PullPolicy::Always).await, &ErrorKind::Unavailable);
    there.close().await.unwrap();
}

async fn who_is_offline_is_told_that_the_image_is_not_here(store: &Store) {
    let manager = manager(store, "store").await;
    let started = std::time::Instant::now();
    // Nobody listens there.
    let failed = manager.create_vessel("127.0.0.1:1/none:1", "").await;
    let error = fails_with(failed, &ErrorKind::NotFound, "image not found: 127.0.0.1:1/none:1");
    assert!(error.chain().contains("failed to pull"), "{}", error.chain());
    assert!(started.elapsed() < std::time::Duration::from_secs(10));
}

async fn an_unknown_image_and_a_registry_that_is_gone_are_told_apart(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let manager = manager(store, "store").await;
    let pull = async |name: &str| manager.pull_image(PullOptions::new(name), |_| {}).await;
    fails(pull(&registry.reference("none:1")).await, &ErrorKind::NotFound);
    fails(pull("Not A Name").await, &ErrorKind::InvalidArgument);
    let odd = PullOptions::new(registry.reference("none")).platform("linux");
    fails_with(manager.pull_image(odd, |_| {}).await, &ErrorKind::InvalidArgument, "platform");
    let name = registry.reference("none:1");
    drop(registry);
    fails(pull(&name).await, &ErrorKind::Unavailable);
    fails(manager.push_image("none", None, |_| {}).await, &ErrorKind::NotFound);
}

/// `vesselrt login` with a password.
pub(crate) fn login(store: &Store, registry: &Registry, password: &str) -> Output {
    let mut command = store.cli(&["login", &registry.host(), "-u", USER, "--password-stdin"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), password.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

async fn a_registry_with_passwords_wants_a_login(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::with_password(store);
    let here = manager(store, "store").await;
    store.stock(&here).await;
    let name = registry.reference("base:1");
    let denied = fails(here.push_image(BASE, Some(&name), |_| {}).await, &ErrorKind::PermissionDenied);
    assert_eq!(denied.remedy(), Some(format!("vesselrt login {}", registry.host()).as_str()));
    assert_eq!(login(store, &registry, "wrong").status.code(), Some(125));
    let accepted = login(store, &registry, &format!("{PASSWORD}\n"));
    assert!(accepted.status.success(), "{accepted:?}");
    assert!(!format!("{accepted:?}").contains(PASSWORD));
    let pushed = store.cli(&["push", BASE, &name]).output().unwrap();
    assert!(pushed.status.success(), "{pushed:?}");
    let there = manager(store, "there").await;
    there.pull_image(PullOptions::new(&name), |_| {}).await.unwrap();
    let out = store.cli(&["logout", &registry.host()]).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    assert_eq!(store.cli(&["logout", &registry.host()]).output().unwrap().status.code(), Some(125));
    let fresh = manager(store, "there").await;
    fails(fresh.pull_image(PullOptions::new(&name), |_| {}).await, &ErrorKind::PermissionDenied);
    there.close().await.unwrap();
}

async fn damaged_blobs_are_had_again(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let name = pushed_base(store, &registry, "base:1").await;
    let there = manager(store, "there").await;
    let image = there.pull_image(PullOptions::new(&name), |_| {}).await.unwrap().image;
    for digest in [&image.layers[0].digest, &image.config_digest, &image.manifest_digest] {
        let path = store.beside("there/images/blobs/sha256").join(digest.hex());
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[50] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(there.verify_images(None, false).await.unwrap().repaired.is_empty());
        let report = there.verify_images(None, true).await.unwrap();
        assert_eq!((report.damaged.len(), &report.repaired[..]), (1, std::slice::from_ref(digest)));
        assert!(std::fs::read(&path).unwrap() == good);
    }
    // Without the registry it stays as it is.
    let path = store.beside("there/images/blobs/sha256").join(image.layers[0].digest.hex());
    std::fs::write(&path, b"short").unwrap();
    drop(registry);
    let report = there.verify_images(Some(&name), true).await.unwrap();
    assert_eq!((report.damaged.len(), report.repaired.len()), (1, 0));
    assert_eq!(std::fs::read(&path).unwrap(), b"short");
    there.close().await.unwrap();
}

async fn every_event_is_a_line_of_json(store: &Store) {
    if !need(&[Cap::Registry]) {
        return;
    }
    let registry = Registry::open(store);
    let name = pushed_base(store, &registry, "base:1").await;
    let there = store.beside("there");
    let root = ["--json", "--root", there.to_str().unwrap()];
    let events = |args: &[&str]| -> Vec<Value> {
        let output = store.cli(&[&root[..], args].concat()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let pulled = events(&["pull", &name]);
    let words: Vec<&str> = pulled.iter().map(|event| event["event"].as_str().unwrap()).collect();
    for word in ["image", "queued", "downloading", "verified", "unpacked"] {
        assert!(words.contains(&word), "{word} is not in {words:?}");
    }
    assert_eq!(pulled.last().unwrap()["image"]["reference"], name.as_str());
    assert_eq!(words.last(), Some(&"done"));
    let pushed = events(&["push", &name, &registry.reference("elsewhere:1")]);
    assert_eq!(pushed.last().unwrap()["event"], "done");
    let failed = store.cli(&[&root[..], &["pull", &registry.reference("none")]].concat()).output().unwrap();
    let error: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!((failed.status.code(), error["error"]["kind"].as_str()), (Some(125), Some("not_found")));
}

/// The next layers are not waited for, nothing has its name, and nothing is left to unpack twice.
async fn a_layer_that_cannot_be_unpacked_ends_the_pull(store: &Store) {
    if !need(&[Cap::Registry, Cap::Skopeo]) {
        return;
    }
    let registry = Registry::open(store);
    let hostile = image::Layer::new().hardlink("evil", "../../../etc/shadow").finish();
    image::oci_layout(
        &store.beside("layout"),
        &[image::base_tar().to_vec(), hostile],
        &serde_json::json!({}),
    );
    let name = registry.reference("evil:1");
    let target = format!("docker://{name}");
    let args = ["--insecure-policy", "copy", "--dest-tls-verify=false", "oci:layout:latest", &target];
    tool(store, "skopeo", &args);
    let there = manager(store, "there").await;
    let unpacked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&unpacked);
    let hear = move |at: PullProgress| {
        if matches!(at, PullProgress::Blob { state: BlobState::Unpacked, .. }) {
            *count.lock().unwrap() += 1;
        }
    };
    let failed = there.pull_image(PullOptions::new(&name), hear).await;
    fails(failed, &ErrorKind::InvalidArgument);
    assert!(*unpacked.lock().unwrap() <= 1);
    assert!(there.list_images().await.unwrap().is_empty());
    let pruned = there.prune_images(true).await.unwrap();
    assert!(pruned.blobs >= 3, "{pruned:?}");
    there.close().await.unwrap();
}
