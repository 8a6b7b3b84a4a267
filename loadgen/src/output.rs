//! Where figures go as they come: the run's folder, or JSON lines on standard output.

use std::{
    fmt::Display,
    io::{self, Write},
};

use serde_json::{Value, json};

use crate::{
    args::OutputArgs,
    error::{Error, Result, STDOUT},
    report::{
        Folder,
        record::{Record, Run},
        rewrite,
    },
};

/// The figures' destination.
pub(crate) struct Output {
    folder: Option<Folder>,
    json: bool,
    recipe: String,
}

impl Output {
    /// Opens the folder, unless only JSON lines are wanted.
    pub(crate) fn open(args: &OutputArgs, run: &Run) -> Result<Self> {
        let folder = match (&args.out, args.json) {
            (None, true) => None,
            (out, _) => Some(Folder::create(out.as_deref(), run)?),
        };
        Ok(Self {
            folder,
            json: args.json,
            recipe: run.recipe.clone().unwrap_or_default(),
        })
    }

    /// Takes a figure.
    pub(crate) fn add(&mut self, record: &Record) -> Result<()> {
        if self.json {
            print_line(&json_line(record, &self.recipe))?;
        }
        match &mut self.folder {
            Some(folder) => folder.append(record),
            None => Ok(()),
        }
    }

    /// Writes the folder's table and README, and shows the table.
    pub(crate) fn finish(self) -> Result<()> {
        let Some(folder) = self.folder else {
            return Ok(());
        };
        let table = rewrite(folder.path())?;
        if !self.json {
            print_line(&table)?;
        }
        // The folder is there, whoever reads this.
        let _ = writeln!(io::stderr(), "written to {}", folder.path().display());
        Ok(())
    }
}

/// Prints to standard output, whose reader may have gone.
pub(crate) fn print_line(line: &impl Display) -> Result<()> {
    writeln!(io::stdout().lock(), "{line}").map_err(Error::file(STDOUT))
}

/// A record with the keys that figures of other frameworks have: `peer`, `model`, `batch`, `shape`, `ms`, `items_per_s`.
fn json_line(record: &Record, recipe: &str) -> Value {
    let median = match record {
        Record::Native(native) => Some(native.latency_ms.p50),
        Record::Served(served) => served.latency_ms.map(|latency| latency.p50),
        Record::Streamed(streamed) => Some(streamed.latency_ms.p50),
        Record::Point(point) => point.latency_ms.map(|latency| latency.p50),
        Record::Model(_)
        | Record::Found(_)
        | Record::Agreement(_)
        | Record::Run(_)
        | Record::Loaded(_)
        | Record::Missing(_)
        | Record::Round(_)
        | Record::Steps(_)
        | Record::Ended(_) => None,
    };
    let mut line = serde_json::to_value(record).unwrap_or_default();
    if let (Value::Object(keys), Some(ms)) = (&mut line, median) {
        let shape: Vec<Value> = keys.get("batch").cloned().into_iter().collect();
        for (key, value) in [
            ("peer", json!("galley")),
            ("model", json!(recipe)),
            ("shape", json!(shape)),
            ("ms", json!(ms)),
        ] {
            keys.insert(key.into(), value);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{report::record::Native, stats::Latency};

    #[test]
    fn every_figure_has_the_common_keys() {
        let record = Record::Native(Native {
            batch: 8,
            repeat: 0,
            examples: 64,
            seconds: 1.0,
            prepare_seconds: 0.5,
            items_per_s: 64.0,
            items_per_s_without_prepare: 128.0,
            latency_ms: Latency {
                p50: 125.0,
                ..Latency::default()
            },
            latency_without_prepare_ms: Latency::default(),
            peak_rss_bytes: None,
            ..Native::default()
        });
        let line = json_line(&record, "echo");
        assert_eq!(line["peer"], "galley");
        assert_eq!(line["model"], "echo");
        assert_eq!(line["shape"], json!([8]));
        assert_eq!(
            (&line["ms"], &line["items_per_s"]),
            (&json!(125.0), &json!(64.0))
        );
    }
}
