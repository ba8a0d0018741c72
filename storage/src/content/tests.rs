//! Tests of the content store.
#![forbid(unsafe_code)]

use std::os::unix::fs::symlink;

use super::*;
use crate::error::StorageErrorKind;
use crate::image::descriptor::Descriptor;
use crate::image::media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
use crate::image::platform::Platform;
use crate::reference::Reference;

fn store() -> (tempfile::TempDir, ContentStore) {
    let tmp = tempfile::tempdir().unwrap();
    let store = ContentStore::open(tmp.path().join("images")).unwrap();
    (tmp, store)
}

fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn put(store: &ContentStore, bytes: &[u8]) -> (Digest, u64) {
    store.put_blob(bytes, None).unwrap()
}

/// Stores an image of one layer, for this host.
fn image(store: &ContentStore, layer: &[u8]) -> Descriptor {
    let diff_id = Digest::sha256(layer);
    let arch = Platform::host().architecture;
    let config = format!(
        r#"{{"architecture":"{arch}","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let descriptor = |media_type: &str, bytes: &[u8]| {
        let (digest, size) = put(store, bytes);
        serde_json::to_string(&Descriptor::new(media_type, digest, size)).unwrap()
    };
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
        descriptor(OCI_CONFIG, config.as_bytes()),
        descriptor(OCI_LAYER, layer)
    );
    let (digest, size) = put(store, manifest.as_bytes());
    Descriptor::new(OCI_MANIFEST, digest, size)
}

fn blobs(store: &ContentStore) -> usize {
    std::fs::read_dir(store.path().join("blobs/sha256")).unwrap().count()
}

fn blob_file(store: &ContentStore, digest: &Digest) -> PathBuf {
    store.path().join("blobs/sha256").join(digest.hex())
}

#[test]
fn an_empty_store_is_an_oci_layout() {
    let (_tmp, store) = store();
    let layout = std::fs::read_to_string(store.path().join("oci-layout")).unwrap();
    assert_eq!(layout, r#"{"imageLayoutVersion":"1.0.0"}"#);
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(store.path().join("index.json")).unwrap()).unwrap();
    assert_eq!(index["schemaVersion"], 2);
    assert!(store.list().unwrap().is_empty());
    ContentStore::open(store.path()).unwrap();
}

#[test]
fn blobs_are_verified_and_idempotent() {
    let (_tmp, store) = store();
    let digest = Digest::sha256(b"hello");
    for (body, size) in [(&b"hellO"[..], 5), (b"hello!", 5), (b"hell", 5), (b"hello", 4), (b"hello", 6)] {
        let error = store.put_blob(body, Some((digest.clone(), size))).unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::IntegrityViolation, "{error}");
    }
    assert_eq!(blobs(&store), 0);
    assert_eq!(std::fs::read_dir(store.path().join(".ingest")).unwrap().count(), 0);
    store.put_blob(&b"hello"[..], Some((digest.clone(), 5))).unwrap();
    // The reader is not touched when the content is there.
    store.put_blob(Unreadable, Some((digest.clone(), 5))).unwrap();
    assert_eq!(put(&store, b"hello"), (digest.clone(), 5));
    assert_eq!(io::read_to_string(store.read_blob(&digest, 5).unwrap()).unwrap(), "hello");
    assert_eq!(blobs(&store), 1);
    assert!(store.put_blob(Unreadable, None).is_err());
    let missing = store.open_blob(&Digest::sha256(b"none")).unwrap_err();
    assert_eq!(missing.kind(), StorageErrorKind::NotFound);
}

#[test]
fn a_damaged_blob_is_found_out_and_can_be_replaced() {
    let (_tmp, store) = store();
    let (digest, _) = put(&store, b"{\"a\":1}");
    std::fs::write(blob_file(&store, &digest), b"{\"a\":2}").unwrap();
    assert_eq!(store.read_json_blob(&digest, 7).unwrap_err().kind(), StorageErrorKind::IntegrityViolation);
    std::fs::write(blob_file(&store, &digest), b"{").unwrap();
    assert_eq!(store.read_json_blob(&digest, 7).unwrap_err().kind(), StorageErrorKind::IntegrityViolation);
    store.put_blob(&b"{\"a\":1}"[..], Some((digest.clone(), 7))).unwrap();
    assert_eq!(store.read_json_blob(&digest, 7).unwrap(), b"{\"a\":1}");
}

#[test]
fn links_are_not_followed() {
    let (tmp, store) = store();
    std::fs::write(tmp.path().join("secret"), "secret").unwrap();
    let digest = Digest::sha256(b"secret");
    symlink(tmp.path().join("secret"), blob_file(&store, &digest)).unwrap();
    assert_eq!(store.open_blob(&digest).unwrap_err().kind(), StorageErrorKind::IntegrityViolation);
    std::fs::remove_file(store.path().join("index.json")).unwrap();
    symlink(tmp.path().join("secret"), store.path().join("index.json")).unwrap();
    assert_eq!(store.list().unwrap_err().kind(), StorageErrorKind::IntegrityViolation);
}

#[test]
fn json_blobs_are_limited() {
    let (_tmp, store) = store();
    for bad in [&b"{\"a\":1,\"a\":1}"[..], b"nope", &[b'['; 100_000]] {
        let (digest, size) = put(&store, bad);
        assert_eq!(
            store.read_json_blob(&digest, size).unwrap_err().kind(),
            StorageErrorKind::IntegrityViolation
        );
    }
    let (digest, size) = put(&store, &vec![b' '; (4 << 20) + 1]);
    assert_eq!(store.read_json_blob(&digest, size).unwrap_err().kind(), StorageErrorKind::LimitExceeded);
}

#[test]
fn references_lead_to_images() {
    let (_tmp, store) = store();
    let (one, two) = (image(&store, b"one"), image(&store, b"two"));
    let name = reference("app");
    assert!(store.resolve(&name).unwrap().is_none());
    let tagged = store.tag(&name, &one).unwrap();
    assert_eq!(tagged.reference.as_deref(), Some("docker.io/library/app:latest"));
    assert_eq!(tagged.layers[0].diff_id, Digest::sha256(b"one"));
    assert_eq!(tagged.layers[0].chain_id, Digest::sha256(b"one"));
    store.tag(&reference("app:v2"), &two).unwrap();
    store.tag(&name, &two).unwrap();
    assert_eq!(store.resolve(&name).unwrap().unwrap().manifest_digest, two.digest);
    assert_eq!(store.list().unwrap().len(), 2);
    assert!(store.resolve_digest(&one.digest).unwrap().unwrap().reference.is_none());
    let pinned = reference(&format!("app@{}", one.digest));
    assert_eq!(store.resolve(&pinned).unwrap().unwrap().manifest_digest, one.digest);
    for other in [&b"none"[..], b"one"] {
        assert!(store.resolve_digest(&Digest::sha256(other)).unwrap().is_none());
    }
    assert!(store.resolve_digest(&store.resolve(&name).unwrap().unwrap().config_digest).unwrap().is_none());
    assert_eq!(store.tag(&pinned, &two).unwrap_err().kind(), StorageErrorKind::InvalidArgument);
    store.tag(&pinned, &one).unwrap();
    assert!(store.untag(&pinned).unwrap());
    assert!(store.untag(&name).unwrap());
    assert!(!store.untag(&name).unwrap());
    assert!(store.resolve(&name).unwrap().is_none());
}

#[test]
fn an_image_with_missing_blobs_is_not_tagged() {
    let (_tmp, store) = store();
    let made = image(&store, b"layer");
    std::fs::remove_file(blob_file(&store, &Digest::sha256(b"layer"))).unwrap();
    assert_eq!(store.tag(&reference("x"), &made).unwrap_err().kind(), StorageErrorKind::NotFound);
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn one_damaged_image_does_not_hide_the_others() {
    let (_tmp, store) = store();
    let (good, bad) = (image(&store, b"good"), image(&store, b"bad"));
    store.tag(&reference("good"), &good).unwrap();
    store.tag(&reference("bad"), &bad).unwrap();
    std::fs::write(blob_file(&store, &bad.digest), "x").unwrap();
    let listed = store.list().unwrap();
    let usable: Vec<bool> = listed.iter().map(|entry| entry.record.is_ok()).collect();
    assert_eq!(usable, [true, false]);
    // And nothing is removed while it is unknown what the damaged one needs.
    assert_eq!(store.prune_blobs(&[]).unwrap_err().kind(), StorageErrorKind::IntegrityViolation);
    store.untag(&reference("bad")).unwrap();
    assert_eq!(store.prune_blobs(&[]).unwrap().blobs, 3);
}

#[test]
fn prune_keeps_what_is_referred_to() {
    let (_tmp, store) = store();
    let (tagged, kept, loose) = (image(&store, b"tagged"), image(&store, b"kept"), image(&store, b"loose"));
    put(&store, b"orphan");
    store.tag(&reference("t"), &tagged).unwrap();
    let pruned = store.prune_blobs(std::slice::from_ref(&kept.digest)).unwrap();
    assert_eq!(pruned.blobs, 4);
    assert!(store.resolve_digest(&loose.digest).unwrap().is_none());
    assert!(store.resolve_digest(&kept.digest).unwrap().is_some());
    assert_eq!(store.prune_blobs(&[]).unwrap().blobs, 3);
    assert_eq!(store.prune_blobs(&[]).unwrap(), Pruned::default());
    assert!(store.resolve(&reference("t")).unwrap().is_some());
}

#[test]
fn nothing_is_pruned_under_a_lease() {
    let (_tmp, store) = store();
    let lease = store.lease().unwrap();
    let (digest, size) = put(&store, b"on its way");
    std::thread::scope(|scope| {
        let pruner = scope.spawn(|| store.prune_blobs(&[]).unwrap().blobs);
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(store.has_blob(&digest, size).unwrap());
        drop(lease);
        assert_eq!(pruner.join().unwrap(), 1);
    });
}

#[test]
fn concurrent_tags_are_all_kept() {
    let (_tmp, store) = store();
    let made = image(&store, b"x");
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (store, made) = (ContentStore::open(store.path()).unwrap(), made.clone());
            scope.spawn(move || store.tag(&reference(&format!("app:v{n}")), &made).unwrap());
        }
    });
    assert_eq!(store.list().unwrap().len(), 8);
}

#[test]
fn an_index_of_another_tool_is_followed_and_its_fields_kept() {
    let (_tmp, store) = store();
    let mut made = image(&store, b"x");
    made.platform = Some(Platform::host());
    let nested = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, serde_json::to_string(&made).unwrap());
    let (digest, size) = put(&store, nested.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"annotations":{{"tool":"other"}},"manifests":[{{"mediaType":"{OCI_INDEX}","digest":"{digest}","size":{size},"annotations":{{"org.opencontainers.image.ref.name":"docker.io/library/x:latest"}}}}]}}"#
    );
    std::fs::write(store.path().join("index.json"), index).unwrap();
    assert_eq!(store.resolve(&reference("x")).unwrap().unwrap().manifest_digest, made.digest);
    assert_eq!(store.prune_blobs(&[]).unwrap().blobs, 0);
    store.tag(&reference("y"), &made).unwrap();
    let text = std::fs::read_to_string(store.path().join("index.json")).unwrap();
    assert!(text.contains(r#""tool":"other""#), "{text}");
}

#[test]
fn an_unknown_layout_version_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    std::fs::write(tmp.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert_eq!(ContentStore::open(tmp.path()).unwrap_err().kind(), StorageErrorKind::Unsupported);
}

struct Unreadable;

impl Read for Unreadable {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("must not be read"))
    }
}
