//! The plots of native and served passes: what each takes over batch sizes and concurrencies, and their ratio.

use std::collections::BTreeSet;

use super::{
    plot::{Heat, Lines, Plot, lines::Series},
    record::{Native, Record, Served},
};
use crate::stats::Repeats;

/// The mean seconds of passes over all examples, by batch size and, where they were served, concurrency.
struct Means {
    native: Vec<(usize, f64)>,
    served: Vec<(usize, usize, f64)>,
}

/// Seconds as lines over the batch size, and native over served as a map.
pub(super) fn plots(records: &[Record]) -> Vec<Plot> {
    let means = Means::of(records);
    let mut series = Vec::new();
    if !means.native.is_empty() {
        series.push(Series {
            name: "native".into(),
            colour: 0,
            points: means
                .native
                .iter()
                .map(|&(batch, seconds)| (batch as f64, seconds))
                .collect(),
            ..Series::default()
        });
    }
    let concurrencies: BTreeSet<usize> = means.served.iter().map(|&(_, users, _)| users).collect();
    for (number, &users) in concurrencies.iter().enumerate() {
        let of = means
            .served
            .iter()
            .filter(|&&(_, others, _)| others == users);
        series.push(Series {
            name: format!("served, {users} in flight"),
            colour: number + 1,
            points: of
                .map(|&(batch, _, seconds)| (batch as f64, seconds))
                .collect(),
            ..Series::default()
        });
    }
    vec![
        Plot::Lines(Lines {
            title: "Time for all examples".into(),
            x: "batch size, or examples in a request".into(),
            y: "s".into(),
            log: true,
            series,
            ..Lines::default()
        }),
        Plot::Heat(means.ratios(&concurrencies)),
    ]
}

impl Means {
    fn of(records: &[Record]) -> Self {
        let native: Vec<&Native> = records
            .iter()
            .filter_map(|record| match record {
                Record::Native(native) => Some(native),
                _ => None,
            })
            .collect();
        let served: Vec<&Served> = records
            .iter()
            .filter_map(|record| match record {
                Record::Served(served) => Some(served),
                _ => None,
            })
            .collect();
        let sizes: BTreeSet<usize> = native.iter().map(|pass| pass.batch).collect();
        let cells: BTreeSet<_> = served
            .iter()
            .map(|pass| (pass.batch, pass.concurrency))
            .collect();
        let native_at = |batch: usize| {
            let passes = native.iter().filter(|pass| pass.batch == batch);
            Repeats::of(passes.map(|pass| pass.seconds)).map(|repeats| repeats.mean)
        };
        let served_at = |cell| {
            let passes = served
                .iter()
                .filter(|pass| (pass.batch, pass.concurrency) == cell);
            Repeats::of(passes.map(|pass| pass.seconds)).map(|repeats| repeats.mean)
        };
        Self {
            native: sizes
                .into_iter()
                .filter_map(|batch| Some((batch, native_at(batch)?)))
                .collect(),
            served: cells
                .into_iter()
                .filter_map(|(batch, users)| Some((batch, users, served_at((batch, users))?)))
                .collect(),
        }
    }

    /// Native time over served time of each batch size.
    fn ratios(&self, concurrencies: &BTreeSet<usize>) -> Heat {
        let ratio = |batch, native: f64, users| {
            let served = self
                .served
                .iter()
                .find(|&&(size, others, _)| (size, others) == (batch, users));
            served.map(|&(_, _, seconds)| native / seconds)
        };
        let with_both = self.native.iter().filter(|_| !concurrencies.is_empty());
        Heat {
            title: "Native time over served time (above 1, serving is faster)".into(),
            x: "requests in flight".into(),
            columns: concurrencies.iter().map(usize::to_string).collect(),
            y: "batch".into(),
            rows: with_both
                .map(|&(batch, native)| {
                    let ratios = concurrencies
                        .iter()
                        .map(|&users| ratio(batch, native, users));
                    (batch.to_string(), ratios.collect())
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::matrix;

    #[test]
    fn ratios_are_native_over_served_and_lines_are_means() {
        let plots = plots(&matrix());
        let [Plot::Lines(lines), Plot::Heat(heat)] = plots.as_slice() else {
            panic!("{plots:?}");
        };
        let names: Vec<&str> = lines
            .series
            .iter()
            .map(|series| series.name.as_str())
            .collect();
        assert_eq!(names, ["native", "served, 16 in flight"]);
        assert_eq!(lines.series[0].points, [(1.0, 5.0), (32.0, 2.0)]);
        assert_eq!(lines.series[1].points, [(1.0, 2.5), (32.0, 3.0)]);
        assert_eq!(heat.rows[0], ("1".into(), vec![Some(2.0)]));
        assert_eq!(heat.rows[1], ("32".into(), vec![Some(2.0 / 3.0)]));
    }

    #[test]
    fn native_alone_has_no_ratios() {
        let native: Vec<Record> = matrix()
            .into_iter()
            .filter(|record| matches!(record, Record::Native(_)))
            .collect();
        let plots = plots(&native);
        assert!(plots[1].is_empty() && !plots[0].is_empty());
    }
}
