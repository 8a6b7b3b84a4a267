//! What a stream is fed: a list of the corpus, and the files that it names.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use galley_core::Input;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    corpus::Corpus,
    error::{Error, Result},
};

/// The examples of a run, in a folder that is gone at its end.
pub(super) struct Feed {
    folder: TempDir,
    examples: usize,
}

impl Feed {
    /// Writes the examples that are files.
    ///
    /// # Errors
    /// The disk is full, or the corpus cannot be read.
    pub(super) fn new(corpus: &Corpus, examples: usize) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
        let feed = Self { folder, examples };
        for index in 0..examples {
            if let Input::File(bytes) = corpus.input(index)? {
                let path = feed.file(index);
                fs::write(&path, bytes).map_err(Error::file(path))?;
            }
        }
        Ok(feed)
    }

    /// Where it all is.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a list in which each example's id is its number behind a prefix.
    ///
    /// # Errors
    /// As in [`Feed::new`].
    pub(super) fn list(&self, corpus: &Corpus, prefix: &str) -> Result<PathBuf> {
        let path = self.folder().join(format!("{prefix}.list"));
        let mut list = BufWriter::new(File::create(&path).map_err(Error::file(&path))?);
        for index in 0..self.examples {
            let mut line = match message(corpus.input(index)?) {
                Some(object) => object,
                None => json!({"uri": self.file(index).to_string_lossy()}),
            };
            line["id"] = format!("{prefix}{index}").into();
            writeln!(list, "{line}").map_err(Error::file(&path))?;
        }
        list.flush().map_err(Error::file(&path))?;
        Ok(path)
    }

    fn file(&self, index: usize) -> PathBuf {
        self.folder().join(format!("{index}.jpg"))
    }
}

/// A text as it stands in a message, without its id; none for a file, which a message only names.
pub(super) fn message(input: Input) -> Option<Value> {
    match input {
        Input::Json(text) => Some(json!({"text": text})),
        Input::File(_) | Input::Pixels(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::{CorpusKind, SEED};

    #[test]
    fn a_list_has_a_line_for_each_example() {
        let corpus = Corpus::open(CorpusKind::Ner, 5, SEED, &|_, _| ()).unwrap();
        let feed = Feed::new(&corpus, 3).unwrap();
        let list = fs::read_to_string(feed.list(&corpus, "run-0-").unwrap()).unwrap();
        let lines: Vec<Value> = list
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 3);
        let text = String::from_utf8(corpus.bytes(2).unwrap().to_vec()).unwrap();
        assert_eq!(lines[2], json!({"id": "run-0-2", "text": text}));
    }
}
