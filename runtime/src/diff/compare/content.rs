//! Whether two files have the same bytes.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{SeekFrom, Stat, fstat, seek};
use rustix::io::{Errno, pread};

/// What is read of both files at once.
const CHUNK: usize = 128 << 10;

thread_local! {
    static BUFFERS: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Whether two open files of the same size are equal.
pub(super) fn same(old: (&OwnedFd, &Stat), new: (&OwnedFd, &Stat)) -> Result<bool, Errno> {
    let size = u64::try_from(new.1.st_size).unwrap_or(0);
    let sparse = [old.1, new.1].iter().all(|stat| is_sparse(stat.st_blocks, size));
    Same { a: old.0.as_fd(), b: new.0.as_fd(), size, sparse }.check()
}

/// [`same`] of files that both are to have `size` bytes; false if one has not any more.
pub(in crate::diff) fn same_bytes(a: &OwnedFd, b: &OwnedFd, size: u64) -> Result<bool, Errno> {
    // What is read at once needs no knowledge of holes.
    if size <= CHUNK as u64 {
        return Same { a: a.as_fd(), b: b.as_fd(), size, sparse: false }.check();
    }
    let (old, new) = (fstat(a)?, fstat(b)?);
    let whole = |stat: &Stat| u64::try_from(stat.st_size) == Ok(size);
    Ok(whole(&old) && whole(&new) && same((a, &old), (b, &new))?)
}

/// Only a file with fewer blocks than bytes can have holes.
fn is_sparse(blocks: i64, size: u64) -> bool {
    u64::try_from(blocks).unwrap_or(0).saturating_mul(512) < size
}

/// Two open files of the same size.
struct Same<'a> {
    a: BorrowedFd<'a>,
    b: BorrowedFd<'a>,
    size: u64,
    /// Both may have holes.
    sparse: bool,
}

impl Same<'_> {
    /// Compares them to the end, or to the first difference.
    fn check(&self) -> Result<bool, Errno> {
        BUFFERS.with_borrow_mut(|(a, b)| {
            let want = CHUNK.min(usize::try_from(self.size).unwrap_or(CHUNK));
            a.resize(a.len().max(want), 0);
            b.resize(b.len().max(want), 0);
            let mut at = 0;
            while at < self.size {
                if self.sparse {
                    at = self.skip_holes(at)?;
                }
                let want = CHUNK.min(usize::try_from(self.size - at).unwrap_or(CHUNK));
                fill(self.a, &mut a[..want], at)?;
                fill(self.b, &mut b[..want], at)?;
                if a[..want] != b[..want] {
                    return Ok(false);
                }
                at += want as u64;
            }
            Ok(true)
        })
    }

    /// Where one of both has data next.
    fn skip_holes(&self, at: u64) -> Result<u64, Errno> {
        let next = |fd| match seek(fd, SeekFrom::Data(at)) {
            Ok(next) => Ok(next.min(self.size)),
            Err(Errno::NXIO) => Ok(self.size),
            // The file system knows no holes.
            Err(Errno::INVAL) => Ok(at),
            Err(errno) => Err(errno),
        };
        Ok(next(self.a)?.min(next(self.b)?))
    }
}

/// Reads until `buffer` is full; what is missing at the end of the file is zeroes, as in a hole.
fn fill(fd: BorrowedFd<'_>, buffer: &mut [u8], at: u64) -> Result<(), Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match pread(fd, &mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    buffer[filled..].fill(0);
    Ok(())
}
