//! Axes: the position of values along an axis, and the round values marked on it.

/// The spread of values along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    Log,
}

/// Larger values are drawn as this one, so that the difference of two stays finite.
const LARGEST: f64 = 1e300;
/// Most marks of an axis.
const MOST_TICKS: u64 = 50;

impl Scale {
    /// Maps a value to a position that grows evenly along the axis: itself, or its natural
    /// logarithm.
    pub(crate) fn forward(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.max(f64::MIN_POSITIVE).ln(),
        }
    }

    fn back(self, position: f64) -> f64 {
        match self {
            Self::Linear => position,
            Self::Log => position.exp(),
        }
    }

    /// Returns whether a value has a place on the axis.
    fn shows(self, value: f64) -> bool {
        value.is_finite() && (self == Self::Linear || value > 0.0)
    }
}

/// The range of values that an axis shows. `low` is less than `high`, and both are finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
}

/// A marked value of an axis, and its label.
pub(crate) type Tick = (f64, String);

impl Axis {
    /// Returns an axis that spans all values that the scale can show. A single value lies in the
    /// middle. Without values, the axis goes from 0 to 1 (logarithmic: 1 to 10).
    pub(crate) fn over(scale: Scale, values: impl IntoIterator<Item = f64>) -> Self {
        let shown = values
            .into_iter()
            .filter(|value| scale.shows(*value))
            .map(|value| value.clamp(-LARGEST, LARGEST));
        let (low, high) = shown.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let (low, high) = match scale {
            _ if low > high && scale == Scale::Log => (1.0, 10.0),
            _ if low > high => (0.0, 1.0),
            _ if high - low > high.abs().max(low.abs()) * 1e-9 => (low, high),
            Scale::Linear if high == 0.0 => (-1.0, 1.0),
            Scale::Linear => (low - low.abs() * 0.5, high + high.abs() * 0.5),
            Scale::Log => (low / 2.0, high * 2.0),
        };
        Self { scale, low, high }
    }

    /// Moves both ends outward to round values, and returns about `parts` marks.
    pub(crate) fn rounded(self, parts: f64) -> (Self, Vec<Tick>) {
        match self.scale {
            Scale::Linear => {
                let every = nice(self.high - self.low, parts);
                let rounded = Self {
                    low: (self.low / every).floor() * every,
                    high: (self.high / every).ceil() * every,
                    ..self
                };
                (rounded, rounded.multiples(every))
            }
            Scale::Log => {
                let (low, high) = (self.low.log10().floor(), self.high.log10().ceil());
                let rounded = Self { low: 10f64.powf(low), high: 10f64.powf(high), ..self };
                (rounded, rounded.ticks(parts))
            }
        }
    }

    /// Returns the same axis in a unit that is `times` smaller, so that its values are larger.
    pub(crate) fn times(self, times: f64) -> Self {
        Self { low: self.low * times, high: self.high * times, ..self }
    }

    /// Returns the position of a value along the axis: 0 at the low end, 1 at the high end. Returns
    /// `None` if the scale cannot show the value.
    pub(crate) fn part(&self, value: f64) -> Option<f64> {
        let (low, high) = (self.scale.forward(self.low), self.scale.forward(self.high));
        self.scale
            .shows(value)
            .then(|| (self.scale.forward(value.clamp(-LARGEST, LARGEST)) - low) / (high - low))
    }

    /// Returns the value that lies `part` of the way along the axis.
    pub(crate) fn value(&self, part: f64) -> f64 {
        let (low, high) = (self.scale.forward(self.low), self.scale.forward(self.high));
        self.scale.back(low + part * (high - low))
    }

    /// Returns about `parts` round values within the axis.
    pub(crate) fn ticks(&self, parts: f64) -> Vec<Tick> {
        if self.scale == Scale::Log {
            let ticks = self.powers(parts);
            // Within less than a power of ten, values lie nearly evenly.
            if ticks.len() > 1 {
                return ticks
                    .into_iter()
                    .map(|value| (value, crate::numbers::short(value)))
                    .collect();
            }
        }
        self.multiples(nice(self.high - self.low, parts))
    }

    /// Returns the multiples of `every` within the axis.
    fn multiples(&self, every: f64) -> Vec<Tick> {
        let first = (self.low / every - 1e-6).ceil();
        let largest = self.low.abs().max(self.high.abs());
        (0..MOST_TICKS)
            .map(|at| (first + at as f64) * every)
            .take_while(|value| *value <= self.high + every * 1e-6)
            .map(|value| (value, number(value, every, largest)))
            .collect()
    }

    /// Returns powers of ten within the axis. Adds their doubles and halves if there is room, and
    /// returns only some of the powers if there is little.
    fn powers(&self, parts: f64) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let decades = self.high.log10() - self.low.log10();
        let between: &[f64] = if 3.0 * decades <= 1.5 * parts { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let every = (decades / parts).ceil().max(1.0) as i32;
        let powers = (first..=last).filter(|power| power.rem_euclid(every) == 0);
        let values =
            powers.flat_map(|power| between.iter().map(move |times| times * 10f64.powi(power)));
        values
            .filter(|value| (self.low * (1.0 - 1e-9)..=self.high * (1.0 + 1e-9)).contains(value))
            .collect()
    }
}

/// Returns a distance of 1, 2 or 5 times a power of ten that divides `range` into about `parts`.
fn nice(range: f64, parts: f64) -> f64 {
    let rough = range / parts.max(1.0);
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0].into_iter().find(|step| step * power >= rough * 0.999_999).unwrap_or(10.0);
    step * power
}

/// Formats a marked value with just enough digits to tell marks `every` apart. The unit follows
/// from the `largest` value of the axis, so that all its marks share it.
fn number(value: f64, every: f64, largest: f64) -> String {
    if value.abs() < every * 1e-6 {
        return "0".to_owned();
    }
    if largest >= 1e15 || (largest < 1e-2 && every < 1e-3) {
        let digits =
            (value.abs() * (1.0 + 1e-9)).log10().floor() - (every * (1.0 + 1e-9)).log10().floor();
        return format!("{value:.*e}", digits.clamp(1.0, 15.0) as usize);
    }
    let (size, unit) = match largest {
        _ if largest >= 1e12 => (1e12, "T"),
        _ if largest >= 1e9 => (1e9, "G"),
        _ if largest >= 1e6 => (1e6, "M"),
        _ if largest >= 1e4 => (1e3, "k"),
        _ => (1.0, ""),
    };
    let digits = (-(every / size).log10() - 1e-9).ceil().clamp(0.0, 15.0) as usize;
    format!("{:.digits$}{unit}", value / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: Axis, parts: f64) -> Vec<String> {
        axis.ticks(parts).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn marks_are_at_round_numbers() {
        assert_eq!(nice(10.0, 5.0), 2.0);
        assert_eq!(nice(0.9, 4.0), 0.5);
        assert_eq!(nice(3000.0, 8.0), 500.0);
        assert_eq!(number(0.25, 0.05, 0.25), "0.25");
        assert_eq!(number(1500.0, 500.0, 1500.0), "1500");
        assert_eq!(number(0.0002, 0.0002, 0.0002), "2.0e-4");
    }

    #[test]
    fn labels_of_an_axis_differ_and_share_a_unit() {
        let over = |low, high| Axis::over(Scale::Linear, [low, high]);
        assert_eq!(labels(over(0.0, 1.0), 4.0), ["0", "0.5", "1.0"]);
        assert_eq!(labels(over(-3.0, 5.0), 4.0), ["-2", "0", "2", "4"]);
        assert_eq!(
            labels(over(0.0, 1_200_000.0), 6.0),
            ["0", "0.2M", "0.4M", "0.6M", "0.8M", "1.0M", "1.2M"]
        );
        assert_eq!(labels(over(9500.0, 10_500.0), 4.0), ["9.5k", "10.0k", "10.5k"]);
        assert_eq!(labels(over(1.0, 1.0006), 3.0), ["1.0000", "1.0002", "1.0004", "1.0006"]);
        assert_eq!(
            labels(over(0.0, 1e-3), 5.0),
            ["0", "2.0e-4", "4.0e-4", "6.0e-4", "8.0e-4", "1.0e-3"]
        );
        assert_eq!(labels(over(1e-12, 3e-12), 2.0), ["1.0e-12", "2.0e-12", "3.0e-12"]);
        assert_eq!(labels(over(0.0, 1e18), 2.0), ["0", "5.0e17", "1.0e18"]);
    }

    #[test]
    fn logarithmic_marks_are_powers_of_ten_and_what_lies_between_them() {
        let over = |low, high| Axis::over(Scale::Log, [low, high]);
        assert_eq!(labels(over(47.0, 640.0), 5.0), ["50", "100", "200", "500"]);
        assert_eq!(labels(over(1.0, 1e6), 6.0), ["1", "10", "100", "1000", "10k", "100k", "1M"]);
        // 24 decades in 6 parts: every fourth power.
        assert_eq!(
            labels(over(1e-12, 1e12), 6.0),
            ["1.0e-12", "1.0e-8", "1.0e-4", "1", "10k", "100M", "1000G"]
        );
        // Less than a decade: evenly spaced.
        assert_eq!(labels(over(30.0, 90.0), 4.0), ["40", "60", "80"]);
    }

    #[test]
    fn values_lie_where_they_should() {
        let linear = Axis::over(Scale::Linear, [2.0, 10.0, f64::NAN, f64::INFINITY]);
        assert_eq!(linear.part(4.0), Some(0.25));
        assert_eq!(linear.value(0.25), 4.0);
        assert_eq!([f64::NAN, f64::INFINITY].map(|value| linear.part(value)), [None, None]);
        let log = Axis::over(Scale::Log, [1.0, 10_000.0, 0.0, -5.0]);
        assert!(
            (log.part(100.0).unwrap() - 0.5).abs() < 1e-9 && (log.value(0.5) - 100.0).abs() < 1e-9
        );
        assert_eq!([0.0, -1.0].map(|value| log.part(value)), [None, None]);
        let (rounded, ticks) = Axis::over(Scale::Linear, [0.13, 0.79]).rounded(4.0);
        assert_eq!((rounded.part(0.0), rounded.part(0.8)), (Some(0.0), Some(1.0)));
        let labels: Vec<&str> = ticks.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["0", "0.2", "0.4", "0.6", "0.8"], "both ends are marked");
    }

    #[test]
    fn strange_axes_have_an_extent_and_few_marks() {
        let nothing: [f64; 0] = [];
        let values: [&[f64]; 10] = [
            &nothing,
            &[0.0],
            &[5.0],
            &[-5.0, -5.0],
            &[f64::MAX, f64::MIN],
            &[1e300, -1e300],
            &[f64::MIN_POSITIVE],
            &[1e-12, 1e12],
            &[u64::MAX as f64],
            &[1.0, 1.0 + 1e-15],
        ];
        for values in values {
            for scale in [Scale::Linear, Scale::Log] {
                let axis = Axis::over(scale, values.iter().copied());
                assert!(
                    axis.low < axis.high && axis.low.is_finite() && axis.high.is_finite(),
                    "{values:?} {axis:?}"
                );
                let (rounded, ticks) = axis.rounded(5.0);
                assert!(
                    rounded.low <= axis.low && axis.high <= rounded.high,
                    "{axis:?} {rounded:?}"
                );
                assert!((1..=20).contains(&ticks.len()), "{values:?} {ticks:?}");
                for parts in [0.0, 1.0, 5.0, 8.0] {
                    assert!(
                        rounded.ticks(parts).len() <= 20,
                        "{values:?} {:?}",
                        rounded.ticks(parts)
                    );
                }
                let parts = values.iter().filter_map(|value| axis.part(*value));
                assert!(
                    parts.clone().all(|part| (-1e-9..=1.0 + 1e-9).contains(&part)),
                    "{values:?}"
                );
            }
        }
    }
}
