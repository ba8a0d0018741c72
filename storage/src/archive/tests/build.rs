//! Builders of archives.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use tar::EntryType;

use crate::compression::Compression;
use crate::digest::Digest;
use crate::image::media_type::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, oci_layer};
use crate::image::platform::Platform;

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub(super) fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        append(&mut builder, name, content);
    }
    builder.into_inner().unwrap()
}

pub(super) fn append(builder: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, content).unwrap();
}

pub(super) fn link(builder: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &str, target: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_entry_type(kind);
    builder.append_link(&mut header, name, target).unwrap();
}

/// A layer with one file.
pub(super) fn layer(content: &str) -> Vec<u8> {
    tar(&[("etc/name", content.as_bytes())])
}

/// A configuration for this host.
pub(super) fn config(layers: &[&[u8]]) -> Vec<u8> {
    config_for(&Platform::host().architecture, layers)
}

pub(super) fn config_for(architecture: &str, layers: &[&[u8]]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| Digest::sha256(layer).to_string()).collect();
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {"Cmd": ["sh"], "Volumes": null},
        "rootfs": {"type": "layers", "diff_ids": ids},
    });
    config.to_string().into_bytes()
}

/// An OCI layout as a list of files.
#[derive(Default, Clone)]
pub(super) struct LayoutBuilder {
    pub(super) files: Vec<(String, Vec<u8>)>,
    pub(super) entries: Vec<Value>,
}

impl LayoutBuilder {
    pub(super) fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::sha256(bytes);
        self.files.push((format!("blobs/sha256/{}", digest.hex()), bytes.to_vec()));
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// An image whose layers are gzip.
    pub(super) fn image(&mut self, config: &[u8], layers: &[&[u8]]) -> Value {
        let config = self.blob(OCI_CONFIG, config);
        let pack = |layer: &&[u8]| self.blob(oci_layer(Compression::Gzip), &gzip(layer));
        let layers: Vec<Value> = layers.iter().map(pack).collect();
        let manifest =
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
        self.blob(OCI_MANIFEST, manifest.to_string().as_bytes())
    }

    pub(super) fn index(&mut self, entries: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "manifests": entries});
        self.blob(OCI_INDEX, index.to_string().as_bytes())
    }

    pub(super) fn entry(&mut self, mut descriptor: Value, name: Option<&str>) {
        if let Some(name) = name {
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        self.entries.push(descriptor);
    }

    /// All files, the marker last: where it is hardest to find.
    pub(super) fn finish(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = self.files.clone();
        let index = json!({"schemaVersion": 2, "manifests": self.entries}).to_string().into_bytes();
        files.push(("index.json".into(), index));
        files.push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
        files
    }

    pub(super) fn tar(&self) -> Vec<u8> {
        tar_of(&self.finish())
    }

    pub(super) fn write(&self, dir: &Path) {
        for (name, content) in self.finish() {
            std::fs::create_dir_all(dir.join(&name).parent().unwrap()).unwrap();
            std::fs::write(dir.join(name), content).unwrap();
        }
    }
}

pub(super) fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    tar(&files)
}

pub(super) fn with_platform(mut descriptor: Value, platform: &str) -> Value {
    let platform: Platform = platform.parse().unwrap();
    descriptor["platform"] = serde_json::to_value(platform).unwrap();
    descriptor
}

/// A layout with one image of two layers.
pub(super) fn simple_layout() -> LayoutBuilder {
    let (a, b) = (layer("a"), layer("b"));
    let mut builder = LayoutBuilder::default();
    let image = builder.image(&config(&[&a, &b]), &[&a, &b]);
    builder.entry(image, Some("example.com/app:v1"));
    builder
}
