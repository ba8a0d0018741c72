//! Ids of vessels and snapshots: what they may look like, and where new ones come from.
#![forbid(unsafe_code)]

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use rustix::rand::GetRandomFlags;
use thiserror::Error;

/// 2020-01-01T00:00:00Z in seconds since the Unix epoch.
const EPOCH_2020: Duration = Duration::from_secs(1_577_836_800);
/// Bits of an id that hold the time.
const TIME_BITS: u32 = 42;
/// The longest id, in bytes.
pub const MAX_ID_LEN: usize = 64;

/// What is wrong with an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdError {
    /// The id is the empty string.
    #[error("it is empty")]
    Empty,
    /// The id has more than [`MAX_ID_LEN`] bytes.
    #[error("it is longer than {MAX_ID_LEN} bytes")]
    TooLong,
    /// The first character is not a lower-case letter or digit.
    #[error("it must start with a lower-case letter or a digit")]
    BadStart,
    /// A character is not a lower-case letter, a digit, `_`, `.` or `-`.
    #[error("only lower-case letters, digits, '_', '.' and '-' are allowed")]
    BadCharacter,
    /// The id contains `..`.
    #[error("it contains \"..\"")]
    DotDot,
}

/// Checks that `id` matches `^[a-z0-9][a-z0-9_.-]{0,63}$` and has no `..`, so that it is safe as a file name,
/// in a URL and in a label.
///
/// # Errors
/// [`IdError`] says which rule is broken.
pub fn validate_id(id: &str) -> Result<(), IdError> {
    let Some(first) = id.bytes().next() else { return Err(IdError::Empty) };
    if id.len() > MAX_ID_LEN {
        return Err(IdError::TooLong);
    }
    if !(first.is_ascii_lowercase() || first.is_ascii_digit()) {
        return Err(IdError::BadStart);
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
    if !id.bytes().all(allowed) {
        return Err(IdError::BadCharacter);
    }
    if id.contains("..") { Err(IdError::DotDot) } else { Ok(()) }
}

/// Where new ids come from. Every id must satisfy [`validate_id`] and differ from all earlier ones.
pub trait IdGenerator: Debug + Send + Sync {
    /// A new id.
    fn new_id(&self) -> String;
}

/// Ids of 16 lower-case hexadecimal digits: the 64-bit number `(rand << 42) | ms`.
///
/// `ms` is the time in milliseconds since 2020-01-01T00:00:00Z (42 bits last until 2159); `rand` are 22 bits
/// that start at a random point and advance by a random odd step, so that one generator never repeats itself
/// within a millisecond.
#[derive(Debug)]
pub struct UniqueIdGenerator {
    next: AtomicU64,
    step: u64,
}

impl UniqueIdGenerator {
    /// A generator seeded from the kernel.
    #[must_use]
    pub fn new() -> Self {
        let seed = u64::from_ne_bytes(random_bytes());
        Self { next: AtomicU64::new(seed), step: (seed >> 32) | 1 }
    }
}

impl Default for UniqueIdGenerator {
    fn default() -> Self {
        Self::new()
    }
}

impl IdGenerator for UniqueIdGenerator {
    fn new_id(&self) -> String {
        let rand = self.next.fetch_add(self.step, Ordering::Relaxed);
        let mask = (1 << TIME_BITS) - 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH + EPOCH_2020).unwrap_or_default();
        let ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX) & mask;
        format!("{:016x}", (rand << TIME_BITS) | ms)
    }
}

/// `N` (at most 256) random bytes of the kernel.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    loop {
        match rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty()) {
            Ok(n) if n == N => return bytes,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("getrandom(2) cannot fail for {N} bytes: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn new_ids_are_valid_and_differ() {
        let generator = UniqueIdGenerator::new();
        let ids: HashSet<String> = (0..20_000).map(|_| generator.new_id()).collect();
        assert_eq!(ids.len(), 20_000);
        for id in ids {
            assert_eq!(id.len(), 16);
            assert!(id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{id}");
            validate_id(&id).unwrap();
        }
    }

    #[test]
    fn the_low_bits_are_the_time() {
        let id = u64::from_str_radix(&UniqueIdGenerator::new().new_id(), 16).unwrap();
        let ms = u128::from(id & ((1 << 42) - 1));
        let now = SystemTime::now().duration_since(UNIX_EPOCH + EPOCH_2020).unwrap().as_millis();
        assert!(now - ms < 10_000, "{ms} {now}");
    }

    #[test]
    fn ids_are_checked() {
        for good in ["a", "0", "a.b", "a-b_c", "0123456789abcdef", &"a".repeat(64)] {
            assert_eq!(validate_id(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", IdError::Empty),
            ("..", IdError::BadStart),
            (".", IdError::BadStart),
            ("-a", IdError::BadStart),
            ("_a", IdError::BadStart),
            ("A", IdError::BadStart),
            ("a..b", IdError::DotDot),
            ("a/b", IdError::BadCharacter),
            ("a\0", IdError::BadCharacter),
            ("a\n", IdError::BadCharacter),
            ("é", IdError::BadStart),
            ("aé", IdError::BadCharacter),
            ("aB", IdError::BadCharacter),
            ("../x", IdError::BadStart),
            ("/x", IdError::BadStart),
            (&"a".repeat(65), IdError::TooLong),
        ] {
            assert_eq!(validate_id(bad), Err(why), "{bad:?}");
        }
    }
}
