//! Moments, activations and the loss, with their slopes.

use crate::graph::Activation;

/// Of each channel.
pub(super) fn moments(x: &[f64], channels: usize) -> [Vec<f64>; 2] {
    let count = (x.len() / channels) as f64;
    let mean_of = |of: &dyn Fn(usize, f64) -> f64| {
        let mut sums = vec![0.0; channels];
        for (i, x) in x.iter().enumerate() {
            sums[i % channels] += of(i % channels, *x) / count;
        }
        sums
    };
    let mean = mean_of(&|_, x| x);
    let variance = mean_of(&|channel, x| (x - mean[channel]).powi(2));
    [mean, variance]
}

/// An activation's value and its slope.
pub(super) fn activate(activation: Activation, x: f64) -> [f64; 2] {
    let step = |inside: bool| f64::from(u8::from(inside));
    match activation {
        Activation::None => [x, 1.0],
        Activation::Relu => [x.max(0.0), step(x > 0.0)],
        Activation::Relu6 => [x.clamp(0.0, 6.0), step(x > 0.0 && x < 6.0)],
        Activation::Sigmoid => {
            let y = 1.0 / (1.0 + (-x).exp());
            [y, y * (1.0 - y)]
        }
        Activation::Tanh => [x.tanh(), 1.0 - x.tanh().powi(2)],
        Activation::Silu => {
            let gate = 1.0 / (1.0 + (-x).exp());
            [x * gate, gate * (1.0 + x * (1.0 - gate))]
        }
        Activation::Gelu => {
            let below = 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            [x * below, below + x * density]
        }
        Activation::GeluTanh => {
            let factor = (2.0 / std::f64::consts::PI).sqrt();
            let tanh = (factor * (x + 0.044_715 * x.powi(3))).tanh();
            let inner = factor * (1.0 + 3.0 * 0.044_715 * x * x);
            let slope = 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner;
            [0.5 * x * (1.0 + tanh), slope]
        }
    }
}

/// The error function by its series.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    (sum * 2.0 / std::f64::consts::PI.sqrt()).clamp(-1.0, 1.0)
}

/// Softmax cross-entropy, whose gradient times `weight` is added.
pub(super) fn cross_entropy(
    logits: &[f64],
    labels: &[u32],
    weight: f64,
    gradient: &mut [f64],
) -> f64 {
    let classes = logits.len() / labels.len();
    let mut loss = 0.0;
    for (row, label) in labels.iter().enumerate() {
        let logits = &logits[row * classes..][..classes];
        let sum: f64 = logits.iter().map(|x| x.exp()).sum();
        for (class, logit) in logits.iter().enumerate() {
            let expected = f64::from(u8::from(class == *label as usize));
            let off = logit.exp() / sum - expected;
            gradient[row * classes + class] += weight * off / labels.len() as f64;
        }
        loss += (sum.ln() - logits[*label as usize]) / labels.len() as f64;
    }
    loss
}
