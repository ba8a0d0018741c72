//! Compressions, found by content and undone with bounded memory.
//!
//! Sources: RFC 8878 (zstd), RFC 1952 (gzip), tar(5).
#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use serde::Serialize;

use crate::error::StorageError;

/// How many leading bytes [`Compression::detect`] wants to see, if there are that many: a tar header.
pub const DETECT_LEN: usize = 512;
/// The largest window that is accepted from a zstd frame, as a power of two: 128 MiB, the limit of `zstd -d`
/// itself.
pub const MAX_WINDOW_LOG: u32 = 27;

/// How a tar is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, any number of members.
    Gzip,
    /// zstd, any number of frames.
    Zstd,
}

impl Compression {
    /// The compression of a tar that begins with `start` (the first [`DETECT_LEN`] bytes of it).
    ///
    /// The name at the start of a tar is chosen by whoever made the tar and may look like the magic number of
    /// something else, so where that is possible a valid tar header wins.
    #[must_use]
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame may come first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] if !is_tar_header(start) => Self::Zstd,
            [0x1f, 0x8b, ..] if !is_tar_header(start) => Self::Gzip,
            _ => Self::None,
        }
    }

    /// What follows `.tar` in a file name.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }
}

/// Whether `block` begins with a tar header whose checksum is right.
#[must_use]
pub fn is_tar_header(block: &[u8]) -> bool {
    let Some(block) = block.get(..DETECT_LEN) else { return false };
    let header = tar::Header::from_byte_slice(block);
    let sum: u32 = block.iter().enumerate().map(|(i, &b)| u32::from(checksum_byte(i, b))).sum();
    header.cksum().is_ok_and(|stored| stored == sum)
}

/// The checksum field counts as spaces.
fn checksum_byte(at: usize, byte: u8) -> u8 {
    if (148..156).contains(&at) { b' ' } else { byte }
}

/// Undoes a [`Compression`]. Truncated and damaged input is an [`io::ErrorKind::InvalidData`] error, never an
/// early end.
pub struct Decoder<R: BufRead>(Inner<R>);

enum Inner<R: BufRead> {
    None(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(zstd::Decoder<'static, R>),
}

impl<R: BufRead> Decoder<R> {
    /// Reads from `reader`, which holds `compression`.
    ///
    /// # Errors
    /// No memory for the decoder.
    pub fn new(reader: R, compression: Compression) -> io::Result<Self> {
        Ok(Self(match compression {
            Compression::None => Inner::None(reader),
            Compression::Gzip => Inner::Gzip(Box::new(MultiGzDecoder::new(reader))),
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(reader)?;
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                Inner::Zstd(decoder)
            }
        }))
    }

    /// The reader underneath.
    pub fn into_inner(self) -> R {
        match self.0 {
            Inner::None(reader) => reader,
            Inner::Gzip(decoder) => decoder.into_inner(),
            Inner::Zstd(decoder) => decoder.finish(),
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::None(reader) => reader.read(buf),
            Inner::Gzip(decoder) => decoder.read(buf).map_err(|e| damaged("gzip stream", e)),
            Inner::Zstd(decoder) => decoder.read(buf).map_err(|e| damaged("zstd stream", e)),
        }
    }
}

impl<R: BufRead> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Inner::None(_) => "Decoder::None",
            Inner::Gzip(_) => "Decoder::Gzip",
            Inner::Zstd(_) => "Decoder::Zstd",
        })
    }
}

/// The decoders report damage under several kinds. Errors of the reader underneath keep theirs.
fn damaged(what: &str, error: io::Error) -> io::Error {
    let ours = error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<StorageError>);
    if ours || error.raw_os_error().is_some() || error.kind() == io::ErrorKind::Interrupted {
        return error;
    }
    StorageError::corrupt(what, error).into()
}

/// Reads the first bytes of `reader` and gives them back in front of it, with the compression they show.
///
/// # Errors
/// Those of the reader.
pub fn sniff<R: Read>(mut reader: R) -> io::Result<(Compression, Sniffed<R>)> {
    let mut start = Vec::with_capacity(DETECT_LEN);
    reader.by_ref().take(DETECT_LEN as u64).read_to_end(&mut start)?;
    Ok((Compression::detect(&start), BufReader::new(io::Cursor::new(start).chain(reader))))
}

/// What [`sniff`] gives back.
pub type Sniffed<R> = BufReader<io::Chain<io::Cursor<Vec<u8>>, R>>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{StorageErrorKind, io_kind};
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let (compression, reader) = sniff(bytes)?;
        let mut out = Vec::new();
        Decoder::new(reader, compression)?.read_to_end(&mut out).map(|_| out)
    }

    fn zstd_of(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn everything_is_found_by_content() {
        let body = vec![7u8; 100_000];
        assert_eq!(decode(&body).unwrap(), body);
        assert_eq!(decode(&gzip(&body)).unwrap(), body);
        assert_eq!(decode(&zstd_of(&body)).unwrap(), body);
        assert_eq!(decode(b"").unwrap(), b"");
        let members = [gzip(b"ab"), gzip(b"cd")].concat();
        assert_eq!(decode(&members).unwrap(), b"abcd");
        let skippable =
            [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &zstd_of(b"x"), &zstd_of(b"y")].concat();
        assert_eq!(decode(&skippable).unwrap(), b"xy");
    }

    #[test]
    fn a_tar_may_begin_with_a_magic_number() {
        for name in [&b"\x1f\x8b\x08file"[..], b"P*M\x18"] {
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.set_size(0);
            header.set_cksum();
            assert_eq!(Compression::detect(header.as_bytes()), Compression::None);
            assert_ne!(Compression::detect(name), Compression::None);
        }
    }

    #[test]
    fn damage_is_never_an_early_end() {
        let body: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for whole in [gzip(&body), zstd_of(&body)] {
            for cut in [whole.len() - 1, whole.len() / 2, 20] {
                let error = decode(&whole[..cut]).unwrap_err();
                assert_eq!(io_kind(&error), StorageErrorKind::IntegrityViolation, "{cut}: {error}");
            }
            for at in (30..whole.len()).step_by(whole.len() / 20) {
                let mut flipped = whole.clone();
                flipped[at] ^= 0x20;
                assert!(decode(&flipped).is_err(), "flipped byte {at}");
            }
            let trailing = [&whole[..], b"junk"].concat();
            assert!(decode(&trailing).is_err());
        }
    }

    #[test]
    fn too_large_a_window_is_refused() {
        // Magic, then a frame header descriptor with a window of 2^31 (exponent 21, mantissa 0).
        let bomb = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0, 0];
        let error = decode(&bomb).unwrap_err();
        assert_eq!(io_kind(&error), StorageErrorKind::IntegrityViolation);
    }
}
