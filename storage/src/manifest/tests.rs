//! Tests of the vessel manifest.
#![forbid(unsafe_code)]

use proptest::prelude::*;
use time::macros::datetime;

use super::*;
use crate::error::StorageErrorKind;

pub(super) fn snapshot(id: &str, parent: &str) -> SnapshotManifest {
    SnapshotManifest {
        id: id.into(),
        vessel_id: "v".into(),
        parent_id: parent.into(),
        message: "a \"message\"\n".into(),
        checksum: format!("sha256:{}", "a".repeat(64)),
        size: 5_000_000_000,
        create_time: datetime!(2025-11-20 01:02:03.000000009 UTC),
        labels: BTreeMap::new(),
        mode: None,
        pause_ms: None,
    }
}

pub(super) fn manifest(snapshots: Vec<SnapshotManifest>) -> VesselManifest {
    VesselManifest {
        version: 1,
        id: "v".into(),
        base_image_ref: "docker.io/library/alpine:latest".into(),
        base_image_digest: String::new(),
        current_snapshot_id: String::new(),
        work_dir: "/workspace".into(),
        create_time: datetime!(2025-11-20 01:02:03.123456789 +08:00),
        update_time: datetime!(2025-11-20 01:02:03 UTC),
        labels: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        snapshots,
    }
}

/// A manifest as the original system writes it, fields that this one does not know included.
const ORIGINAL: &str = r#"{"id":"0b5f3a2c9d8e7f61","baseImageRef":"docker.io/library/alpine:latest",
"currentSnapshotId":"s1","workDir":"/workspace","createTime":"2025-11-20T10:11:12.123456789+08:00",
"updateTime":"2025-11-20T02:11:12Z","labels":{},"later":{"a":[1,null]},"snapshots":[{"id":"s1",
"vesselId":"0b5f3a2c9d8e7f61","parentId":"","message":"init","checksum":
"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":10240,
"createTime":"2025-11-20T10:11:13+08:00","labels":null}]}"#;

#[test]
fn a_manifest_of_the_original_is_read() {
    let read = VesselManifest::parse(ORIGINAL.as_bytes()).unwrap();
    assert_eq!((read.version, read.base_image_digest.as_str()), (1, ""));
    assert_eq!(read.create_time, datetime!(2025-11-20 02:11:12.123456789 UTC));
    assert_eq!(read.snapshots[0].size, 10240);
    assert!(VesselManifest::parse(ORIGINAL.replace("[{", "null,\"x\":[{").as_bytes()).is_err());
    let never = ORIGINAL.split(",\"later\"").next().unwrap().replace("\"s1\"", "\"\"");
    assert!(VesselManifest::parse(format!("{never},\"snapshots\":null}}").as_bytes()).is_ok());
}

#[test]
fn the_field_names_are_contracts() {
    let json = String::from_utf8(manifest(vec![snapshot("s", "")]).to_json().unwrap()).unwrap();
    assert_eq!(
        json,
        format!(
            r#"{{"version":1,"id":"v","baseImageRef":"docker.io/library/alpine:latest","baseImageDigest":"","currentSnapshotId":"","workDir":"/workspace","createTime":"2025-11-20T01:02:03.123456789+08:00","updateTime":"2025-11-20T01:02:03Z","labels":{{"k":"v"}},"snapshots":[{{"id":"s","vesselId":"v","parentId":"","message":"a \"message\"\n","checksum":"sha256:{}","size":5000000000,"createTime":"2025-11-20T01:02:03.000000009Z","labels":{{}}}}]}}"#,
            "a".repeat(64)
        )
    );
}

#[test]
fn how_a_snapshot_was_made_is_kept_and_a_way_of_the_future_does_no_harm() {
    let mut made = manifest(vec![snapshot("s", "")]);
    made.snapshots[0].mode = Some(SnapshotMode::Copied);
    made.snapshots[0].pause_ms = Some(7);
    let json = String::from_utf8(made.to_json().unwrap()).unwrap();
    assert!(json.contains(r#""mode":"copied","pauseMs":7"#), "{json}");
    assert_eq!(VesselManifest::parse(json.as_bytes()).unwrap(), made);
    let future = json.replace("copied", "teleported");
    let read = VesselManifest::parse(future.as_bytes()).unwrap();
    assert_eq!(read.snapshots[0].mode, Some(SnapshotMode::Other));
}

#[test]
fn a_snapshot_without_an_archive_is_not_stored() {
    let mut sealed = snapshot("s", "");
    assert!(sealed.is_stored());
    sealed.checksum.clear();
    assert!(!sealed.is_stored());
    assert_eq!(manifest(vec![sealed]).to_json().unwrap_err().kind(), StorageErrorKind::InvalidArgument);
}

#[test]
fn a_newer_version_is_unsupported_whatever_it_contains() {
    let error = VesselManifest::parse(br#"{"version":2,"id":{"new":"shape"}}"#).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Unsupported);
    assert!(error.to_string().contains("version 2"), "{error}");
}

#[test]
fn damaged_manifests_are_corrupt() {
    let good = ORIGINAL.to_owned();
    for bad in [
        String::new(),
        good[..good.len() - 1].to_owned(),
        good.replacen("\"id\":", "\"id\":\"x\",\"id\":", 1),
        good.replacen("0b5f3a2c9d8e7f61", "../../x", 1),
        good.replace("10240", "-1"),
        good.replace("10240", "18446744073709551616"),
        good.replace("10240", "1.5"),
        good.replace("\"/workspace\"", "\"workspace\""),
        good.replace("\"/workspace\"", "\"/a\\u0000b\""),
        good.replace("\"parentId\":\"\"", "\"parentId\":\"s1\""),
        good.replace("\"parentId\":\"\"", "\"parentId\":\"gone\""),
        good.replace("\"currentSnapshotId\":\"s1\"", "\"currentSnapshotId\":\"gone\""),
        good.replace("sha256:e3", "sha256:E3"),
        good.replace("2025-11-20T02:11:12Z", "yesterday"),
        good.replacen('{', "{\"version\":0,", 1),
        good.replacen('{', "{\"version\":-1,", 1),
        good.replacen("{\"a\":[1,null]}", &("[".repeat(100) + &"]".repeat(100)), 1),
    ] {
        let error = VesselManifest::parse(bad.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::IntegrityViolation, "{bad}");
    }
    assert_eq!(VesselManifest::parse(&[0xff]).unwrap_err().kind(), StorageErrorKind::IntegrityViolation);
    let large = vec![b' '; 17 << 20];
    assert_eq!(VesselManifest::parse(&large).unwrap_err().kind(), StorageErrorKind::LimitExceeded);
    assert!(VesselManifest::parse_for("0b5f3a2c9d8e7f61", ORIGINAL.as_bytes()).is_ok());
    assert!(VesselManifest::parse_for("other", ORIGINAL.as_bytes()).is_err());
}

#[test]
fn chains_run_from_the_root() {
    let tree = manifest(vec![snapshot("a", ""), snapshot("b", "a"), snapshot("c", "b"), snapshot("d", "a")]);
    let ids = |chain: Vec<&SnapshotManifest>| chain.iter().map(|s| s.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(tree.chain("c").unwrap()), ["a", "b", "c"]);
    assert_eq!(ids(tree.chain("d").unwrap()), ["a", "d"]);
    assert!(tree.chain("").unwrap().is_empty());
    assert_eq!(tree.chain("x").unwrap_err().kind(), StorageErrorKind::NotFound);
    assert_eq!(ids(tree.children("a").collect()), ["b", "d"]);
    assert_eq!(ids(tree.children("").collect()), ["a"]);
    assert!(tree.snapshot("d").is_some() && tree.snapshot("").is_none());
}

#[test]
fn cycles_and_duplicates_are_found() {
    let cycle =
        manifest(vec![snapshot("a", "c"), snapshot("b", "a"), snapshot("c", "b"), snapshot("d", "a")]);
    assert!(matches!(cycle.check(), Err(ManifestError::Cycle { .. })));
    assert_eq!(cycle.chain("d").unwrap_err().kind(), StorageErrorKind::IntegrityViolation);
    assert!(cycle.to_json().is_err());
    let twice = manifest(vec![snapshot("a", ""), snapshot("a", "")]);
    assert!(matches!(twice.check(), Err(ManifestError::DuplicateSnapshot { .. })));
}

#[test]
fn a_long_chain_is_checked_in_linear_time() {
    let ids: Vec<String> = (0..20_000).map(|n| format!("s{n}")).collect();
    let parent = |n: usize| n.checked_sub(1).map_or("", |p| &ids[p]);
    let mut snapshots: Vec<_> = (0..ids.len()).map(|n| snapshot(&ids[n], parent(n))).collect();
    snapshots.reverse();
    assert_eq!(manifest(snapshots).check(), Ok(()));
}

fn arbitrary() -> impl Strategy<Value = VesselManifest> {
    let time = (0i64..4_000_000_000, 0i64..1_000_000_000)
        .prop_map(|(s, n)| OffsetDateTime::from_unix_timestamp(s).unwrap() + time::Duration::nanoseconds(n));
    let labels = prop::collection::btree_map(".*", ".*", 0..4);
    let parents = prop::collection::vec(any::<prop::sample::Index>(), 0..12);
    (time.clone(), time, labels, parents, ".*", any::<u64>()).prop_map(
        |(create, update, labels, parents, message, size)| {
            let mut made = manifest(Vec::new());
            (made.create_time, made.update_time, made.labels) = (create, update, labels);
            for (n, parent) in parents.iter().enumerate() {
                let parent = parent.index(n + 1).checked_sub(1).map_or(String::new(), |p| format!("s{p}"));
                let mut new = snapshot(&format!("s{n}"), &parent);
                (new.message, new.size, new.create_time) = (message.clone(), size, update);
                made.snapshots.push(new);
            }
            made.current_snapshot_id = made.snapshots.last().map_or(String::new(), |s| s.id.clone());
            made
        },
    )
}

proptest! {
    #[test]
    fn parse_is_the_inverse_of_to_json(manifest in arbitrary()) {
        let json = manifest.to_json().unwrap();
        prop_assert_eq!(VesselManifest::parse(&json).unwrap(), manifest);
    }

    #[test]
    fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..600, with in any::<u8>()) {
        let _ = VesselManifest::parse(&bytes);
        let mut mutated = ORIGINAL.as_bytes().to_vec();
        let at = at % mutated.len();
        mutated[at] = with;
        let _ = VesselManifest::parse(&mutated);
    }

    #[test]
    fn every_chain_ends_at_the_image(manifest in arbitrary()) {
        for snapshot in &manifest.snapshots {
            let chain = manifest.chain(&snapshot.id).unwrap();
            prop_assert_eq!(&chain[0].parent_id, "");
            prop_assert_eq!(&chain[chain.len() - 1].id, &snapshot.id);
            prop_assert!(chain.windows(2).all(|pair| pair[1].parent_id == pair[0].id));
        }
    }
}
