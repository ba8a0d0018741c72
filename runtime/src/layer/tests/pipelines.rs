//! Blobs and snapshots through the threads, right and wrong.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use vesselrt_fixtures::archive::{Archive, Item};

use super::listing::{Scratch, listing};
use crate::layer::stream::hex;
use crate::layer::{
    BlobError, BlobSource, Compression, Dialect, IdPolicy, PackError, PackOptions, SnapshotError, TreeFormat,
    UnpackOptions, UnpackReport, pack_snapshot, unpack_blob, unpack_snapshot,
};

fn options() -> UnpackOptions {
    UnpackOptions::new(Dialect::Oci, TreeFormat::Plain, IdPolicy::Ignore)
}

fn sha(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}

/// A layer larger than a few chunks, which does not compress to nothing.
fn layer() -> Vec<u8> {
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    let big: Vec<u8> = (0..6 << 20).map(|_| noise()).collect();
    Archive::new().with(&Item::file("big", big)).with(&Item::file("small", "small")).finish()
}

fn source(scratch: &Scratch, blob: &[u8], compression: Compression, tar: &[u8]) -> BlobSource {
    let path = scratch.path("blob");
    fs::write(&path, blob).unwrap();
    let file = File::open(&path).unwrap();
    // Still readable through the descriptor, and not in the way of the clean-up.
    fs::remove_file(path).unwrap();
    BlobSource { file, size: blob.len() as u64, digest_hex: sha(blob), compression, diff_id_hex: sha(tar) }
}

fn unpack_to(scratch: &Scratch, source: &BlobSource) -> Result<UnpackReport, BlobError> {
    let dest = scratch.dir("dest");
    unpack_blob(source, dest.as_fd(), &[], &options(), &|_| {})
}

#[test]
fn blobs_of_every_compression_are_unpacked() {
    let tar = layer();
    let half = tar.len() / 2;
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
    for (blob, compression) in [
        (tar.clone(), Compression::None),
        (gzip(&tar), Compression::Gzip),
        (zstd(&tar), Compression::Zstd),
        // Several members, several frames, frames to be skipped.
        ([gzip(&tar[..half]), gzip(&tar[half..])].concat(), Compression::Gzip),
        ([zstd(&tar[..half]), skippable.clone(), zstd(&tar[half..])].concat(), Compression::Zstd),
        ([skippable, zstd(&tar)].concat(), Compression::Zstd),
    ] {
        let scratch = Scratch::new();
        let source = source(&scratch, &blob, compression, &tar);
        let seen = AtomicU64::new(0);
        let dest = scratch.dir("dest");
        let progress = |bytes| seen.store(bytes, Ordering::Relaxed);
        let report = unpack_blob(&source, dest.as_fd(), &[], &options(), &progress).unwrap();
        assert_eq!((report.entries, report.bytes), (2, (6 << 20) + 5));
        assert_eq!(seen.load(Ordering::Relaxed), blob.len() as u64);
        assert_eq!(fs::read_to_string(scratch.path("dest/small")).unwrap(), "small");
    }
}

#[test]
fn a_blob_that_is_not_the_expected_one_is_named_so() {
    let tar = layer();
    let blob = gzip(&tar);
    // Damage anywhere is first of all another digest.
    for at in [0, 11, blob.len() / 2, blob.len() - 5, blob.len() - 1] {
        let scratch = Scratch::new();
        let mut source = source(&scratch, &blob, Compression::Gzip, &tar);
        let mut bad = blob.clone();
        bad[at] ^= 1;
        source.file = self::source(&scratch, &bad, Compression::Gzip, &tar).file;
        match unpack_to(&scratch, &source) {
            Err(BlobError::Digest { .. }) => {}
            Err(BlobError::Compression { .. }) if at == 0 => {}
            other => panic!("at {at}: {other:?}"),
        }
    }
    let scratch = Scratch::new();
    let wrong = BlobSource { diff_id_hex: sha(b"x"), ..source(&scratch, &blob, Compression::Gzip, &tar) };
    assert!(matches!(unpack_to(&scratch, &wrong), Err(BlobError::DiffId { .. })));
    let scratch = Scratch::new();
    let wrong = BlobSource { size: 7, ..source(&scratch, &blob, Compression::Gzip, &tar) };
    assert!(matches!(unpack_to(&scratch, &wrong), Err(BlobError::Size { expected: 7, .. })));
}

#[test]
fn case_68_compression_is_what_the_media_type_says() {
    let tar = Archive::new().with(&Item::file("f", "f")).finish();
    for (blob, said) in [
        (tar.clone(), Compression::Gzip),
        (tar.clone(), Compression::Zstd),
        (gzip(&tar), Compression::None),
        (gzip(&tar), Compression::Zstd),
        (zstd(&tar), Compression::Gzip),
        (Vec::new(), Compression::Gzip),
    ] {
        let scratch = Scratch::new();
        let result = unpack_to(&scratch, &source(&scratch, &blob, said, &tar));
        assert!(matches!(result, Err(BlobError::Compression { .. })), "{said:?}: {result:?}");
    }
}

#[test]
fn case_68_damage_that_the_digest_covers_is_still_refused() {
    let tar = layer();
    let (packed, frames) = (gzip(&tar), zstd(&tar));
    let mut wrong_crc = packed.clone();
    let at = wrong_crc.len() - 8;
    wrong_crc[at] ^= 1;
    let mut wrong_size = packed.clone();
    *wrong_size.last_mut().unwrap() ^= 1;
    for (name, blob, compression) in [
        ("crc", wrong_crc, Compression::Gzip),
        ("isize", wrong_size, Compression::Gzip),
        ("gzip cut", packed[..packed.len() - 1000].to_vec(), Compression::Gzip),
        ("gzip cut in its trailer", packed[..packed.len() - 3].to_vec(), Compression::Gzip),
        ("gzip and garbage", [packed, b"garbage".to_vec()].concat(), Compression::Gzip),
        ("zstd cut", frames[..frames.len() - 1000].to_vec(), Compression::Zstd),
        ("zstd cut by one", frames[..frames.len() - 1].to_vec(), Compression::Zstd),
        ("zstd and garbage", [frames, b"garbage".to_vec()].concat(), Compression::Zstd),
    ] {
        let scratch = Scratch::new();
        let result = unpack_to(&scratch, &source(&scratch, &blob, compression, &tar));
        assert!(matches!(result, Err(BlobError::Decompress(_) | BlobError::Unpack(_))), "{name}: {result:?}");
    }
}

#[test]
fn zstd_windows_above_128_mib_are_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    let tar = layer();
    encoder.write_all(&tar).unwrap();
    let blob = encoder.finish().unwrap();
    let scratch = Scratch::new();
    let result = unpack_to(&scratch, &source(&scratch, &blob, Compression::Zstd, &tar));
    assert!(matches!(result, Err(BlobError::Decompress(_))), "{result:?}");
}

#[test]
fn a_verified_layer_may_lack_its_end() {
    let tar = Archive::new().with(&Item::file("f", "f")).unfinished();
    let scratch = Scratch::new();
    let report = unpack_to(&scratch, &source(&scratch, &tar, Compression::None, &tar)).unwrap();
    assert_eq!(report.entries, 1);
}

fn packed(scratch: &Scratch) -> (Vec<u8>, crate::layer::Packed) {
    let tree = scratch.dir("tree");
    fs::write(scratch.path("tree/big"), vec![b'x'; 5 << 20]).unwrap();
    fs::create_dir(scratch.path("tree/d")).unwrap();
    fs::write(scratch.path("tree/d/.wh.x"), "literal").unwrap();
    let mut tar = Vec::new();
    let options = PackOptions::new(Dialect::Snapshot, TreeFormat::Overlay);
    let packed = pack_snapshot(tree.as_fd(), &mut tar, &options).unwrap();
    (tar, packed)
}

fn restore(scratch: &Scratch, tar: &[u8], sha256: &str, size: u64) -> Result<UnpackReport, SnapshotError> {
    let dest = scratch.dir("dest");
    let options = UnpackOptions::new(Dialect::Snapshot, TreeFormat::Overlay, IdPolicy::Ignore);
    unpack_snapshot(tar, dest.as_fd(), &[], &options, sha256, size)
}

#[test]
fn a_snapshot_comes_back() {
    let scratch = Scratch::new();
    let (tar, packed) = packed(&scratch);
    assert_eq!((packed.sha256.clone(), packed.size), (sha(&tar), tar.len() as u64));
    assert_eq!(packed.report.entries, 4);
    restore(&scratch, &tar, &packed.sha256, packed.size).unwrap();
    assert_eq!(listing(&scratch.path("dest")), listing(&scratch.path("tree")));
}

#[test]
fn a_snapshot_with_one_bit_changed_is_refused() {
    let scratch = Scratch::new();
    let (tar, packed) = packed(&scratch);
    for at in (0..tar.len()).step_by(99_991).chain([tar.len() - 1]) {
        let mut bad = tar.clone();
        bad[at] ^= 1;
        let scratch = Scratch::new();
        let result = restore(&scratch, &bad, &packed.sha256, packed.size);
        assert!(matches!(result, Err(SnapshotError::Digest { .. })), "at {at}: {result:?}");
    }
}

#[test]
fn a_snapshot_of_another_size_is_refused() {
    let scratch = Scratch::new();
    let (tar, packed) = packed(&scratch);
    for bad in [tar[..tar.len() - 1].to_vec(), tar[..700].to_vec(), Vec::new(), [tar, vec![0]].concat()] {
        let scratch = Scratch::new();
        let result = restore(&scratch, &bad, &packed.sha256, packed.size);
        assert!(matches!(result, Err(SnapshotError::Size { .. })), "{result:?}");
    }
}

/// A source or a sink that fails after some bytes.
struct Failing(usize);

impl io::Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::from_raw_os_error(5));
        }
        let len = buffer.len().min(self.0);
        self.0 -= len;
        buffer[..len].fill(0);
        Ok(len)
    }
}

impl Write for Failing {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.checked_sub(buffer.len()).map(|left| self.0 = left).ok_or(io::ErrorKind::StorageFull)?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_failing_source_or_sink_ends_it() {
    let scratch = Scratch::new();
    let dest = scratch.dir("dest");
    let snapshot = UnpackOptions::new(Dialect::Snapshot, TreeFormat::Overlay, IdPolicy::Ignore);
    let result = unpack_snapshot(Failing(100), dest.as_fd(), &[], &snapshot, "x", 1 << 20);
    assert!(
        matches!(result, Err(SnapshotError::Unpack(ref error)) if error.io_error().is_some()),
        "{result:?}"
    );
    packed(&scratch);
    let tree = super::listing::open(&scratch.path("tree"));
    let options = PackOptions::new(Dialect::Snapshot, TreeFormat::Overlay);
    let result = pack_snapshot(tree.as_fd(), Failing(3 << 20), &options);
    assert!(matches!(result, Err(PackError::Write(_))), "{result:?}");
}
