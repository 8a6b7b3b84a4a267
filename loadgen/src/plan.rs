//! What runs have in common: how much is run, how it is described, and what is left at its end.

use std::{num::NonZeroUsize, time::Duration};

use galley_core::AnyRecipe;

use crate::{
    args::SizeArgs,
    corpus::Corpus,
    error::Result,
    native::Pass,
    output::Output,
    report::record::{Run, ServerInfo},
    setup::{Context, Described, seconds},
    stats::{CellCost, examples_within},
};

pub(crate) fn described<'a>(
    what: &'a str,
    context: &'a Context,
    machine: Option<&'a str>,
) -> Described<'a> {
    Described {
        what,
        context,
        machine,
    }
}

/// Writes the tables of what there is, also if the run did not come to its end, whose reason goes first.
pub(crate) fn finish(output: Output, result: Result<()>) -> Result<()> {
    let written = output.finish();
    result?;
    written
}

/// Notes what the server says it runs.
pub(crate) fn note_server(run: &mut Run, info: &ServerInfo) {
    let unknown = || "unknown".to_owned();
    run.weights = info.weights.clone().unwrap_or_else(unknown);
    run.dtype = info.dtype.clone().unwrap_or_else(unknown);
    run.device = info.device.clone().unwrap_or_else(unknown);
    run.server = Some(info.clone());
}

pub(crate) fn sizes(list: &[NonZeroUsize]) -> Vec<usize> {
    list.iter().map(|size| size.get()).collect()
}

/// Seconds that an example takes in process, for each batch size.
pub(crate) fn native_costs(
    recipe: &AnyRecipe,
    few: &Corpus,
    batches: &[usize],
) -> Result<Vec<f64>> {
    batches
        .iter()
        .map(|&batch| {
            Pass {
                recipe,
                corpus: few,
                batch,
                repeat: 0,
                examples: 0,
                distinct: 0,
            }
            .warm_up()
        })
        .collect()
}

/// Takes as many examples as fit into `--seconds`, given what one takes in each cell.
pub(crate) fn shrink(
    run: &mut Run,
    size: &SizeArgs,
    costs: &[f64],
    batches: &[usize],
) -> Result<()> {
    let Some(budget) = size.seconds else {
        return Ok(());
    };
    let budget: Duration = seconds("--seconds", budget)?;
    let cells: Vec<_> = costs
        .iter()
        .map(|&seconds_per_example| CellCost {
            seconds_per_example,
            runs: run.repeats,
        })
        .collect();
    let largest = batches.iter().copied().max().unwrap_or(1);
    run.examples = examples_within(budget, &cells, run.examples_wanted, largest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::run as example;

    #[test]
    fn a_budget_shrinks_the_run() {
        let mut run = example("matrix");
        let mut size = SizeArgs {
            examples: NonZeroUsize::new(8192).unwrap(),
            repeats: NonZeroUsize::new(2).unwrap(),
            seconds: None,
        };
        run.examples = 8192;
        shrink(&mut run, &size, &[0.1, 0.2], &[1, 32]).unwrap();
        assert_eq!(run.examples, 8192);
        size.seconds = Some(60.0);
        shrink(&mut run, &size, &[0.1, 0.2], &[1, 32]).unwrap();
        assert_eq!(run.examples, 96);
    }
}
