//! [`unpack_blob`]: a layer's blob from the content store into a directory, every digest verified.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::allowance::{Allowance, AllowanceError, Size};
use super::limits::Limits;
use super::report::UnpackReport;
use super::stream::{ChunkFeeder, hex, pipeline};
use super::tar::TarReader;
use super::unpack::{UnpackError, UnpackOptions, sync, unpack_entries};

/// How a blob is compressed, as its media type says. Nothing else is ever guessed or run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// A bare tar.
    None,
    /// RFC 1952, one or more members.
    Gzip,
    /// RFC 8878, one or more frames, windows to 128 MiB.
    Zstd,
}

/// A blob and what it has to be.
#[derive(Debug)]
pub struct BlobSource {
    /// The blob, read from its beginning.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of the blob, in hexadecimal.
    pub digest_hex: String,
    /// How it is compressed.
    pub compression: Compression,
    /// SHA-256 of the uncompressed tar, in hexadecimal.
    pub diff_id_hex: String,
}

/// Why a blob was not unpacked. The destination is to be thrown away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The blob could not be read.
    #[error("failed to read the blob")]
    Read(#[source] io::Error),
    /// The blob has another size.
    #[error("the blob has {actual} bytes, not {expected}")]
    Size {
        /// What the manifest says.
        expected: u64,
        /// What there is.
        actual: u64,
    },
    /// The blob has another digest.
    #[error("the blob's sha256 is {actual}, not {expected}")]
    Digest {
        /// What the manifest says.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The uncompressed tar has another digest.
    #[error("the uncompressed layer's sha256 is {actual}, not the diff_id {expected}")]
    DiffId {
        /// What the image's configuration says.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The uncompressed tar has more bytes than it may.
    #[error("the uncompressed layer has more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The blob is not compressed as its media type says.
    #[error("the blob is not compressed as {expected:?}: its first bytes are {found}")]
    Compression {
        /// What the media type says.
        expected: Compression,
        /// The first bytes, in hexadecimal.
        found: String,
    },
    /// The compressed data is damaged. The digest is right: it was made so.
    #[error("failed to decompress the blob")]
    Decompress(#[source] io::Error),
    /// The blob expands too far, or takes too long.
    #[error("refused the blob")]
    Allowance(#[source] AllowanceError),
    /// The layer could not be unpacked.
    #[error("failed to unpack the layer")]
    Unpack(#[source] UnpackError),
    /// The files could not be written to disk for good.
    #[error("failed to sync the unpacked layer")]
    Sync(#[source] io::Error),
}

impl BlobError {
    /// Why unpacking failed: the tar that it reads comes out of a blob.
    pub(super) fn of(error: UnpackError) -> Self {
        match error {
            UnpackError::Parse { source: super::ParseError::Io(error), .. } => {
                match AllowanceError::of(&error) {
                    Some(exceeded) => Self::Allowance(exceeded),
                    None => Self::Decompress(error),
                }
            }
            other => Self::Unpack(other),
        }
    }
}

/// Unpacks a blob into `dest`, an empty directory (see [`super::unpack()`]): decompression on one thread, files on this one,
/// the digest of the tar on a third. Returns only when size, digest and diff_id were right and the files are on disk.
/// `progress` is called with the bytes of the blob read so far, from another thread.
///
/// # Errors
/// [`BlobError`]; the content of `dest` is to be thrown away then. A blob that is not the expected one is reported as
/// that, whatever else is wrong with it.
pub fn unpack_blob(
    source: &BlobSource,
    dest: BorrowedFd<'_>,
    lowers: &[BorrowedFd<'_>],
    options: &UnpackOptions,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<UnpackReport, BlobError> {
    verify_compression(source)?;
    // The diff_id proves that nothing is cut off.
    let options = UnpackOptions { allow_missing_end: true, ..*options };
    let (mut feeder, mut reader) = pipeline();
    let input = Counted { file: &source.file, sha: Sha256::new(), read: 0, progress };
    let (blob, unpacked, diff_id) = std::thread::scope(|scope| {
        let thread = scope.spawn(move || decompress(input, source, &options.limits, &mut feeder));
        let mut archive = TarReader::new(&mut reader, options.limits, true);
        let unpacked = unpack_entries(&mut archive, dest, lowers, &options);
        let (diff_id, _) = reader.finish();
        (thread.join().expect("decompression does not panic"), unpacked, diff_id)
    });
    verify_blob(source, blob.map_err(BlobError::Read)?)?;
    let report = unpacked.map_err(BlobError::of)?;
    if diff_id != source.diff_id_hex {
        return Err(BlobError::DiffId { expected: source.diff_id_hex.clone(), actual: diff_id });
    }
    sync(dest).map_err(BlobError::Sync)?;
    Ok(report)
}

/// Size and digest of what was read.
type Measured = (u64, String);

fn verify_blob(source: &BlobSource, (actual, digest): Measured) -> Result<(), BlobError> {
    if actual != source.size {
        return Err(BlobError::Size { expected: source.size, actual });
    }
    if digest != source.digest_hex {
        return Err(BlobError::Digest { expected: source.digest_hex.clone(), actual: digest });
    }
    Ok(())
}

/// Looks at the first bytes. A media type that lies is an error and not a reason to guess.
fn verify_compression(source: &BlobSource) -> Result<(), BlobError> {
    let actual = source.file.metadata().map_err(BlobError::Read)?.len();
    if actual != source.size {
        return Err(BlobError::Size { expected: source.size, actual });
    }
    (&source.file).seek(SeekFrom::Start(0)).map_err(BlobError::Read)?;
    let mut head = [0; 4];
    let len = (&source.file).take(4).read(&mut head).map_err(BlobError::Read)?;
    (&source.file).seek(SeekFrom::Start(0)).map_err(BlobError::Read)?;
    let found = match head {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // A frame, or a frame to be skipped.
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Compression::Zstd,
        _ => Compression::None,
    };
    if found == source.compression {
        return Ok(());
    }
    Err(BlobError::Compression { expected: source.compression, found: hex(&head[..len]) })
}

/// The blob, hashed and counted as it is read.
struct Counted<'a> {
    file: &'a File,
    sha: Sha256,
    read: u64,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read(buffer)?;
        self.sha.update(&buffer[..len]);
        self.read += len as u64;
        (self.progress)(self.read);
        Ok(len)
    }
}

/// Feeds the uncompressed tar to the other side, then reads what is left of the blob: its digest is that of all of it.
fn decompress(
    input: Counted<'_>,
    source: &BlobSource,
    limits: &Limits,
    feeder: &mut ChunkFeeder,
) -> io::Result<Measured> {
    let mut input = BufReader::with_capacity(1 << 18, input);
    let tar = plain(&mut input, source.compression)?;
    feeder.feed(Allowance::new(tar, Size::Known(source.size), limits));
    loop {
        let len = input.fill_buf()?.len();
        if len == 0 {
            break;
        }
        input.consume(len);
    }
    let counted = input.into_inner();
    Ok((counted.read, hex(&counted.sha.finalize())))
}

/// The uncompressed tar.
pub(super) fn plain<'a>(
    input: &'a mut (impl BufRead + Send),
    compression: Compression,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => Box::new(ZstdFrames::new(input)?),
    })
}

/// All frames of a zstd stream.
struct ZstdFrames<'a, R: BufRead>(zstd::stream::read::Decoder<'a, R>);

impl<R: BufRead> ZstdFrames<'_, R> {
    fn new(input: R) -> io::Result<Self> {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
        // 128 MiB: more memory than that no layer may ask for.
        decoder.window_log_max(27)?;
        Ok(Self(decoder))
    }
}

impl<R: BufRead> Read for ZstdFrames<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}
