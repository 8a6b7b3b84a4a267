//! What became of speed over earlier runs: the command; `report` has what it says.

use std::io::{self, Write};

use crate::{
    args::{FailOn, HistoryArgs},
    error::{Error, Result},
    output::print_line,
    report::History,
};

/// Writes the history of some folders.
///
/// # Errors
/// They or the prices cannot be read, files cannot be written, or something is slower and the run was to fail for that.
pub(crate) fn run(args: &HistoryArgs) -> Result<()> {
    let history = History::read(&args.dirs, args.prices.as_deref())?;
    let Some(out) = args.out.as_ref().or(args.dirs.first()) else {
        return Err(Error::option("DIR", "expected a folder"));
    };
    history.write(out)?;
    print_line(&history.terminal())?;
    // The files are there, whoever reads this.
    let _ = writeln!(io::stderr(), "written to {}", out.display());
    let worse = history.regressions();
    match args.fail_on {
        Some(FailOn::Regression) if !worse.is_empty() => Err(Error::Regression(worse)),
        _ => Ok(()),
    }
}
