//! Root file systems.
#![forbid(unsafe_code)]

use super::build::*;
use super::*;

fn rootfs() -> Vec<u8> {
    tar(&[("./bin/sh", b"#!"), ("./etc/os-release", b"ID=test\n")])
}

#[test]
fn the_layer_is_stored_as_it_comes() {
    let bench = Bench::new();
    let tar = rootfs();
    for (input, compression) in
        [(tar.clone(), Compression::None), (gzip(&tar), Compression::Gzip), (zstd(&tar), Compression::Zstd)]
    {
        let path = bench.file(&input);
        assert_eq!(detect(&path, &ImportLimits::default()).unwrap(), (ArchiveKind::RootfsTar, compression));
        let record = bench.import_path(&path, &as_app()).unwrap();
        assert_eq!(record.layers.len(), 1);
        assert_eq!(record.layers[0].digest, Digest::sha256(&input));
        assert_eq!(record.layers[0].diff_id, Digest::sha256(&tar));
        assert_eq!(record.layers[0].compression, compression);
        let env = record.config.config().as_ref().unwrap().env().clone().unwrap();
        assert_eq!(env, ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
        assert_eq!(record.platform(), Some(Platform::host()));
        bench.verify(&record);
        let again = bench.import_path(&path, &as_app()).unwrap();
        assert_eq!(again.manifest_digest, record.manifest_digest);
    }
}

#[test]
fn a_stream_will_do() {
    let bench = Bench::new();
    let name = reference("app").unwrap();
    let record = import_rootfs_stream(&bench.store, gzip(&rootfs()).as_slice(), &name).unwrap();
    assert_eq!(record.layers[0].diff_id, Digest::sha256(&rootfs()));
    for junk in [&b""[..], b"hello", &[0; 1024]] {
        let error = import_rootfs_stream(&bench.store, junk, &name).unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::InvalidArgument);
    }
    let cut = gzip(&rootfs());
    let error = import_rootfs_stream(&bench.store, &cut[..cut.len() - 4], &name).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::IntegrityViolation);
}

#[test]
fn files_called_like_an_image_archive_s_do_not_make_one() {
    let bench = Bench::new();
    for members in [
        &[("manifest.json", &b"{\"name\":\"web app\"}"[..]), ("app/main", b"")][..],
        &[("index.json", b"{}"), ("app/main", b"")],
        &[("etc/x", b""), ("manifest.json", b"[{\"Config\":\"x\"}]")],
        &[("data", b"1"), ("usr/oci-layout", b"{}"), ("oci-layout", b"{\"imageLayoutVersion\":\"1.0.0\"}")],
    ] {
        let path = bench.file(&tar(members));
        assert_eq!(detect(&path, &ImportLimits::default()).unwrap().0, ArchiveKind::RootfsTar);
        assert_eq!(bench.import_path(&path, &as_app()).unwrap().layers.len(), 1);
    }
}

#[test]
fn a_name_is_needed() {
    let bench = Bench::new();
    let error = bench.import_path(&bench.file(&rootfs()), &ImportOptions::default()).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::InvalidArgument);
    bench.nothing_named();
}

#[test]
fn a_directory_has_to_be_packed_first() {
    let bench = Bench::new();
    let dir = bench.path("rootfs");
    std::fs::create_dir_all(dir.join("etc")).unwrap();
    assert_eq!(detect(&dir, &ImportLimits::default()).unwrap().0, ArchiveKind::RootfsDirectory);
    let error = bench.import_path(&dir, &as_app()).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::InvalidArgument);
}

#[test]
fn progress_is_told() {
    let bench = Bench::new();
    let path = bench.file(&tar(&[("bin/big", &vec![7; 3 << 20])]));
    let mut told = Vec::new();
    import(&bench.store, &path, &as_app(), &mut |progress| told.push(progress)).unwrap();
    let detected = ImportProgress::Detected { kind: ArchiveKind::RootfsTar, compression: Compression::None };
    assert_eq!(told[0], detected);
    let size = std::fs::metadata(&path).unwrap().len();
    let last = ImportProgress::Layer { index: 0, count: 1, bytes: size, total: Some(size) };
    assert_eq!(told.last(), Some(&last));
    assert!(told.len() >= 4);
}
