//! Plots as inline SVG: lines over sizes, stacked bars, a heat map. Each is also a table, for who does not see it.
//!
//! Colours are classes, which the page's style sheet knows in light and in dark; series differ by their marks too.

mod bars;
mod heat;
pub(super) mod lines;
mod scale;

use std::fmt::Write;

pub(super) use self::{bars::Bars, heat::Heat, lines::Lines};
use super::document::Table;

/// The size that plots are drawn in; the page scales them.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 340.0;
/// Series that have a colour of their own.
pub(super) const COLOURS: usize = 8;

/// A plot.
#[derive(Clone, Debug)]
pub(super) enum Plot {
    Lines(Lines),
    Bars(Bars),
    Heat(Heat),
}

impl Plot {
    pub(super) fn title(&self) -> &str {
        match self {
            Self::Lines(lines) => &lines.title,
            Self::Bars(bars) => &bars.title,
            Self::Heat(heat) => &heat.title,
        }
    }

    /// Whether there is nothing to see.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Lines(lines) => lines.series.iter().all(|series| series.points.is_empty()),
            Self::Bars(bars) => bars.bars.is_empty(),
            Self::Heat(heat) => heat.rows.is_empty(),
        }
    }

    /// What its colours stand for, with their numbers.
    pub(super) fn legend(&self) -> Vec<(usize, &str)> {
        match self {
            Self::Lines(lines) => {
                let series = lines.series.iter();
                series
                    .map(|series| (series.colour, series.name.as_str()))
                    .collect()
            }
            Self::Bars(bars) => bars.parts.iter().map(String::as_str).enumerate().collect(),
            Self::Heat(_) => Vec::new(),
        }
    }

    /// Whether the legend shows marks on lines, and not areas.
    pub(super) fn has_marks(&self) -> bool {
        matches!(self, Self::Lines(_))
    }

    /// The same figures as a table.
    pub(super) fn table(&self) -> Table {
        match self {
            Self::Lines(lines) => lines.table(),
            Self::Bars(bars) => bars.table(),
            Self::Heat(heat) => heat.table(),
        }
    }

    /// The picture.
    pub(super) fn svg(&self) -> String {
        match self {
            Self::Lines(lines) => lines.svg(),
            Self::Bars(bars) => bars.svg(),
            Self::Heat(heat) => heat.svg(),
        }
    }
}

/// Text as it may stand in HTML and SVG.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A value beside an axis: as few digits as tell it from its neighbours.
fn tick(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1e4 => format!("{}k", value / 1e3),
        value => format!("{}", (value * 1e6).round() / 1e6),
    }
}

/// An SVG of this height, drawn by `body`; its name is its description for who hears it.
fn picture(title: &str, height: f64, body: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{0}; the figures are in the table below\">{body}</svg>",
        escape(title)
    )
}

/// A text in a picture.
fn label(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let _ = write!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escape(text)
    );
}

/// A line in a picture.
fn line(svg: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = write!(
        svg,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

/// The mark of a series: one of four shapes, so that colours need not be told apart.
pub(super) fn mark(series: usize, (x, y): (f64, f64)) -> String {
    let class = series % COLOURS;
    match series % 4 {
        0 => format!("<circle class=\"f{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"),
        1 => format!(
            "<rect class=\"f{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"7\" height=\"7\"/>",
            x - 3.5,
            y - 3.5
        ),
        2 => polygon(
            class,
            &[(x, y - 5.0), (x + 5.0, y + 4.0), (x - 5.0, y + 4.0)],
        ),
        _ => polygon(
            class,
            &[(x, y - 5.0), (x + 5.0, y), (x, y + 5.0), (x - 5.0, y)],
        ),
    }
}

fn polygon(class: usize, points: &[(f64, f64)]) -> String {
    let points: Vec<String> = points
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    format!(
        "<polygon class=\"f{class}\" points=\"{}\"/>",
        points.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_short() {
        let texts: Vec<String> = [0.0, 0.2, 2.5, 1000.0, 20_000.0, 2.5e6].map(tick).into();
        assert_eq!(texts, ["0", "0.2", "2.5", "1000", "20k", "2.5M"]);
        assert_eq!(tick(0.1 + 0.2), "0.3");
    }

    #[test]
    fn what_is_not_ours_is_escaped() {
        assert_eq!(
            escape("<a href=\"x\">&"),
            "&lt;a href=&quot;x&quot;&gt;&amp;"
        );
    }
}
