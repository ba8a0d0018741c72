//! Sparse maps: which parts of a file an archive stores.
//!
//! Source: GNU tar manual, "Storing Sparse Files": old GNU (type `S`), PAX 0.0, 0.1 and 1.0.
#![forbid(unsafe_code)]

use super::BLOCK;
use super::field::{decimal, header_unsigned};
use super::reader::ParseError;

/// A stretch of data; what lies between stretches is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// Checks that a map is ordered, without overlap, inside the file and of exactly the bytes that are stored.
pub(crate) fn validate(map: &[Segment], real_size: u64, stored: u64) -> Result<(), ParseError> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for segment in map {
        if segment.offset < end {
            return Err(ParseError::Sparse { why: "the segments overlap or are out of order" });
        }
        end = segment.offset.checked_add(segment.len).ok_or(OVERFLOW)?;
        sum = sum.checked_add(segment.len).ok_or(OVERFLOW)?;
    }
    if end > real_size {
        return Err(ParseError::Sparse { why: "a segment lies outside the file" });
    }
    if sum != stored {
        return Err(ParseError::Sparse { why: "the segments are not the stored bytes" });
    }
    Ok(())
}

const OVERFLOW: ParseError = ParseError::Sparse { why: "a segment ends above 2^64" };

/// Pairs numbers (offset, length, offset, length …) into segments.
pub(crate) fn from_numbers(numbers: &[u64]) -> Result<Vec<Segment>, ParseError> {
    if !numbers.len().is_multiple_of(2) {
        return Err(ParseError::Sparse { why: "the map has an odd number of numbers" });
    }
    Ok(numbers.chunks_exact(2).map(|pair| Segment { offset: pair[0], len: pair[1] }).collect())
}

/// The comma-separated map of PAX 0.1.
pub(crate) fn parse_list(text: &[u8], limit: usize) -> Result<Vec<u64>, ParseError> {
    let mut numbers = Vec::new();
    for part in text.split(|&b| b == b',') {
        if numbers.len() >= limit.saturating_mul(2) {
            return Err(ParseError::SparseTooMany { limit });
        }
        numbers.push(decimal(part).map_err(|source| ParseError::Field { field: "GNU.sparse.map", source })?);
    }
    Ok(numbers)
}

/// Adds the segments of an old GNU header or extension block; false when the map ends here.
pub(crate) fn push_old_gnu(fields: &[u8], map: &mut Vec<Segment>, limit: usize) -> Result<bool, ParseError> {
    for pair in fields.chunks_exact(24) {
        if pair[12] == 0 {
            return Ok(false);
        }
        if map.len() >= limit {
            return Err(ParseError::SparseTooMany { limit });
        }
        let number = |field: &[u8]| {
            header_unsigned(field).map_err(|source| ParseError::Field { field: "sparse", source })
        };
        map.push(Segment { offset: number(&pair[..12])?, len: number(&pair[12..])? });
    }
    Ok(true)
}

/// The map that stands before the data of a PAX 1.0 sparse file: decimal lines, padded to a block.
#[derive(Debug, Default)]
pub(crate) struct MapText {
    numbers: Vec<u64>,
    line: Vec<u8>,
}

impl MapText {
    /// Takes the next block; true when the map is complete.
    pub(crate) fn push(&mut self, block: &[u8; BLOCK], limit: usize) -> Result<bool, ParseError> {
        for &byte in block {
            match byte {
                b'\n' => {
                    let line = decimal(&self.line)
                        .map_err(|source| ParseError::Field { field: "sparse map", source })?;
                    self.numbers.push(line);
                    self.line.clear();
                    if self.expected(limit)? == Some(self.numbers.len() - 1) {
                        return Ok(true);
                    }
                }
                _ if self.line.len() >= 20 => {
                    return Err(ParseError::Sparse { why: "a line of the map is too long" });
                }
                byte => self.line.push(byte),
            }
        }
        Ok(false)
    }

    /// How many numbers follow the first, which counts the segments.
    fn expected(&self, limit: usize) -> Result<Option<usize>, ParseError> {
        match self.numbers.first() {
            Some(&count) if count > limit as u64 => Err(ParseError::SparseTooMany { limit }),
            Some(&count) => Ok(Some(count as usize * 2)),
            None => Ok(None),
        }
    }

    /// The segments.
    pub(crate) fn finish(&self) -> Result<Vec<Segment>, ParseError> {
        from_numbers(&self.numbers[1..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(offset: u64, len: u64) -> Segment {
        Segment { offset, len }
    }

    #[test]
    fn maps_must_be_ordered_inside_and_exact() {
        assert!(validate(&[segment(0, 10), segment(20, 5), segment(100, 0)], 100, 15).is_ok());
        for (map, real, stored) in [
            (vec![segment(5, 10), segment(10, 5)], 100, 15),
            (vec![segment(20, 5), segment(0, 5)], 100, 10),
            (vec![segment(90, 20)], 100, 20),
            (vec![segment(0, 10)], 100, 11),
            (vec![segment(u64::MAX, 2)], u64::MAX, 2),
        ] {
            assert!(validate(&map, real, stored).is_err(), "{map:?}");
        }
    }

    #[test]
    fn a_map_of_ten_million_segments_is_refused_by_its_first_line() {
        let mut block = [b'0'; BLOCK];
        block[..9].copy_from_slice(b"10000000\n");
        let result = MapText::default().push(&block, 10_000);
        assert!(matches!(result, Err(ParseError::SparseTooMany { limit: 10_000 })));
    }

    #[test]
    fn a_map_text_may_span_blocks() {
        let mut text = b"100\n".to_vec();
        for at in 0..100u64 {
            text.extend(format!("{}\n{}\n", at * 4096, 512).bytes());
        }
        text.resize(text.len().next_multiple_of(BLOCK), 0);
        let mut map = MapText::default();
        let mut done = false;
        for block in text.chunks_exact(BLOCK) {
            assert!(!done);
            done = map.push(block.try_into().unwrap(), 100).unwrap();
        }
        assert!(done);
        assert_eq!(map.finish().unwrap()[99], segment(99 * 4096, 512));
    }
}
