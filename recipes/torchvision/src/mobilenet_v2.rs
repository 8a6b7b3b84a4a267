//! MobileNetV2 (Sandler et al. 2018).

use galley_nn::graph::{Activation, Builder, Convolution, Value};

use crate::layers::{Inverted, normed};

/// Of each stage: how much wider its blocks are within, its channels, its blocks, and the stride of the first.
const STAGES: [[usize; 4]; 7] = [
    [1, 16, 1, 1],
    [6, 24, 2, 2],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
];

pub(crate) fn mobilenet_v2(net: &mut Builder, classes: usize) -> Value {
    let stem = Convolution::new(32, 3).stride(2).padding(1);
    let x = normed(net, net.input(), "features.0", ["0", "1"], stem);
    let mut x = net.activation(x, Activation::Relu6);
    let mut index = 1;
    for [expand, outputs, repeats, stride] in STAGES {
        for repeat in 0..repeats {
            let block = Inverted {
                wide: expand * net.shape(x).channels,
                kernel: 3,
                stride: if repeat == 0 { stride } else { 1 },
                outputs,
                activation: Activation::Relu6,
            };
            let names = if expand == 1 {
                (None, ["0.0", "0.1"], ["1", "2"])
            } else {
                (Some(["0.0", "0.1"]), ["1.0", "1.1"], ["2", "3"])
            };
            x = block.add(net, x, &format!("features.{index}.conv"), names);
            index += 1;
        }
    }
    let x = normed(net, x, "features.18", ["0", "1"], Convolution::new(1280, 1));
    let x = net.activation(x, Activation::Relu6);
    let x = net.mean(x);
    let x = net.dropout(x, 0.2);
    net.linear("classifier.1", x, classes)
}
