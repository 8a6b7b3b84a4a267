//! Whether the last run of a series is another than those before it: a function of figures alone.
//!
//! A machine that is shared drifts and has bad minutes, so that neither a mean nor a standard deviation says what is usual: one
//! disturbed run moves both. The median and the median absolute deviation do not move until half of the runs are disturbed
//! (Rousseeuw and Croux, Alternatives to the Median Absolute Deviation, 1993). A last run may have had a bad minute itself, so that its
//! best repeat is asked too.

/// Runs before the last that it is compared with: enough to know what is usual, and few enough to forget what was usual long ago.
pub(super) const WINDOW: usize = 10;
/// With fewer runs before it, nothing is said of a last one.
pub(super) const FEWEST: usize = 5;
/// No change up to this part is called one, however alike the runs before were.
pub(crate) const LEAST: f64 = 0.05;
/// Deviations that a change has to exceed.
const DEVIATIONS: f64 = 3.0;
/// A normal distribution's standard deviation over its median absolute deviation.
const NORMAL: f64 = 1.4826;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    Higher,
    Lower,
}

/// The median of repeats, the least and the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Band {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Band {
    /// Of values above zero; none where there are none.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let usable = |value: &f64| value.is_finite() && *value > 0.0;
        let values: Vec<f64> = values.into_iter().filter(usable).collect();
        Some(Self {
            least: values.iter().copied().reduce(f64::min)?,
            most: values.iter().copied().reduce(f64::max)?,
            median: median(values),
        })
    }
}

/// What is to be said of a last run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Nothing: there are fewer than [`FEWEST`] runs before it.
    Unknown,
    /// It differs no more than runs do.
    Usual(Change),
    Worse(Change),
    Better(Change),
}

/// A last run beside those before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Change {
    /// How much better it is than their median: above 1, it is better.
    pub(super) ratio: f64,
    /// Their median.
    pub(super) usual: f64,
    /// By what part it may differ.
    pub(super) allowed: f64,
    /// How many there are.
    pub(super) runs: usize,
}

/// Judges the last of some runs, whose figures are above zero and in order; there may be none.
pub(super) fn judge(runs: &[Band], better: Better) -> Verdict {
    let Some((last, before)) = runs.split_last() else {
        return Verdict::Unknown;
    };
    let before = &before[before.len().saturating_sub(WINDOW)..];
    let Some(usual) = Band::of(before.iter().map(|run| run.median)) else {
        return Verdict::Unknown;
    };
    if before.len() < FEWEST {
        return Verdict::Unknown;
    }
    let usual = usual.median;
    let deviations = before.iter().map(|run| (run.median - usual).abs());
    let spread = NORMAL * median(deviations.collect()) / usual;
    let as_good = |value: f64| match better {
        Better::Higher => value / usual,
        Better::Lower => usual / value,
    };
    let ratio = as_good(last.median);
    let [least, most] = [last.least, last.most].map(as_good);
    let change = Change {
        ratio,
        usual,
        allowed: LEAST.max(DEVIATIONS * spread),
        runs: before.len(),
    };
    // No repeat may be near what is usual.
    let near = change.allowed / 2.0;
    if ratio < 1.0 - change.allowed && least.max(most) < 1.0 - near {
        Verdict::Worse(change)
    } else if ratio > 1.0 + change.allowed && least.min(most) > 1.0 + near {
        Verdict::Better(change)
    } else {
        Verdict::Usual(change)
    }
}

/// The median of some values, of which there is at least one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let count = values.len();
    (values[(count - 1) / 2] + values[count / 2]) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs of one repeat each.
    fn alone(values: &[f64], better: Better) -> Verdict {
        let runs = values.iter().filter_map(|&value| Band::of([value]));
        judge(&runs.collect::<Vec<_>>(), better)
    }

    fn ratio(values: &[f64], better: Better) -> (char, f64) {
        match alone(values, better) {
            Verdict::Unknown => ('?', 0.0),
            Verdict::Usual(change) => ('=', change.ratio),
            Verdict::Worse(change) => ('-', change.ratio),
            Verdict::Better(change) => ('+', change.ratio),
        }
    }

    #[test]
    fn a_ratio_is_above_one_where_the_last_is_better() {
        let before = [100.0, 101.0, 99.0, 100.0, 100.0];
        let then = |last: f64| [&before[..], &[last]].concat();
        assert_eq!(ratio(&then(90.0), Better::Higher), ('-', 0.9));
        assert_eq!(ratio(&then(110.0), Better::Higher), ('+', 1.1));
        assert_eq!(ratio(&then(125.0), Better::Lower), ('-', 0.8));
        assert_eq!(ratio(&then(80.0), Better::Lower), ('+', 1.25));
        assert_eq!(ratio(&then(96.0), Better::Higher), ('=', 0.96));
    }

    #[test]
    fn few_runs_tell_nothing() {
        assert_eq!(alone(&[], Better::Higher), Verdict::Unknown);
        assert_eq!(
            alone(&[9.0, 9.0, 9.0, 9.0, 1.0], Better::Higher),
            Verdict::Unknown
        );
        assert_eq!(
            ratio(&[9.0, 9.0, 9.0, 9.0, 9.0, 1.0], Better::Higher).0,
            '-'
        );
    }

    #[test]
    fn what_varies_much_may_vary_so() {
        let before = [100.0, 110.0, 90.0, 105.0, 95.0, 100.0];
        let Verdict::Usual(change) = alone(&[&before[..], &[85.0]].concat(), Better::Higher) else {
            panic!();
        };
        // Half of them are 5 or more from the median.
        assert!((change.allowed - 3.0 * 1.4826 * 0.05).abs() < 1e-12);
        assert_eq!(change.runs, 6);
    }

    #[test]
    fn a_run_with_one_repeat_as_usual_is_no_loss() {
        let mut runs: Vec<Band> = [100.0; 6]
            .iter()
            .filter_map(|&value| Band::of([value]))
            .collect();
        let disturbed = Band::of([80.0, 85.0, 99.0]).unwrap();
        let slower = Band::of([80.0, 85.0, 92.0]).unwrap();
        runs.push(disturbed);
        assert!(matches!(judge(&runs, Better::Higher), Verdict::Usual(_)));
        assert!(matches!(judge(&runs, Better::Lower), Verdict::Usual(_)));
        runs[6] = slower;
        assert!(matches!(judge(&runs, Better::Higher), Verdict::Worse(_)));
        assert!(matches!(judge(&runs, Better::Lower), Verdict::Better(_)));
    }

    #[test]
    fn disturbed_runs_and_old_ones_change_nothing() {
        let mut values = vec![50.0; 20];
        values.extend([100.0; 10]);
        values[22] = 30.0;
        values[25] = 200.0;
        values.push(92.0);
        let Verdict::Worse(change) = alone(&values, Better::Higher) else {
            panic!();
        };
        assert_eq!(
            (change.usual, change.allowed, change.runs),
            (100.0, LEAST, WINDOW)
        );
    }

    #[test]
    fn what_is_no_figure_is_left_out() {
        assert_eq!(Band::of([f64::NAN, 0.0, -1.0]), None);
        let band = Band::of([3.0, 1.0, f64::INFINITY, 2.0, 4.0]).unwrap();
        assert_eq!((band.least, band.median, band.most), (1.0, 2.5, 4.0));
    }
}
