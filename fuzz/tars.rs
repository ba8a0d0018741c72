//! [`mutate`]: changes that keep a tar a tar more often than random bytes would.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use libfuzzer_sys::fuzzer_mutate;
use vesselrt_fixtures::hostile::cases;

const BLOCK: usize = 512;

/// A small generator (xorshift) for decisions that libFuzzer's seed must repeat.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

/// Changes `data`, whose first byte is an option and the rest a tar; the length of the result.
///
/// Random changes of bytes, or of whole blocks, or a header of the hostile corpus put between two others; then, most of the
/// time, right checksums.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut dice = Dice(u64::from(seed) << 16 | 0x9e37);
    dice.below(2);
    let size = match dice.below(8) {
        0 => insert(data, size, max_size, &mut dice),
        1 => move_blocks(data, size, &mut dice),
        _ => fuzzer_mutate(data, size, max_size),
    };
    if size > 1 && dice.below(16) > 0 {
        repair(&mut data[1..size]);
    }
    size
}

/// Headers of the corpus, with what follows each up to the next.
fn entries() -> &'static [Vec<u8>] {
    static ENTRIES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        let small = cases().into_iter().filter(|case| case.tar.len() < 16 << 10);
        let mut all: Vec<Vec<u8>> = small.flat_map(|case| split(&case.tar)).collect();
        all.sort();
        all.dedup();
        all
    })
}

fn split(tar: &[u8]) -> Vec<Vec<u8>> {
    headers(tar).into_iter().map(|(at, end)| tar[at..end].to_vec()).collect()
}

/// Where entries begin and end, as far as they follow each other.
fn headers(tar: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(block) = tar.get(at..at + BLOCK) {
        let zero = block.iter().all(|&b| b == 0);
        let end = if zero { at + BLOCK } else { at + BLOCK + payload(block, tar.len() - at - BLOCK) };
        if !zero {
            found.push((at, end));
        }
        at = end;
    }
    found
}

/// Bytes of payload that the octal size field announces, if there are so many.
fn payload(block: &[u8], left: usize) -> usize {
    let digits = block[124..136].iter().take_while(|b| b.is_ascii_digit());
    let size = digits.fold(0usize, |n, b| n.saturating_mul(8).saturating_add(usize::from(b - b'0')));
    let padded = size.checked_next_multiple_of(BLOCK).unwrap_or(usize::MAX);
    if padded <= left { padded } else { 0 }
}

/// Makes the checksums of the headers right.
fn repair(tar: &mut [u8]) {
    for (at, _) in headers(tar) {
        let block = &mut tar[at..at + BLOCK];
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn insert(data: &mut [u8], size: usize, max_size: usize, dice: &mut Dice) -> usize {
    let new = &entries()[dice.below(entries().len())];
    let size = size.max(1);
    if size + new.len() > max_size.min(data.len()) {
        return size.min(data.len());
    }
    let starts = headers(&data[1..size]);
    let at = 1 + starts.get(dice.below(starts.len())).map_or(0, |(at, _)| *at);
    data.copy_within(at..size, at + new.len());
    data[at..at + new.len()].copy_from_slice(new);
    size + new.len()
}

/// Copies a block over another, or takes one out.
fn move_blocks(data: &mut [u8], size: usize, dice: &mut Dice) -> usize {
    let blocks = size.saturating_sub(1) / BLOCK;
    if blocks < 2 {
        return size;
    }
    let (from, to) = (1 + dice.below(blocks) * BLOCK, 1 + dice.below(blocks) * BLOCK);
    if dice.below(2) == 0 {
        data.copy_within(from..from + BLOCK, to);
        return size;
    }
    data.copy_within(to + BLOCK..size, to);
    size - BLOCK
}
