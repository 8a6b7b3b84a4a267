//! Running a batch that may be too large for the device's memory: halve it and run the same items again, so that no
//! caller sees it. Only out-of-memory is treated so.

use galley_core::ForwardError;

/// Runs `batch` whole, or in halves of halves. `on_halved` learns the size that now is to be tried.
///
/// # Errors
/// Any error of `forward` but out-of-memory, and that too for a single item.
pub fn run_halving<T, R>(
    batch: &[T],
    forward: &mut impl FnMut(&[T]) -> Result<Vec<R>, ForwardError>,
    on_halved: &mut impl FnMut(usize),
) -> Result<Vec<R>, ForwardError> {
    match forward(batch) {
        Err(ForwardError::OutOfMemory) if batch.len() > 1 => {
            let (front, back) = batch.split_at(batch.len().div_ceil(2));
            on_halved(front.len());
            let mut answers = run_halving(front, forward, on_halved)?;
            answers.extend(run_halving(back, forward, on_halved)?);
            Ok(answers)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(limit: usize) -> impl FnMut(&[u32]) -> Result<Vec<u32>, ForwardError> {
        move |batch| match batch.len() <= limit {
            true => Ok(batch.iter().map(|n| n * 10).collect()),
            false => Err(ForwardError::OutOfMemory),
        }
    }

    #[test]
    fn halves_until_it_fits_and_keeps_the_order() {
        let batch: Vec<u32> = (0..13).collect();
        let mut tried = Vec::new();
        let answers = run_halving(&batch, &mut fits(3), &mut |size| tried.push(size)).unwrap();
        assert_eq!(answers, batch.iter().map(|n| n * 10).collect::<Vec<_>>());
        assert_eq!(tried[..2], [7, 4]);
    }

    #[test]
    fn a_single_item_that_does_not_fit_and_other_errors_come_through() {
        let none = run_halving(&[1, 2], &mut fits(0), &mut |_| {});
        assert!(matches!(none, Err(ForwardError::OutOfMemory)));
        let mut calls = 0;
        let mut broken = |_: &[u32]| -> Result<Vec<u32>, ForwardError> {
            calls += 1;
            Err(ForwardError::Failed(candle_core::Error::Msg(
                "broken".into(),
            )))
        };
        let failed = run_halving(&[1, 2], &mut broken, &mut |_| {});
        assert!(matches!(failed, Err(ForwardError::Failed(_))));
        assert_eq!(calls, 1, "only out-of-memory is tried again");
    }
}
