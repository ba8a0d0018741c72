//! What is compared although it is odd: a vessel in which nothing was done, any names, holes, depth, long histories.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use vesselrt::{ChangeKind, Content, DiffOptions, DiffPoint};

use super::{between, lines, since_last, snapshot};
use crate::testkit::{Store, sh, sh_ephemeral, tests};

tests!(
    a_new_vessel_differs_from_its_image_in_its_working_directory,
    names_may_be_anything,
    holes_are_compared_without_reading_them,
    deep_trees_are_compared,
    a_long_history_is_compared,
);

async fn a_new_vessel_differs_from_its_image_in_its_working_directory(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh_ephemeral(&vessel, "echo lost > /etc/motd").await;
    assert_eq!(since_last(&vessel).await, ["A /work"]);
    let none = between(&vessel, DiffPoint::Base, DiffPoint::Base).await;
    assert_eq!((none.changes.len(), none.from.as_deref()), (0, Some("")));
    sh(&vessel, "chmod 700 /").await;
    assert_eq!(since_last(&vessel).await, ["M /", "A /work"]);
    vessel.close().await.unwrap();
}

async fn names_may_be_anything(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir d; printf 1 > 'd/a b'; printf 2 > \"$(printf 'd/x\\377\\n\\033[31m')\"").await;
    vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "printf 11 > 'd/a b'; rm d/x*; echo > ' '; echo > -; echo > '\"'; mkdir ...; echo > .../..x")
        .await;
    let diff = vessel.diff(DiffOptions::new()).await.unwrap();
    let odd = PathBuf::from(OsStr::from_bytes(b"/work/d/x\xff\n\x1b[31m"));
    let gone: Vec<_> = diff.changes.iter().filter(|change| change.kind == ChangeKind::Deleted).collect();
    assert_eq!((gone.len(), &gone[0].path), (1, &odd));
    let contents = vessel.read_changes(&diff, &[gone[0].clone()], 10).await.unwrap();
    assert_eq!(contents[0].old, Content::Bytes(b"2".to_vec()));
    let only = vessel.diff(DiffOptions::new().path(&odd)).await.unwrap();
    assert_eq!(only.changes.len(), 1);
    assert_eq!(diff.changes.len(), 7, "{:?}", lines(&diff.changes));
    vessel.close().await.unwrap();
}

async fn holes_are_compared_without_reading_them(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let make = "truncate -s 1000000000000 sparse && echo end | dd of=sparse bs=1 seek=500000000000 conv=notrunc 2>/dev/null";
    sh(&vessel, make).await;
    vessel.create_snapshot("").await.unwrap();
    sh(&vessel, &format!("rm sparse; {make}")).await;
    let diff = vessel.diff(DiffOptions::new()).await.unwrap();
    assert!(!diff.changes[0].differences.content, "{diff:?}");
    sh(&vessel, "printf X | dd of=sparse bs=1 seek=700000000000 conv=notrunc 2>/dev/null").await;
    let diff = vessel.diff(DiffOptions::new()).await.unwrap();
    assert!(diff.changes[0].differences.content, "{diff:?}");
    vessel.close().await.unwrap();
}

async fn deep_trees_are_compared(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    // Deeper than any path that could be named at once.
    let name = "d".repeat(200);
    let dive = format!("i=0; while [ $i -lt 40 ]; do mkdir -p {name} && cd {name}; i=$((i+1)); done;");
    sh(&vessel, &format!("{dive} echo 1 > leaf; echo 1 > other")).await;
    vessel.create_snapshot("").await.unwrap();
    sh(&vessel, &format!("{dive} echo 22 > leaf; mv other renamed")).await;
    let diff = vessel.diff(DiffOptions::new()).await.unwrap();
    let kinds: Vec<ChangeKind> = diff.changes.iter().map(|change| change.kind).collect();
    assert_eq!(kinds, [ChangeKind::Modified, ChangeKind::Renamed]);
    let contents = vessel.read_changes(&diff, &diff.changes[..1], 10).await.unwrap();
    assert_eq!(contents[0].new, Content::Bytes(b"22\n".to_vec()));
    vessel.close().await.unwrap();
}

async fn a_long_history_is_compared(store: &Store) {
    const LONG: usize = 60;
    let (_manager, vessel) = store.vessel().await;
    let mut chain = Vec::new();
    for number in 0..LONG {
        vessel.write_file(format!("f{number:02}"), "1", 0o644).await.unwrap();
        vessel.write_file("last", number.to_string(), 0o644).await.unwrap();
        chain.push(vessel.create_snapshot("").await.unwrap().id);
    }
    let all = between(&vessel, DiffPoint::Base, DiffPoint::Now).await;
    assert_eq!(all.changes.len(), 1 + LONG + 1);
    let some = between(&vessel, snapshot(&chain[10]), snapshot(&chain[13])).await;
    assert_eq!(lines(&some.changes), ["A /work/f11", "A /work/f12", "A /work/f13", "M /work/last"]);
    let back = between(&vessel, DiffPoint::Now, snapshot(&chain[LONG - 2])).await;
    assert_eq!(lines(&back.changes), ["D /work/f59", "M /work/last"]);
    let contents = vessel.read_changes(&some, &some.changes[3..], u64::MAX).await.unwrap();
    let bytes = |text: &str| Content::Bytes(text.into());
    assert_eq!((&contents[0].old, &contents[0].new), (&bytes("10"), &bytes("13")));
    vessel.close().await.unwrap();
}
