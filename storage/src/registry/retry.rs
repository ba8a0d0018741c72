//! When to try again.
#![forbid(unsafe_code)]

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::id::random_bytes;

/// The longest wait that nobody asked for.
const LONGEST: Duration = Duration::from_secs(15);

/// How long to wait before attempt `attempt` (the first retry is 0): doubling from `base`, at least `asked`, and up
/// to half as much again so that those who failed together do not come back together.
pub(super) fn delay(attempt: u32, base: Duration, asked: Option<Duration>) -> Duration {
    let doubled = base.saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(LONGEST);
    let least = doubled.max(asked.unwrap_or_default());
    least + least.min(LONGEST).mul_f64(f64::from(random_bytes::<1>()[0]) / 512.0)
}

/// What the registry asks for: seconds or a date (RFC 9110, section 10.2.3).
pub(super) fn asked(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let when = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    let wait = when - OffsetDateTime::now_utc();
    Some(wait.try_into().unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &str) -> Option<Duration> {
        asked(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]))
    }

    #[test]
    fn both_forms_of_retry_after() {
        assert_eq!(header("120"), Some(Duration::from_secs(120)));
        assert_eq!(header("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let future = header("Sun, 06 Nov 2094 08:49:37 GMT").unwrap();
        assert!(future > Duration::from_secs(1_000_000_000));
        for odd in ["", "-1", "soon", "99999999999999999999999"] {
            assert_eq!(header(odd), None, "{odd}");
        }
    }

    #[test]
    fn delays_grow_and_end() {
        let base = Duration::from_millis(100);
        for attempt in 0..80 {
            let wait = delay(attempt, base, None);
            assert!(wait >= base.saturating_mul(1 << attempt.min(10)).min(LONGEST));
            assert!(wait <= LONGEST.mul_f64(1.5));
        }
        assert!(delay(0, base, Some(Duration::from_secs(60))) >= Duration::from_secs(60));
    }
}
