//! [`Squeeze`]: compression whose output does not depend on how many processors do it.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, Write};
use std::thread::JoinHandle;

use crate::layer::Compression;

/// What one gzip member holds: large enough that beginning anew costs about nothing.
const BLOCK: usize = 2 << 20;
/// As gzip and docker have it.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;
/// Threads beyond this take memory (two blocks each) and bring little.
const MAX_THREADS: usize = 8;

/// Compresses what is written to it. Only what [`Squeeze::finish`] has ended is whole.
pub(super) enum Squeeze<W: Write> {
    None(W),
    Gzip(Members<W>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> Squeeze<W> {
    pub(super) fn new(out: W, compression: Compression) -> io::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        Ok(match compression {
            Compression::None => Self::None(out),
            Compression::Gzip => Self::Gzip(Members::new(out, threads)),
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                // With any number of workers the bytes are the same; without them they are others.
                encoder.multithread(threads as u32)?;
                Self::Zstd(Box::new(encoder))
            }
        })
    }

    /// Ends the stream, and gives back what it was written to.
    pub(super) fn finish(self) -> io::Result<W> {
        let mut out = match self {
            Self::None(out) => out,
            Self::Gzip(members) => members.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
        };
        out.flush()?;
        Ok(out)
    }
}

impl<W: Write> Write for Squeeze<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(out) => out.write(bytes),
            Self::Gzip(members) => members.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    /// Nothing: a flush in the middle would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// gzip as members of [`BLOCK`] bytes each (RFC 1952, 2.2), compressed side by side and written in order.
pub(super) struct Members<W> {
    out: W,
    filling: Vec<u8>,
    under_way: VecDeque<JoinHandle<io::Result<Vec<u8>>>>,
    threads: usize,
}

impl<W: Write> Members<W> {
    fn new(out: W, threads: usize) -> Self {
        Self { out, filling: Vec::with_capacity(BLOCK), under_way: VecDeque::new(), threads }
    }

    fn begin(&mut self) -> io::Result<()> {
        if self.under_way.len() >= self.threads {
            self.take_oldest()?;
        }
        let block = std::mem::replace(&mut self.filling, Vec::with_capacity(BLOCK));
        let thread = std::thread::Builder::new().name("vesselrt-gzip".into());
        self.under_way.push_back(thread.spawn(move || member(&block))?);
        Ok(())
    }

    fn take_oldest(&mut self) -> io::Result<()> {
        let Some(oldest) = self.under_way.pop_front() else { return Ok(()) };
        let done = oldest.join().map_err(|_| io::Error::other("a compressing thread panicked"))??;
        self.out.write_all(&done)
    }

    fn finish(mut self) -> io::Result<W> {
        if !self.filling.is_empty() {
            self.begin()?;
        }
        while !self.under_way.is_empty() {
            self.take_oldest()?;
        }
        Ok(self.out)
    }
}

impl<W: Write> Write for Members<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.filling.len());
        self.filling.extend_from_slice(&bytes[..taken]);
        if self.filling.len() == BLOCK {
            self.begin()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Without a time and without the name of an operating system (255: unknown).
fn member(block: &[u8]) -> io::Result<Vec<u8>> {
    let level = flate2::Compression::new(GZIP_LEVEL);
    let out = Vec::with_capacity(block.len() / 3);
    let mut encoder = flate2::GzBuilder::new().mtime(0).operating_system(255).write(out, level);
    encoder.write_all(block)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn data() -> Vec<u8> {
        (0..3 * BLOCK as u32 + 77)
            .flat_map(|n| (n / 7).wrapping_mul(2_654_435_761).to_le_bytes()[..2].to_vec())
            .collect()
    }

    fn gzip(data: &[u8], threads: usize, step: usize) -> Vec<u8> {
        let mut members = Members::new(Vec::new(), threads);
        data.chunks(step).for_each(|chunk| members.write_all(chunk).unwrap());
        members.finish().unwrap()
    }

    #[test]
    fn gzip_is_the_same_on_any_number_of_processors() {
        let data = data();
        let one = gzip(&data, 1, 4096);
        assert_eq!(one, gzip(&data, 5, 1 << 20));
        let mut back = Vec::new();
        flate2::read::MultiGzDecoder::new(one.as_slice()).read_to_end(&mut back).unwrap();
        assert!(back == data);
    }

    #[test]
    fn every_compression_reads_back_and_repeats() {
        let data = data();
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let squeeze = || {
                let mut squeeze = Squeeze::new(Vec::new(), compression).unwrap();
                squeeze.write_all(&data).unwrap();
                squeeze.flush().unwrap();
                squeeze.finish().unwrap()
            };
            let bytes = squeeze();
            assert!(bytes == squeeze(), "{compression:?}");
            let mut back = Vec::new();
            match compression {
                Compression::None => back = bytes,
                Compression::Gzip => {
                    _ = flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut back).unwrap();
                }
                Compression::Zstd => zstd::stream::copy_decode(&bytes[..], &mut back).unwrap(),
            }
            assert!(back == data, "{compression:?}");
        }
    }

    #[test]
    fn an_output_that_fails_is_told() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for compression in [Compression::Gzip, Compression::Zstd] {
            let mut squeeze = Squeeze::new(Full, compression).unwrap();
            let written = squeeze.write_all(&data());
            assert!(written.is_err() || squeeze.finish().is_err());
        }
    }
}
