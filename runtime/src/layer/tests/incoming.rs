//! Layers that arrive before anybody knows what they are.
#![forbid(unsafe_code)]

use std::io::Write;
use std::os::fd::AsFd;

use sha2::{Digest, Sha256};
use vesselrt_fixtures::archive::{Archive, Item};

use super::listing::Scratch;
use crate::layer::stream::hex;
use crate::layer::{
    BlobError, Compression, Dialect, IdPolicy, Incoming, TreeFormat, UnpackOptions, unpack_incoming,
};

fn tar() -> Vec<u8> {
    Archive::new().with(&Item::file("f", "content")).finish()
}

fn arrive(stream: &[u8], compression: Compression, most: u64) -> Result<Incoming, BlobError> {
    let scratch = Scratch::new();
    let options = UnpackOptions::new(Dialect::Oci, TreeFormat::Plain, IdPolicy::Ignore);
    let incoming = unpack_incoming(stream, compression, most, scratch.dir("dest").as_fd(), &[], &options)?;
    assert_eq!(std::fs::read_to_string(scratch.path("dest/f")).unwrap(), "content");
    Ok(incoming)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn what_arrives_is_told() {
    let tar = tar();
    let zstd = zstd::stream::encode_all(tar.as_slice(), 1).unwrap();
    for (stream, compression) in
        [(tar.clone(), Compression::None), (gzip(&tar), Compression::Gzip), (zstd, Compression::Zstd)]
    {
        let incoming = arrive(&stream, compression, tar.len() as u64).unwrap();
        assert_eq!(incoming.diff_id, hex(&Sha256::digest(&tar)));
        assert_eq!(incoming.report.entries, 1);
        let zeros = tar.iter().rev().take_while(|&&byte| byte == 0).count() as u64;
        assert_eq!(incoming.zeros, zeros);
    }
}

#[test]
fn what_is_too_long_or_cut_off_does_not_arrive() {
    let tar = tar();
    let bomb = gzip(&[tar.clone(), vec![0; 10 << 20]].concat());
    let limit = tar.len() as u64 + 1000;
    let too_large = arrive(&bomb, Compression::Gzip, limit).unwrap_err();
    assert!(matches!(too_large, BlobError::TooLarge { limit: l } if l == limit), "{too_large:?}");
    let packed = gzip(&tar);
    for cut in [packed.len() / 2, packed.len() - 1] {
        assert!(arrive(&packed[..cut], Compression::Gzip, u64::MAX).is_err(), "{cut}");
    }
    // Strict: without a digest only the mark at the end says that this is all.
    assert!(arrive(&tar[..1024], Compression::None, u64::MAX).is_err());
}
