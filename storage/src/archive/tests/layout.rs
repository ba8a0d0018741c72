//! OCI layouts, as directory and as archive.
#![forbid(unsafe_code)]

use std::os::unix::fs::symlink;

use super::build::*;
use super::*;
use serde_json::json;

#[test]
fn directory_and_archive_give_the_same_image() {
    let bench = Bench::new();
    let layout = simple_layout();
    let dir = bench.path("layout");
    layout.write(&dir);
    assert_eq!(detect(&dir, &ImportLimits::default()).unwrap().0, ArchiveKind::OciLayout);
    let first = bench.import_path(&dir, &ImportOptions::default()).unwrap();
    assert_eq!(first.reference.as_deref(), Some("example.com/app:v1"));
    assert_eq!(first.manifest_digest.to_string(), layout.entries[0]["digest"]);
    assert_eq!(first.layers.len(), 2);
    bench.verify(&first);
    for input in [layout.tar(), gzip(&layout.tar()), zstd(&layout.tar())] {
        let path = bench.file(&input);
        assert_eq!(detect(&path, &ImportLimits::default()).unwrap().0, ArchiveKind::OciArchive);
        let again = bench.import_path(&path, &ImportOptions::default()).unwrap();
        assert_eq!(again.manifest_digest, first.manifest_digest);
    }
    assert_eq!(bench.store.list().unwrap().len(), 1);
    assert_eq!(bench.store.prune_blobs(&[]).unwrap().blobs, 0);
}

#[test]
fn every_blob_is_verified() {
    let bench = Bench::new();
    let layout = simple_layout();
    let files = layout.finish();
    for at in 0..layout.files.len() {
        for damage in 0..3 {
            let mut broken = files.clone();
            let content = &mut broken[at].1;
            match damage {
                0 => content[10] ^= 1,
                1 => content.push(b'\n'),
                _ => drop(content.pop()),
            }
            bench.refuses(&tar_of(&broken), StorageErrorKind::IntegrityViolation);
        }
        let mut missing = files.clone();
        missing.remove(at);
        bench.refuses(&tar_of(&missing), StorageErrorKind::IntegrityViolation);
    }
}

#[test]
fn links_and_special_files_in_a_directory_are_refused() {
    let bench = Bench::new();
    let layout = simple_layout();
    let files = layout.finish();
    for (n, (name, content)) in files.iter().enumerate() {
        let outside = bench.path("outside");
        std::fs::write(&outside, content).unwrap();
        for special in ["link", "fifo", "dir"] {
            let dir = bench.path(&format!("{special}{n}"));
            layout.write(&dir);
            let victim = dir.join(name);
            std::fs::remove_file(&victim).unwrap();
            match special {
                "link" => symlink(&outside, &victim).unwrap(),
                "fifo" => rustix::fs::mkfifoat(rustix::fs::CWD, &victim, Mode::RUSR | Mode::WUSR).unwrap(),
                _ => std::fs::create_dir(&victim).unwrap(),
            }
            let error = bench.import_path(&dir, &as_app()).unwrap_err();
            assert_eq!(error.kind(), StorageErrorKind::IntegrityViolation, "{special} {name}: {error:?}");
        }
    }
    let dir = bench.path("linked-blobs");
    layout.write(&dir);
    std::fs::rename(dir.join("blobs"), bench.path("elsewhere")).unwrap();
    symlink(bench.path("elsewhere"), dir.join("blobs")).unwrap();
    assert!(bench.import_path(&dir, &as_app()).is_err());
    bench.nothing_named();
}

#[test]
fn marker_and_index_are_needed() {
    let bench = Bench::new();
    let files = simple_layout().finish();
    let without =
        |name: &str| -> Vec<(String, Vec<u8>)> { files.iter().filter(|f| f.0 != name).cloned().collect() };
    bench.refuses(&tar_of(&without("oci-layout")), StorageErrorKind::IntegrityViolation);
    bench.refuses(&tar_of(&without("index.json")), StorageErrorKind::IntegrityViolation);
    for (marker, kind) in [
        ("{}", StorageErrorKind::IntegrityViolation),
        ("not json", StorageErrorKind::IntegrityViolation),
        (r#"{"imageLayoutVersion":"2.0.0"}"#, StorageErrorKind::Unsupported),
    ] {
        let mut other = without("oci-layout");
        other.push(("oci-layout".into(), marker.as_bytes().to_vec()));
        bench.refuses(&tar_of(&other), kind);
    }
    for index in [
        "{}",
        "[]",
        r#"{"schemaVersion":1,"manifests":[]}"#,
        r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#,
    ] {
        let mut other = without("index.json");
        other.push(("index.json".into(), index.as_bytes().to_vec()));
        bench.refuses(&tar_of(&other), StorageErrorKind::IntegrityViolation);
    }
}

/// Images for this host and others, each with a layer of its own.
fn platforms(builder: &mut LayoutBuilder) -> (Vec<serde_json::Value>, Vec<u8>) {
    let host = Platform::host().architecture;
    let mut entries = Vec::new();
    for arch in ["mips64le", &host, "s390x"] {
        let layer = layer(arch);
        let image = builder.image(&config_for(arch, &[&layer]), &[&layer]);
        entries.push(with_platform(image, &format!("linux/{arch}")));
    }
    (entries, layer(&host))
}

#[test]
fn the_platform_is_found_at_every_depth() {
    for depth in 0..=3 {
        let bench = Bench::new();
        let mut builder = LayoutBuilder::default();
        let (mut entries, expected) = platforms(&mut builder);
        for _ in 0..depth {
            entries = vec![builder.index(&entries)];
        }
        entries.into_iter().for_each(|entry| builder.entry(entry, Some("app:multi")));
        if depth == 3 {
            bench.refuses(&builder.tar(), StorageErrorKind::IntegrityViolation);
            continue;
        }
        let record = bench.import(&builder.tar()).unwrap();
        assert_eq!(record.layers[0].diff_id, Digest::sha256(&expected), "depth {depth}");
        let options = ImportOptions { platform: Some("linux/s390x".parse().unwrap()), ..as_app() };
        let other = bench.import_path(&bench.path("input"), &options).unwrap();
        assert_eq!(other.layers[0].diff_id, Digest::sha256(&layer("s390x")));
        let options = ImportOptions { platform: Some("linux/riscv64".parse().unwrap()), ..as_app() };
        let none = bench.import_path(&bench.path("input"), &options).unwrap_err();
        assert_eq!(none.kind(), StorageErrorKind::NotFound);
    }
}

#[test]
fn one_of_several_names_is_chosen() {
    let bench = Bench::new();
    let mut builder = LayoutBuilder::default();
    for name in ["v1", "example.com/app:v2"] {
        let layer = layer(name);
        let image = builder.image(&config(&[&layer]), &[&layer]);
        builder.entry(image, Some(name));
    }
    bench.refuses(&builder.tar(), StorageErrorKind::InvalidArgument);
    let digest = builder.entries[0]["digest"].as_str().unwrap().to_owned();
    for (source, expected) in
        [("v1", "v1"), ("example.com/app:v2", "example.com/app:v2"), (digest.as_str(), "v1")]
    {
        let record = bench.import_path(&bench.path("input"), &from(source)).unwrap();
        assert_eq!(record.layers[0].diff_id, Digest::sha256(&layer(expected)), "{source}");
    }
    let error = bench.import_path(&bench.path("input"), &from("v3")).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::InvalidArgument);
    let by_name = ImportOptions { reference: reference("example.com/app:v2"), ..ImportOptions::default() };
    let record = bench.import_path(&bench.path("input"), &by_name).unwrap();
    assert_eq!(record.layers[0].diff_id, Digest::sha256(&layer("example.com/app:v2")));
}

#[test]
fn a_bare_tag_is_no_reference() {
    let bench = Bench::new();
    let mut builder = simple_layout();
    builder.entries[0]["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let path = bench.file(&builder.tar());
    let error = bench.import_path(&path, &ImportOptions::default()).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::InvalidArgument);
    builder.entries[0]["annotations"]["io.containerd.image.name"] = json!("docker.io/library/app:latest");
    let record = bench.import_path(&bench.file(&builder.tar()), &ImportOptions::default()).unwrap();
    assert_eq!(record.reference.as_deref(), Some("docker.io/library/app:latest"));
    let index = std::fs::read_to_string(bench.path("store/index.json")).unwrap();
    assert!(!index.contains("containerd"), "annotations of the source end here: {index}");
}

#[test]
fn indexes_do_not_grow_without_bound() {
    let bench = Bench::new();
    let mut builder = simple_layout();
    let image = builder.entries[0].clone();
    builder.entries = vec![image.clone(); 1001];
    bench.refuses(&builder.tar(), StorageErrorKind::LimitExceeded);
    builder.entries.clear();
    let inner = builder.index(&vec![image; 999]);
    builder.entries = vec![inner.clone(), inner];
    bench.refuses(&builder.tar(), StorageErrorKind::LimitExceeded);
}

#[test]
fn the_configuration_may_not_be_something_else() {
    let bench = Bench::new();
    let (a, b) = (layer("a"), layer("b"));
    for config in [config(&[&a, &b]), config(&[]), b"[]".to_vec(), config(&[&a]).replacen_("linux", "plan9")]
    {
        let mut builder = LayoutBuilder::default();
        let image = builder.image(&config, &[&a]);
        builder.entry(image, None);
        let error = bench.import(&builder.tar()).unwrap_err();
        let kinds = [StorageErrorKind::IntegrityViolation, StorageErrorKind::Unsupported];
        assert!(kinds.contains(&error.kind()), "{error:?}");
        bench.nothing_named();
    }
}

trait Replace {
    fn replacen_(self, from: &str, to: &str) -> Vec<u8>;
}

impl Replace for Vec<u8> {
    fn replacen_(self, from: &str, to: &str) -> Vec<u8> {
        String::from_utf8(self).unwrap().replace(from, to).into_bytes()
    }
}
