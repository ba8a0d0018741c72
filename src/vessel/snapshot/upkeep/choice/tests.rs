use std::time::Duration;

use super::*;

/// Snapshots `id<parent`, one a minute; the vessel lies on `current`.
fn vessel(snapshots: &str, current: &str) -> VesselManifest {
    let json = |(minute, text): (usize, &str)| {
        let (id, parent) = text.split_once('<').unwrap();
        serde_json::json!({
            "id": id, "vesselId": "v", "parentId": parent, "size": 1,
            "checksum": format!("sha256:{}", "0".repeat(64)),
            "createTime": format!("2025-01-01T00:{minute:02}:00Z"),
        })
    };
    let snapshots: Vec<_> = snapshots.split_whitespace().enumerate().map(json).collect();
    let manifest = serde_json::json!({
        "id": "v", "baseImageRef": "i", "workDir": "/", "currentSnapshotId": current, "snapshots": snapshots,
        "createTime": "2025-01-01T00:00:00Z", "updateTime": "2025-01-01T00:00:00Z",
    });
    VesselManifest::parse(manifest.to_string().as_bytes()).unwrap()
}

fn ids(manifest: &VesselManifest) -> String {
    let list = manifest.snapshots.iter().map(|s| format!("{}{}", s.id, if s.is_named() { "" } else { "!" }));
    list.collect::<Vec<_>>().join(" ")
}

fn now() -> OffsetDateTime {
    time::macros::datetime!(2025-01-01 01:00 UTC)
}

const TREE: &str = "a< b<a c<b d<b e<d x<";

#[test]
fn a_tree_goes_with_all_that_grew_on_it() {
    for (root, gone) in [("a", "a b c d e"), ("b", "b c d e"), ("d", "d e"), ("e", "e"), ("x", "x")] {
        assert_eq!(Choice::tree(&vessel(TREE, "x"), root).gone.join(" "), gone);
    }
}

#[test]
fn the_newest_and_the_current_and_what_they_are_based_on_are_kept() {
    for (current, keep, squash, gone, squashed) in [
        ("e", 0, false, "c x", ""),
        ("e", 0, true, "c x", "a b d"),
        ("e", 1, false, "c", ""),
        ("c", 1, false, "d e", ""),
        ("c", 3, false, "", ""),
        ("c", 2, true, "", "a b d"),
        ("x", 0, false, "a b c d e", ""),
        ("", 6, true, "", ""),
        ("", 60, true, "", ""),
        ("", 0, false, "a b c d e x", ""),
    ] {
        let how = SnapshotPruning::new().keep_last(keep).squash(squash);
        let choice = Choice::prune(&vessel(TREE, current), &how, now());
        assert_eq!(
            (choice.gone.join(" ").as_str(), choice.squashed.join(" ").as_str()),
            (gone, squashed),
            "{current} {keep}"
        );
    }
}

#[test]
fn age_and_number_both_have_to_allow_it() {
    let of = |how: SnapshotPruning| Choice::prune(&vessel("a< b< c< d<", "d"), &how, now()).gone.join(" ");
    let minutes = |count: u64| Duration::from_secs(60 * count);
    assert_eq!(of(SnapshotPruning::new().older_than(minutes(58))), "a b");
    assert_eq!(of(SnapshotPruning::new().older_than(minutes(58)).keep_last(3)), "a");
    assert_eq!(of(SnapshotPruning::new().older_than(minutes(1)).keep_last(1)), "a b c");
    assert_eq!(of(SnapshotPruning::new().older_than(Duration::MAX)), "");
}

#[test]
fn what_lost_its_name_goes_with_the_last_that_needs_it() {
    let mut manifest = vessel("a< b<a c<b d<b", "");
    let squash = Choice::squash;
    assert_eq!(squash("b").apply(&mut manifest), Vec::<String>::new());
    assert_eq!(squash("a").apply(&mut manifest), Vec::<String>::new());
    assert_eq!(ids(&manifest), "a! b! c d");
    assert_eq!(Choice::of(&["c"]).apply(&mut manifest), ["c"]);
    assert_eq!(ids(&manifest), "a! b! d");
    assert_eq!(Choice::tree(&manifest, "b").told().deleted, ["d"]);
    assert_eq!(Choice::of(&["d"]).apply(&mut manifest), ["a", "b", "d"]);
    assert_eq!(ids(&manifest), "");
    // One that nothing is based on has nobody to keep its data for.
    let mut manifest = vessel("a< b<a", "a");
    assert_eq!(squash("b").apply(&mut manifest), ["b"]);
    // Nor does the ground of the vessel go, whatever it is called.
    assert_eq!(squash("a").apply(&mut manifest), Vec::<String>::new());
}
