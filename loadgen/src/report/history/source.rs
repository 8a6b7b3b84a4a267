//! The folders of a history, read as they are: those of `galley bench`, in any version of the schema; those of
//! `bench-results/peers`, whose figures of galley are records as well; records that a script has put into objects of its own.
//!
//! What is no record of galley's is passed over and said. What is one and cannot be read is an error: a history that leaves out a
//! run by itself would be wrong without a word.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    error::{Error, Result},
    report::{
        folder::{RESULTS, invalid},
        record::{Record, Run, SCHEMA},
    },
};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) runs: Vec<Measured>,
    /// What was passed over, and why.
    pub(super) passed_over: Vec<String>,
}

/// A run and what it measured.
#[derive(Debug)]
pub(super) struct Measured {
    /// The name of its folder.
    pub(super) folder: String,
    pub(super) facts: Facts,
    pub(super) records: Vec<Record>,
}

/// What is known of a run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Facts {
    /// When it began, in UTC; the day alone where no more is known.
    pub(super) date: String,
    pub(super) version: String,
    pub(super) commit: Option<String>,
    pub(super) machine: String,
    pub(super) recipe: Option<String>,
    pub(super) weights: String,
    pub(super) dtype: String,
    pub(super) device: String,
    /// The corpus, and how long its examples were made.
    pub(super) inputs: String,
    pub(super) threads: usize,
}

impl Sources {
    /// Reads folders, each of which is a run's or holds such.
    ///
    /// # Errors
    /// A folder or a record in it cannot be read.
    pub(super) fn read(dirs: &[PathBuf]) -> Result<Self> {
        let mut sources = Self::default();
        for dir in dirs {
            if dir.join(RESULTS).exists() {
                sources.folder(dir)?;
                continue;
            }
            let entries = fs::read_dir(dir).map_err(Error::file(dir))?;
            let mut folders = entries
                .map(|entry| Ok(entry.map_err(Error::file(dir))?.path()))
                .collect::<Result<Vec<PathBuf>>>()?;
            folders.retain(|path| path.is_dir());
            folders.sort_unstable();
            for folder in folders {
                if folder.join(RESULTS).exists() {
                    sources.folder(&folder)?;
                } else {
                    let reason = format!("`{}`: no `{RESULTS}`", name(&folder));
                    sources.passed_over.push(reason);
                }
            }
        }
        Ok(sources)
    }

    fn folder(&mut self, dir: &Path) -> Result<()> {
        let path = dir.join(RESULTS);
        let file = File::open(&path).map_err(Error::file(&path))?;
        let folder = name(dir);
        let (mut begun, mut others) = (None, BTreeMap::<String, usize>::new());
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let line = line.map_err(Error::file(&path))?;
            let refused = |source| Error::Record {
                path: path.clone(),
                line: number + 1,
                source,
            };
            let value: Value = serde_json::from_str(&line).map_err(refused)?;
            let facts = match line_of(value, &folder).map_err(refused)? {
                Line::Run(run) if !(1..=SCHEMA).contains(&run.schema) => {
                    let expected =
                        format!("expected schema {SCHEMA} or earlier, got {}", run.schema);
                    return Err(invalid(&path, expected));
                }
                Line::Run(run) => Facts::of(&run),
                Line::Peers(facts) => *facts,
                Line::Figure(record) => {
                    let begun: Option<usize> = begun;
                    match begun.and_then(|run| self.runs.get_mut(run)) {
                        Some(run) => run.records.push(*record),
                        None => *others.entry("before a run's own".into()).or_default() += 1,
                    }
                    continue;
                }
                Line::Other(what) => {
                    *others.entry(what).or_default() += 1;
                    continue;
                }
            };
            begun = Some(self.runs.len());
            self.runs.push(Measured {
                folder: folder.clone(),
                facts,
                records: Vec::new(),
            });
        }
        let others = others.into_iter();
        self.passed_over
            .extend(others.map(|(what, lines)| format!("`{folder}`: records {what}: {lines}")));
        Ok(())
    }
}

/// A line of `results.jsonl`.
enum Line {
    Run(Box<Run>),
    /// The first line of what `bench-results/peers` writes.
    Peers(Box<Facts>),
    Figure(Box<Record>),
    /// No record of galley's, but what.
    Other(String),
}

fn line_of(mut value: Value, folder: &str) -> serde_json::Result<Line> {
    let kind = value.get("kind").and_then(Value::as_str);
    match (kind, value.get("peer").and_then(Value::as_str)) {
        (Some("run"), _) if value.get("schema").is_none() => {
            return Ok(match Facts::of_peers(&value, folder) {
                Some(facts) => Line::Peers(Box::new(facts)),
                None => Line::Other("of a run without a schema".into()),
            });
        }
        (Some(_), _) => {}
        (None, Some(peer)) => return Ok(Line::Other(format!("of {peer}"))),
        (None, None) => {
            return match value.get_mut("run").map(Value::take) {
                Some(inner) if inner.get("kind").is_some() => line_of(inner, folder),
                _ => Ok(Line::Other("of no kind".into())),
            };
        }
    }
    Ok(match serde_json::from_value(value)? {
        Record::Run(run) => Line::Run(run),
        record => Line::Figure(Box::new(record)),
    })
}

impl Facts {
    pub(super) fn of(run: &Run) -> Self {
        let mut inputs = run.corpus.clone().unwrap_or_default();
        if let Some(length) = run.length {
            inputs.push_str(&format!(", made {length} long"));
        }
        Self {
            date: run.date.clone(),
            version: run.galley.clone(),
            commit: run.commit.clone(),
            machine: run.machine.name.clone(),
            recipe: run.recipe.clone(),
            weights: run.weights.clone(),
            dtype: run.dtype.clone(),
            device: run.device.clone(),
            inputs,
            threads: run.threads,
        }
    }

    /// The first line names versions, the card and the threads; the folder's name is `DATE-MACHINE-cpu-peers` or
    /// `DATE-MACHINE-native`.
    fn of_peers(line: &Value, folder: &str) -> Option<Self> {
        let version = line.get("galley")?.as_str()?;
        let (date, rest) = folder.split_at_checked(10)?;
        let rest = rest.strip_prefix('-')?;
        let machine = rest
            .strip_suffix("-cpu-peers")
            .or(rest.strip_suffix("-native"))?;
        let threads = line.get("threads").and_then(Value::as_u64);
        Some(Self {
            date: date.into(),
            version: version.trim_start_matches("galley ").into(),
            commit: None,
            machine: machine.into(),
            recipe: None,
            weights: String::new(),
            dtype: String::new(),
            device: if line.get("card").is_some() {
                "cuda:0"
            } else {
                "cpu"
            }
            .into(),
            inputs: String::new(),
            threads: threads
                .and_then(|threads| threads.try_into().ok())
                .unwrap_or(0),
        })
    }
}

fn name(dir: &Path) -> String {
    // A path such as `.` has a name only where it leads.
    let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    real.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::run;

    fn read(name: &str, lines: &[String]) -> Result<Sources> {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(RESULTS), lines.join("\n")).unwrap();
        fs::create_dir(dir.path().join("notes")).unwrap();
        Sources::read(&[dir.path().to_owned()])
    }

    fn run_line(schema: u32) -> String {
        let run = Run {
            schema,
            ..run("native")
        };
        serde_json::to_string(&Record::Run(Box::new(run))).unwrap()
    }

    const MODEL: &str = r#"{"round":0,"kind":"model","peer":"galley","model":"echo","batch":8,"shape":[8,64],"ms":4.0,
        "items_per_s":2000.0,"runs":3,"dtype":"f32","weights":"none"}"#;

    fn model() -> String {
        MODEL.replace('\n', "")
    }

    #[test]
    fn a_folder_of_any_earlier_schema_is_read() {
        for schema in 1..=SCHEMA {
            let sources = read("a", &[run_line(schema), model()]).unwrap();
            assert_eq!(sources.runs[0].records.len(), 1);
            assert_eq!(sources.passed_over, ["`notes`: no `results.jsonl`"]);
        }
        let error = read("a", &[run_line(SCHEMA + 1)]).unwrap_err().to_string();
        assert!(error.contains("or earlier, got"), "{error}");
    }

    #[test]
    fn peers_are_known_by_their_folder() {
        let head =
            r#"{"kind":"run","torch":"2.15.0","galley":"galley 0.1.0","threads":2}"#.to_owned();
        let torch = r#"{"round":0,"peer":"torch","model":"echo","batch":8,"ms":5.0}"#.to_owned();
        let sources = read(
            "2030-01-02-box-2core-cpu-peers",
            &[head.clone(), torch.clone(), torch, model()],
        )
        .unwrap();
        let facts = &sources.runs[0].facts;
        assert_eq!(
            (
                facts.date.as_str(),
                facts.machine.as_str(),
                facts.device.as_str(),
                facts.threads
            ),
            ("2030-01-02", "box-2core", "cpu", 2)
        );
        assert_eq!(sources.runs[0].records.len(), 1);
        assert_eq!(
            sources.passed_over[0],
            "`2030-01-02-box-2core-cpu-peers`: records of torch: 2"
        );
        let elsewhere = read("strange", &[head, model()]).unwrap();
        assert!(
            elsewhere.runs.is_empty() && elsewhere.passed_over.len() == 3,
            "{elsewhere:?}"
        );
    }

    #[test]
    fn a_script_may_have_put_records_into_its_own() {
        let inside = |line: String| format!(r#"{{"start":"warm1","run":{line}}}"#);
        let sources = read(
            "a",
            &[inside(run_line(1)), inside(model()), inside(run_line(1))],
        )
        .unwrap();
        let records: Vec<usize> = sources.runs.iter().map(|run| run.records.len()).collect();
        assert_eq!(records, [1, 0]);
    }

    #[test]
    fn what_is_galleys_and_cannot_be_read_is_an_error() {
        for bad in ["{", r#"{"kind":"guess"}"#, r#"{"kind":"native"}"#] {
            let error = read("a", &[run_line(1), bad.into()])
                .unwrap_err()
                .to_string();
            assert!(error.contains("line 2"), "{error}");
        }
        assert!(Sources::read(&["/no/such/folder".into()]).is_err());
    }
}
