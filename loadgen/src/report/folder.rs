//! The folder of a run: records are appended as they come, so that an interrupted run keeps what it has.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use super::{
    against, compare, load,
    machine::slug,
    models, readme,
    record::{Record, Run, SCHEMA},
    table,
};
use crate::error::{Error, Result};

pub(super) const RESULTS: &str = "results.jsonl";
/// What a run is called that compares devices and dtypes.
pub(crate) const COMPARE: &str = "compare";
/// What a run is called that compares two builds.
pub(crate) const AGAINST: &str = "against";
/// What a run is called that runs SuperBench's model benchmarks.
pub(crate) const MODELS: &str = "models";
/// What a run is called that offers a server more and more.
pub(crate) const LOAD: &str = "load";

/// A run's folder, open for records.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    results: File,
}

impl Folder {
    /// Makes the folder and writes the run's own record. Earlier figures in a folder that the user named are replaced.
    ///
    /// # Errors
    /// The folder or a file in it cannot be written.
    pub fn create(out: Option<&Path>, run: &Run) -> Result<Self> {
        let dir = out.map_or_else(|| unused(&default_dir(run)), Path::to_owned);
        fs::create_dir_all(&dir).map_err(Error::file(&dir))?;
        let path = dir.join(RESULTS);
        let results = File::create(&path).map_err(Error::file(&path))?;
        let mut folder = Self { dir, results };
        folder.append(&Record::Run(Box::new(run.clone())))?;
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Writes one record.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record).map_err(|source| Error::Record {
            path: self.dir.join(RESULTS),
            line: 0,
            source,
        })?;
        line.push(b'\n');
        self.results
            .write_all(&line)
            .map_err(Error::file(self.dir.join(RESULTS)))
    }
}

/// The records of one run; a folder that was merged has several.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// How they came about.
    pub run: Run,
    /// What was measured.
    pub records: Vec<Record>,
}

/// Writes report, tables and README of a folder from its records; gives what a terminal shows of them.
///
/// # Errors
/// The records cannot be read, or the files not written.
pub fn rewrite(dir: &Path) -> Result<String> {
    let parts = read(dir)?;
    let Part { run, records } = &parts[0];
    let (shown, name, document, mut files) = match run.what.as_str() {
        COMPARE => {
            let report = compare::Report::of(&parts);
            let files = vec![("report.json", report.to_json())];
            (report.terminal(), "report.md", report.document(), files)
        }
        LOAD => {
            let report = load::Report::of(&parts);
            let document = report.document();
            (report.terminal(), "report.md", document, Vec::new())
        }
        MODELS => {
            let report = models::Report::of(&parts);
            let files = vec![("results-summary.jsonl", report.summary())];
            (report.terminal(), "report.md", report.document(), files)
        }
        AGAINST => {
            let report = against::Report::of(run, records);
            (report.terminal(), "table.md", report.document(), Vec::new())
        }
        _ => {
            let document = table::document(run, records);
            (document.to_markdown(), "table.md", document, Vec::new())
        }
    };
    files.push((name, document.to_markdown()));
    files.push(("report.html", document.to_html()));
    files.push(("README.md", readme::render(run, name)));
    for (name, content) in files {
        let path = dir.join(name);
        fs::write(&path, content).map_err(Error::file(&path))?;
    }
    Ok(shown)
}

/// Puts the records of several folders into one: parts of a comparison that were measured on different machines, loads of different
/// servers, or benchmarks of different models.
///
/// # Errors
/// A folder holds another kind of run, or another recipe's; records cannot be read or written.
pub fn merge(dirs: &[PathBuf], out: &Path) -> Result<()> {
    let mut parts: Vec<Part> = Vec::new();
    for dir in dirs {
        for part in read(dir)? {
            let first = parts.first().map_or(&part.run, |first| &first.run);
            let merges = [COMPARE, LOAD, MODELS].contains(&part.run.what.as_str());
            if !merges || (&part.run.what, &part.run.recipe) != (&first.what, &first.recipe) {
                let expected = match parts.is_empty() {
                    true => format!("{COMPARE}, {LOAD} or {MODELS}"),
                    false => of_recipe(first),
                };
                let reason = format!("expected {expected}, got {}", of_recipe(&part.run));
                return Err(invalid(&dir.join(RESULTS), reason));
            }
            parts.push(part);
        }
    }
    let mut folder: Option<Folder> = None;
    for Part { run, records } in parts {
        match &mut folder {
            None => folder = Some(Folder::create(Some(out), &run)?),
            Some(folder) => folder.append(&Record::Run(Box::new(run)))?,
        }
        if let Some(folder) = &mut folder {
            records
                .iter()
                .try_for_each(|record| folder.append(record))?;
        }
    }
    Ok(())
}

/// The runs of a folder, of which there is at least one.
fn read(dir: &Path) -> Result<Vec<Part>> {
    let path = dir.join(RESULTS);
    let file = File::open(&path).map_err(Error::file(&path))?;
    let mut parts: Vec<Part> = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(Error::file(&path))?;
        let record = serde_json::from_str(&line).map_err(|source| Error::Record {
            path: path.clone(),
            line: number + 1,
            source,
        })?;
        match (record, parts.last_mut()) {
            (Record::Run(run), _) if !(1..=SCHEMA).contains(&run.schema) => {
                let expected = format!("expected schema {SCHEMA} or earlier, got {}", run.schema);
                return Err(invalid(&path, expected));
            }
            (Record::Run(run), _) => parts.push(Part {
                run: *run,
                records: Vec::new(),
            }),
            (record, Some(part)) => part.records.push(record),
            (_, None) => break,
        }
    }
    if parts.is_empty() {
        return Err(invalid(
            &path,
            "expected a record of kind run in the first line".into(),
        ));
    }
    Ok(parts)
}

fn of_recipe(run: &Run) -> String {
    let recipe = run.recipe.as_deref().unwrap_or("no recipe");
    format!("{} of {recipe}", run.what)
}

pub(super) fn invalid(path: &Path, reason: String) -> Error {
    Error::file(path)(std::io::Error::new(std::io::ErrorKind::InvalidData, reason))
}

fn default_dir(run: &Run) -> PathBuf {
    let date = run.date.get(..10).unwrap_or(&run.date);
    let what = match (&run.recipe, run.what.as_str()) {
        (Some(recipe), "matrix") => recipe.clone(),
        (Some(recipe), what) => format!("{recipe}-{what}"),
        (None, what) => what.to_owned(),
    };
    Path::new("bench-results").join(format!("{date}-{}-{what}", slug(&run.machine.name)))
}

/// The folder, or with a number behind it if there are figures already.
fn unused(dir: &Path) -> PathBuf {
    let numbered = (2..).map(|number| {
        let mut name = dir.as_os_str().to_owned();
        name.push(format!("-{number}"));
        PathBuf::from(name)
    });
    std::iter::once(dir.to_owned())
        .chain(numbered)
        .find(|dir| !dir.exists())
        .unwrap_or_else(|| dir.to_owned())
}
