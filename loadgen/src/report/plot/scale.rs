//! From values to places on paper, and the values that an axis names.

/// About how many values an axis names.
const TICKS: f64 = 5.0;

/// An axis: its values, the places that the first and the last of them have, and whether equal ratios are equal steps.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    from: f64,
    to: f64,
    places: (f64, f64),
    log: bool,
    ticks: Vec<f64>,
}

impl Scale {
    /// An axis on which all of `values` have a place. A linear one begins at zero. A logarithmic one takes values above zero
    /// alone, and is linear where there are none.
    pub(super) fn new(
        values: impl IntoIterator<Item = f64>,
        places: (f64, f64),
        log: bool,
    ) -> Self {
        let values = values.into_iter().filter(|value| value.is_finite());
        let values: Vec<f64> = values.filter(|&value| !log || value > 0.0).collect();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        if log && !values.is_empty() {
            let ticks = log_ticks(least, most);
            let (from, to) = (ticks[0], ticks[ticks.len() - 1]);
            return Self {
                from,
                to,
                places,
                log,
                ticks,
            };
        }
        let ticks = linear_ticks(most);
        Self {
            from: 0.0,
            to: ticks[ticks.len() - 1],
            places,
            log: false,
            ticks,
        }
    }

    /// An axis that names these values and no others, in equal steps for equal ratios.
    pub(super) fn of_sizes(sizes: &[f64], places: (f64, f64)) -> Self {
        let (from, to) = (
            sizes.first().copied().unwrap_or(1.0),
            sizes.last().copied().unwrap_or(1.0),
        );
        Self {
            // One value alone stands in the middle.
            from: if from == to { from / 2.0 } else { from },
            to: if from == to { to * 2.0 } else { to },
            places,
            log: true,
            ticks: sizes.to_vec(),
        }
    }

    /// An axis of so many places in a row, from 0, in equal steps.
    pub(super) fn of_row(count: usize, places: (f64, f64)) -> Self {
        let last = count.saturating_sub(1) as f64;
        Self {
            // One place alone is in the middle.
            from: if count > 1 { 0.0 } else { -1.0 },
            to: last.max(1.0),
            places,
            log: false,
            ticks: (0..count).map(|place| place as f64).collect(),
        }
    }

    /// A value's place; none where a logarithmic axis cannot have it.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        let share = if self.log {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        let (first, last) = self.places;
        share.is_finite().then_some(first + share * (last - first))
    }

    /// The values that it names, in order; the first and the last are its ends.
    pub(super) fn ticks(&self) -> &[f64] {
        &self.ticks
    }
}

/// Zero and round values up to one that is at least `most`.
fn linear_ticks(most: f64) -> Vec<f64> {
    let most = if most > 0.0 { most } else { 1.0 };
    let step = round_step(most / TICKS);
    let count = (most / step - 1e-9).ceil() as u32;
    (0..=count).map(|i| f64::from(i) * step).collect()
}

/// The next of 1, 2, 2.5 and 5 times a power of ten.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0]
        .into_iter()
        .find(|step| step * power >= least * (1.0 - 1e-9));
    step.unwrap_or(10.0) * power
}

/// Of 1, 2 and 5 times powers of ten, or powers of ten alone where these are many, those around and between two values.
fn log_ticks(least: f64, most: f64) -> Vec<f64> {
    let decades = (most / least).log10();
    let steps: &[f64] = match decades {
        many if many > 3.0 => &[1.0],
        some if some > 1.5 => &[1.0, 3.0],
        _ => &[1.0, 2.0, 5.0],
    };
    let powers = least.log10().floor() as i32 - 1..=most.log10().ceil() as i32 + 1;
    let all: Vec<f64> = powers
        .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)))
        .collect();
    let first = all
        .iter()
        .rposition(|&tick| tick <= least * (1.0 + 1e-9))
        .unwrap_or(0);
    let last = all
        .iter()
        .position(|&tick| tick >= most * (1.0 - 1e-9))
        .unwrap_or(all.len() - 1);
    all[first..=last.max(first + 1)].to_vec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn linear_axes_begin_at_zero_and_end_round() {
        for (most, expected) in [
            (1.0, vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
            (870.0, vec![0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]),
            (12.0, vec![0.0, 2.5, 5.0, 7.5, 10.0, 12.5]),
            (0.0, vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ] {
            let scale = Scale::new([most], (0.0, 100.0), false);
            let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-9;
            assert!(scale.ticks().iter().zip(&expected).all(near), "{scale:?}");
            assert_eq!(scale.ticks().len(), expected.len());
        }
    }

    #[test]
    fn logarithmic_axes_give_equal_ratios_equal_steps() {
        let scale = Scale::new([10.0, 1000.0], (300.0, 0.0), true);
        let place = |value| scale.place(value).unwrap();
        assert!((place(10.0) - 300.0).abs() < 1e-9 && place(1000.0).abs() < 1e-9);
        assert!((place(100.0) - 150.0).abs() < 1e-9);
        assert_eq!(scale.place(0.0), None);
        assert_eq!(scale.place(-1.0), None);
    }

    #[test]
    fn sizes_are_all_named_and_one_alone_is_in_the_middle() {
        let scale = Scale::of_sizes(&[1.0, 8.0, 64.0], (0.0, 100.0));
        assert_eq!(scale.ticks(), [1.0, 8.0, 64.0]);
        assert!((scale.place(8.0).unwrap() - 50.0).abs() < 1e-9);
        let alone = Scale::of_sizes(&[8.0], (0.0, 100.0));
        assert!((alone.place(8.0).unwrap() - 50.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn all_values_are_on_the_axis(
            values in prop::collection::vec(1e-6..1e9f64, 1..20),
            log in any::<bool>(),
        ) {
            let scale = Scale::new(values.iter().copied(), (0.0, 100.0), log);
            for value in values {
                let place = scale.place(value).unwrap();
                prop_assert!((-1e-6..=100.0 + 1e-6).contains(&place), "{value} {scale:?}");
            }
            prop_assert!((2..=12).contains(&scale.ticks().len()), "{scale:?}");
            prop_assert!(scale.ticks().is_sorted());
        }
    }
}
