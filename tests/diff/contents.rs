//! The bytes on both sides of a change.
#![forbid(unsafe_code)]

use vesselrt::{Content, DiffOptions, ErrorKind};

use super::lines;
use crate::testkit::{Store, fails, sh, tests};

tests!(what_is_in_the_files_is_read_from_both_sides, a_comparison_whose_layers_are_gone_is_not_read,);

async fn what_is_in_the_files_is_read_from_both_sides(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "echo old > f; echo gone > g; mkdir d; ln -s old l; seq 1000 > big; echo m > mode").await;
    vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "echo new > f; rm g; rmdir d; rm l; ln -s new l; seq 1001 > big; chmod 600 mode").await;
    let diff = vessel.diff(DiffOptions::new()).await.unwrap();
    assert_eq!(
        lines(&diff.changes).join(" "),
        "M /work/big D /work/d M /work/f D /work/g M /work/l M /work/mode"
    );
    let contents = vessel.read_changes(&diff, &diff.changes, 1000).await.unwrap();
    let bytes = |text: &str| Content::Bytes(text.into());
    let sides: Vec<(Content, Content)> = contents.into_iter().map(|c| (c.old, c.new)).collect();
    let expected = [
        (Content::TooLarge, Content::TooLarge),
        (Content::None, Content::None),
        (bytes("old\n"), bytes("new\n")),
        (bytes("gone\n"), Content::None),
        (bytes("old"), bytes("new")),
        (Content::None, Content::None),
    ];
    assert_eq!(sides, expected);
    // What is taken away after it was compared is told, and is no error.
    sh(&vessel, "rm f").await;
    let again = vessel.read_changes(&diff, &diff.changes[2..3], 1000).await.unwrap();
    assert_eq!((&again[0].old, &again[0].new), (&bytes("old\n"), &Content::Gone));
    vessel.close().await.unwrap();
}

async fn a_comparison_whose_layers_are_gone_is_not_read(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let one = vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "echo 1 > f").await;
    let diff = vessel.diff(DiffOptions::new()).await.unwrap();
    vessel.restore_snapshot(&one.id).await.unwrap();
    let read = vessel.read_changes(&diff, &diff.changes, 1000).await;
    fails(read, &ErrorKind::Conflict);
    // Nothing of it keeps others from changing the vessel's snapshots.
    vessel.create_snapshot("").await.unwrap();
    vessel.close().await.unwrap();
    fails(vessel.diff(DiffOptions::new()).await, &ErrorKind::Conflict);
}
