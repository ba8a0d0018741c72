//! When things end, whatever becomes of the clock on the wall.
//!
//! What runs out is counted by `CLOCK_BOOTTIME` (clock_gettime(2)), which nobody can set and which goes on while the machine
//! sleeps. It is only meaningful until the next boot: for what is on disk the wall clock is noted as well, and used when the
//! machine was booted since.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Milliseconds since the machine was booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Moment(u64);

impl Moment {
    /// Now.
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        Self(seconds.saturating_mul(1000) + u64::try_from(now.tv_nsec).unwrap_or_default() / 1_000_000)
    }

    /// So much later.
    pub(super) fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long it is from `earlier` to this; nothing if that is later.
    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// What the clock on the wall will say then, if nobody sets it. The same moment is always shown as the same time, unless
    /// the clock was set.
    pub(super) fn on_the_wall(self) -> OffsetDateTime {
        let shown = i128::from(self.0) * 1000 + i128::from(boot());
        OffsetDateTime::from_unix_timestamp_nanos(shown.saturating_mul(1000))
            .unwrap_or_else(|_| OffsetDateTime::now_utc())
    }
}

/// When the machine was booted, by the clock on the wall: microseconds since 1970.
fn boot() -> i64 {
    /// Two clocks are not read at the same time: so much is no reason to believe that one was set.
    const JITTER: i64 = 50_000;
    static KNOWN: AtomicI64 = AtomicI64::new(i64::MIN);
    let since = i128::from(Moment::now().0) * 1000;
    let now =
        i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1000 - since).unwrap_or_default();
    let known = KNOWN.load(Ordering::Relaxed);
    if known.saturating_sub(now).saturating_abs() <= JITTER {
        return known;
    }
    KNOWN.store(now, Ordering::Relaxed);
    now
}

/// A [`Moment`] on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    boot: String,
    at: u64,
    #[serde(with = "time::serde::rfc3339")]
    wall: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    saved: OffsetDateTime,
}

/// The present, for what is saved and restored.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    boot: String,
}

impl Clock {
    /// Of this boot. A kernel that does not say which it is has a new one at each start.
    pub(super) fn new() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        Self { boot: boot.map_or_else(|_| uuid::Uuid::new_v4().to_string(), |boot| boot.trim().to_owned()) }
    }

    pub(super) fn save(&self, moment: Moment) -> Saved {
        let saved = OffsetDateTime::now_utc();
        Saved { boot: self.boot.clone(), at: moment.0, wall: moment.on_the_wall(), saved }
    }

    pub(super) fn restore(&self, saved: &Saved) -> Moment {
        restore(saved, &self.boot, Moment::now(), OffsetDateTime::now_utc())
    }
}

/// After another boot what was left is what the wall clock says, but never more than there was when it was saved: a clock
/// that was set back gives nobody time.
fn restore(saved: &Saved, boot: &str, now: Moment, wall: OffsetDateTime) -> Moment {
    if saved.boot == boot {
        return Moment(saved.at);
    }
    let left = (saved.wall - wall).min(saved.wall - saved.saved);
    now.after(Duration::try_from(left).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(boot: &str, left: i64) -> (Saved, OffsetDateTime) {
        let now = OffsetDateTime::now_utc();
        let saved = Saved {
            boot: boot.to_owned(),
            at: 70_000,
            wall: now + time::Duration::seconds(left),
            saved: now,
        };
        (saved, now)
    }

    #[test]
    fn within_a_boot_the_wall_clock_does_not_matter() {
        let (saved, wall) = saved("b", 60);
        for jump in [-1_000_000, 0, 1_000_000] {
            let wall = wall + time::Duration::seconds(jump);
            assert_eq!(restore(&saved, "b", Moment(10_000), wall), Moment(70_000));
        }
    }

    #[test]
    fn after_a_boot_the_wall_clock_says_what_is_left_and_never_more_than_there_was() {
        let (saved, wall) = saved("b", 60);
        let at = |jump| restore(&saved, "c", Moment(5_000), wall + time::Duration::seconds(jump));
        assert_eq!(at(20), Moment(45_000));
        assert_eq!(at(1_000_000), Moment(5_000));
        assert_eq!(at(-1_000_000), Moment(65_000));
    }

    #[test]
    fn a_moment_is_shown_on_the_wall() {
        let later = Moment::now().after(Duration::from_secs(100));
        let shown = later.on_the_wall() - OffsetDateTime::now_utc();
        assert!((99..=100).contains(&shown.whole_seconds()), "{shown}");
        let first = later.on_the_wall();
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(first, later.on_the_wall());
        assert!(Moment(u64::MAX).on_the_wall() >= OffsetDateTime::now_utc() - time::Duration::SECOND);
    }
}
