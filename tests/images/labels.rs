//! Layers that are not what their media type says: taken for what they are, as podman and containerd do.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use vesselrt::CommitOptions;

use super::{gzip, zstd};
use crate::commit::commit;
use crate::testkit::image::{Layer, base_tar, oci_layout, sha256};
use crate::testkit::podman::Podman;
use crate::testkit::tools::umoci_unpack;
use crate::testkit::{Cap, Store, need, sh, tests};

tests!(
    a_layer_is_what_its_first_bytes_say,
    a_commit_says_of_the_layers_of_its_base_what_they_are,
    podman_takes_the_same_layers,
);

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// What it is called, what it says it is, what it is.
fn cases(tar: &[u8]) -> [(&'static str, &'static str, &'static str, Vec<u8>); 4] {
    [
        ("plain-as-gzip", "+gzip", "", tar.to_vec()),
        ("gzip-as-plain", "", "+gzip", gzip(tar)),
        ("zstd-as-gzip", "+gzip", "+zstd", zstd(tar)),
        ("gzip-as-zstd", "+zstd", "+gzip", gzip(tar)),
    ]
}

/// A layout of one layer `tar`, which is stored as `blob` and called `label`.
fn mislabelled(dir: &Path, tar: &[u8], blob: &[u8], label: &str) {
    oci_layout(dir, &[tar.to_vec()], &json!({ "Cmd": ["sh"] }));
    let read = |path: &Path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let put = |bytes: &[u8]| {
        fs::write(dir.join("blobs/sha256").join(sha256(bytes)), bytes).unwrap();
        (format!("sha256:{}", sha256(bytes)), bytes.len())
    };
    let mut index = read(&dir.join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap().replace("sha256:", "");
    let mut manifest = read(&dir.join("blobs/sha256").join(digest));
    let (layer, size) = put(blob);
    manifest["layers"][0] = json!({"mediaType": format!("{TAR}{label}"), "digest": layer, "size": size});
    let (digest, size) = put(&serde_json::to_vec(&manifest).unwrap());
    index["manifests"][0]["digest"] = json!(digest);
    index["manifests"][0]["size"] = json!(size);
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
}

async fn a_layer_is_what_its_first_bytes_say(store: &Store) {
    let manager = store.manager().await;
    for (name, label, _, blob) in cases(base_tar()) {
        mislabelled(&store.beside(name), base_tar(), &blob, label);
        manager
            .import_image(store.beside(name), name, |_| {})
            .await
            .unwrap_or_else(|e| panic!("{}", e.chain()));
        let vessel = manager.create_vessel(name, "/").await.unwrap();
        assert_eq!(sh(&vessel, "cat /srv/a").await, "a\n", "{name}");
        vessel.close().await.unwrap();
    }
}

async fn a_commit_says_of_the_layers_of_its_base_what_they_are(store: &Store) {
    if !need(&[Cap::Umoci, Cap::SubordinateIds]) {
        return;
    }
    let manager = store.manager().await;
    for (name, label, truth, blob) in cases(base_tar()) {
        mislabelled(&store.beside(name), base_tar(), &blob, label);
        manager.import_image(store.beside(name), name, |_| {}).await.unwrap();
        let vessel = manager.create_vessel(name, "/").await.unwrap();
        sh(&vessel, "echo mine > /srv/mine").await;
        vessel.close().await.unwrap();
        let made = commit(&manager, vessel.id(), CommitOptions::new(format!("localhost/{name}:made"))).await;
        let out = store.beside(&format!("{name}-out"));
        let reference = made.reference.unwrap();
        manager.save_image(&reference, vesselrt::SaveFormat::OciDir, &out).await.unwrap();
        let manifest = fs::read(out.join("blobs/sha256").join(made.manifest_digest.hex())).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(manifest["layers"][0]["mediaType"], format!("{TAR}{truth}"), "{name}");
        // It goes by the label, and knows no zstd.
        if truth != "+zstd" {
            fs::rename(&out, store.beside(name).join("out")).unwrap();
            let root = umoci_unpack(store, &store.beside(name).join("out"), "made");
            assert_eq!(fs::read(root.join("srv/mine")).unwrap(), b"mine\n", "{name}");
            crate::testkit::store::remove(root.parent().unwrap()).unwrap();
        }
    }
}

async fn podman_takes_the_same_layers(store: &Store) {
    if !need(&[Cap::Podman, Cap::SubordinateIds]) {
        return;
    }
    let tar = Layer::new().dir("d", 0o755, 0).file("d/f", 0o644, 0, b"f").finish();
    let podman = Podman::new(store);
    for (name, label, _, blob) in cases(&tar) {
        mislabelled(&store.beside(name), &tar, &blob, label);
        let id = podman.call(&["pull", "--quiet", &format!("oci:{name}:latest")]);
        assert!(podman.tree(id.trim()).at("./d/f").starts_with("Regular 644 0:0 "), "{name}");
    }
}
