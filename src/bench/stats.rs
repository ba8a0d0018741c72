//! Percentiles. Pure.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Times of the same work, sorted.
#[derive(Debug, Clone, Default)]
pub(super) struct Times(Vec<Duration>);

impl Times {
    /// These, in any order.
    pub(super) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest one that at least `percent` of a hundred are not above (nearest rank); `None` without any.
    pub(super) fn percentile(&self, percent: u32) -> Option<Duration> {
        let rank = (self.0.len() * percent as usize).div_ceil(100).max(1);
        self.0.get(rank - 1).copied()
    }

    /// The median: between two in the middle, half of both.
    pub(super) fn median(&self) -> Option<Duration> {
        let middle = self.0.len() / 2;
        let upper = self.0.get(middle)?;
        match self.0.len() % 2 {
            1 => Some(*upper),
            _ => Some((self.0[middle - 1] + *upper) / 2),
        }
    }

    /// The shortest.
    pub(super) fn least(&self) -> Option<Duration> {
        self.0.first().copied()
    }

    /// The arithmetic mean.
    pub(super) fn mean(&self) -> Option<Duration> {
        let total: Duration = self.0.iter().sum();
        total.checked_div(u32::try_from(self.0.len()).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(millis: impl IntoIterator<Item = u64>) -> Times {
        Times::new(millis.into_iter().map(Duration::from_millis).collect())
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred = times((1..=100).rev());
        for (percent, millis) in [(0, 1), (1, 1), (50, 50), (95, 95), (99, 99), (100, 100)] {
            assert_eq!(hundred.percentile(percent), Some(Duration::from_millis(millis)), "{percent}");
        }
        let three = times([30, 10, 20]);
        assert_eq!(three.percentile(95), Some(Duration::from_millis(30)));
        assert_eq!(three.percentile(50), Some(Duration::from_millis(20)));
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_ones() {
        assert_eq!(times([4, 1, 2, 3]).median(), Some(Duration::from_micros(2500)));
        assert_eq!(times([5]).median(), Some(Duration::from_millis(5)));
        assert_eq!(times([1, 2, 6]).mean(), Some(Duration::from_millis(3)));
        assert_eq!(times([3, 2]).least(), Some(Duration::from_millis(2)));
    }

    #[test]
    fn nothing_measured_has_no_figures() {
        let none = times([]);
        assert_eq!((none.count(), none.percentile(50), none.median()), (0, None, None));
        assert_eq!((none.least(), none.mean()), (None, None));
    }
}
