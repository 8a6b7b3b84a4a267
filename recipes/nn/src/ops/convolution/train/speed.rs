//! What each product of a training step takes, for whoever changes a kernel:
//! `cargo test --release -p galley-nn --lib -- --ignored --nocapture train::speed`.

use std::{
    ops::{Deref, DerefMut},
    time::Instant,
};

use super::*;
use crate::{
    activation::Activation,
    host::tests::{flat, random},
    matmul,
    ops::batch_norm,
    simd::Precision,
};

/// Images of a step.
const IMAGES: usize = 8;
/// How often each is timed; the best counts.
const TIMES: usize = 7;

/// A network, channels in and out, the kernel, the stride, the image's side, and the groups.
type Layer = (&'static str, [usize; 2], usize, usize, usize, usize);

const LAYERS: [Layer; 36] = [
    ("resnet18", [3, 64], 7, 2, 224, 1),
    ("resnet18", [64, 64], 3, 1, 56, 1),
    ("resnet18", [64, 128], 3, 2, 56, 1),
    ("resnet18", [64, 128], 1, 2, 56, 1),
    ("resnet18", [128, 128], 3, 1, 28, 1),
    ("resnet18", [128, 256], 3, 2, 28, 1),
    ("resnet18", [256, 256], 3, 1, 14, 1),
    ("resnet18", [256, 512], 3, 2, 14, 1),
    ("resnet18", [512, 512], 3, 1, 7, 1),
    ("resnet50", [64, 256], 1, 1, 56, 1),
    ("resnet50", [256, 64], 1, 1, 56, 1),
    ("resnet50", [256, 512], 1, 2, 56, 1),
    ("resnet50", [128, 512], 1, 1, 28, 1),
    ("resnet50", [512, 128], 1, 1, 28, 1),
    ("resnet50", [256, 1024], 1, 1, 14, 1),
    ("resnet50", [1024, 256], 1, 1, 14, 1),
    ("resnet50", [512, 2048], 1, 1, 7, 1),
    ("resnet50", [2048, 512], 1, 1, 7, 1),
    ("resnet50", [2048, 1000], 1, 1, 1, 1),
    ("mobilenet_v2", [3, 32], 3, 2, 224, 1),
    ("mobilenet_v2", [32, 32], 3, 1, 112, 32),
    ("mobilenet_v2", [32, 16], 1, 1, 112, 1),
    ("mobilenet_v2", [16, 96], 1, 1, 112, 1),
    ("mobilenet_v2", [96, 96], 3, 2, 112, 96),
    ("mobilenet_v2", [24, 144], 1, 1, 56, 1),
    ("mobilenet_v2", [144, 144], 3, 1, 56, 144),
    ("mobilenet_v2", [144, 24], 1, 1, 56, 1),
    ("mobilenet_v2", [192, 192], 3, 1, 28, 192),
    ("mobilenet_v2", [384, 64], 1, 1, 14, 1),
    ("mobilenet_v2", [576, 576], 3, 2, 14, 576),
    ("mobilenet_v2", [960, 320], 1, 1, 7, 1),
    ("mobilenet_v2", [960, 960], 3, 1, 7, 960),
    ("resnext50", [128, 128], 3, 1, 56, 32),
    ("resnext50", [512, 512], 3, 1, 14, 32),
    ("vgg16", [64, 64], 3, 1, 224, 1),
    ("vgg16", [25088, 4096], 1, 1, 1, 1),
];

/// The best of some times, in milliseconds.
fn time(mut run: impl FnMut()) -> f64 {
    (0..=TIMES).fold(f64::INFINITY, |best, _| {
        let start = Instant::now();
        run();
        best.min(start.elapsed().as_secs_f64() * 1e3)
    })
}

fn line(what: &str, multiplications: usize, times: [f64; 3]) {
    let rate = |ms: f64| format!("{ms:8.3} ms {:6.1}", multiplications as f64 * 2e-6 / ms);
    println!("{what:42} {}", times.map(rate).join("  "));
}

/// Values that begin on a cache line, as those of a trainer do.
#[derive(Clone)]
struct Values(Aligned, usize);

impl Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0.as_slice()[..self.1]
    }
}

impl DerefMut for Values {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0.as_mut_slice()[..self.1]
    }
}

fn values(len: usize, seed: u32) -> Values {
    let mut values = Values(Aligned::zeros(len), len);
    values.copy_from_slice(&flat(&random(&[len], seed)));
    values
}

fn time_layer(name: &str, layer: &Convolution, from: Shape, images: usize) {
    let [height, width] = layer.window.over([from.height, from.width], false).unwrap();
    let to = Shape {
        channels: layer.outputs,
        height,
        width,
    };
    let inputs = from.channels / layer.groups;
    let taps = layer.window.kernel[0] * layer.window.kernel[1];
    let weight = values(to.channels * inputs * taps, 1);
    let x = values(images * from.values(), 2);
    let dy = values(images * to.values(), 3);
    let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), weight.clone());
    let level = Level::detect();
    let mut trained = Trained::new(layer, from, to, images);
    let forward = time(|| trained.forward(level, &weight, None, &x, &mut y));
    let input = time(|| trained.backward_input(level, &weight, &dy, &mut dx, Onto::Write));
    let gradient = time(|| trained.backward_weight(level, &x, &dy, &mut dw, None));
    let what = format!(
        "{name} {}->{} {}x{} /{} of {}x{}",
        from.channels,
        to.channels,
        layer.window.kernel[0],
        layer.window.kernel[1],
        layer.window.stride[0],
        from.height,
        from.width
    );
    let multiplications = images * to.values() * inputs * taps;
    line(&what, multiplications, [forward, input, gradient]);
}

#[test]
#[ignore = "prints times, for whoever reads them"]
fn of_layers() {
    println!(
        "{:42} {:>18}  {:>18}  {:>18}",
        "GFLOP/s", "forward", "input", "weight"
    );
    let side = 2048;
    let matrix = matmul::Matrix::pack((side, side), Precision::F32, &values(side * side, 1), Some);
    let (x, mut y) = (values(side * side, 2), values(side * side, 3));
    let product = matmul::Product::new(&x, side, &matrix);
    let peak = time(|| product.compute_into(Level::detect(), &mut y));
    line("matrix product", side * side * side, [peak; 3]);
    let only = std::env::var("ONLY").unwrap_or_default();
    for (name, [inputs, outputs], kernel, stride, side, groups) in LAYERS {
        if !name.contains(&only) {
            continue;
        }
        let layer = Convolution::new(outputs, kernel)
            .stride(stride)
            .padding(kernel / 2)
            .groups(groups);
        let from = Shape {
            channels: inputs,
            height: side,
            width: side,
        };
        time_layer(name, &layer, from, IMAGES);
    }
    if "bert".contains(&only) {
        for (inputs, outputs) in [(768, 768), (768, 3072), (3072, 768)] {
            let from = Shape {
                channels: inputs,
                height: 1,
                width: 512,
            };
            time_layer("bert", &Convolution::new(outputs, 1), from, IMAGES);
        }
    }
}

/// BatchNorm with a sum and ReLU: what it takes, and the bytes that it reads and writes at least, in GB/s.
#[test]
#[ignore = "prints times, for whoever reads them"]
fn of_norms() {
    let level = Level::detect();
    for (channels, side) in [
        (64, 112),
        (256, 56),
        (512, 28),
        (2048, 7),
        (96, 112),
        (24, 56),
    ] {
        let len = IMAGES * side * side * channels;
        let [x, residual, dy] = [1, 2, 3].map(|seed| values(len, seed));
        let [scale, shift] = [4, 5].map(|seed| values(channels, seed));
        let [mut y, mut dx, mut dr] = [6, 7, 8].map(|seed| values(len, seed));
        let [mut dscale, mut dshift] = [scale.clone(), shift.clone()];
        for with in [false, true] {
            let mut statistics = batch_norm::Statistics::default();
            let relu = Activation::Relu;
            let added = with.then_some(&residual[..]);
            let forward = time(|| {
                statistics = batch_norm::forward(
                    level, &x, channels, &scale, &shift, 1e-5, added, relu, &mut y,
                );
            });
            let backward = time(|| {
                let dr = with.then_some((&mut dr[..], Onto::Write));
                let dx = (&mut dx[..], Onto::Write);
                batch_norm::backward(
                    level,
                    &x,
                    &statistics,
                    &scale,
                    &y,
                    relu,
                    &dy,
                    dx,
                    dr,
                    &mut dscale,
                    &mut dshift,
                );
            });
            let moved = [3, 7].map(|passes| (passes + usize::from(with)) * 4 * len);
            let rate =
                |(ms, bytes): (f64, usize)| format!("{ms:8.3} ms {:6.1}", bytes as f64 / ms / 1e6);
            let rates = [(forward, moved[0]), (backward, moved[1])].map(rate);
            println!(
                "{channels} of {side}x{side}, sum {with:5}  {}",
                rates.join("  ")
            );
        }
    }
}
