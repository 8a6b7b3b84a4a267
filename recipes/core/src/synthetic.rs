//! Seeded random weights and inputs that any program can make, so that numbers can be compared without weight files.
//!
//! Every value is a function of a name, an index and a seed: `u = splitmix64((fnv1a64(name) ^ seed) + i * GAMMA) >> 40`,
//! scaled to `[-1, 1)`. A tensor's kind follows from its name and shape in the library that the architecture comes
//! from (torchvision, transformers, torch); the gains keep a deep network's signal alive. The goldens that the recipes
//! test against were made by PyTorch from the same definition.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};

const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// The 64-bit FNV-1a hash.
pub fn fnv1a64(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// One step of the SplitMix64 generator from state `state`.
pub fn splitmix64(state: u64) -> u64 {
    let mut z = state.wrapping_add(GAMMA);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Integers in `[0, 2^24)`.
pub fn raw24(name: &str, seed: u64) -> impl Iterator<Item = u32> + use<> {
    let key = fnv1a64(name) ^ seed;
    (0u64..).map(move |i| (splitmix64(key.wrapping_add(i.wrapping_mul(GAMMA))) >> 40) as u32)
}

/// Numbers in `[-1, 1)`.
pub fn uniform(name: &str, seed: u64) -> impl Iterator<Item = f32> + use<> {
    const STEP: f32 = 1.0 / (1 << 23) as f32;
    raw24(name, seed).map(|raw| raw as f32 * STEP - 1.0)
}

/// Numbers as torch's `randn` makes them: of mean 0 and deviation 1, by Box and Muller's transform.
pub fn normal(name: &str, seed: u64) -> impl Iterator<Item = f32> + use<> {
    const STEP: f32 = 1.0 / (1 << 24) as f32;
    let mut raw = raw24(name, seed);
    std::iter::from_fn(move || {
        // Neither is zero, of which there is no logarithm.
        let [radius, angle] = [raw.next()?, raw.next()?].map(|raw| (raw as f32 + 0.5) * STEP);
        let radius = (-2.0 * radius.ln()).sqrt();
        let (sin, cos) = (std::f32::consts::TAU * angle).sin_cos();
        Some([radius * cos, radius * sin])
    })
    .flatten()
}

/// An image `[3, size, size]`, channel by channel: a value for each `block` x `block` cell, with noise on each pixel.
pub fn image(name: &str, size: usize, seed: u64, block: usize) -> Vec<f32> {
    let grid = size.div_ceil(block);
    let cells: Vec<f32> = uniform(&format!("{name}.cells"), seed)
        .take(3 * grid * grid)
        .collect();
    let noise = uniform(&format!("{name}.noise"), seed);
    let places =
        (0..3).flat_map(|c| (0..size).flat_map(move |y| (0..size).map(move |x| (c, y, x))));
    places
        .zip(noise)
        .map(|((c, y, x), noise)| {
            cells[(c * grid + y / block) * grid + x / block] * 1.25 + noise * 0.5
        })
        .collect()
}

/// Token ids of length `n`: 101, then ids in `[1000, vocab)`, then 102.
pub fn token_ids(name: &str, n: usize, seed: u64, vocab: u32) -> Vec<u32> {
    let mut ids: Vec<u32> = raw24(name, seed)
        .take(n)
        .map(|raw| 1000 + raw % (vocab - 1000))
        .collect();
    if let Some(first) = ids.first_mut() {
        *first = 101;
    }
    if let Some(last) = ids.last_mut() {
        *last = 102;
    }
    ids
}

/// The f32 values of the tensor that a state dict calls `name`.
pub fn tensor(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let (scale, offset) = affine(name, shape);
    let values = uniform(name, seed).take(shape.iter().product());
    // Without an offset nothing is added at all: -0.0 stays as it is.
    match offset {
        Some(offset) => values.map(|u| u * scale + offset).collect(),
        None => values.map(|u| u * scale).collect(),
    }
}

/// The kind of a tensor, as the factor and the offset that its uniform numbers get.
fn affine(name: &str, shape: &[usize]) -> (f32, Option<f32>) {
    let last = name.rsplit('.').next().unwrap_or(name);
    let fan_in: usize = shape.iter().skip(1).product();
    let spread = |gain: f64| ((3.0 * gain / fan_in as f64).sqrt() as f32, None);
    if last == "running_mean" || last.starts_with("bias") {
        (0.1, None)
    } else if last == "running_var" {
        (0.5, Some(1.0))
    } else if shape.len() == 1 {
        (0.1, Some(1.0))
    } else if name.contains("embeddings.") {
        let size = if name.contains("token_type") {
            0.005
        } else {
            0.05
        };
        ((size * 3.0_f64.sqrt()) as f32, None)
    } else if shape.len() == 4 {
        spread(conv_gain(name, shape))
    } else {
        spread(linear_gain(name))
    }
}

fn conv_gain(name: &str, shape: &[usize]) -> f64 {
    let reduces = shape[2] == 1 && shape[1] > shape[0];
    if name.contains(".fc1.") || name.contains(".fc2.") {
        1.0
    } else if reduces && name.split('.').nth(2) == Some("0") {
        5.0
    } else if reduces {
        0.25
    } else {
        2.0
    }
}

fn linear_gain(name: &str) -> f64 {
    let any = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    if any(&[".query.", ".key.", "q_lin.", "k_lin."]) {
        2.0
    } else if any(&["attention.output.dense.", "out_lin."]) {
        0.25
    } else if name == "classifier.weight" {
        4.0
    } else {
        1.0
    }
}

/// Weights for any architecture, made on demand, as f32 on the host.
pub fn var_builder(seed: u64) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Synthetic { seed }), DType::F32, Device::Cpu)
}

struct Synthetic {
    seed: u64,
}

impl SimpleBackend for Synthetic {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        Tensor::from_vec(tensor(name, shape.dims(), self.seed), shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("the shape of the synthetic tensor {name} is not known")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generator_matches_the_published_check_values() {
        assert_eq!(fnv1a64(""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(fnv1a64("classifier.weight"), 0x14E5_F940_AB23_4D36);
        assert_eq!(splitmix64(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(
            raw24("classifier.weight", 2001).take(4).collect::<Vec<_>>(),
            [6_951_050, 7_957_121, 9_803_219, 2_971_613]
        );
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_deviation_one() {
        let numbers: Vec<f64> = normal("x", 1).take(100_000).map(f64::from).collect();
        let mean = |of: &dyn Fn(f64) -> f64| {
            numbers.iter().map(|&x| of(x)).sum::<f64>() / numbers.len() as f64
        };
        assert!(mean(&|x| x).abs() < 0.02 && (mean(&|x| x * x) - 1.0).abs() < 0.03);
        // Of a normal distribution 4.6 % lie beyond two deviations; of a uniform one none.
        let beyond = mean(&|x| f64::from(x.abs() > 2.0));
        assert!((0.04..0.05).contains(&beyond), "{beyond}");
    }

    #[test]
    fn classifier_weight_matches_bit_for_bit() {
        let values = tensor("classifier.weight", &[9, 768], 2001);
        let bits: Vec<u32> = values[..4].iter().map(|value| value.to_bits()).collect();
        assert_eq!(bits, [0xBCAF_7BB0, 0xBBD2_AFE0, 0x3CAC_AE98, 0xBDA5_5046]);
        let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
        assert!((sum - 3.968_281_552_195_549).abs() < 1e-9, "{sum}");
    }
}
