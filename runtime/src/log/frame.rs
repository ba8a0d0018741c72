//! One frame as bytes.
#![forbid(unsafe_code)]

use flate2::Crc;

/// Bytes of a header.
pub(super) const HEADER: usize = 28;
/// Most bytes of one frame.
pub(super) const MAX_DATA: usize = 64 << 10;

/// Where bytes were written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn number(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    fn of_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// What is before the bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) len: usize,
    pub(super) stream: Stream,
    pub(super) offset: u64,
    pub(super) micros: u64,
    check: u32,
}

impl Header {
    /// The header of `data`, of at most [`MAX_DATA`] bytes.
    pub(super) fn of(stream: Stream, offset: u64, micros: u64, data: &[u8]) -> Self {
        let mut header = Self { len: data.len(), stream, offset, micros, check: 0 };
        header.check = header.sum(data);
        header
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let len = u32::try_from(self.len).expect("a frame has at most 64 KiB");
        bytes[0..4].copy_from_slice(&len.to_le_bytes());
        bytes[4] = self.stream.number();
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.micros.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.check.to_le_bytes());
        bytes
    }

    /// `None` for what cannot be a header.
    pub(super) fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let (four, eight) = (
            |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]),
            |at: usize| bytes[at..at + 8].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)),
        );
        let len = usize::try_from(four(0)).ok().filter(|len| (1..=MAX_DATA).contains(len))?;
        let stream = Stream::of_number(bytes[4]).filter(|_| bytes[5..8] == [0; 3])?;
        let offset = eight(8);
        offset.checked_add(len as u64)?;
        Some(Self { len, stream, offset, micros: eight(16), check: four(24) })
    }

    /// Whether `data` is what this is the header of.
    pub(super) fn fits(&self, data: &[u8]) -> bool {
        self.len == data.len() && self.check == self.sum(data)
    }

    fn sum(&self, data: &[u8]) -> u32 {
        let mut crc = Crc::new();
        crc.update(&Self { check: 0, ..*self }.encode()[..HEADER - 4]);
        crc.update(data);
        crc.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_knows_its_data() {
        let header = Header::of(Stream::Stderr, 1 << 40, 77, b"data");
        let back = Header::decode(&header.encode()).unwrap();
        assert_eq!(back, header);
        assert!(back.fits(b"data") && !back.fits(b"dato") && !back.fits(b"dat"));
    }

    #[test]
    fn any_changed_bit_is_noticed() {
        let good = Header::of(Stream::Stdout, 5, 6, b"x").encode();
        for bit in 0..HEADER * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_none_or(|header| !header.fits(b"x")), "bit {bit}");
        }
    }
}
