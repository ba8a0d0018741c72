//! Saved images: other tools read them, and find the tree that the vessel had.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use serde_json::Value;
use vesselrt::{CommitOptions, ErrorKind, Manager, SaveFormat, Vessel};

use crate::commit::{LIVED_IN, commit, lived_in};
use crate::testkit::image::BASE;
use crate::testkit::podman::Podman;
use crate::testkit::tools::{tool, umoci_unpack};
use crate::testkit::{Cap, Store, fails, need, tests, tree};

tests!(
    saved_images_come_back_with_the_same_digest,
    saving_again_gives_the_same_bytes,
    skopeo_reads_every_format,
    umoci_unpacks_the_tree_of_the_vessel,
    podman_loads_the_tree_of_the_vessel,
    a_failed_save_leaves_nothing_and_replaces_nothing,
    a_damaged_image_is_found_and_not_saved,
    an_archive_goes_to_standard_output,
);

const ARCHIVES: [(&str, SaveFormat); 2] =
    [("made-oci.tar", SaveFormat::OciArchive), ("made-docker.tar", SaveFormat::DockerArchive)];

/// A committed vessel.
async fn made(store: &Store) -> (Manager, Vessel) {
    let (manager, vessel) = lived_in(store).await;
    commit(&manager, vessel.id(), CommitOptions::new("localhost/made:1").change("CMD [\"sh\"]")).await;
    (manager, vessel)
}

async fn saved_images_come_back_with_the_same_digest(store: &Store) {
    let (manager, vessel) = made(store).await;
    vessel.close().await.unwrap();
    let image = manager.inspect_image("localhost/made:1").await.unwrap();
    for (name, format) in ARCHIVES.into_iter().chain([("layout", SaveFormat::OciDir)]) {
        let path = store.beside(name);
        manager.save_image("localhost/made:1", format, &path).await.unwrap();
        let back = manager.import_image(&path, "localhost/back:1", |_| {}).await.unwrap().image;
        assert_eq!(back.config_digest, image.config_digest, "{name}");
        assert_eq!(
            back.manifest_digest == image.manifest_digest,
            format != SaveFormat::DockerArchive,
            "{name}"
        );
        // It has its name with it.
        let named = manager.import_image_with(vesselrt::ImageImport::new(&path), |_| {}).await.unwrap().image;
        assert_eq!(named.reference.as_deref(), Some("localhost/made:1"), "{name}");
        manager.tag_image(&image.manifest_digest.to_string(), "localhost/made:1").await.unwrap();
    }
}

async fn saving_again_gives_the_same_bytes(store: &Store) {
    let (manager, vessel) = made(store).await;
    vessel.close().await.unwrap();
    manager.tag_image("localhost/made:1", "localhost/made:2").await.unwrap();
    for (name, format) in ARCHIVES {
        let paths = [store.beside(name), store.beside("again.tar")];
        for path in &paths {
            manager.save_image("localhost/made:1", format, path).await.unwrap();
        }
        assert!(fs::read(&paths[0]).unwrap() == fs::read(&paths[1]).unwrap(), "{name}");
    }
}

async fn skopeo_reads_every_format(store: &Store) {
    if !need(&[Cap::Skopeo]) {
        return;
    }
    let (manager, vessel) = made(store).await;
    vessel.close().await.unwrap();
    let image = manager.inspect_image("localhost/made:1").await.unwrap();
    for (name, format, source) in [
        ("o.tar", SaveFormat::OciArchive, "oci-archive:o.tar:1"),
        ("d.tar", SaveFormat::DockerArchive, "docker-archive:d.tar:localhost/made:1"),
        ("o", SaveFormat::OciDir, "oci:o:1"),
    ] {
        manager.save_image("localhost/made:1", format, store.beside(name)).await.unwrap();
        let text = tool(store, "skopeo", &["--insecure-policy", "inspect", source]);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["Layers"].as_array().unwrap().len(), 4, "{text}");
        let config = tool(store, "skopeo", &["--insecure-policy", "inspect", "--config", "--raw", source]);
        assert_eq!(crate::testkit::image::sha256(config.as_bytes()), image.config_digest.hex(), "{source}");
        // Copying reads and verifies all of it.
        tool(store, "skopeo", &["--insecure-policy", "copy", source, &format!("dir:copy-{name}")]);
    }
}

/// The tree of an unpacked image is the vessel's.
pub(crate) async fn assert_same(vessel: &Vessel, rootfs: &Path) {
    for dir in LIVED_IN {
        // A file one of whose names was deleted in a higher layer still counts that name in an overlay. Which names
        // are one file is listed at the end anyway.
        let plain = |list: String| list.replace(" links\n", "\n");
        let expected = plain(tree::inside(vessel, &format!("/{dir}"), false).await);
        let listed = plain(tree::outside(&rootfs.join(dir), false));
        assert_eq!(listed, expected, "{dir}");
    }
}

async fn umoci_unpacks_the_tree_of_the_vessel(store: &Store) {
    if !need(&[Cap::Umoci, Cap::Root]) {
        return;
    }
    let (manager, vessel) = made(store).await;
    manager.save_image("localhost/made:1", SaveFormat::OciDir, store.beside("layout")).await.unwrap();
    let rootfs = umoci_unpack(store, &store.beside("layout"), "1");
    assert_same(&vessel, &rootfs).await;
    vessel.close().await.unwrap();
}

async fn podman_loads_the_tree_of_the_vessel(store: &Store) {
    if !need(&[Cap::Podman, Cap::Root]) {
        return;
    }
    let (manager, vessel) = made(store).await;
    for (name, format) in ARCHIVES {
        manager.save_image("localhost/made:1", format, store.beside(name)).await.unwrap();
        Podman::new(store).call(&["load", "-i", store.beside(name).to_str().unwrap()]);
        let rootfs = Podman::new(store).call(&["image", "mount", "localhost/made:1"]);
        assert_same(&vessel, Path::new(rootfs.trim())).await;
        Podman::new(store).call(&["image", "umount", "--all"]);
        Podman::new(store).call(&["rmi", "--force", "localhost/made:1"]);
    }
    vessel.close().await.unwrap();
}

async fn a_failed_save_leaves_nothing_and_replaces_nothing(store: &Store) {
    let manager = store.stocked().await;
    let target = store.beside("out");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("keep.tar"), "old").unwrap();
    let blob = |image: &vesselrt::ImageRecord| {
        store.root().join("images/blobs/sha256").join(image.layers[0].digest.hex())
    };
    let image = manager.inspect_image(BASE).await.unwrap();
    fails(
        manager.save_image("none", SaveFormat::OciArchive, target.join("keep.tar")).await,
        &ErrorKind::NotFound,
    );
    fails(manager.save_image(BASE, SaveFormat::OciDir, &target).await, &ErrorKind::AlreadyExists);
    // The same size, other bytes.
    let mut bytes = fs::read(blob(&image)).unwrap();
    bytes[2000] ^= 1;
    fs::write(blob(&image), bytes).unwrap();
    for format in [SaveFormat::OciArchive, SaveFormat::DockerArchive] {
        let failed = manager.save_image(BASE, format, target.join("keep.tar")).await;
        fails(failed, &ErrorKind::IntegrityViolation);
    }
    fails(
        manager.save_image(BASE, SaveFormat::OciDir, target.join("dir")).await,
        &ErrorKind::IntegrityViolation,
    );
    let names: Vec<_> = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["keep.tar"]);
    assert_eq!(fs::read(target.join("keep.tar")).unwrap(), b"old");
}

async fn a_damaged_image_is_found_and_not_saved(store: &Store) {
    let manager = store.stocked().await;
    let image = manager.inspect_image(BASE).await.unwrap();
    assert!(manager.verify_images(None, false).await.unwrap().damaged.is_empty());
    for digest in [&image.layers[0].digest, &image.config_digest, &image.manifest_digest] {
        let path = store.root().join("images/blobs/sha256").join(digest.hex());
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[100] ^= 1;
        fs::write(&path, bad).unwrap();
        let report = manager.verify_images(Some(BASE), false).await.unwrap();
        assert_eq!(report.damaged.iter().map(|blob| &blob.digest).collect::<Vec<_>>(), [digest]);
        fs::write(&path, good).unwrap();
    }
    fails(manager.verify_images(Some("none"), false).await, &ErrorKind::NotFound);
    let output = store.cli(&["image", "verify", BASE]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

async fn an_archive_goes_to_standard_output(store: &Store) {
    let manager = store.stocked().await;
    for format in ["oci-archive", "docker-archive"] {
        let output = store.cli(&["save", BASE, "-o", "-", "--format", format]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let path = store.beside("piped.tar");
        fs::write(&path, output.stdout).unwrap();
        manager.import_image(&path, "piped", |_| {}).await.unwrap();
    }
    let output = store.cli(&["save", BASE, "-o", "-", "--format", "oci-dir"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
}
