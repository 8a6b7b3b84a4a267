//! What a worker's metrics say: the mean of each stage, and how many messages have ended.

use std::collections::BTreeMap;

/// Stages and the histograms that have them; in the first, by a label.
const STREAM: (&str, [&str; 4]) = (
    "galley_stream_duration_seconds",
    ["fetch", "infer", "write", "total"],
);
const ENGINE: [(&str, &str); 4] = [
    ("prepare", "galley_prepare_duration_seconds"),
    ("queue", "galley_queue_duration_seconds"),
    ("forward", "galley_forward_duration_seconds"),
    ("finish", "galley_finish_duration_seconds"),
];

/// The series of a worker, which has one recipe, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scrape(Vec<(String, f64)>);

impl Scrape {
    /// Reads the Prometheus text; what cannot be read is left out.
    pub(super) fn of(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let read = samples.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Self(read.collect())
    }

    /// Deliveries that have ended with a row.
    pub(super) fn ended(&self) -> usize {
        let outcomes = ["written", "duplicate", "refused", "gave_up", "conflict"];
        let of = |outcome| self.sum("galley_stream_messages_total", "outcome", outcome);
        outcomes.into_iter().filter_map(of).sum::<f64>() as usize
    }

    /// The mean of each stage that anything went through.
    pub(super) fn stages_ms(&self) -> BTreeMap<String, f64> {
        let (name, stages) = STREAM;
        let of_stream = stages.map(|stage| (stage, self.mean(name, "stage", stage)));
        let of_engine = ENGINE.map(|(stage, name)| (stage, self.mean(name, "", "")));
        let all = of_stream.into_iter().chain(of_engine);
        all.filter_map(|(stage, mean)| Some((stage.to_owned(), mean? * 1e3)))
            .collect()
    }

    /// Items in a batch, in the mean.
    pub(super) fn batch_size(&self) -> Option<f64> {
        self.mean("galley_batch_size", "", "")
    }

    fn mean(&self, name: &str, label: &str, value: &str) -> Option<f64> {
        let part = |part| self.sum(&format!("{name}_{part}"), label, value);
        let count = part("count").filter(|count| *count > 0.0)?;
        Some(part("sum")? / count)
    }

    /// The sum of a metric's series, of those with a label's value if one is named; none if there are none.
    fn sum(&self, name: &str, label: &str, value: &str) -> Option<f64> {
        let wanted = format!("{label}=\"{value}\"");
        let found = self.0.iter().filter(|(series, _)| {
            let (own, labels) = series.split_once('{').unwrap_or((series, ""));
            own == name && (label.is_empty() || labels.contains(&wanted))
        });
        found
            .map(|(_, value)| *value)
            .reduce(|sum, value| sum + value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# TYPE galley_stream_messages_total counter
galley_stream_messages_total{recipe="echo",outcome="written"} 70
galley_stream_messages_total{recipe="echo",outcome="refused"} 2
galley_stream_messages_total{recipe="echo",outcome="returned"} 5
galley_stream_duration_seconds_bucket{recipe="echo",stage="fetch",le="0.1"} 4
galley_stream_duration_seconds_sum{recipe="echo",stage="fetch"} 0.5
galley_stream_duration_seconds_count{recipe="echo",stage="fetch"} 4
galley_stream_duration_seconds_sum{recipe="echo",stage="write"} 0
galley_stream_duration_seconds_count{recipe="echo",stage="write"} 0
galley_forward_duration_seconds_sum{recipe="echo"} 3
galley_forward_duration_seconds_count{recipe="echo"} 2
galley_batch_size_sum{recipe="echo"} 72
galley_batch_size_count{recipe="echo"} 3
not a sample
"#;

    #[test]
    fn stages_are_means_of_what_went_through_them() {
        let scrape = Scrape::of(TEXT);
        let expected = [("fetch", 125.0), ("forward", 1500.0)];
        let expected = expected.map(|(stage, ms)| (stage.to_owned(), ms));
        assert_eq!(scrape.stages_ms(), expected.into());
        assert_eq!(scrape.batch_size(), Some(24.0));
    }

    #[test]
    fn what_is_returned_has_not_ended() {
        assert_eq!(Scrape::of(TEXT).ended(), 72);
        assert_eq!(Scrape::default().ended(), 0);
    }
}
