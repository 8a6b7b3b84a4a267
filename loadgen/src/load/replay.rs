//! Recorded times: read from a file, as due times since the first.
//!
//! Each line is a request. Either it is CSV, whose first column is the time and whose other columns are left alone (a first line
//! that is no time is a header), or a JSON object whose `time` it is. A time is a number of seconds since whenever, or a date as in
//! RFC 3339 in UTC. Lines need not be in order.

use std::{fs, path::Path, time::Duration};

use serde_json::Value;

use crate::error::{Error, Result};

/// The due times of a file, ascending from zero.
///
/// # Errors
/// The file cannot be read, has a line that is no time, or has none.
pub(super) fn read(path: &Path) -> Result<Vec<Duration>> {
    let text = fs::read_to_string(path).map_err(Error::file(path))?;
    parse(&text).map_err(|reason| {
        let reason = format!("{}: {reason}", path.display());
        Error::option("--replay", reason)
    })
}

fn parse(text: &str) -> Result<Vec<Duration>, String> {
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let mut times = Vec::new();
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        match time(line.trim()) {
            Some(time) => times.push(time),
            None if number == 0 && !line.starts_with('{') => (),
            None => {
                return Err(format!(
                    "line {}: expected a time in seconds or as 2030-01-02T03:04:05.678Z, first in the line or as {{\"time\": ...}}, \
                     got {line:?}",
                    number + 1
                ));
            }
        }
    }
    times.sort_unstable_by(f64::total_cmp);
    let first = *times.first().ok_or("expected a time a line, got none")?;
    let since =
        |time: f64| Duration::try_from_secs_f64(time - first).map_err(|error| error.to_string());
    times.into_iter().map(since).collect()
}

/// The time that a line names, in seconds.
fn time(line: &str) -> Option<f64> {
    if line.starts_with('{') {
        let object: Value = serde_json::from_str(line).ok()?;
        return match object.get("time")? {
            Value::Number(seconds) => seconds.as_f64(),
            Value::String(text) => seconds(text),
            _ => None,
        };
    }
    seconds(
        line.split(',')
            .next()
            .unwrap_or(line)
            .trim()
            .trim_matches('"'),
    )
}

fn seconds(text: &str) -> Option<f64> {
    let number = text
        .parse()
        .ok()
        .filter(|seconds: &f64| seconds.is_finite());
    number.or_else(|| {
        let date = humantime::parse_rfc3339(text).ok()?;
        let since = date.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(since.as_secs_f64())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(times: &[u64]) -> Vec<Duration> {
        times.iter().copied().map(Duration::from_millis).collect()
    }

    #[test]
    fn lines_are_csv_or_json_with_numbers_or_dates() {
        for text in [
            "0\n0.25\n1.5\n",
            "time\n100,GET\n100.25,POST\n101.5,GET",
            "{\"time\": 7}\n\n{\"time\": 8.5, \"path\": \"/infer\"}\n{\"time\": 7.25}\n",
            "\u{feff}time,user\r\n2030-01-02T03:04:05Z,me\r\n\"2030-01-02T03:04:05.250Z\",you\r\n2030-01-02T03:04:06.500Z,me\r\n",
        ] {
            assert_eq!(parse(text), Ok(ms(&[0, 250, 1500])), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_by_its_line() {
        for (text, said) in [
            ("time\n", "got none"),
            ("", "got none"),
            ("0\nsoon\n", "line 2"),
            ("{\"at\": 1}", "line 1"),
            ("0\nNaN", "line 2"),
            ("0\n{\"time\": [1]}", "line 2"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_order_gives_the_same_times(mut times in prop::collection::vec(0..10_000_000u64, 1..50)) {
            let text = |times: &[u64]| -> String { times.iter().map(|time| format!("{}\n", *time as f64 / 1e3)).collect() };
            let given = parse(&text(&times)).unwrap();
            times.sort_unstable();
            prop_assert_eq!(&given, &parse(&text(&times)).unwrap());
            prop_assert!(given.is_sorted() && given[0] == Duration::ZERO && given.len() == times.len());
        }
    }
}
