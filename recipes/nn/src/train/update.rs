//! What becomes of parameters by their gradients.

use super::Optimizer;
use crate::{
    aligned::Aligned,
    ops::optimizer::{self, AdamW, Sgd},
    simd::Level,
};

/// An optimizer with what it keeps.
#[derive(Debug)]
pub(super) struct Update {
    optimizer: Optimizer,
    /// Momentum; or the means of gradients and of their squares.
    kept: Vec<Aligned>,
    /// Steps that there have been.
    steps: i32,
}

impl Update {
    /// For so many parameters.
    pub(super) fn new(optimizer: Optimizer, parameters: usize) -> Self {
        let kept = (0..optimizer.kept()).map(|_| Aligned::zeros(parameters));
        Self {
            optimizer,
            kept: kept.collect(),
            steps: 0,
        }
    }

    /// A step, on rayon's pool.
    pub(super) fn run(&mut self, parameters: &mut [f32], gradients: &[f32]) {
        let (level, len) = (Level::detect(), parameters.len());
        self.steps = self.steps.saturating_add(1);
        match self.optimizer {
            Optimizer::Sgd {
                lr,
                momentum,
                weight_decay,
                nesterov,
            } => {
                let with = Sgd {
                    lr: lr as f32,
                    momentum: momentum as f32,
                    weight_decay: weight_decay as f32,
                    nesterov,
                    first: self.steps == 1,
                };
                let kept = self.kept.first_mut();
                let kept = kept.map_or(&mut [][..], |kept| &mut kept.as_mut_slice()[..len]);
                optimizer::sgd(level, &with, parameters, gradients, kept);
            }
            Optimizer::AdamW {
                lr,
                betas,
                eps,
                weight_decay,
            } => {
                let [first, second] = betas.map(|beta| 1.0 - beta.powi(self.steps));
                let with = AdamW {
                    keep: (1.0 - lr * weight_decay) as f32,
                    betas: betas.map(|beta| beta as f32),
                    step_size: (lr / first) as f32,
                    correction: (1.0 / second.sqrt()) as f32,
                    eps: eps as f32,
                };
                if let [mean, square] = &mut self.kept[..] {
                    let kept = [mean, square].map(|kept| &mut kept.as_mut_slice()[..len]);
                    optimizer::adam_w(level, &with, parameters, gradients, kept);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few steps from the same gradients, as PyTorch's sources say them.
    fn check<F>(optimizer: Optimizer, step: F)
    where
        F: Fn(usize, f64, f64, &mut [f64; 2]) -> f64,
    {
        let len = 40_001;
        let mut parameters: Vec<f32> = (0..len).map(|i| (i % 97) as f32 / 50.0 - 1.0).collect();
        let mut expected: Vec<(f64, [f64; 2])> = (parameters.iter())
            .map(|x| (f64::from(*x), [0.0; 2]))
            .collect();
        let mut update = Update::new(optimizer, len);
        for count in 1..=4 {
            let gradients: Vec<f32> = (0..len)
                .map(|i| ((i * count) % 31) as f32 / 15.0 - 1.0)
                .collect();
            update.run(&mut parameters, &gradients);
            for ((x, kept), gradient) in expected.iter_mut().zip(&gradients) {
                *x = step(count, *x, f64::from(*gradient), kept);
            }
        }
        for (i, (got, (expected, _))) in parameters.iter().zip(&expected).enumerate() {
            let off = (f64::from(*got) - expected).abs();
            assert!(off < 1e-5, "value {i} is {got}, expected {expected}");
        }
    }

    #[test]
    fn descent_is_pytorchs() {
        for momentum in [0.0, 0.9] {
            for nesterov in [false, true] {
                let (lr, weight_decay) = (0.1, 0.01);
                let optimizer = Optimizer::Sgd {
                    lr,
                    momentum,
                    weight_decay,
                    nesterov,
                };
                check(optimizer, |count, x, gradient, [kept, _]| {
                    let gradient = gradient + weight_decay * x;
                    *kept = if count == 1 {
                        gradient
                    } else {
                        momentum * *kept + gradient
                    };
                    let step = match (momentum != 0.0, nesterov) {
                        (false, _) => gradient,
                        (true, false) => *kept,
                        (true, true) => gradient + momentum * *kept,
                    };
                    x - lr * step
                });
            }
        }
    }

    #[test]
    fn adam_is_pytorchs() {
        let (lr, eps, weight_decay) = (0.05, 1e-3, 0.1);
        let optimizer = Optimizer::AdamW {
            lr,
            betas: [0.8, 0.95],
            eps,
            weight_decay,
        };
        check(optimizer, |count, x, gradient, [mean, square]| {
            let x = x * (1.0 - lr * weight_decay);
            *mean = 0.8 * *mean + 0.2 * gradient;
            *square = 0.95 * *square + 0.05 * gradient * gradient;
            let [first, second] = [0.8f64, 0.95].map(|beta| 1.0 - beta.powi(count as i32));
            x - lr / first * *mean / (square.sqrt() / second.sqrt() + eps)
        });
    }
}
