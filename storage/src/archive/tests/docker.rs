//! docker-archive.
#![forbid(unsafe_code)]

use super::build::*;
use super::*;
use serde_json::json;
use tar::EntryType;

/// One image of `layers`, each stored as given.
fn archive(tags: &[&str], layers: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    let plain: Vec<&[u8]> = layers.iter().map(|(plain, _)| *plain).collect();
    let config = config(&plain);
    let config_name = format!("{}.json", Digest::sha256(&config).hex());
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]).to_string();
    let mut files: Vec<(String, Vec<u8>)> = vec![(config_name, config)];
    files.extend(names.into_iter().zip(layers.iter().map(|(_, stored)| stored.clone())));
    files.push(("manifest.json".into(), manifest.into_bytes()));
    tar_of(&files)
}

pub(super) fn simple() -> Vec<u8> {
    let (a, b, c) = (layer("a"), layer("b"), layer("c"));
    archive(&["example.com/app:v1"], &[(&a, a.clone()), (&b, gzip(&b)), (&c, zstd(&c))])
}

#[test]
fn every_outer_compression_gives_the_same_image() {
    let bench = Bench::new();
    let tar = simple();
    let mut digests = Vec::new();
    for input in [tar.clone(), gzip(&tar), zstd(&tar)] {
        let path = bench.file(&input);
        let kind = detect(&path, &ImportLimits::default()).unwrap().0;
        assert_eq!(kind, ArchiveKind::DockerArchive);
        let record = bench.import_path(&path, &ImportOptions::default()).unwrap();
        assert_eq!(record.reference.as_deref(), Some("example.com/app:v1"));
        let found: Vec<Compression> = record.layers.iter().map(|layer| layer.compression).collect();
        assert_eq!(found, [Compression::None, Compression::Gzip, Compression::Zstd]);
        assert_eq!(record.layers[1].diff_id, Digest::sha256(&layer("b")));
        bench.verify(&record);
        digests.push(record.manifest_digest);
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

#[test]
fn repeated_layers_may_be_links() {
    let bench = Bench::new();
    let layer = layer("same");
    let config = config(&[&layer, &layer, &layer]);
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, "first/layer.tar", &layer);
    link(&mut builder, EntryType::Symlink, "second/layer.tar", "../first/layer.tar");
    link(&mut builder, EntryType::Link, "third/layer.tar", "second/layer.tar");
    append(&mut builder, "config", &config);
    let manifest = json!([{"Config": "config", "RepoTags": null, "Layers": ["first/layer.tar", "./second/layer.tar", "third/layer.tar"]}]);
    append(&mut builder, "./manifest.json", manifest.to_string().as_bytes());
    let record = bench.import(&builder.into_inner().unwrap()).unwrap();
    assert_eq!(record.layers.len(), 3);
    assert_eq!(record.layers[0].digest, record.layers[2].digest);
    assert_ne!(record.layers[0].chain_id, record.layers[2].chain_id);
}

#[test]
fn links_do_not_leave_the_archive() {
    let bench = Bench::new();
    let secret = bench.path("secret");
    std::fs::write(&secret, layer("secret")).unwrap();
    for target in
        [secret.to_str().unwrap(), "../../../../../../etc/passwd", "/etc/passwd", "layer.tar", "loop"]
    {
        let config = config(&[&layer("secret")]);
        let mut builder = tar::Builder::new(Vec::new());
        append(&mut builder, "config", &config);
        link(&mut builder, EntryType::Symlink, "layer.tar", target);
        link(&mut builder, EntryType::Symlink, "loop", "layer.tar");
        let manifest = json!([{"Config": "config", "RepoTags": [], "Layers": ["layer.tar"]}]);
        append(&mut builder, "manifest.json", manifest.to_string().as_bytes());
        bench.refuses(&builder.into_inner().unwrap(), StorageErrorKind::IntegrityViolation);
    }
}

#[test]
fn names_in_the_manifest_are_no_paths() {
    let bench = Bench::new();
    for name in ["/etc/passwd", "../../../etc/passwd", "", ".", "none", "dir"] {
        let manifest = json!([{"Config": name, "RepoTags": [], "Layers": []}]).to_string();
        let tar = tar(&[("dir/x", b""), ("manifest.json", manifest.as_bytes())]);
        bench.refuses(&tar, StorageErrorKind::IntegrityViolation);
    }
}

#[test]
fn lies_about_content_are_found_out() {
    let bench = Bench::new();
    let (a, b) = (layer("a"), layer("b"));
    bench.refuses(&archive(&[], &[(&a, b.clone())]), StorageErrorKind::IntegrityViolation);
    bench.refuses(&archive(&[], &[(&a, gzip(&b))]), StorageErrorKind::IntegrityViolation);
    bench.refuses(&archive(&[], &[(&a, gzip(&a)[..60].to_vec())]), StorageErrorKind::IntegrityViolation);
    let with = |config_name: &str, layers: &[&str]| {
        let config = config(&[&a]);
        let manifest = json!([{"Config": config_name, "RepoTags": [], "Layers": layers}]).to_string();
        tar(&[(config_name, &config), ("a", &a), ("manifest.json", manifest.as_bytes())])
    };
    bench.refuses(&with(&format!("{}.json", "0".repeat(64)), &["a"]), StorageErrorKind::IntegrityViolation);
    bench.refuses(&with(&format!("sha256:{}", "0".repeat(64)), &["a"]), StorageErrorKind::IntegrityViolation);
    bench.refuses(&with("config", &["a", "a"]), StorageErrorKind::IntegrityViolation);
    bench.refuses(&with("config", &[]), StorageErrorKind::IntegrityViolation);
    assert!(bench.import(&with("config", &["a"])).is_ok());
}

#[test]
fn a_truncated_archive_is_refused_wherever_it_ends() {
    let bench = Bench::new();
    let tar = simple();
    for cut in (600..tar.len() - 1100).step_by(700) {
        let error = bench.import(&tar[..cut]).unwrap_err();
        assert!(
            matches!(error.kind(), StorageErrorKind::IntegrityViolation | StorageErrorKind::InvalidArgument),
            "{cut}: {error:?}"
        );
    }
    let packed = gzip(&tar);
    bench.refuses(&packed[..packed.len() - 9], StorageErrorKind::IntegrityViolation);
}

#[test]
fn one_of_several_images_is_chosen() {
    let bench = Bench::new();
    let (a, b) = (layer("a"), layer("b"));
    let manifest = json!([
        {"Config": "ca", "RepoTags": ["a:1", "a:latest"], "Layers": ["a"]},
        {"Config": "cb", "RepoTags": ["b:1"], "Layers": ["b"]},
    ]);
    let (ca, cb) = (config(&[&a]), config(&[&b]));
    let tar = tar(&[
        ("a", &a),
        ("b", &b),
        ("ca", &ca),
        ("cb", &cb),
        ("manifest.json", manifest.to_string().as_bytes()),
    ]);
    bench.refuses(&tar, StorageErrorKind::InvalidArgument);
    let path = bench.file(&tar);
    let chosen =
        |options: &ImportOptions| bench.import_path(&path, options).unwrap().layers[0].diff_id.clone();
    assert_eq!(chosen(&from("b:1")), Digest::sha256(&b));
    assert_eq!(chosen(&from("docker.io/library/a")), Digest::sha256(&a));
    let by_name = ImportOptions { reference: reference("b:1"), ..ImportOptions::default() };
    assert_eq!(chosen(&by_name), Digest::sha256(&b));
    let error = bench.import_path(&path, &from("c")).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::InvalidArgument);
}

#[test]
fn another_platform_is_refused() {
    let bench = Bench::new();
    let a = layer("a");
    let config = config_for("mips64le", &[&a]);
    let manifest = json!([{"Config": "c", "RepoTags": [], "Layers": ["a"]}]).to_string();
    let tar = tar(&[("a", &a), ("c", &config), ("manifest.json", manifest.as_bytes())]);
    bench.refuses(&tar, StorageErrorKind::Unsupported);
    let options = ImportOptions { platform: Some("linux/mips64le".parse().unwrap()), ..as_app() };
    assert!(bench.import_path(&bench.file(&tar), &options).is_ok());
}

#[test]
fn limits_hold() {
    let bench = Bench::new();
    let path = bench.file(&gzip(&simple()));
    let limited =
        |limits: ImportLimits| bench.import_path(&path, &ImportOptions { limits, ..as_app() }).unwrap_err();
    let limits = ImportLimits::default();
    for limits in
        [ImportLimits { archive_bytes: 3000, ..limits }, ImportLimits { layer_bytes: 1000, ..limits }]
    {
        assert_eq!(limited(limits).kind(), StorageErrorKind::LimitExceeded);
    }

    let bomb = gzip(&vec![0; 20 << 20]);
    let big = archive(&[], &[(&vec![0; 20 << 20], bomb)]);
    let limits = ImportLimits { layer_bytes: 1 << 20, ..limits };
    let error = bench.import_path(&bench.file(&big), &ImportOptions { limits, ..as_app() }).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::LimitExceeded);
    bench.nothing_named();
}

#[test]
fn five_hundred_layers_and_no_more() {
    let bench = Bench::new();
    let a = layer("a");
    let many = |n: usize| {
        let config = config(&vec![&a[..]; n]);
        let manifest = json!([{"Config": "c", "RepoTags": [], "Layers": vec!["a"; n]}]).to_string();
        tar(&[("a", &a), ("c", &config), ("manifest.json", manifest.as_bytes())])
    };
    bench.refuses(&many(501), StorageErrorKind::LimitExceeded);
    assert_eq!(bench.import(&many(500)).unwrap().layers.len(), 500);
}
