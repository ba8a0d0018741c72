//! [`SeekTable`]: where the frames of an archive are.
#![forbid(unsafe_code)]

use thiserror::Error;

/// Magic number of the skippable frame that holds the table.
const SKIPPABLE: u32 = 0x184D_2A5E;
/// Magic number at its end.
const SEEKABLE: u32 = 0x8F92_EAB1;
/// Bytes at the end of the table: number of frames, descriptor, magic number.
pub(crate) const FOOTER: usize = 9;
/// Bytes before the entries: magic number and size of a skippable frame.
const HEADER: usize = 8;
/// The bit of the descriptor that says that entries have checksums. Bits 2 to 6 must be 0, 0 and 1 mean nothing.
const CHECKSUMS: u8 = 1 << 7;
const RESERVED: u8 = 0b0111_1100;
/// Frames that an archive may have: 4 TiB of content in frames of ours, and 24 MiB of memory.
pub const MAX_FRAMES: u32 = 1 << 20;
/// Bytes of content that a frame may have: it is held in memory as a whole.
pub const MAX_FRAME: u32 = 64 << 20;

/// Why a seek table is none, or lies.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableError {
    /// The skippable frame around it is damaged.
    #[error("the frame of the seek table is damaged")]
    Frame,
    /// A reserved bit is set.
    #[error("the seek table has the unknown descriptor {descriptor:#04x}")]
    Descriptor {
        /// The descriptor.
        descriptor: u8,
    },
    /// More frames than [`MAX_FRAMES`].
    #[error("the seek table has {frames} frames, more than {MAX_FRAMES}")]
    TooMany {
        /// How many it says there are.
        frames: u32,
    },
    /// A frame of more than [`MAX_FRAME`] bytes.
    #[error("frame {index} has {size} bytes, more than {MAX_FRAME}")]
    TooLarge {
        /// Which one.
        index: usize,
        /// Its size.
        size: u32,
    },
    /// The frames do not add up to the archive.
    #[error("the frames of the seek table have {frames} bytes, the archive {archive}")]
    Sum {
        /// Bytes of all frames and the table.
        frames: u64,
        /// Bytes of the archive.
        archive: u64,
    },
}

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Where it begins in the archive.
    pub at: u64,
    /// Its bytes in the archive.
    pub packed: u32,
    /// Where its content begins in the content of the archive.
    pub offset: u64,
    /// Bytes of its content.
    pub len: u32,
    /// The low 32 bits of the XXH64 of the content, where the table has them.
    pub checksum: Option<u32>,
}

/// Where the frames of an archive are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeekTable {
    frames: Vec<Frame>,
    len: u64,
}

/// What the last [`FOOTER`] bytes of an archive say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Footer {
    frames: u32,
    checksums: bool,
}

impl Footer {
    /// Reads the last bytes of an archive; `None` when no seek table ends there.
    pub(crate) fn parse(bytes: &[u8; FOOTER]) -> Result<Option<Self>, TableError> {
        let (frames, descriptor) = (word(bytes, 0), bytes[4]);
        if word(bytes, 5) != SEEKABLE {
            return Ok(None);
        }
        if descriptor & RESERVED != 0 {
            return Err(TableError::Descriptor { descriptor });
        }
        if frames > MAX_FRAMES {
            return Err(TableError::TooMany { frames });
        }
        Ok(Some(Self { frames, checksums: descriptor & CHECKSUMS != 0 }))
    }

    fn entry_len(self) -> usize {
        if self.checksums { 12 } else { 8 }
    }

    /// Bytes of the whole skippable frame.
    pub(crate) fn table_len(self) -> usize {
        HEADER + self.frames as usize * self.entry_len() + FOOTER
    }
}

impl SeekTable {
    /// Reads `bytes`, the last [`Footer::table_len`] bytes of an archive of `archive` bytes.
    pub(crate) fn parse(footer: Footer, bytes: &[u8], archive: u64) -> Result<Self, TableError> {
        if bytes.len() != footer.table_len()
            || word(bytes, 0) != SKIPPABLE
            || word(bytes, 4) as usize != bytes.len() - HEADER
        {
            return Err(TableError::Frame);
        }
        let mut table = Self { frames: Vec::with_capacity(footer.frames as usize), len: 0 };
        let mut at = 0u64;
        let entries = &bytes[HEADER..bytes.len() - FOOTER];
        for (index, entry) in entries.chunks_exact(footer.entry_len()).enumerate() {
            let (packed, len) = (word(entry, 0), word(entry, 4));
            if len > MAX_FRAME {
                return Err(TableError::TooLarge { index, size: len });
            }
            let checksum = footer.checksums.then(|| word(entry, 8));
            // 2^20 frames of less than 2^32 bytes: no overflow.
            table.frames.push(Frame { at, packed, offset: table.len, len, checksum });
            at += u64::from(packed);
            table.len += u64::from(len);
        }
        let frames = at + bytes.len() as u64;
        if frames == archive { Ok(table) } else { Err(TableError::Sum { frames, archive }) }
    }

    /// Adds a frame after those that are there.
    pub(crate) fn push(&mut self, packed: u32, len: u32, checksum: u32) {
        let at = self.frames.last().map_or(0, |last| last.at + u64::from(last.packed));
        self.frames.push(Frame { at, packed, offset: self.len, len, checksum: Some(checksum) });
        self.len += u64::from(len);
    }

    /// The skippable frame, of frames that all have checksums.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let payload = self.frames.len() * 12 + FOOTER;
        let mut out = Vec::with_capacity(HEADER + payload);
        let mut put = |word: u32| out.extend_from_slice(&word.to_le_bytes());
        put(SKIPPABLE);
        put(u32::try_from(payload).expect("the frames are counted while they are made"));
        for frame in &self.frames {
            put(frame.packed);
            put(frame.len);
            put(frame.checksum.unwrap_or(0));
        }
        put(self.frames.len() as u32);
        out.push(CHECKSUMS);
        out.extend_from_slice(&SEEKABLE.to_le_bytes());
        out
    }

    /// The frames in their order.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Bytes of content.
    #[must_use]
    pub fn content_len(&self) -> u64 {
        self.len
    }

    /// The frame that holds the byte at `offset` of the content; `None` from the end on.
    #[must_use]
    pub fn frame_at(&self, offset: u64) -> Option<Frame> {
        let after = self.frames.partition_point(|frame| frame.offset + u64::from(frame.len) <= offset);
        self.frames.get(after).copied()
    }
}

/// The little-endian word at `at`, which is inside.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
