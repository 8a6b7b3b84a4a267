//! How a network is trained.

/// What a trainer does with each batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How parameters follow their gradients.
    pub optimizer: Optimizer,
    /// The seed of dropout's zeros; without one there is no dropout.
    pub dropout: Option<u64>,
    /// Whether f16 is all that there is where a CUDA device computes in it: parameters, gradients and what the optimizer keeps are
    /// rounded whenever they change, and the loss is not scaled.
    pub pure_half: bool,
}

#[cfg(any(test, feature = "cuda"))]
impl Settings {
    /// Those of one of several devices that train together: each drops others.
    pub(super) fn of(&self, rank: usize) -> Self {
        let seed = |seed: u64| seed.wrapping_add(rank as u64);
        Self {
            dropout: self.dropout.map(seed),
            ..*self
        }
    }
}

/// How parameters follow their gradients, as PyTorch's optimizers of these names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// Stochastic gradient descent. The first gradient is the first momentum.
    Sgd {
        /// What a step is multiplied by.
        lr: f64,
        /// What is left of the momentum in the next step.
        momentum: f64,
        /// How much of a parameter is added to its gradient.
        weight_decay: f64,
        /// Whether the momentum is looked ahead to.
        nesterov: bool,
    },
    /// Adam with decoupled weight decay.
    AdamW {
        /// What a step is multiplied by.
        lr: f64,
        /// What is left of the means of gradients and of their squares.
        betas: [f64; 2],
        /// What is added to the root that a step is divided by.
        eps: f64,
        /// How much of a parameter, times `lr`, is taken from it.
        weight_decay: f64,
    },
}

impl Optimizer {
    /// As SuperBench trains its convolutional networks and its LSTM.
    pub const SGD: Self = Self::Sgd {
        lr: 1e-5,
        momentum: 0.9,
        weight_decay: 1e-4,
        nesterov: true,
    };

    /// As SuperBench trains its transformers: torch's usual numbers but for the rate.
    pub const ADAM_W: Self = Self::AdamW {
        lr: 1e-5,
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.01,
    };

    /// The same with another rate.
    pub fn with_rate(mut self, rate: f64) -> Self {
        match &mut self {
            Self::Sgd { lr, .. } | Self::AdamW { lr, .. } => *lr = rate,
        }
        self
    }

    /// Arrays as long as the parameters that it keeps.
    pub(super) fn kept(&self) -> usize {
        match self {
            Self::Sgd { momentum, .. } => usize::from(*momentum != 0.0),
            Self::AdamW { .. } => 2,
        }
    }
}
