//! DenseNet (Huang et al. 2016): each layer sees the channels of all before it, and BatchNorm stands before convolutions.

use galley_nn::graph::{Builder, Convolution, Pool, Value};

use crate::layers::{normed_relu, within};

/// The channels of a layer's 1x1, in those that the layer adds.
const NARROW: usize = 4;

/// Each layer adds `growth` channels to the `stem`'s.
pub(crate) fn densenet(
    net: &mut Builder,
    (growth, stem): (usize, usize),
    repeats: [usize; 4],
    classes: usize,
) -> Value {
    let first = Convolution::new(stem, 7).stride(2).padding(3);
    let x = normed_relu(net, net.input(), "features", ["conv0", "norm0"], first);
    let mut x = net.pool(x, Pool::max(3).stride(2).padding(1));
    for (stage, repeats) in (1..).zip(repeats) {
        if stage > 1 {
            let at = format!("features.transition{}", stage - 1);
            let halved = net.shape(x).channels / 2;
            let y = before(net, x, &at, ["norm", "conv"], Convolution::new(halved, 1));
            x = net.pool(y, Pool::mean(2).stride(2));
        }
        for layer in 1..=repeats {
            let at = format!("features.denseblock{stage}.denselayer{layer}");
            let narrow = Convolution::new(NARROW * growth, 1);
            let y = before(net, x, &at, ["norm1", "conv1"], narrow);
            let wide = Convolution::new(growth, 3).padding(1);
            let y = before(net, y, &at, ["norm2", "conv2"], wide);
            x = net.concat(&[x, y]);
        }
    }
    let x = net.batch_norm("features.norm5", x);
    let x = net.relu(x);
    let x = net.mean(x);
    net.linear("classifier", x, classes)
}

/// BatchNorm, ReLU, and a convolution of that.
fn before(
    net: &mut Builder,
    x: Value,
    at: &str,
    [norm, convolution]: [&str; 2],
    layer: Convolution,
) -> Value {
    let x = net.batch_norm(&within(at, norm), x);
    let x = net.relu(x);
    net.convolution(&within(at, convolution), x, layer)
}
