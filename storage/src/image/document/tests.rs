//! Confusing manifests.
#![forbid(unsafe_code)]

use super::*;
use crate::digest::Digest;
use crate::error::StorageErrorKind;
use crate::image::media_type::{DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};

fn descriptor(media_type: &str, size: &str) -> String {
    let digest = Digest::sha256(b"x");
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

fn manifest(layers: usize) -> String {
    let layers = vec![descriptor(OCI_LAYER, "1"); layers].join(",");
    format!(r#"{{"schemaVersion":2,"config":{},"layers":[{layers}]}}"#, descriptor(OCI_CONFIG, "1"))
}

fn parse(text: &str, announced: &str) -> Result<Document> {
    let descriptor = Descriptor::new(announced, Digest::sha256(text.as_bytes()), text.len() as u64);
    Document::parse(text.as_bytes(), &descriptor)
}

#[track_caller]
fn refused(text: &str, announced: &str, kind: StorageErrorKind) {
    let error = parse(text, announced).unwrap_err();
    assert_eq!(error.kind(), kind, "{text}: {error:?}");
}

#[test]
fn layers_are_counted() {
    for n in [0, 1, 128, 500] {
        assert!(
            matches!(parse(&manifest(n), OCI_MANIFEST), Ok(Document::Manifest(m)) if m.layers.len() == n)
        );
    }
    refused(&manifest(501), OCI_MANIFEST, StorageErrorKind::LimitExceeded);
    let entries = |n: usize| {
        let manifests = vec![descriptor(OCI_MANIFEST, "1"); n].join(",");
        format!(r#"{{"schemaVersion":2,"manifests":[{manifests}]}}"#)
    };
    assert!(matches!(parse(&entries(1000), OCI_INDEX), Ok(Document::Index(m)) if m.len() == 1000));
    refused(&entries(1001), OCI_INDEX, StorageErrorKind::LimitExceeded);
}

#[test]
fn confusion_is_refused() {
    let corrupt = StorageErrorKind::IntegrityViolation;
    let good = manifest(1);
    refused(&good, OCI_INDEX, corrupt);
    refused(&good.replacen('{', "{\"manifests\":[],", 1), OCI_MANIFEST, corrupt);
    refused(&good.replacen('{', "{\"manifests\":[],", 1), OCI_INDEX, corrupt);
    refused(&good.replacen('{', &format!("{{\"mediaType\":\"{OCI_INDEX}\","), 1), OCI_MANIFEST, corrupt);
    refused(
        &good.replacen('{', &format!("{{\"mediaType\":\"{DOCKER_MANIFEST}\","), 1),
        OCI_MANIFEST,
        corrupt,
    );
    assert!(
        parse(&good.replacen('{', &format!("{{\"mediaType\":\"{OCI_MANIFEST}\","), 1), OCI_MANIFEST).is_ok()
    );
    refused(&good.replace("\"schemaVersion\":2", "\"schemaVersion\":1"), OCI_MANIFEST, corrupt);
    refused(&good.replace("\"schemaVersion\":2,", ""), OCI_MANIFEST, corrupt);
    refused(&good.replacen('{', "{\"fsLayers\":[],", 1), OCI_MANIFEST, corrupt);
    refused(&good.replacen('{', "{\"layers\":[],", 1), OCI_MANIFEST, corrupt);
    refused(&good.replacen('{', "{\"x\":1,\"x\":1,", 1), OCI_MANIFEST, corrupt);
    refused(&good.replace(OCI_CONFIG, OCI_LAYER), OCI_MANIFEST, corrupt);
    refused(&good.replace(OCI_LAYER, OCI_CONFIG), OCI_MANIFEST, corrupt);
    refused("[]", OCI_MANIFEST, corrupt);
    refused("", OCI_MANIFEST, corrupt);
}

#[test]
fn what_is_no_image_is_unsupported() {
    let unsupported = StorageErrorKind::Unsupported;
    refused(&manifest(1), "application/json", unsupported);
    refused(&manifest(1).replace(OCI_LAYER, "application/wasm"), OCI_MANIFEST, unsupported);
    refused(&manifest(1).replace(OCI_LAYER, &format!("{OCI_LAYER}+encrypted")), OCI_MANIFEST, unsupported);
}

#[test]
fn sizes_and_digests_are_checked() {
    let digest = Digest::sha256(b"x").to_string();
    for size in ["-1", "9223372036854775808", "1.5", "\"12\"", "18446744073709551615"] {
        let text = manifest(1).replace("\"size\":1", &format!("\"size\":{size}"));
        refused(&text, OCI_MANIFEST, StorageErrorKind::IntegrityViolation);
    }
    let huge = manifest(2).replace("\"size\":1", "\"size\":9223372036854775807");
    refused(&huge, OCI_MANIFEST, StorageErrorKind::IntegrityViolation);
    for bad in [
        "sha256:../../x",
        &digest.to_uppercase(),
        &digest[..70],
        "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
    ] {
        refused(&manifest(1).replace(&digest, bad), OCI_MANIFEST, StorageErrorKind::IntegrityViolation);
    }
    let data = manifest(1).replace("\"size\":1", "\"size\":1,\"data\":\"eQ==\"");
    refused(&data, OCI_MANIFEST, StorageErrorKind::IntegrityViolation);
    assert!(parse(&data.replace("eQ==", "eA=="), OCI_MANIFEST).is_ok());
}

#[test]
fn the_best_platform_is_found() {
    let wanted: Platform = "linux/amd64".parse().unwrap();
    let entry = |media_type: &str, platform: Option<&str>, tag: u8| {
        let mut made = Descriptor::new(media_type, Digest::sha256(&[tag]), 1);
        made.platform = platform.map(|text| text.parse().unwrap());
        made
    };
    let entries = [
        entry(OCI_MANIFEST, Some("unknown/unknown"), 0),
        entry(OCI_MANIFEST, None, 1),
        entry("application/vnd.other", Some("linux/amd64"), 2),
        entry(OCI_MANIFEST, Some("linux/amd64"), 3),
        entry(OCI_MANIFEST, Some("linux/amd64"), 4),
    ];
    assert_eq!(best(&entries, &wanted).unwrap().digest, Digest::sha256(&[3]));
    assert_eq!(best(&entries[..3], &wanted).unwrap().digest, Digest::sha256(&[1]));
    assert!(best(&entries[..1], &wanted).is_none());
}
