//! How models are trained, on the command line.

use std::path::PathBuf;

use clap::Args;
use galley_nn::train::Optimizer;

/// What `galley bench models --action train` trains with. What is not given is SuperBench's.
#[derive(Args, Clone, Debug, Default)]
pub struct TrainingArgs {
    /// Train without dropout
    #[arg(long, env = "GALLEY_BENCH_NO_DROPOUT", help_heading = "Training")]
    pub no_dropout: bool,
    /// Do without cuDNN's convolutions, also where it is found
    #[arg(long, env = "GALLEY_BENCH_NO_CUDNN", help_heading = "Training")]
    pub no_cudnn: bool,
    /// With --precision float16, keep parameters, gradients and the optimizer's numbers in f16 too and do not scale the loss
    #[arg(long, env = "GALLEY_BENCH_PURE_HALF", help_heading = "Training")]
    pub pure_half: bool,
    /// The learning rate [default: 1e-5]
    #[arg(long, env = "GALLEY_BENCH_LR", help_heading = "Training")]
    pub lr: Option<f64>,
    /// The weight decay [default: 1e-4 of SGD, 0.01 of AdamW]
    #[arg(long, env = "GALLEY_BENCH_WEIGHT_DECAY", help_heading = "Training")]
    pub weight_decay: Option<f64>,
    /// The momentum of SGD [default: 0.9, Nesterov's]
    #[arg(long, env = "GALLEY_BENCH_MOMENTUM", help_heading = "Training")]
    pub momentum: Option<f64>,
    /// What is left of AdamW's means in the next step [default: 0.9,0.999]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "FIRST,SECOND",
        env = "GALLEY_BENCH_BETAS",
        help_heading = "Training"
    )]
    pub betas: Option<Vec<f64>>,
    /// What AdamW adds to the root that it divides by [default: 1e-8]
    #[arg(long, env = "GALLEY_BENCH_EPS", help_heading = "Training")]
    pub eps: Option<f64>,
    /// Train one model on the batch of --input for --num-steps, and print a JSON line for each step's loss, and then one for each
    /// parameter with the norms of its last gradient and of its values
    #[arg(
        long,
        requires = "input",
        env = "GALLEY_BENCH_LOSSES",
        help_heading = "Training"
    )]
    pub losses: bool,
    /// With --losses, the batch: a safetensors file with pixels, input_ids or x, and labels
    #[arg(
        long,
        requires = "losses",
        value_name = "FILE",
        env = "GALLEY_BENCH_INPUT",
        help_heading = "Training"
    )]
    pub input: Option<PathBuf>,
}

impl TrainingArgs {
    /// An optimizer with the numbers that were given.
    ///
    /// # Errors
    /// A number is not the optimizer's, or out of its range.
    pub(crate) fn optimizer(&self, mut optimizer: Optimizer) -> Result<Optimizer, String> {
        let kind = match optimizer {
            Optimizer::Sgd { .. } => "SGD",
            Optimizer::AdamW { .. } => "AdamW",
        };
        let none_of = |what: &str| {
            Err(format!(
                "{kind}, which this model is trained with, has no {what}"
            ))
        };
        match &mut optimizer {
            Optimizer::Sgd {
                lr,
                momentum,
                weight_decay,
                ..
            } => {
                set("--lr", lr, self.lr, f64::INFINITY)?;
                set("--momentum", momentum, self.momentum, 1.0)?;
                set(
                    "--weight-decay",
                    weight_decay,
                    self.weight_decay,
                    f64::INFINITY,
                )?;
                if self.betas.is_some() || self.eps.is_some() {
                    return none_of("--betas and no --eps");
                }
            }
            Optimizer::AdamW {
                lr,
                betas,
                eps,
                weight_decay,
            } => {
                set("--lr", lr, self.lr, f64::INFINITY)?;
                set(
                    "--weight-decay",
                    weight_decay,
                    self.weight_decay,
                    f64::INFINITY,
                )?;
                set("--eps", eps, self.eps, f64::INFINITY)?;
                match self.betas.as_deref() {
                    Some(&[first, second]) => {
                        for (beta, given) in betas.iter_mut().zip([first, second]) {
                            set("--betas", beta, Some(given), 1.0)?;
                        }
                    }
                    Some(others) => {
                        return Err(format!("--betas: expected two, got {}", others.len()));
                    }
                    None => (),
                }
                if self.momentum.is_some() {
                    return none_of("--momentum");
                }
            }
        }
        Ok(optimizer)
    }
}

/// Sets a number that was given, if it is at least 0 and below an end.
fn set(name: &str, number: &mut f64, given: Option<f64>, end: f64) -> Result<(), String> {
    match given {
        Some(given) if !(0.0..end).contains(&given) => Err(if end.is_finite() {
            format!("{name}: expected a number from 0 to below {end}, got {given}")
        } else {
            format!("{name}: expected a finite number from 0 on, got {given}")
        }),
        Some(given) => {
            *number = given;
            Ok(())
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_set_where_they_are_the_optimizers() {
        let args = TrainingArgs {
            lr: Some(0.1),
            momentum: Some(0.5),
            ..TrainingArgs::default()
        };
        let sgd = args.optimizer(Optimizer::SGD).unwrap();
        let expected = Optimizer::Sgd {
            lr: 0.1,
            momentum: 0.5,
            weight_decay: 1e-4,
            nesterov: true,
        };
        assert_eq!(sgd, expected);
        let told = args.optimizer(Optimizer::ADAM_W).unwrap_err();
        assert!(
            told.contains("AdamW") && told.contains("--momentum"),
            "{told}"
        );
        let args = TrainingArgs {
            betas: Some(vec![0.5, 0.75]),
            ..TrainingArgs::default()
        };
        match args.optimizer(Optimizer::ADAM_W).unwrap() {
            Optimizer::AdamW { betas, eps, .. } => assert_eq!((betas, eps), ([0.5, 0.75], 1e-8)),
            other => panic!("{other:?}"),
        }
        assert!(args.optimizer(Optimizer::SGD).is_err());
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for (lr, momentum) in [
            (-1.0, 0.9),
            (f64::NAN, 0.9),
            (f64::INFINITY, 0.9),
            (0.1, 1.0),
        ] {
            let args = TrainingArgs {
                lr: Some(lr),
                momentum: Some(momentum),
                ..TrainingArgs::default()
            };
            assert!(args.optimizer(Optimizer::SGD).is_err(), "{lr} {momentum}");
        }
    }
}
