//! MNASNet (Tan et al. 2018).

use galley_nn::graph::{Activation, Builder, Convolution, Value};

use crate::layers::{Inverted, normed, normed_relu};

/// Of each stage: how much wider its blocks are within, its channels, its blocks, the stride of the first, and the kernel.
const STAGES: [[usize; 5]; 6] = [
    [3, 24, 3, 2, 3],
    [3, 40, 3, 2, 5],
    [6, 80, 3, 2, 5],
    [6, 96, 2, 1, 3],
    [6, 192, 4, 2, 5],
    [6, 320, 1, 1, 3],
];

/// With `width` times the channels of the paper's network.
pub(crate) fn mnasnet(net: &mut Builder, width: f64, classes: usize) -> Value {
    let [stem, first] = [32, 16].map(|channels| scaled(channels, width));
    let layer = Convolution::new(stem, 3).stride(2).padding(1);
    let x = normed_relu(net, net.input(), "layers", ["0", "1"], layer);
    let filters = Convolution::new(stem, 3).padding(1).groups(stem);
    let x = normed_relu(net, x, "layers", ["3", "4"], filters);
    let mut x = normed(net, x, "layers", ["6", "7"], Convolution::new(first, 1));
    for (stage, [expand, outputs, repeats, stride, kernel]) in (8..).zip(STAGES) {
        for repeat in 0..repeats {
            let block = Inverted {
                wide: expand * net.shape(x).channels,
                kernel,
                stride: if repeat == 0 { stride } else { 1 },
                outputs: scaled(outputs, width),
                activation: Activation::Relu,
            };
            let names = (Some(["0", "1"]), ["3", "4"], ["6", "7"]);
            x = block.add(net, x, &format!("layers.{stage}.{repeat}.layers"), names);
        }
    }
    let x = normed_relu(net, x, "layers", ["14", "15"], Convolution::new(1280, 1));
    let x = net.mean(x);
    let x = net.dropout(x, 0.2);
    net.linear("classifier.1", x, classes)
}

/// To the nearest multiple of eight, but not below nine tenths.
fn scaled(channels: usize, width: f64) -> usize {
    let wanted = channels as f64 * width;
    let nearest = (((wanted + 4.0) as usize) / 8 * 8).max(8);
    if nearest as f64 >= 0.9 * wanted {
        nearest
    } else {
        nearest + 8
    }
}
