//! Native and served benchmark runs, and their reports.
