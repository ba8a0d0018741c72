//! What an archive may cost: every limit, at it and one beyond it.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use sha2::{Digest, Sha256};
use vesselrt_fixtures::archive::{Archive, Item, record};

use super::listing::{Scratch, xattrs};
use crate::layer::allowance::AllowanceError;
use crate::layer::stream::hex;
use crate::layer::{
    BlobError, BlobSource, Compression, Dialect, IdPolicy, Limits, TreeFormat, UnpackError, UnpackOptions,
    UnpackReport, unpack, unpack_blob,
};
use crate::shim::fault::blob_fault;
use crate::shim::protocol::FaultKind;

fn options(limits: Limits) -> UnpackOptions {
    UnpackOptions { limits, ..UnpackOptions::new(Dialect::Oci, TreeFormat::Plain, IdPolicy::Ignore) }
}

fn try_unpack(tar: impl Read, limits: Limits) -> Result<UnpackReport, UnpackError> {
    let scratch = Scratch::new();
    let dest = scratch.dir("dest");
    unpack(tar, dest.as_fd(), &[], &options(limits))
}

/// An archive that just fits, and the same limit lowered by one.
#[test]
fn every_limit_holds_at_it_and_not_beyond() {
    let named = |path: &str| Archive::new().pax(&[("path", path)]).with(&Item::file("f", "f")).finish();
    let attributes = [record("SCHILY.xattr.user.a", "1"), record("SCHILY.xattr.user.b", "22")].concat();
    let attributes = Archive::new().pax_raw(attributes).with(&Item::dir("d")).finish();
    let comments = |n: usize| {
        let header = Item { payload: record("comment", "x"), ..Item::new(b'g', "g") };
        (0..n).fold(Archive::new(), |tar, _| tar.with(&header)).with(&Item::file("f", "f")).finish()
    };
    let sparse = Archive::new()
        .pax(&[("GNU.sparse.map", "0,1,9,1"), ("GNU.sparse.size", "10")])
        .with(&Item::file("f", "ab"))
        .finish();
    let default = Limits::default();
    for (name, tar, fits, beyond) in [
        ("depth", named("a/b/c"), Limits { depth: 3, ..default }, Limits { depth: 2, ..default }),
        ("path", named("aa/bb"), Limits { path_len: 5, ..default }, Limits { path_len: 4, ..default }),
        ("name", named("aa/bbb"), Limits { name_len: 3, ..default }, Limits { name_len: 2, ..default }),
        ("entries", named("a"), Limits { entries: 1, ..default }, Limits { entries: 0, ..default }),
        ("bytes", named("a"), Limits { bytes: 1, ..default }, Limits { bytes: 0, ..default }),
        ("xattrs", attributes.clone(), Limits { xattrs: 2, ..default }, Limits { xattrs: 1, ..default }),
        ("value", attributes, Limits { xattr_value: 2, ..default }, Limits { xattr_value: 1, ..default }),
        ("metadata", named("a"), Limits { metadata: 9, ..default }, Limits { metadata: 8, ..default }),
        ("pending", comments(3), Limits { pending: 3, ..default }, Limits { pending: 2, ..default }),
        ("sparse", sparse, Limits { sparse: 2, ..default }, Limits { sparse: 1, ..default }),
    ] {
        try_unpack(&tar[..], fits).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let Err(error) = try_unpack(&tar[..], beyond) else { panic!("{name}: accepted") };
        assert!(error.is_bad_archive(), "{name}: {error:?}");
    }
}

/// A stream of `count` empty files in one directory, made as it is read.
struct Files {
    at: u64,
    count: u64,
    block: Vec<u8>,
}

impl Files {
    fn archive(count: u64) -> impl Read {
        Self { at: 0, count, block: Vec::new() }.chain(io::repeat(0).take(1024))
    }
}

impl Read for Files {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.block.is_empty() {
            if self.at == self.count {
                return Ok(0);
            }
            self.block = Item::file(format!("d/{}", self.at), "").bytes();
            self.at += 1;
        }
        let len = buffer.len().min(self.block.len());
        buffer[..len].copy_from_slice(&self.block[..len]);
        self.block.drain(..len);
        Ok(len)
    }
}

#[test]
fn case_67_two_hundred_thousand_entries_in_one_directory() {
    let many = 200_000;
    let limits = Limits { entries: many, ..Limits::default() };
    assert_eq!(try_unpack(Files::archive(many), limits).unwrap().entries, many);
    let error = try_unpack(Files::archive(u64::MAX), Limits { entries: 1000, ..limits }).unwrap_err();
    assert!(matches!(error, UnpackError::Limit { what: "entries", limit: 1000, .. }), "{error:?}");
    assert!(Limits::default().entries <= 2_000_000);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Unpacks a blob whose digests are right.
fn blob(
    bytes: &[u8],
    tar: &[u8],
    compression: Compression,
    limits: Limits,
) -> Result<UnpackReport, BlobError> {
    let scratch = Scratch::new();
    let path = scratch.path("blob");
    fs::write(&path, bytes).unwrap();
    let file = fs::File::open(&path).unwrap();
    fs::remove_file(path).unwrap();
    let sha = |bytes: &[u8]| hex(&Sha256::digest(bytes));
    let size = bytes.len() as u64;
    let source = BlobSource { file, size, digest_hex: sha(bytes), compression, diff_id_hex: sha(tar) };
    unpack_blob(&source, scratch.dir("dest").as_fd(), &[], &options(limits), &|_| {})
}

#[test]
fn bombs_are_refused_by_their_ratio() {
    let tar = Archive::new().with(&Item::file("zeros", vec![0; 8 << 20])).finish();
    let tight = Limits { ratio: 100, ratio_free: 1 << 20, ..Limits::default() };
    for (packed, compression) in
        [(gzip(&tar), Compression::Gzip), (zstd::stream::encode_all(&tar[..], 3).unwrap(), Compression::Zstd)]
    {
        assert!(packed.len() * 500 < tar.len());
        let error = blob(&packed, &tar, compression, tight).unwrap_err();
        assert!(matches!(error, BlobError::Allowance(AllowanceError::Ratio { .. })), "{error:?}");
        assert_eq!(blob_fault("unpack", &error).kind, FaultKind::LimitExceeded);
        // A small one may expand as it likes, and what does not expand has no limit but its bytes.
        blob(&packed, &tar, compression, Limits::default()).unwrap();
    }
    blob(&tar, &tar, Compression::None, tight).unwrap();
}

#[test]
fn unpacking_takes_so_long_and_no_longer() {
    let tar = Archive::new().with(&Item::file("f", "f")).finish();
    let error = blob(&tar, &tar, Compression::None, Limits { time: Duration::ZERO, ..Limits::default() })
        .unwrap_err();
    assert!(matches!(error, BlobError::Allowance(AllowanceError::Time { .. })), "{error:?}");
    assert_eq!(blob_fault("unpack", &error).kind, FaultKind::LimitExceeded);
}

#[test]
fn case_44_an_attribute_that_does_not_fit_is_told_with_its_file() {
    let value = vec![b'v'; 64 << 10];
    let tar = Archive::new()
        .pax_raw(record("SCHILY.xattr.user.big", &value))
        .with(&Item::file("d/f", "f"))
        .finish();
    let scratch = Scratch::new();
    let dest = scratch.dir("dest");
    match unpack(&tar[..], dest.as_fd(), &[], &options(Limits::default())) {
        // ext4 has room for four kilobytes, tmpfs and XFS for all.
        Ok(_) => assert_eq!(xattrs(&scratch.path("dest/d/f")).get(&b"user.big"[..]), Some(&value)),
        Err(UnpackError::Xattr { path, name, .. }) => {
            assert_eq!((path.as_str(), name.as_str()), ("d/f", "user.big"));
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn case_68_odd_frames_are_taken_or_refused_never_guessed() {
    let tar = Archive::new().with(&Item::file("f", "f")).finish();
    let plain = gzip(&tar);
    // The longest extra field: 65535 bytes before the data.
    let mut extra = plain[..10].to_vec();
    extra[3] |= 4;
    extra.extend([0xff, 0xff]);
    extra.resize(extra.len() + 0xffff, b'x');
    extra.extend(&plain[10..]);
    blob(&extra, &tar, Compression::Gzip, Limits::default()).unwrap();
    let mut unsummed = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    unsummed.include_checksum(false).unwrap();
    unsummed.write_all(&tar).unwrap();
    blob(&unsummed.finish().unwrap(), &tar, Compression::Zstd, Limits::default()).unwrap();

    blob(&zstd_frame(&tar, None), &tar, Compression::Zstd, Limits::default()).unwrap();
    let with_dictionary = zstd_frame(&tar, Some(7));
    for (name, bytes, compression) in [
        ("a gzip header and no member", plain[..10].to_vec(), Compression::Gzip),
        ("an extra field that is longer than the blob", extra[..2000].to_vec(), Compression::Gzip),
        ("a dictionary that nobody has", with_dictionary, Compression::Zstd),
        ("xz", [b"\xfd7zXZ\0", &plain[..]].concat(), Compression::None),
        ("bzip2", [b"BZh9", &plain[..]].concat(), Compression::None),
    ] {
        let error = blob(&bytes, &tar, compression, Limits::default()).unwrap_err();
        assert!(matches!(error, BlobError::Decompress(_) | BlobError::Unpack(_)), "{name}: {error:?}");
    }
}

/// A frame of one raw block (RFC 8878, 3.1.1), which may name a dictionary.
fn zstd_frame(tar: &[u8], dictionary: Option<u8>) -> Vec<u8> {
    // A single segment, whose size has two bytes.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x60 | u8::from(dictionary.is_some())];
    frame.extend(dictionary);
    frame.extend(u16::try_from(tar.len() - 256).unwrap().to_le_bytes());
    frame.extend(&u32::try_from(tar.len() << 3 | 1).unwrap().to_le_bytes()[..3]);
    frame.extend(tar);
    frame
}

#[test]
fn case_70_nobody_else_reaches_what_is_being_unpacked() {
    let scratch = Scratch::new();
    let dest = scratch.dir("dest");
    let path = scratch.path("dest");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let tar = Archive::new().with(&Item::dir("./").mode(0o777)).with(&Item::file("f", "f")).finish();
    let mut modes = Vec::new();
    let watched =
        Watched { tar: &tar, look: || modes.push(fs::metadata(&path).unwrap().permissions().mode()) };
    unpack(watched, dest.as_fd(), &[], &options(Limits::default())).unwrap();
    assert!(!modes.is_empty() && modes.iter().all(|mode| mode & 0o777 == 0o700), "{modes:?}");
    // The mode that the archive asks for comes last.
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
}

/// Looks whenever the next block is read.
struct Watched<'a, F> {
    tar: &'a [u8],
    look: F,
}

impl<F: FnMut()> Read for Watched<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (self.look)();
        let len = buffer.len().min(self.tar.len()).min(512);
        self.tar.read(&mut buffer[..len])
    }
}
