//! A report before it has a form: sections of text, tables and plots, written as Markdown here and as a page by `html`.

use super::{
    cells::{header, row},
    plot::Plot,
};

/// A report.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) title: String,
    pub(super) blocks: Vec<Block>,
}

/// A part of a report. In its texts and cells, what stands between backticks is code.
#[derive(Debug)]
pub(super) enum Block {
    /// The heading of a section.
    Section(String),
    /// The heading of a part of one.
    Part(String),
    Text(String),
    List(Vec<String>),
    /// What to see first.
    Tiles(Vec<Tile>),
    Table(Table),
    /// Figures that belong side by side. In Markdown they are left out: their tables are others of the report.
    Plots(Vec<Plot>),
}

/// A figure to see first.
#[derive(Debug)]
pub(super) struct Tile {
    pub(super) label: String,
    pub(super) value: String,
    pub(super) about: String,
}

/// A table, whose first column says what a row is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[impl AsRef<str>]) -> Self {
        let columns = columns.iter().map(|name| name.as_ref().to_owned());
        Self {
            columns: columns.collect(),
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The same without columns that have nothing in any row.
    pub(super) fn without_empty_columns(self) -> Self {
        let kept: Vec<usize> = (0..self.columns.len())
            .filter(|&column| self.rows.iter().any(|row| row[column] != "-"))
            .collect();
        let only = |cells: &[String]| kept.iter().map(|&column| cells[column].clone()).collect();
        Self {
            columns: only(&self.columns),
            rows: self.rows.iter().map(|row| only(row)).collect(),
        }
    }

    /// The table in Markdown.
    pub(super) fn to_markdown(&self) -> String {
        let columns: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        let mut text = header(&columns);
        for cells in &self.rows {
            row(&mut text, cells);
        }
        text
    }
}

impl Document {
    pub(super) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            blocks: Vec::new(),
        }
    }

    pub(super) fn section(&mut self, heading: impl Into<String>) {
        self.blocks.push(Block::Section(heading.into()));
    }

    pub(super) fn part(&mut self, heading: impl Into<String>) {
        self.blocks.push(Block::Part(heading.into()));
    }

    pub(super) fn text(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !text.is_empty() {
            self.blocks.push(Block::Text(text));
        }
    }

    pub(super) fn list(&mut self, items: Vec<String>) {
        if !items.is_empty() {
            self.blocks.push(Block::List(items));
        }
    }

    pub(super) fn tiles(&mut self, tiles: Vec<Tile>) {
        if !tiles.is_empty() {
            self.blocks.push(Block::Tiles(tiles));
        }
    }

    pub(super) fn table(&mut self, table: Table) {
        self.blocks.push(Block::Table(table));
    }

    pub(super) fn plots(&mut self, plots: Vec<Plot>) {
        let plots: Vec<Plot> = plots.into_iter().filter(|plot| !plot.is_empty()).collect();
        if !plots.is_empty() {
            self.blocks.push(Block::Plots(plots));
        }
    }

    /// The report in Markdown.
    pub(super) fn to_markdown(&self) -> String {
        let mut text = format!("# {}\n", self.title);
        for block in &self.blocks {
            let part = match block {
                Block::Section(heading) => format!("## {heading}\n"),
                Block::Part(heading) => format!("### {heading}\n"),
                Block::Text(text) => format!("{text}\n"),
                Block::List(items) => items.iter().map(|item| format!("- {item}\n")).collect(),
                Block::Tiles(tiles) => tiles
                    .iter()
                    .map(
                        |Tile {
                             label,
                             value,
                             about,
                         }| format!("- {label}: **{value}**, {about}\n"),
                    )
                    .collect(),
                Block::Table(table) => table.to_markdown(),
                Block::Plots(_) => continue,
            };
            text.push('\n');
            text.push_str(&part);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_has_an_empty_line_between_blocks() {
        let mut document = Document::new("Title");
        document.text("Text.");
        let mut table = Table::new(&["a", "b"]);
        table.row(["1".into(), "2".into()]);
        document.table(table);
        document.list(Vec::new());
        document.section("Section");
        document.list(vec!["one".into(), "two".into()]);
        assert_eq!(
            document.to_markdown(),
            "# Title\n\nText.\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n## Section\n\n- one\n- two\n"
        );
    }
}
