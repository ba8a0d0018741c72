//! Numbers that look random and come again with the same seed.
#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime};

/// A generator. When a test that uses it fails, the seed that it printed makes it fail again.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        let seed = std::env::var("VESSELRT_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seed: u64 =
            seed.unwrap_or_else(|| u64::from(since.subsec_nanos()) << 20 | u64::from(std::process::id()));
        println!("VESSELRT_TEST_SEED={seed}");
        Self(seed)
    }

    /// Source: `SplitMix64`, Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A time shorter than `end`.
    pub(crate) fn moment(&mut self, end: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(end.as_micros()).unwrap()))
    }

    /// Bytes that do not compress.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len / 8 + 1).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }
}
