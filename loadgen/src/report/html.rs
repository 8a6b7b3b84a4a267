//! A report as one page: a file that needs no script, asks nobody for anything, and is dark or light as its reader's system is.
//!
//! Plots are drawn here rather than by a library: plotters writes colours into its SVG as it draws, so that a page could not be both
//! dark and light; charming's charts are drawn by ECharts' JavaScript in the reader's browser.

use std::fmt::Write;

use super::{
    document::{Block, Document, Table},
    plot::{COLOURS, Plot, escape, mark},
};

/// All that decides how a page looks.
const STYLE: &str = include_str!("page.css");

impl Document {
    /// The report as a page.
    pub(super) fn to_html(&self) -> String {
        let mut body = String::new();
        for block in &self.blocks {
            write_block(&mut body, block);
        }
        let title = escape(&self.title);
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n\
             <body>\n<main>\n<h1>{}</h1>\n{body}</main>\n</body>\n</html>\n",
            inline(&self.title)
        )
    }
}

fn write_block(html: &mut String, block: &Block) {
    let _ = match block {
        Block::Section(heading) => writeln!(html, "<h2>{}</h2>", inline(heading)),
        Block::Part(heading) => writeln!(html, "<h3>{}</h3>", inline(heading)),
        Block::Text(text) => writeln!(html, "<p>{}</p>", inline(text)),
        Block::List(items) => {
            let items: String = items
                .iter()
                .map(|item| format!("<li>{}</li>\n", inline(item)))
                .collect();
            writeln!(html, "<ul>\n{items}</ul>")
        }
        Block::Tiles(tiles) => {
            let mut items = String::new();
            for tile in tiles {
                let [label, value, about] =
                    [&tile.label, &tile.value, &tile.about].map(|text| inline(text));
                let _ = writeln!(
                    items,
                    "<li><span>{label}</span><strong>{value}</strong><span>{about}</span></li>"
                );
            }
            writeln!(html, "<ul class=\"tiles\">\n{items}</ul>")
        }
        Block::Table(table) => writeln!(html, "{}", table_html(table)),
        Block::Plots(plots) => {
            let figures: String = plots.iter().map(figure).collect();
            writeln!(html, "<div class=\"plots\">\n{figures}</div>")
        }
    };
}

/// A plot with its legend and, folded away, its figures.
fn figure(plot: &Plot) -> String {
    let mut legend = String::new();
    let names = plot.legend();
    if !names.is_empty() {
        for (colour, name) in names {
            let _ = write!(legend, "<li>{}{}</li>", swatch(plot, colour), inline(name));
        }
        legend = format!("<ul class=\"legend\">{legend}</ul>\n");
    }
    format!(
        "<figure>\n<figcaption>{}</figcaption>\n{legend}{}\n<details><summary>The figures as a table</summary>\n{}\n</details>\n</figure>\n",
        inline(plot.title()),
        plot.svg(),
        table_html(&plot.table())
    )
}

/// What stands for a series in the legend.
fn swatch(plot: &Plot, colour: usize) -> String {
    let class = colour % COLOURS;
    let picture = if plot.has_marks() {
        format!(
            "<path class=\"l{class}\" d=\"M0 7L26 7\"/>{}",
            mark(colour, (13.0, 7.0))
        )
    } else {
        format!("<rect class=\"f{class}\" x=\"6\" y=\"1\" width=\"14\" height=\"12\"/>")
    };
    format!("<svg viewBox=\"0 0 26 14\" aria-hidden=\"true\">{picture}</svg>")
}

fn table_html(table: &Table) -> String {
    // A column of words is read from the left, one of figures by its last digits.
    let words: Vec<bool> = (0..table.columns.len())
        .map(|column| {
            table
                .rows
                .iter()
                .any(|row| row.get(column).is_some_and(|cell| is_words(cell)))
        })
        .collect();
    let class = |column: usize| {
        if words.get(column) == Some(&true) {
            " class=\"words\""
        } else {
            ""
        }
    };
    let mut html = String::from(
        "<div class=\"scroll\" role=\"group\" tabindex=\"0\" aria-label=\"table\"><table>\n",
    );
    if table.columns.iter().any(|name| !name.is_empty()) {
        html.push_str("<thead><tr>");
        for (column, name) in table.columns.iter().enumerate() {
            let class = if column == 0 {
                " class=\"words\""
            } else {
                class(column)
            };
            let _ = match name.as_str() {
                "" => write!(html, "<td></td>"),
                name => write!(html, "<th scope=\"col\"{class}>{}</th>", inline(name)),
            };
        }
        html.push_str("</tr></thead>\n");
    }
    html.push_str("<tbody>\n");
    for row in &table.rows {
        html.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let _ = match column {
                0 => write!(html, "<th scope=\"row\">{}</th>", inline(cell)),
                _ => write!(html, "<td{}>{}</td>", class(column), inline(cell)),
            };
        }
        html.push_str("</tr>\n");
    }
    html + "</tbody></table></div>"
}

/// Whether a cell is more than a figure with its unit.
fn is_words(cell: &str) -> bool {
    let is_figure = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '±');
    !cell.is_empty() && !cell.starts_with(is_figure)
}

/// Escapes a text, and makes code of what stands between backticks.
fn inline(text: &str) -> String {
    let parts: Vec<String> = text.split('`').map(escape).collect();
    // An odd number of backticks is no code.
    if parts.len().is_multiple_of(2) {
        return escape(text);
    }
    let tagged = parts
        .into_iter()
        .enumerate()
        .map(|(index, part)| match index % 2 {
            0 => part,
            _ => format!("<code>{part}</code>"),
        });
    tagged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::plot::Bars;

    fn page() -> String {
        let mut document = Document::new("a <b> & c");
        document.text("run `galley <bench>`, at last");
        let mut table = Table::new(&["name", "ms", "note"]);
        table.row(["cpu".into(), "1.25 ±3%".into(), "<slow>".into()]);
        document.table(table);
        document.plots(vec![Plot::Bars(Bars {
            title: "Where it goes".into(),
            unit: "ms".into(),
            parts: vec!["forward".into()],
            bars: vec![("cpu".into(), vec![1.0])],
        })]);
        document.to_html()
    }

    #[test]
    fn a_page_asks_nobody_for_anything() {
        let page = page();
        for foreign in [
            "http:", "https:", "//", "<script", "@import", "url(", "onload", "src=",
        ] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn texts_are_escaped_and_tables_have_heads() {
        let page = page();
        assert!(page.contains("<h1>a &lt;b&gt; &amp; c</h1>"), "{page}");
        assert!(page.contains("run <code>galley &lt;bench&gt;</code>, at last"));
        assert!(page.contains("<th scope=\"col\">ms</th>"));
        assert!(page.contains(
            "<th scope=\"row\">cpu</th><td>1.25 ±3%</td><td class=\"words\">&lt;slow&gt;</td>"
        ));
    }

    #[test]
    fn each_plot_has_its_figures_as_a_table() {
        let page = page();
        assert_eq!(page.matches("<figure>").count(), 1);
        let details = &page[page.find("<details>").unwrap()..];
        assert!(
            details.contains("<th scope=\"col\">forward, ms</th>"),
            "{details}"
        );
    }

    #[test]
    fn backticks_that_do_not_pair_stay() {
        assert_eq!(inline("a `b"), "a `b");
        assert_eq!(inline("`a` and `b`"), "<code>a</code> and <code>b</code>");
    }
}
