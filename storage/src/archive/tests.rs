//! Imports, and what must not be imported.
#![forbid(unsafe_code)]

mod build;
mod docker;
mod layout;
mod rootfs;
mod tapped;
mod tools;

use std::path::{Path, PathBuf};

use super::*;
use crate::error::StorageErrorKind;

/// A store, and room for inputs.
struct Bench {
    tmp: tempfile::TempDir,
    store: ContentStore,
}

impl Bench {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let store = ContentStore::open(tmp.path().join("store")).unwrap();
        Self { tmp, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.path("input");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn import_path(&self, path: &Path, options: &ImportOptions) -> Result<ImageRecord> {
        import(&self.store, path, options, &mut |_| ())
    }

    fn import(&self, bytes: &[u8]) -> Result<ImageRecord> {
        self.import_path(&self.file(bytes), &as_app())
    }

    #[track_caller]
    fn refuses(&self, bytes: &[u8], kind: StorageErrorKind) {
        let error = self.import(bytes).unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        self.nothing_named();
    }

    /// Whatever went wrong: no reference, no half-written file.
    #[track_caller]
    fn nothing_named(&self) {
        assert!(self.store.list().unwrap().is_empty());
        assert_eq!(std::fs::read_dir(self.path("store/.ingest")).unwrap().count(), 0);
    }

    /// Every blob of the image can be read back and is what it claims.
    #[track_caller]
    fn verify(&self, record: &ImageRecord) {
        for layer in &record.layers {
            self.store.read_blob(&layer.digest, layer.size).unwrap().finish().unwrap();
        }
        let found = self.store.resolve(&Reference::parse(record.reference.as_ref().unwrap()).unwrap());
        assert_eq!(found.unwrap().unwrap().manifest_digest, record.manifest_digest);
    }
}

fn reference(text: &str) -> Option<Reference> {
    Some(Reference::parse(text).unwrap())
}

fn as_app() -> ImportOptions {
    ImportOptions { reference: reference("app"), ..ImportOptions::default() }
}

fn from(source: &str) -> ImportOptions {
    ImportOptions { source: Some(source.into()), ..as_app() }
}

#[test]
fn what_is_no_archive_is_refused() {
    let bench = Bench::new();
    for junk in [&b""[..], b"hello", &[0; 10_240], &[0xff; 2000], b"\x1f\x8b", b"PK\x03\x04"] {
        let error = bench.import(junk).unwrap_err();
        let kind = error.kind();
        assert!(
            matches!(kind, StorageErrorKind::InvalidArgument | StorageErrorKind::IntegrityViolation),
            "{error:?}"
        );
    }
    let missing = bench.import_path(&bench.path("none"), &as_app()).unwrap_err();
    assert_eq!(missing.kind(), StorageErrorKind::NotFound);
    let fifo = bench.path("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
    assert_eq!(bench.import_path(&fifo, &as_app()).unwrap_err().kind(), StorageErrorKind::InvalidArgument);
    assert_eq!(
        bench.import_path(Path::new("/dev/zero"), &as_app()).unwrap_err().kind(),
        StorageErrorKind::InvalidArgument
    );
    bench.nothing_named();
}

/// One flipped byte: either it does not matter, or the import fails. Nothing in between.
#[test]
fn a_flipped_byte_never_makes_another_image() {
    let bench = Bench::new();
    for tar in [docker::simple(), build::simple_layout().tar()] {
        let good = bench.import(&tar).unwrap();
        for at in (0..tar.len()).step_by(37) {
            let mut flipped = tar.clone();
            flipped[at] ^= 0x41;
            if let Ok(record) = bench.import(&flipped) {
                assert_eq!(record.layers, good.layers, "byte {at}");
            }
        }
    }
}

#[test]
fn a_stream_is_imported_like_a_file() {
    let bench = Bench::new();
    let options = ImportOptions::default();
    for archive in [docker::simple(), build::gzip(&build::simple_layout().tar())] {
        let from_file = bench.import_path(&bench.file(&archive), &options).unwrap();
        let from_stream = import_reader(&bench.store, archive.as_slice(), &options, &mut |_| ()).unwrap();
        assert_eq!(from_stream.manifest_digest, from_file.manifest_digest);
    }
    let limits = ImportLimits { archive_bytes: 1 << 20, ..ImportLimits::default() };
    let endless =
        import_reader(&bench.store, std::io::repeat(0), &ImportOptions { limits, ..as_app() }, &mut |_| ());
    assert_eq!(endless.unwrap_err().kind(), StorageErrorKind::LimitExceeded);
}
