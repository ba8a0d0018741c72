//! Documents from registries, layouts and storages: manifests, indexes, configurations, vessel manifests.
#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use vesselrt_storage::fuzzing::image;
use vesselrt_storage::image::descriptor::Descriptor;
use vesselrt_storage::image::document::{Document, best};
use vesselrt_storage::image::media_type::{
    DOCKER_LIST, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, layer_compression,
};
use vesselrt_storage::image::platform::Platform;
use vesselrt_storage::image::{MAX_DESCRIPTORS, MAX_JSON_BYTES, MAX_LAYERS};
use vesselrt_storage::{Digest, VesselManifest, json};

const TYPES: [&str; 5] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST, OCI_CONFIG];

fuzz_target!(|data: &[u8]| {
    let Some((&which, text)) = data.split_first() else { return };
    let sound = json::check(text, MAX_JSON_BYTES).is_ok();
    // What we take for well-formed, the reference parser does too.
    assert!(!sound || serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok());
    match which % 7 {
        kind @ 0..=4 => document(text, TYPES[usize::from(kind)], sound),
        5 => vessel(text, sound),
        _ => configuration(which / 7, text),
    }
});

/// Nothing is accepted as two things, and what is accepted is within its limits.
fn document(text: &[u8], media_type: &str, sound: bool) {
    let descriptor = Descriptor::new(media_type, Digest::sha256(text), text.len() as u64);
    let Ok(document) = Document::parse(text, &descriptor) else { return };
    assert!(sound, "accepted though not sound");
    match document {
        Document::Manifest(manifest) => {
            assert!([OCI_MANIFEST, DOCKER_MANIFEST].contains(&media_type));
            assert!(manifest.layers.len() <= MAX_LAYERS);
            let sizes = manifest.layers.iter().map(|layer| layer.size);
            let total = sizes.chain([manifest.config.size]).try_fold(0u64, u64::checked_add);
            assert!(total.is_some_and(|total| i64::try_from(total).is_ok()));
            assert!(manifest.layers.iter().all(|layer| layer_compression(&layer.media_type).is_some()));
        }
        Document::Index(entries) => {
            assert!([OCI_INDEX, DOCKER_LIST].contains(&media_type));
            assert!(entries.len() <= MAX_DESCRIPTORS);
            let _ = best(&entries, &Platform::host());
        }
    }
}

/// What is read can be written, and reads back as itself; every chain ends at the image.
fn vessel(text: &[u8], sound: bool) {
    let Ok(manifest) = VesselManifest::parse(text) else { return };
    assert!(sound);
    if let Ok(written) = manifest.to_json() {
        assert_eq!(VesselManifest::parse(&written).expect("what was written is read"), manifest);
    }
    for snapshot in &manifest.snapshots {
        let chain = manifest.chain(&snapshot.id).expect("a checked manifest has no broken chain");
        assert!(chain.len() <= manifest.snapshots.len() && chain[0].parent_id.is_empty());
    }
}

/// A configuration with a manifest of as many layers as it says, or of another number.
fn configuration(layers: u8, text: &[u8]) {
    let Ok(record) = image(text, usize::from(layers)) else { return };
    assert_eq!(record.layers.len(), usize::from(layers));
    let _ = (record.platform(), serde_json::to_vec(&record).expect("a record is written"));
}
