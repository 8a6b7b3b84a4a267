//! What a run leaves behind: records, a table, and a README that says where the figures come from.

mod against;
mod cells;
mod client;
mod compare;
mod document;
mod folder;
mod history;
mod html;
mod load;
mod machine;
mod matrix;
mod models;
mod packed;
mod plot;
mod point;
mod readme;
pub mod record;
mod round;
mod steps;
mod stream;
mod table;

pub(crate) use against::regressions;
pub(crate) use folder::{AGAINST, COMPARE, LOAD, MODELS};
pub use folder::{Folder, Part, merge, rewrite};
pub(crate) use history::History;
pub use machine::Machine;
pub(crate) use machine::{cores, peak_rss, reset_peak_rss, resident};
pub use table::render;

#[cfg(test)]
pub(crate) mod tests;
