//! The report of two builds in turn: how much faster one is than the other, and how sure that is.

use std::collections::BTreeMap;

use super::{
    cells::number,
    document::{Document, Table},
    history::verdict::LEAST,
    plot::{COLOURS, Lines, Plot, lines::Series},
    record::{BuildPass, Record, Round, Run},
};
use crate::stats::{Interval, Repeats, ratio_of_pairs};

/// Two builds, read from their records.
pub(super) struct Report<'a> {
    run: &'a Run,
    rows: Vec<Row<'a>>,
}

/// The rounds of one way to run a recipe.
struct Row<'a> {
    rounds: Vec<&'a Round>,
    /// Items a second of the new build over the old one's; none of too few rounds.
    ratio: Option<Interval>,
}

impl<'a> Report<'a> {
    pub(super) fn of(run: &'a Run, records: &'a [Record]) -> Self {
        let rounds = records.iter().filter_map(|record| match record {
            Record::Round(round) => Some(round),
            _ => None,
        });
        Self {
            run,
            rows: rows(rounds),
        }
    }

    pub(super) fn document(&self) -> Document {
        let mut document = Document::new("This build against another");
        document.text(format!(
            "{} rounds on {}, {}. The other build, `old` here: {}.",
            self.run.repeats,
            self.run.machine.name,
            self.run.device,
            self.run.old.as_deref().unwrap_or("unknown"),
        ));
        document.table(self.table());
        document.plots(self.plots());
        document.list(vec![
            "A ratio is this build's items a second over the old one's: above 1, this build is faster.".into(),
            "A round is a pass of each build, each in a process of its own, one right after the other; which goes first alternates, so \
             that a machine that drifts favours neither."
                .into(),
            "The ratio is the median of the means of every two rounds' ratios (Hodges and Lehmann), its interval of 95 % confidence that \
             of Wilcoxon's signed-rank test, both on logarithms. Where the interval includes 1, no difference is seen."
                .into(),
            "Items a second and p50 are medians of the rounds; p50 is that of a batch, or of a request.".into(),
        ]);
        document
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[
            "recipe",
            "run as",
            "rounds",
            "ratio",
            "95 % interval",
            "this build is",
            "items/s",
            "old items/s",
            "p50 ms",
            "old p50 ms",
            "dtype",
            "weights",
        ]);
        for row in &self.rows {
            let first = row.rounds[0];
            let ratio = row.ratio.map(|ratio| format!("{:.3}", ratio.ratio));
            let interval = row
                .ratio
                .map(|ratio| format!("{:.3} to {:.3}", ratio.low, ratio.high));
            table.row([
                first.recipe.clone(),
                way(first),
                row.rounds.len().to_string(),
                ratio.unwrap_or("-".into()),
                interval.unwrap_or("-".into()),
                says(row.ratio).into(),
                row.median(|round| round.new.items_per_s),
                row.median(|round| round.old.items_per_s),
                row.median(|round| round.new.latency_ms.p50),
                row.median(|round| round.old.latency_ms.p50),
                first.dtype.clone(),
                first.weights.clone(),
            ]);
        }
        table
    }

    /// The ratio of each round, as many lines in a plot as can be told apart.
    fn plots(&self) -> Vec<Plot> {
        let rounds = self.rows.iter().flat_map(|row| &row.rounds);
        let count = rounds.map(|round| round.repeat + 1).max().unwrap_or(0);
        let plots = self.rows.chunks(COLOURS).enumerate().map(|(part, rows)| {
            let series = rows.iter().enumerate().map(|(colour, row)| Series {
                name: format!("{}, {}", row.rounds[0].recipe, way(row.rounds[0])),
                colour,
                points: row
                    .rounds
                    .iter()
                    .map(|round| (round.repeat as f64, ratio(round)))
                    .collect(),
                bands: Vec::new(),
            });
            Plot::Lines(Lines {
                title: match part {
                    0 => "Each round".into(),
                    part => format!("Each round, {}", part + 1),
                },
                x: "round".into(),
                y: "items/s over old items/s".into(),
                names: (1..=count).map(|round| round.to_string()).collect(),
                series: series.collect(),
                ..Lines::default()
            })
        });
        plots.collect()
    }

    /// A line for each way to run a recipe.
    pub(super) fn terminal(&self) -> String {
        let names = self
            .rows
            .iter()
            .map(|row| format!("{}, {}", row.rounds[0].recipe, way(row.rounds[0])));
        let names: Vec<String> = names.collect();
        let width = names
            .iter()
            .map(|name| name.chars().count())
            .max()
            .unwrap_or(0);
        let lines = names.iter().zip(&self.rows).map(|(name, row)| {
            let ratio = row.ratio.map_or("-".into(), interval);
            format!("{name:width$}  {ratio}  {}", says(row.ratio))
        });
        let head = "items/s over those of the old build, with its 95 % interval; above 1, this build is faster";
        std::iter::once(head.to_owned())
            .chain(lines)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Where the new build is slower by more than can be let pass, in words: what a build may fail for.
pub(crate) fn regressions(rounds: &[Round]) -> Vec<String> {
    let lost = |ratio: Interval| ratio.high < 1.0 && ratio.ratio < 1.0 - LEAST;
    let rows = rows(rounds.iter());
    let worse = rows.iter().filter_map(|row| {
        let ratio = row.ratio.filter(|ratio| lost(*ratio))?;
        let first = row.rounds[0];
        Some(format!(
            "{}, {}: {}",
            first.recipe,
            way(first),
            interval(ratio)
        ))
    });
    worse.collect()
}

/// Rounds by recipe and how it was run.
fn rows<'a>(rounds: impl Iterator<Item = &'a Round>) -> Vec<Row<'a>> {
    let mut found = BTreeMap::<_, Vec<&Round>>::new();
    for round in rounds {
        let key = (&round.recipe, round.concurrency, round.batch);
        found.entry(key).or_default().push(round);
    }
    let rows = found.into_values().map(|rounds| {
        let pair = |round: &&Round| (round.new.items_per_s, round.old.items_per_s);
        let pairs: Vec<(f64, f64)> = rounds.iter().map(pair).collect();
        Row {
            ratio: ratio_of_pairs(&pairs),
            rounds,
        }
    });
    rows.collect()
}

impl Row<'_> {
    fn median(&self, value: fn(&Round) -> f64) -> String {
        let values = self.rounds.iter().map(|round| value(round));
        Repeats::of(values).map_or("-".into(), |repeats| number(repeats.median))
    }
}

fn ratio(round: &Round) -> f64 {
    let rate = |pass: &BuildPass| pass.items_per_s;
    rate(&round.new) / rate(&round.old)
}

fn way(round: &Round) -> String {
    match round.concurrency {
        Some(users) => format!("served, batch {}, {users} in flight", round.batch),
        None => format!("native, batch {}", round.batch),
    }
}

fn interval(Interval { ratio, low, high }: Interval) -> String {
    format!("{ratio:.3} ({low:.3} to {high:.3})")
}

fn says(ratio: Option<Interval>) -> &'static str {
    match ratio {
        Some(ratio) if ratio.low > 1.0 => "faster",
        Some(ratio) if ratio.high < 1.0 => "slower",
        Some(_) => "no other, as far as is seen",
        None => "unknown, of too few rounds",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::run;

    fn round(batch: usize, concurrency: Option<usize>, repeat: usize, new: f64) -> Round {
        let pass = |items_per_s| BuildPass {
            items_per_s,
            ..BuildPass::default()
        };
        Round {
            recipe: "echo".into(),
            weights: "none".into(),
            dtype: "json".into(),
            batch,
            concurrency,
            repeat,
            old_first: repeat % 2 == 1,
            new: pass(new),
            old: pass(100.0),
        }
    }

    /// Faster in process, slower served, and once with too few rounds.
    fn rounds() -> Vec<Round> {
        let wobble = |repeat: usize| [0.0, 1.0, -1.0, 0.5, -0.5][repeat % 5];
        let mut rounds: Vec<Round> = (0..10)
            .flat_map(|repeat| {
                [
                    round(8, None, repeat, 110.0 + wobble(repeat)),
                    round(1, Some(64), repeat, 90.0 + wobble(repeat)),
                    round(32, Some(64), repeat, 97.0 + wobble(repeat)),
                    round(1, None, repeat, 100.0 + wobble(repeat)),
                ]
            })
            .collect();
        rounds.extend((0..3).map(|repeat| round(128, None, repeat, 300.0)));
        rounds
    }

    #[test]
    fn each_way_to_run_has_its_ratio() {
        let records: Vec<Record> = rounds().into_iter().map(Record::Round).collect();
        let run = run("against");
        let report = Report::of(&run, &records);
        let markdown = report.document().to_markdown();
        let rows: Vec<&str> = markdown
            .lines()
            .filter(|line| line.starts_with("| echo"))
            .collect();
        let begins = [
            "| echo | native, batch 1 | 10 | 1.000 | 0.995 to 1.005 | no other",
            "| echo | native, batch 8 | 10 | 1.100 | 1.095 to 1.105 | faster |",
            "| echo | native, batch 128 | 3 | - | - | unknown",
            "| echo | served, batch 1, 64 in flight | 10 | 0.900 | 0.895 to 0.905 | slower |",
            "| echo | served, batch 32, 64 in flight | 10 | 0.970 | 0.965 to 0.975 | slower |",
        ];
        assert_eq!(rows.len(), begins.len());
        for (row, begin) in rows.iter().zip(begins) {
            assert!(row.starts_with(begin), "{row}");
        }
        assert!(report.document().to_html().contains("Each round"));
        assert!(
            report.terminal().contains("1.100 (1.095 to 1.105)  faster"),
            "{}",
            report.terminal()
        );
    }

    #[test]
    fn only_a_loss_that_is_large_and_sure_is_a_regression() {
        let worse = regressions(&rounds());
        assert_eq!(
            worse,
            ["echo, served, batch 1, 64 in flight: 0.900 (0.895 to 0.905)"]
        );
    }
}
