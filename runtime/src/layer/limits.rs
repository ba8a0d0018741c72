//! [`Limits`]: what one archive may cost.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Bounds on everything that an archive makes us hold, create or read. Exceeding one fails the whole layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries (headers that name something). A full Debian desktop has 300 000 files; five million empty
    /// ones are an inode bomb.
    pub entries: u64,
    /// Bytes of file content that are written or read, holes not counted. The largest images in use (CUDA,
    /// models) have layers of some ten gigabytes.
    pub bytes: u64,
    /// Bytes of a cleaned path. Above `PATH_MAX` the tree is walked by descriptors; the bound keeps the sum of
    /// all paths of a deep chain from growing with the square of its depth.
    pub path_len: usize,
    /// Bytes of one path component: `NAME_MAX` of every Linux file system.
    pub name_len: usize,
    /// Components of a path.
    pub depth: usize,
    /// Bytes of one PAX, long-name or long-link header. It is held in memory.
    pub metadata: u64,
    /// Metadata headers (PAX, global PAX, long name, long link, volume label) before one entry.
    pub pending: u32,
    /// Segments of one sparse file. Unbounded sparse maps were CVE-2025-58183.
    pub sparse: usize,
    /// Extended attributes of one entry.
    pub xattrs: usize,
    /// Bytes of one extended attribute's value: the kernel's `XATTR_SIZE_MAX`.
    pub xattr_value: usize,
    /// Bytes of memory for what can only be done at the end: directory times and modes, dropped whiteouts,
    /// hard link targets while packing.
    pub deferred: usize,
    /// Bytes after the end-of-archive marker, which are hashed and otherwise ignored.
    pub trailing: u64,
    /// How many times its own size the blob of an image layer may expand to, once that is more than
    /// [`Limits::ratio_free`]. Programs and texts do not reach 20; zeros in gzip reach 1030, in zstd 15 000. (Our own
    /// archives say how long they are.)
    pub ratio: u64,
    /// Bytes that every blob may expand to, however small it is.
    pub ratio_free: u64,
    /// How long the blob of an image layer may take to unpack.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 2_000_000,
            bytes: 128 << 30,
            path_len: 64 << 10,
            name_len: 255,
            depth: 16_384,
            metadata: 1 << 20,
            pending: 16,
            sparse: 10_000,
            xattrs: 1024,
            xattr_value: 64 << 10,
            deferred: 256 << 20,
            trailing: 256 << 20,
            ratio: 400,
            ratio_free: 4 << 30,
            time: Duration::from_secs(2 * 60 * 60),
        }
    }
}
