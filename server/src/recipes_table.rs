//! `galley recipes`: every recipe, where its weights can come from, and which of them are here already.

use std::io::{self, Write};

use clap::Args;
use galley_core::{Entry, hub::Cache};
use serde::Serialize;

use crate::stdout::until_reader_goes;

/// Digits of a commit that the table shows.
const SHORT_COMMIT: usize = 7;
const HEADINGS: [&str; 6] = [
    "RECIPE",
    "INPUT",
    "WEIGHTS",
    "LICENCE",
    "PRESENT",
    "WHAT IT DOES",
];

/// List the recipes, their weights and licences, and what is present on this machine.
///
/// A line for each kind of weights that a recipe has: `bundled` ones are part of this program, those of the `hub` are
/// downloaded by `galley pull RECIPE`, `synthetic` ones are random, for measuring speed.
#[derive(Args, Clone, Debug)]
pub struct RecipesArgs {
    /// Print a JSON array with an object for each recipe
    #[arg(long, env = "GALLEY_JSON", value_parser = clap::builder::BoolishValueParser::new())]
    pub json: bool,
}

/// Runs the command: the list on stdout.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(args: &RecipesArgs) -> anyhow::Result<()> {
    let text = match args.json {
        true => serde_json::to_string_pretty(&recipes(&Cache::from_env()))? + "\n",
        false => render(),
    };
    until_reader_goes(io::stdout().write_all(text.as_bytes()).map_err(Into::into))
}

/// The table of all recipes, with what is present in the usual cache.
pub fn render() -> String {
    render_with(&Cache::from_env())
}

/// The table of all recipes, with what is present in this cache.
pub fn render_with(cache: &Cache) -> String {
    let rows = recipes(cache).iter().flat_map(Listed::rows).collect();
    align(rows)
}

/// A recipe as it is listed.
#[derive(Serialize)]
struct Listed {
    name: &'static str,
    summary: &'static str,
    input: galley_core::InputKind,
    weights: Vec<Weights>,
    /// Whether `galley serve` serves it unasked.
    default: bool,
    options: Vec<RecipeOption>,
}

#[derive(Serialize)]
struct RecipeOption {
    key: &'static str,
    help: &'static str,
}

/// One kind of weights that a recipe has.
#[derive(Serialize)]
#[serde(tag = "source", rename_all = "lowercase")]
enum Weights {
    Bundled {
        name: &'static str,
        licence: &'static str,
    },
    Hub {
        repo: &'static str,
        licence: &'static str,
        /// The pulled commit; null if they have not been pulled.
        commit: Option<String>,
    },
    Synthetic {
        seed: u64,
    },
}

fn recipes(cache: &Cache) -> Vec<Listed> {
    galley_catalog::entries()
        .map(|entry| Listed {
            name: entry.name,
            summary: entry.summary,
            input: entry.input_kind,
            weights: weights(entry, cache),
            default: galley_catalog::DEFAULT_RECIPES.contains(&entry.name),
            options: entry
                .options
                .iter()
                .map(|&(key, help)| RecipeOption { key, help })
                .collect(),
        })
        .collect()
}

fn weights(entry: &Entry, cache: &Cache) -> Vec<Weights> {
    let bundled = entry.bundled.map(|bundled| Weights::Bundled {
        name: bundled.name,
        licence: bundled.licence,
    });
    let hub = entry.hub.map(|hub| Weights::Hub {
        repo: hub.repo,
        licence: hub.licence,
        commit: cache.snapshot(&hub).map(|(commit, _)| commit),
    });
    let synthetic = entry.synthetic_seed.map(|seed| Weights::Synthetic { seed });
    [bundled, hub, synthetic].into_iter().flatten().collect()
}

impl Listed {
    /// The recipe's name, input and summary stand beside its first kind of weights only.
    fn rows(&self) -> Vec<[String; 6]> {
        let input = match self.input {
            galley_core::InputKind::File => "file",
            galley_core::InputKind::Json => "json",
        };
        let mut rows: Vec<_> = self.weights.iter().map(Weights::row).collect();
        if rows.is_empty() {
            rows.push(Default::default());
        }
        rows[0][0] = self.name.into();
        rows[0][1] = input.into();
        rows[0][5] = self.summary.into();
        rows
    }
}

impl Weights {
    fn row(&self) -> [String; 6] {
        let (weights, licence, present) = match self {
            Self::Bundled { name, licence } => {
                (format!("bundled: {name}"), *licence, "bundled".into())
            }
            Self::Hub {
                repo,
                licence,
                commit,
            } => {
                let present = commit.as_ref().map_or("not pulled".into(), |commit| {
                    format!("pulled@{}", commit.get(..SHORT_COMMIT).unwrap_or(commit))
                });
                (format!("hub: {repo}"), *licence, present)
            }
            Self::Synthetic { seed } => (format!("synthetic:{seed}"), "-", "always".into()),
        };
        let mut row: [String; 6] = Default::default();
        row[2] = weights;
        row[3] = licence.into();
        row[4] = present;
        row
    }
}

/// Columns as wide as their widest cell, two spaces apart, and no spaces at a line's end.
fn align(rows: Vec<[String; 6]>) -> String {
    let mut lines = vec![HEADINGS.map(String::from)];
    lines.extend(rows);
    let width = |column: usize| {
        let widths = lines.iter().map(|line| line[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<_> = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_has_its_line_and_columns_begin_together() {
        let cache = tempfile::tempdir().unwrap();
        let table = render_with(&Cache::at(cache.path()));
        let summary = table.lines().next().unwrap().find(HEADINGS[5]).unwrap();
        for entry in galley_catalog::entries() {
            let line = table
                .lines()
                .find(|line| line.split_whitespace().next() == Some(entry.name))
                .unwrap_or_else(|| panic!("{} is missing in\n{table}", entry.name));
            assert_eq!(line.get(summary..), Some(entry.summary), "{line}");
        }
        assert!(!table.contains("pulled@"));
    }

    #[test]
    fn json_says_what_is_there() {
        let cache = tempfile::tempdir().unwrap();
        let json = serde_json::to_value(recipes(&Cache::at(cache.path()))).unwrap();
        let echo = json
            .as_array()
            .unwrap()
            .iter()
            .find(|recipe| recipe["name"] == "echo")
            .unwrap();
        assert_eq!(echo["input"], "json");
        assert_eq!(echo["weights"][0]["source"], "bundled");
        assert_eq!(echo["options"][0]["key"], "sleep");
        assert_eq!(echo["default"], false);
    }
}
