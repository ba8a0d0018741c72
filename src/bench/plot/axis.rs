//! [`Axis`]: a logarithmic scale over some values, with its ticks. Pure.
#![forbid(unsafe_code)]

/// A logarithmic scale between two places of the drawing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    /// Decimal logarithms of the least and the greatest value.
    low: f64,
    high: f64,
    begin: f64,
    end: f64,
}

/// What stands for 0 and less, which have no logarithm.
const LEAST: f64 = 1e-6;
/// Values that are this near (in powers of ten) are set apart.
const NARROW: f64 = 0.05;

impl Axis {
    /// Over all `values`, from `begin` to `end`; `None` without values.
    pub(super) fn over(values: impl Iterator<Item = f64>, begin: f64, end: f64) -> Option<Self> {
        let logs = values.map(|value| value.max(LEAST).log10());
        let range = logs.fold(None, |range, log| match range {
            None => Some((log, log)),
            Some((low, high)) => Some((f64::min(low, log), f64::max(high, log))),
        });
        let (low, high) = range?;
        let (low, high) = if high - low < NARROW { (low - 0.5, high + 0.5) } else { (low, high) };
        Some(Self { low, high, begin, end })
    }

    /// Where a value is.
    pub(super) fn place(&self, value: f64) -> f64 {
        let share = (value.max(LEAST).log10() - self.low) / (self.high - self.low);
        self.begin + share.clamp(0.0, 1.0) * (self.end - self.begin)
    }

    /// Powers of ten; with twice and five times those where there are few.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let powers = self.multiples(&[1.0]);
        if powers.len() > 2 { powers } else { self.multiples(&[1.0, 2.0, 5.0]) }
    }

    fn multiples(&self, factors: &[f64]) -> Vec<f64> {
        let powers = self.low.floor() as i32..=self.high.ceil() as i32;
        let all = powers.flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
        let slack = 1e-9;
        all.filter(|value| (self.low - slack..=self.high + slack).contains(&value.log10())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_ten_are_evenly_apart() {
        let axis = Axis::over([1.0, 1000.0].into_iter(), 0.0, 300.0).unwrap();
        assert_eq!(axis.ticks(), [1.0, 10.0, 100.0, 1000.0]);
        let places: Vec<f64> = axis.ticks().into_iter().map(|tick| axis.place(tick).round()).collect();
        assert_eq!(places, [0.0, 100.0, 200.0, 300.0]);
    }

    #[test]
    fn a_short_range_has_more_ticks_and_a_single_value_is_in_the_middle() {
        assert_eq!(Axis::over([2.0, 12.0].into_iter(), 0.0, 1.0).unwrap().ticks(), [2.0, 5.0, 10.0]);
        let single = Axis::over([7.0].into_iter(), 0.0, 100.0).unwrap();
        assert!((single.place(7.0) - 50.0).abs() < 1e-9);
        assert!(!single.ticks().is_empty());
        assert!(Axis::over(std::iter::empty(), 0.0, 1.0).is_none());
    }

    #[test]
    fn nothing_is_placed_outside() {
        let axis = Axis::over([1.0, 10.0].into_iter(), 100.0, 0.0).unwrap();
        assert_eq!((axis.place(0.0), axis.place(1e9)), (100.0, 0.0));
    }
}
