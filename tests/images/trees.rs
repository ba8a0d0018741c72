//! Unpacked layers that were changed behind our back: found, and unpacked anew.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vesselrt::{ImageRecord, Manager};

use crate::testkit::image::{Layer, base_tar, oci_layout};
use crate::testkit::leftovers::none_locked;
use crate::testkit::{Store, sh, tests};

tests!(
    whatever_is_changed_in_an_unpacked_layer_is_found_and_repaired,
    a_layer_that_a_vessel_runs_on_is_not_repaired,
    a_layer_whose_blob_is_damaged_cannot_be_compared,
    the_command_line_says_what_is_damaged,
);

/// An image of two layers; the upper one has no entries for some directories, and hides a file.
async fn two_layers(store: &Store) -> (Manager, ImageRecord) {
    let manager = store.manager().await;
    let top = Layer::new()
        .file("not/said/before", 0o640, 0, b"x\n")
        .file("srv/sub/.wh.b", 0o644, 0, b"")
        .file_with_xattr("srv/marked", b"m", "user.k", b"v")
        .hardlink("srv/linked", "srv/marked")
        .symlink("srv/link", "marked");
    oci_layout(&store.beside("layout"), &[base_tar().to_vec(), top.finish()], &json!({ "Cmd": ["sh"] }));
    let image = manager.import_image(store.beside("layout"), "two", |_| {}).await.unwrap().image;
    (manager, image)
}

/// The tree of an unpacked layer.
fn tree(store: &Store, image: &ImageRecord, layer: usize) -> PathBuf {
    store.root().join("images/layers").join(image.layers[layer].chain_id.hex()).join("fs")
}

/// Other bytes, and nothing else by which to tell.
fn forge(path: &Path) {
    let before = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::write(path, bytes).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_modified(before).unwrap();
}

async fn whatever_is_changed_in_an_unpacked_layer_is_found_and_repaired(store: &Store) {
    let (manager, image) = two_layers(store).await;
    let whole = manager.verify_trees(None, false).await.unwrap();
    assert_eq!((whole.layers, whole.damaged.len()), (2, 0), "{whole:?}");
    type Change = fn(&Path);
    let changes: [(usize, &str, Change); 7] = [
        (0, "etc/motd: its content", |tree| forge(&tree.join("etc/motd"))),
        (0, "etc/passwd: it is missing", |tree| fs::remove_file(tree.join("etc/passwd")).unwrap()),
        (0, "bin/evil: it should not be there", |tree| fs::write(tree.join("bin/evil"), "").unwrap()),
        (0, "bin/busybox: its mode or owner", |tree| {
            fs::set_permissions(tree.join("bin/busybox"), fs::Permissions::from_mode(0o4755)).unwrap();
        }),
        (1, "srv/sub/b: it is missing", |tree| fs::remove_file(tree.join("srv/sub/b")).unwrap()),
        (1, "not/said/before: its size", |tree| fs::write(tree.join("not/said/before"), "longer\n").unwrap()),
        (1, "srv/link: its target", |tree| {
            let stat = rustix::fs::lstat(tree.join("srv/link")).unwrap();
            fs::remove_file(tree.join("srv/link")).unwrap();
            std::os::unix::fs::symlink("linked", tree.join("srv/link")).unwrap();
            let time = rustix::fs::Timespec { tv_sec: stat.st_mtime, tv_nsec: 0 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, tree.join("srv/link"), &times, flags).unwrap();
            let owner = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
            rustix::fs::chownat(rustix::fs::CWD, tree.join("srv/link"), Some(owner.0), Some(owner.1), flags)
                .unwrap();
        }),
    ];
    for (layer, said, change) in changes {
        change(&tree(store, &image, layer));
        let blobs = manager.verify_images(None, true).await.unwrap();
        assert!(blobs.damaged.is_empty(), "{blobs:?}");
        let report = manager.verify_trees(Some("two"), false).await.unwrap();
        assert_eq!(report.damaged.len(), 1, "{said}: {report:?}");
        let damaged = &report.damaged[0];
        assert_eq!((&damaged.chain_id, damaged.repaired), (&image.layers[layer].chain_id, false));
        assert!(damaged.reasons.iter().any(|reason| reason == said), "{said}: {report:?}");
        let report = manager.verify_trees(None, true).await.unwrap();
        assert!(report.damaged.len() == 1 && report.damaged[0].repaired, "{said}: {report:?}");
        assert!(manager.verify_trees(None, false).await.unwrap().damaged.is_empty(), "{said}");
    }
    let vessel = manager.create_vessel("two", "/").await.unwrap();
    let seen =
        sh(&vessel, "cat /etc/motd /not/said/before /srv/link; ls /srv/sub; ls /bin/evil 2>/dev/null || :")
            .await;
    assert_eq!(seen, "the base image\nx\nma-too\nc\n");
    vessel.close().await.unwrap();
}

async fn a_layer_that_a_vessel_runs_on_is_not_repaired(store: &Store) {
    let (manager, image) = two_layers(store).await;
    let vessel = manager.create_vessel("two", "/").await.unwrap();
    forge(&tree(store, &image, 0).join("etc/motd"));
    let report = manager.verify_trees(None, true).await.unwrap();
    let damaged = &report.damaged[0];
    assert!(
        !damaged.repaired && damaged.reasons.iter().any(|text| text.contains(vessel.id())),
        "{damaged:?}"
    );
    assert_eq!(sh(&vessel, "ls /etc/motd").await, "/etc/motd\n");
    vessel.close().await.unwrap();
    none_locked(&store.root().join("vessels"));
    assert!(manager.verify_trees(None, true).await.unwrap().damaged[0].repaired);
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&vessel, "cat /etc/motd").await, "the base image\n");
    vessel.close().await.unwrap();
}

async fn a_layer_whose_blob_is_damaged_cannot_be_compared(store: &Store) {
    let (manager, image) = two_layers(store).await;
    forge(&store.root().join("images/blobs/sha256").join(image.layers[1].digest.hex()));
    let report = manager.verify_trees(None, true).await.unwrap();
    assert_eq!((report.layers, report.damaged.len()), (2, 1));
    let damaged = &report.damaged[0];
    assert_eq!((&damaged.digest, damaged.different, damaged.repaired), (&image.layers[1].digest, 0, false));
    // What is there stays, and can be used.
    let vessel = manager.create_vessel("two", "/").await.unwrap();
    assert_eq!(sh(&vessel, "cat /srv/linked").await, "m");
    vessel.close().await.unwrap();
}

async fn the_command_line_says_what_is_damaged(store: &Store) {
    let (manager, image) = two_layers(store).await;
    manager.close().await.unwrap();
    let run = |args: &[&str]| {
        let output = store.cli(&[&["image", "verify", "--trees"], args].concat()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, _) = run(&[]);
    assert!(code == Some(0) && out.contains("2 unpacked layers: all as they must be"), "{out}");
    forge(&tree(store, &image, 0).join("etc/motd"));
    let (code, out, err) = run(&["two"]);
    assert!(code == Some(125) && out.is_empty() && err.contains("etc/motd: its content"), "{out}{err}");
    let (code, out, _) = run(&["--repair", "--json"]);
    let found: Value = serde_json::from_str(&out).unwrap();
    let damaged = &found["trees"]["damaged"][0];
    assert_eq!((code, &found["trees"]["layers"], &damaged["repaired"]), (Some(0), &json!(2), &json!(true)));
    assert_eq!(damaged["chainId"], image.layers[0].chain_id.to_string());
    assert_eq!(run(&[]).0, Some(0));
}
