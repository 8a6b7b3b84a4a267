//! Softmax cross-entropy, the mean over a batch, and its gradient.

#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;

use rayon::prelude::*;

use super::Onto;

/// The loss of logits `[rows, classes]` by each row's label, below the classes. `gradient` becomes that of `weight` times the
/// loss.
///
/// # Panics
/// A label is not below the classes, or lengths do not fit.
pub(crate) fn run(
    logits: &[f32],
    labels: &[u32],
    weight: f64,
    gradient: Option<(&mut [f32], Onto)>,
) -> f64 {
    let classes = logits.len() / labels.len();
    let share = weight / labels.len() as f64;
    let rows = logits.par_chunks_exact(classes).zip(labels);
    let losses: Vec<f64> = match gradient {
        None => rows
            .map(|(logits, label)| row(logits, *label).loss)
            .collect(),
        Some((gradient, onto)) => rows
            .zip(gradient.par_chunks_exact_mut(classes))
            .map(|((logits, label), gradient)| {
                let row = row(logits, *label);
                for (class, (logit, gradient)) in logits.iter().zip(gradient).enumerate() {
                    let expected = f64::from(u8::from(class == *label as usize));
                    let is = (f64::from(*logit) - row.most).exp() / row.sum;
                    onto.put(gradient, ((is - expected) * share) as f32);
                }
                row.loss
            })
            .collect(),
    };
    losses.iter().sum::<f64>() / labels.len() as f64
}

struct Row {
    /// The largest logit.
    most: f64,
    /// The sum of `e^(logit - most)`.
    sum: f64,
    loss: f64,
}

fn row(logits: &[f32], label: u32) -> Row {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits
        .iter()
        .map(|logit| (f64::from(*logit) - most).exp())
        .sum();
    let loss = sum.ln() + most - f64::from(logits[label as usize]);
    Row { most, sum, loss }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_logits_are_no_trouble_and_gradients_sum_to_nothing() {
        let logits = [1000.0, 999.0, -1e30, 0.5, 0.5, 0.5];
        let mut gradient = [1.0; 6];
        let loss = run(&logits, &[1, 0], 0.5, Some((&mut gradient, Onto::Write)));
        let expected = (1.0 + (1f64 + (-1f64).exp()).ln() + 3f64.ln()) / 2.0;
        assert!(
            (loss - expected).abs() < 1e-6,
            "{loss}, expected {expected}"
        );
        let first = 0.25 / (1.0 + (-1f32).exp());
        for (got, expected) in
            gradient
                .into_iter()
                .zip([first, -first, 0.0, -1.0 / 6.0, 1.0 / 12.0, 1.0 / 12.0])
        {
            assert!((got - expected).abs() < 1e-6, "{gradient:?}");
        }
        let before = gradient;
        run(&logits, &[1, 0], 0.5, Some((&mut gradient, Onto::Add)));
        for (twice, once) in gradient.into_iter().zip(before) {
            assert_eq!(twice, 2.0 * once);
        }
    }

    /// What is not a number is not hidden.
    #[test]
    fn a_loss_that_is_not_finite_stays_so() {
        assert!(!run(&[f32::NAN, 0.0], &[0], 1.0, None).is_finite());
        assert!(!run(&[f32::INFINITY, 0.0], &[1], 1.0, None).is_finite());
    }
}
