//! Whatever is done to a tree, it comes back from the archives in an empty store as it is: compared with a plain directory
//! in which the same was done.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use vesselrt::{CompressedStorage, Manager, OverlayDriver, Vessel};

use crate::testkit::image::attribute_tools_tar;
use crate::testkit::{BASE, Cap, Store, need, run, sh, tree};

/// Trees that are tried.
const CASES: u32 = 18;

/// Something that changes a tree. Names are few, so that operations meet.
#[derive(Debug, Clone)]
enum Op {
    Write(usize, u16),
    Append(usize),
    Sparse(usize, u32),
    MakeDir(usize),
    Remove(usize),
    RemoveTree(usize),
    Rename(usize, usize),
    /// By the library, which can do it also where the kernel cannot: to a directory of a layer below.
    RenameDir(usize, usize),
    HardLink(usize, usize),
    Symlink(usize, usize),
    Fifo(usize),
    /// Not the bits that writing takes away again: from whom, is told by capabilities that differ on both sides.
    Mode(usize, u32),
    Owner(usize, u16, u16),
    Attribute(usize, u8, u8),
    NoAttribute(usize, u8),
    Capability(usize, u8),
    Replace(usize),
    Time(usize, i32),
}

const NAMES: [&str; 12] =
    ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "d/e/.wh.a", "low", "low/f", "low/d", ".wh..wh..opq"];

fn op() -> impl Strategy<Value = Op> {
    let n = || 0..NAMES.len();
    prop_oneof![
        4 => (n(), any::<u16>()).prop_map(|(a, b)| Op::Write(a, b)),
        1 => n().prop_map(Op::Append),
        1 => (n(), 1u32..3_000_000).prop_map(|(a, b)| Op::Sparse(a, b)),
        4 => n().prop_map(Op::MakeDir),
        2 => n().prop_map(Op::Remove),
        1 => n().prop_map(Op::RemoveTree),
        2 => (n(), n()).prop_map(|(a, b)| Op::Rename(a, b)),
        2 => (n(), n()).prop_map(|(a, b)| Op::RenameDir(a, b)),
        2 => (n(), n()).prop_map(|(a, b)| Op::HardLink(a, b)),
        1 => (n(), n()).prop_map(|(a, b)| Op::Symlink(a, b)),
        1 => n().prop_map(Op::Fifo),
        2 => (n(), 0u32..0o2000).prop_map(|(a, b)| Op::Mode(a, b)),
        1 => (n(), 0u16..3000, 0u16..3000).prop_map(|(a, b, c)| Op::Owner(a, b, c)),
        2 => (n(), 0u8..4, any::<u8>()).prop_map(|(a, b, c)| Op::Attribute(a, b, c)),
        1 => (n(), 0u8..4).prop_map(|(a, b)| Op::NoAttribute(a, b)),
        1 => (n(), 0u8..8).prop_map(|(a, b)| Op::Capability(a, b)),
        1 => n().prop_map(Op::Replace),
        2 => (n(), any::<i32>()).prop_map(|(a, b)| Op::Time(a, b)),
    ]
}

/// The operation as a line of shell, which may fail, and then must fail on both sides.
fn line(op: &Op) -> String {
    let n = |i: &usize| NAMES[*i];
    match op {
        Op::Write(a, size) => format!("seq {} > {}", size % 5000, n(a)),
        Op::Append(a) => format!("[ -f {0} ] && [ ! -L {0} ] && echo more >> {0}", n(a)),
        Op::Sparse(a, size) => format!("truncate -s {size} {0} && echo end >> {0}", n(a)),
        Op::MakeDir(a) => format!("mkdir {}", n(a)),
        Op::Remove(a) => format!("rm {0} || rmdir {0}", n(a)),
        Op::RemoveTree(a) => format!("rm -rf {}", n(a)),
        // What mv(1) does instead with a directory of a layer below is its own affair.
        Op::Rename(a, b) => format!("[ ! -d {0} ] && mv -f {0} {1}", n(a), n(b)),
        Op::HardLink(a, b) => {
            format!("[ -f {0} ] && [ ! -L {0} ] && {1} && ln {0} {2}", n(a), fresh(n(a)), n(b))
        }
        Op::Symlink(a, b) => format!("ln -s {} {}", n(a), n(b)),
        Op::Fifo(a) => format!("mkfifo {}", n(a)),
        Op::Mode(a, mode) => format!("[ ! -L {0} ] && chmod {mode:o} {0}", n(a)),
        Op::Owner(a, uid, gid) => format!("[ ! -L {0} ] && chown {uid}:{gid} {0}", n(a)),
        Op::Attribute(a, name, value) => {
            format!("[ ! -L {0} ] && setfattr -n user.n{name} -v v{value} {0}", n(a))
        }
        Op::NoAttribute(a, name) => format!("[ ! -L {0} ] && setfattr -x user.n{name} {0}", n(a)),
        // capability.h: revision 2, effective, one permitted.
        Op::Capability(a, bit) => format!(
            "[ -f {0} ] && [ ! -L {0} ] && setfattr -n security.capability -v 0x01000002{1:02x}{2} {0}",
            n(a),
            1u8 << bit,
            "0".repeat(30)
        ),
        // The name must be free; the rest is not done by the shell.
        Op::RenameDir(a, b) => format!(
            "[ -d {0} ] && [ ! -L {0} ] && [ ! -L {1} ] && {{ [ ! -e {1} ] || rmdir {1}; }}",
            n(a),
            n(b)
        ),
        Op::Replace(a) => format!("[ -d {0} ] && [ ! -L {0} ] && rm -r {0} && mkdir {0}", n(a)),
        Op::Time(a, time) => format!("[ ! -L {0} ] && touch -c -d @{time} {0}", n(a)),
    }
}

/// Makes a file anew. A layer below keeps no links: a file of it that gets a second name is copied for one of both.
fn fresh(name: &str) -> String {
    format!("cp -p {name} .fresh && rm {name} && mv .fresh {name}")
}

/// Operations as a script that tells what succeeded. FIFOs must not be opened, nor must symlinks lead into them.
fn script(ops: &[Op]) -> String {
    let mut text = String::from("exec 2>/dev/null\n");
    for (i, op) in ops.iter().enumerate() {
        let target = match op {
            Op::Write(a, _) | Op::Append(a) | Op::Sparse(a, _) => {
                format!("[ -p {0} ] || [ -L {0} ] || ", NAMES[*a])
            }
            _ => String::new(),
        };
        let _ = writeln!(text, "{target}{{ {}; }} && echo {i}", line(op));
        // So that a file's time is the same on both sides.
        text.push_str("find . -newer /etc/passwd ! -type l -exec touch -c -d @1700000000 {} +\n");
    }
    text
}

/// The end of a round: bits that writing takes away, and times that depend on nothing but the names.
const END: &str = "exec 2>/dev/null
    [ -f a ] && [ ! -L a ] && chmod 4751 a; [ -f b ] && [ ! -L b ] && chown 0:0 b && chmod 2710 b
    find . -type d -exec touch -c -d @1700000001 {} +\n";

/// Pieces of which each is one script, or one directory to be renamed.
fn pieces(ops: &[Op]) -> impl Iterator<Item = &[Op]> {
    ops.chunk_by(|a, b| !matches!(a, Op::RenameDir(..)) && !matches!(b, Op::RenameDir(..)))
}

/// Does it inside. Tells what succeeded.
async fn inside(vessel: &Vessel, ops: &[Op]) -> Vec<String> {
    let mut done = Vec::new();
    for piece in pieces(ops) {
        let mut told = sh(vessel, &script(piece)).await;
        if let [Op::RenameDir(a, b)] = piece
            && !told.is_empty()
        {
            let renamed = vessel.rename_file(NAMES[*a], NAMES[*b]).await;
            told = if renamed.is_ok() { "renamed\n".to_owned() } else { String::new() };
        }
        done.push(told);
    }
    sh(vessel, END).await;
    done
}

/// Does the same in a plain directory. Tells what succeeded.
fn outside(dir: &Path, ops: &[Op]) -> Vec<String> {
    let run = |script: &str| tree::outside_script(dir, &script.replace("/etc/passwd", "../reference"));
    let mut done = Vec::new();
    for piece in pieces(ops) {
        let mut told = run(&script(piece));
        if let [Op::RenameDir(a, b)] = piece
            && !told.is_empty()
        {
            told = run(&format!("mv {} {} 2>/dev/null && echo renamed; true", NAMES[*a], NAMES[*b]));
        }
        done.push(told);
    }
    run(END);
    done
}

/// What can be compared: a link of a layer below is none any more when it is changed, nor is one when its directory is
/// renamed by copying. So links are made in the last round only, and without that.
fn comparable(ops: &[Op], is_last: bool) -> Vec<Op> {
    let copies = ops.iter().any(|op| matches!(op, Op::RenameDir(..)));
    ops.iter().filter(|op| (is_last && !copies) || !matches!(op, Op::HardLink(..))).cloned().collect()
}

/// `empty` is a manager of another store, which shares only the storage and the image.
async fn comes_back(store: &Store, empty: &Manager, rounds: &[Vec<Op>]) {
    let manager = store.manager().await;
    let vessel = manager.create_vessel(BASE, "/work/tree").await.unwrap();
    let plain = store.beside("plain");
    // What a case that failed left.
    crate::testkit::store::remove(&plain).unwrap();
    std::fs::create_dir_all(&plain).unwrap();
    for (round, ops) in rounds.iter().enumerate() {
        let ops = comparable(ops, round + 1 == rounds.len());
        assert_eq!(
            inside(&vessel, &ops).await,
            outside(&plain, &ops),
            "the same operations succeed: {ops:?}"
        );
        vessel.create_snapshot("").await.unwrap();
    }
    let expected = tree::outside(&plain, true);
    assert_eq!(tree::inside(&vessel, "/work/tree", true).await, expected, "before it moves");
    vessel.close().await.unwrap();
    let moved = empty.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(tree::inside(&moved, "/work/tree", true).await, expected, "from the archives");
    moved.close().await.unwrap();
    empty.delete_vessel(vessel.id()).await.unwrap();
    drop(manager);
    crate::testkit::store::remove(&plain).unwrap();
}

#[test]
fn any_tree_comes_back_from_the_archives_as_it_was() {
    if !need(&[Cap::AttributeTools, Cap::SubordinateIds]) {
        return;
    }
    run(OverlayDriver::Kernel, async |store: &Store| {
        let manager = store.manager().await;
        let tar = store.beside("attributes.tar");
        std::fs::write(&tar, attribute_tools_tar()).unwrap();
        manager.import_image(&tar, BASE, |_| {}).await.unwrap();
        drop(manager);
        let archives = CompressedStorage::local(store.root().join("data")).unwrap();
        let config = store.config().root(store.beside("empty"));
        let empty = Manager::new(config.storage(Arc::new(archives))).await.unwrap();
        empty.import_image(&tar, BASE, |_| {}).await.unwrap();
        // Older than whatever the operations make.
        let reference = std::fs::File::create(store.beside("reference")).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
        reference.set_modified(old).unwrap();
        let rounds = prop::collection::vec(prop::collection::vec(op(), 1..25), 1..4);
        let config =
            Config { cases: CASES, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed()));
        let handle = tokio::runtime::Handle::current();
        let tried = tokio::task::block_in_place(|| {
            runner.run(&rounds, |rounds| {
                handle.block_on(comes_back(store, &empty, &rounds));
                Ok(())
            })
        });
        tried.unwrap();
        empty.close().await.unwrap();
    });
}

fn seed() -> [u8; 32] {
    let mut random = crate::testkit::random::Random::new();
    random.bytes(32).try_into().unwrap()
}
