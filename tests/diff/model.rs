//! Whatever is done to a tree, and wherever its history branches: what is told to differ between two states is what two full
//! listings of them, made through the vessel, differ in.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use vesselrt::{Change, ChangeKind, DiffOptions, DiffPoint, Differences, FileType, OverlayDriver, Vessel};

use crate::testkit::image::attribute_tools_tar;
use crate::testkit::random::Random;
use crate::testkit::{BASE, Cap, Store, need, run, sh};

/// Where it happens.
const TREE: &str = "/work/tree";
const NAMES: [&str; 10] = ["a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a", "e", "e/f"];

/// What is done between two snapshots, and to which of those before it goes back first.
type Round = (Option<usize>, Vec<String>);

/// Something that changes a tree, as a line of shell; it may fail.
fn op() -> impl Strategy<Value = String> {
    let n = || proptest::sample::select(&NAMES[..]);
    let file = |name: &str| format!("[ ! -d {name} ] && [ ! -L {name} ] && [ ! -p {name} ]");
    prop_oneof![
        6 => (n(), 0u8..6).prop_map(move |(a, size)| format!("{} && seq {size} > {a}", file(a))),
        2 => (n(), 0u8..3).prop_map(move |(a, x)| format!("{} && echo {x} > {a} && touch -d @1600000000 {a}", file(a))),
        5 => n().prop_map(|a| format!("mkdir {a}")),
        4 => n().prop_map(|a| format!("rm -rf {a}")),
        3 => (n(), n()).prop_map(|(a, b)| format!("mv -f {a} {b}")),
        2 => (n(), n()).prop_map(|(a, b)| format!("[ -f {a} ] && [ ! -L {a} ] && ln {a} {b}")),
        1 => (n(), n()).prop_map(|(a, b)| format!("ln -s {a} {b}")),
        1 => n().prop_map(|a| format!("mkfifo {a}")),
        1 => (n(), 0u32..0o1000).prop_map(|(a, m)| format!("[ ! -L {a} ] && chmod {:o} {a}", m | 0o400)),
        1 => (n(), 0u16..3).prop_map(|(a, id)| format!("chown -h {id}:{id} {a}")),
        1 => (n(), 0u8..3).prop_map(|(a, v)| format!("[ ! -L {a} ] && setfattr -n user.n -v v{v} {a}")),
        1 => n().prop_map(|a| format!("[ ! -L {a} ] && setfattr -x user.n {a}")),
        1 => n().prop_map(|a| format!("[ -d {a} ] && rm -rf {a} && mkdir {a} && seq 3 > {a}/a")),
        1 => n().prop_map(move |a| format!("{} && cp {a} .copy && rm {a} && mv .copy {a}", file(a))),
    ]
}

/// All that is to know about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    file_type: FileType,
    mode: u32,
    owner: (u32, u32),
    modified: Option<SystemTime>,
    content: Vec<u8>,
    attributes: String,
}

type Listing = BTreeMap<PathBuf, Known>;

/// Everything at [`TREE`] and below. With `times`: those of what is no directory count.
async fn listing(vessel: &Vessel, times: bool) -> Listing {
    let mut found = Listing::new();
    let mut left = vec![(PathBuf::from(TREE), vessel.symlink_stat(TREE).await.unwrap())];
    while let Some((path, info)) = left.pop() {
        let content = match info.file_type {
            FileType::File => vessel.read_file(&path).await.unwrap(),
            FileType::Symlink => info.link_target.clone().unwrap().into_os_string().into_encoded_bytes(),
            _ => Vec::new(),
        };
        if info.is_dir() {
            let entries = vessel.read_dir(&path).await.unwrap();
            left.extend(entries.into_iter().map(|entry| (path.join(entry.name), entry.info)));
        }
        let known = Known {
            file_type: info.file_type,
            mode: info.mode,
            owner: (info.uid, info.gid),
            modified: (times && !info.is_dir()).then_some(info.modified),
            content,
            attributes: String::new(),
        };
        found.insert(path, known);
    }
    let script = format!(
        "find {TREE} -type f -o -type d | while read -r p; do
             getfattr -h -d -m '^user\\.' -e hex -- \"$p\" 2>/dev/null | sed -n \"s|^user|$p user|p\"; done"
    );
    for line in crate::testkit::sh_ephemeral(vessel, &script).await.lines() {
        let (path, attribute) = line.split_once(' ').unwrap();
        found.get_mut(Path::new(path)).unwrap().attributes.push_str(attribute);
    }
    found
}

/// What two listings differ in: letter and path, and whether content differs.
fn expected(old: &Listing, new: &Listing) -> Vec<(ChangeKind, PathBuf, bool)> {
    let paths: std::collections::BTreeSet<&PathBuf> = old.keys().chain(new.keys()).collect();
    let one = |path: &PathBuf| match (old.get(path), new.get(path)) {
        (Some(_), None) => Some((ChangeKind::Deleted, path.clone(), false)),
        (None, Some(_)) => Some((ChangeKind::Added, path.clone(), false)),
        (Some(a), Some(b)) if a != b => {
            Some((ChangeKind::Modified, path.clone(), a.file_type == b.file_type && a.content != b.content))
        }
        _ => None,
    };
    paths.into_iter().filter_map(one).collect()
}

/// The same of what was told; a renamed path is a deleted and an added one.
fn told(changes: &[Change], times: bool) -> Vec<(ChangeKind, PathBuf, bool)> {
    let only_time = Differences { mtime: true, ..Differences::default() };
    let mut told: Vec<_> = changes
        .iter()
        .filter(|change| times || change.differences != only_time || change.kind != ChangeKind::Modified)
        .flat_map(|change| match &change.old_path {
            Some(old) => vec![
                (ChangeKind::Deleted, old.clone(), false),
                (ChangeKind::Added, change.path.clone(), false),
            ],
            None => vec![(change.kind, change.path.clone(), change.differences.content)],
        })
        .collect();
    told.sort_by(|a, b| a.1.cmp(&b.1));
    told
}

/// Every file that was renamed has the content it had, and every directory all that was in it.
fn renames_hold(changes: &[Change], old: &Listing, new: &Listing) {
    let renamed: BTreeMap<&PathBuf, &PathBuf> =
        changes.iter().filter_map(|change| Some((change.old_path.as_ref()?, &change.path))).collect();
    for (from, to) in &renamed {
        let (before, after) = (&old[*from], &new[*to]);
        assert_eq!((before.file_type, &before.content), (after.file_type, &after.content), "{from:?} {to:?}");
        assert!(!new.contains_key(*from) && !old.contains_key(*to), "{from:?} {to:?}");
        let inside = old.keys().filter(|path| path.parent() == Some(from.as_path()));
        for path in inside {
            assert_eq!(renamed.get(path), Some(&&to.join(path.file_name().unwrap())), "{path:?}");
        }
    }
    let targets: HashSet<&&PathBuf> = renamed.values().collect();
    assert_eq!(targets.len(), renamed.len(), "nothing comes from two places");
}

async fn holds(store: &Store, rounds: &[Round]) {
    let manager = store.manager().await;
    let vessel = manager.create_vessel(BASE, TREE).await.unwrap();
    // fuse-overlayfs tells others before it has written a file than after.
    let times = store.driver() != OverlayDriver::Fuse;
    // And its hard links of files below show what none of its layers has (docs/images.md).
    let possible = |op: &&String| store.driver() != OverlayDriver::Fuse || !op.contains("&& ln ");
    let script = |ops: &[String]| {
        let ops: Vec<&str> = ops.iter().filter(possible).map(String::as_str).collect();
        format!("cd {TREE}; exec 2>/dev/null; {}\n true", ops.join("\n"))
    };
    let mut states: Vec<(DiffPoint, Listing)> = vec![(DiffPoint::Base, Listing::new())];
    let mut snapshots: Vec<String> = Vec::new();
    for (back, ops) in rounds {
        if let Some(back) = back.filter(|_| !snapshots.is_empty()) {
            vessel.restore_snapshot(&snapshots[back % snapshots.len()]).await.unwrap();
        }
        sh(&vessel, &script(ops)).await;
        let listing = listing(&vessel, times).await;
        let made = vessel.create_snapshot("").await.unwrap();
        states.push((DiffPoint::Snapshot(made.id.clone()), listing));
        snapshots.push(made.id);
    }
    // What comes last is not snapshotted.
    sh(&vessel, &script(&rounds[0].1)).await;
    states.push((DiffPoint::Now, listing(&vessel, times).await));
    for (from, old) in &states {
        for (to, new) in &states {
            let options = || DiffOptions::new().from(from.clone()).to(to.clone()).path(TREE);
            let plain = vessel.diff(options().renames(false)).await.unwrap();
            let context = || format!("{from:?} {to:?} {rounds:#?}");
            assert_eq!(told(&plain.changes, times), expected(old, new), "{}", context());
            let renamed = vessel.diff(options()).await.unwrap();
            assert_eq!(told(&renamed.changes, times), expected(old, new), "{}", context());
            renames_hold(&renamed.changes, old, new);
        }
    }
    vessel.close().await.unwrap();
    manager.delete_vessel(vessel.id()).await.unwrap();
}

fn holds_on(driver: OverlayDriver, cases: u32) {
    if !need(&[Cap::AttributeTools, Cap::SubordinateIds]) {
        return;
    }
    run(driver, async |store: &Store| {
        let manager = store.manager().await;
        let tar = store.beside("attributes.tar");
        std::fs::write(&tar, attribute_tools_tar()).unwrap();
        manager.import_image(&tar, BASE, |_| {}).await.unwrap();
        drop(manager);
        let round = (proptest::option::weighted(0.4, 0usize..5), prop::collection::vec(op(), 1..14));
        let rounds = prop::collection::vec(round, 1..5);
        let config = Config { cases, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
        let seed: [u8; 32] = Random::new().bytes(32).try_into().unwrap();
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
        let handle = tokio::runtime::Handle::current();
        let tried = tokio::task::block_in_place(|| {
            runner.run(&rounds, |rounds| {
                handle.block_on(holds(store, &rounds));
                Ok(())
            })
        });
        tried.unwrap();
    });
}

#[test]
fn any_two_states_differ_as_their_listings_do() {
    holds_on(OverlayDriver::Kernel, 16);
}

#[test]
fn any_two_states_differ_as_their_listings_do_on_fuse() {
    holds_on(OverlayDriver::Fuse, 4);
}
