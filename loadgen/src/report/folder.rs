//! The folder of a run: records are appended as they come, so that an interrupted run keeps what it has.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use super::{
    machine::slug,
    readme,
    record::{Record, Run, SCHEMA},
    table,
};
use crate::error::{Error, Result};

const RESULTS: &str = "results.jsonl";

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

/// Writes table and README of a folder from its records; gives the table.
///
/// # Errors
/// The records cannot be read, or the files not written.
pub fn rewrite(dir: &Path) -> Result<String> {
    let path = dir.join(RESULTS);
    let file = OpenOptions::new()
        .read(true)
        .open(&path)
        .map_err(Error::file(&path))?;
    let mut run = None;
    let mut records = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(Error::file(&path))?;
        let record = serde_json::from_str(&line).map_err(|source| Error::Record {
            path: path.clone(),
            line: number + 1,
            source,
        })?;
        match record {
            Record::Run(found) => run = Some(*found),
            record => records.push(record),
        }
    }
    let invalid = |text: String| {
        Error::file(&path)(std::io::Error::new(std::io::ErrorKind::InvalidData, text))
    };
    let run = run.ok_or_else(|| invalid("expected a record of kind run, found none".into()))?;
    if run.schema != SCHEMA {
        return Err(invalid(format!(
            "expected schema {SCHEMA}, got {}",
            run.schema
        )));
    }
    let text = table::render(&run, &records);
    for (name, content) in [("table.md", &text), ("README.md", &readme::render(&run))] {
        let path = dir.join(name);
        fs::write(&path, content).map_err(Error::file(&path))?;
    }
    Ok(text)
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
