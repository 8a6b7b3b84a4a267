//! The operators of `galley_nn`, each timed at the shapes that recipes meet.

use std::time::Duration;

use galley_core::without_backtrace;
use galley_nn::{
    Backend,
    bench::{OperatorCase, operator_cases, resident},
};

use crate::{
    error::{Error, Result},
    interrupt,
    native::{median_of, resident_ms},
    report::record::Model,
    stats::milliseconds,
};

/// Times a backend's operators whose name contains `only`; `each` is given every figure as it comes.
pub(crate) fn run(
    backend: &Backend,
    only: Option<&str>,
    budget: Duration,
    mut each: impl FnMut(Model) -> Result<()>,
) -> Result<()> {
    let failed = |operator: &str| {
        let operator = operator.to_owned();
        move |error| Error::Operator {
            operator,
            source: without_backtrace(error),
        }
    };
    let cases = operator_cases(backend).map_err(failed("list"))?;
    for mut case in cases {
        if only.is_some_and(|only| !case.operator.contains(only)) {
            continue;
        }
        interrupt::check()?;
        let (median, runs) = median_of(budget, || (case.run)().map_err(failed(case.operator)))?;
        let (done, repetitions) = resident(runs, || (case.run)());
        done.map_err(failed(case.operator))?;
        each(Model {
            resident_ms: resident_ms(repetitions, runs),
            ..figure(&case, median, runs)
        })?;
    }
    Ok(())
}

fn figure(case: &OperatorCase, median: Duration, runs: usize) -> Model {
    let mut shape = vec![case.batch];
    shape.extend(&case.shape);
    Model {
        peer: "galley".into(),
        model: case.operator.into(),
        batch: case.batch,
        shape,
        ms: milliseconds(median),
        resident_ms: None,
        items_per_s: case.batch as f64 / median.as_secs_f64().max(1e-9),
        runs,
        dtype: case.dtype.into(),
        weights: "random".into(),
    }
}
