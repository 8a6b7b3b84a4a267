//! A progress bar on stderr with the time left. It is nobody's when stderr is not a terminal.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::stats::time_left;

/// Positions of a bar: fine enough for a terminal's width.
const STEPS: u64 = 1000;

/// How far a benchmark is. Work is counted in seconds as estimated beforehand, so that slow cells weigh more.
pub(crate) struct Progress {
    bar: ProgressBar,
    started: Instant,
    total: f64,
    /// Work of finished cells.
    done: Mutex<f64>,
}

impl Progress {
    /// A bar for this much work.
    pub(crate) fn new(total: f64, quiet: bool) -> Self {
        Self {
            bar: bar(quiet, "{prefix:28} {bar:30} {percent:>3}% {msg}"),
            started: Instant::now(),
            total,
            done: Mutex::new(0.0),
        }
    }

    /// A bar that counts things.
    pub(crate) fn counting(what: &'static str, quiet: bool) -> Self {
        let progress = Self::new(1.0, quiet);
        progress.bar.set_prefix(what);
        progress
    }

    /// So many things of so many are done.
    pub(crate) fn count(&self, done: usize, of: usize) {
        self.show(done as f64 / of.max(1) as f64);
    }

    /// What is being done now.
    pub(crate) fn label(&self, text: impl Into<String>) {
        self.bar.set_prefix(text.into());
        self.within(0.0);
    }

    /// So much work of the cell in hand is done.
    pub(crate) fn within(&self, work: f64) {
        self.show((self.finished() + work) / self.total);
    }

    /// The cell in hand is done, and was this much work.
    pub(crate) fn finish_cell(&self, work: f64) {
        *self
            .done
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) += work;
        self.within(0.0);
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Work of finished cells.
    pub(crate) fn finished(&self) -> f64 {
        *self
            .done
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn show(&self, fraction: f64) {
        let fraction = fraction.clamp(0.0, 1.0);
        self.bar.set_position((fraction * STEPS as f64) as u64);
        if let Some(left) = time_left(self.started.elapsed(), fraction, 1.0) {
            let left = Duration::from_secs(left.as_secs());
            self.bar
                .set_message(format!("{} left", humantime::format_duration(left)));
        }
    }
}

fn bar(quiet: bool, template: &str) -> ProgressBar {
    let target = if quiet {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let style = ProgressStyle::with_template(template).expect("the template is a constant");
    ProgressBar::with_draw_target(Some(STEPS), target).with_style(style)
}
