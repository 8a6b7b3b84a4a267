//! SqueezeNet (Iandola et al. 2016): a few channels squeezed out of many, and 1x1 and 3x3 convolutions of these side by side.

use galley_nn::graph::{Builder, Convolution, Pool, Value};

use crate::layers::{biased_relu, within};

/// The stem, and the fire modules after which a pool stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edition {
    stem: (usize, usize),
    pooled: [usize; 2],
}

pub(crate) const V1_0: Edition = Edition {
    stem: (96, 7),
    pooled: [3, 7],
};

pub(crate) const V1_1: Edition = Edition {
    stem: (64, 3),
    pooled: [2, 4],
};

/// What each module squeezes to; it expands to four times as many, twice.
const SQUEEZED: [usize; 8] = [16, 16, 32, 32, 48, 48, 64, 64];

pub(crate) fn squeezenet(net: &mut Builder, edition: Edition, classes: usize) -> Value {
    let (channels, kernel) = edition.stem;
    let pool = Pool::max(3).stride(2).ceil();
    let stem = Convolution::new(channels, kernel).stride(2);
    let x = biased_relu(net, net.input(), "features.0", stem);
    let mut x = net.pool(x, pool.clone());
    let mut index = 3;
    for (module, squeezed) in (1..).zip(SQUEEZED) {
        x = fire(net, x, &format!("features.{index}"), squeezed);
        index += 1;
        if edition.pooled.contains(&module) {
            x = net.pool(x, pool.clone());
            index += 1;
        }
    }
    let x = net.dropout(x, 0.5);
    let x = biased_relu(net, x, "classifier.1", Convolution::new(classes, 1));
    net.mean(x)
}

fn fire(net: &mut Builder, x: Value, at: &str, squeezed: usize) -> Value {
    let x = biased_relu(
        net,
        x,
        &within(at, "squeeze"),
        Convolution::new(squeezed, 1),
    );
    let one = Convolution::new(4 * squeezed, 1);
    let one = biased_relu(net, x, &within(at, "expand1x1"), one);
    let three = Convolution::new(4 * squeezed, 3).padding(1);
    let three = biased_relu(net, x, &within(at, "expand3x3"), three);
    net.concat(&[one, three])
}
