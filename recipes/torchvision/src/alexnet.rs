//! AlexNet, the edition for one device (Krizhevsky 2014).

use galley_nn::graph::{Builder, Convolution, Pool, Value};

use crate::layers::biased_relu;

pub(crate) fn alexnet(net: &mut Builder, classes: usize) -> Value {
    let pool = Pool::max(3).stride(2);
    let stem = Convolution::new(64, 11).stride(4).padding(2);
    let x = biased_relu(net, net.input(), "features.0", stem);
    let x = net.pool(x, pool.clone());
    let x = biased_relu(net, x, "features.3", Convolution::new(192, 5).padding(2));
    let mut x = net.pool(x, pool.clone());
    for (name, channels) in [
        ("features.6", 384),
        ("features.8", 256),
        ("features.10", 256),
    ] {
        x = biased_relu(net, x, name, Convolution::new(channels, 3).padding(1));
    }
    x = net.pool(x, pool);
    x = net.adaptive_mean(x, [6, 6]);
    for name in ["classifier.1", "classifier.4"] {
        x = net.dropout(x, 0.5);
        x = net.linear(name, x, 4096);
        x = net.relu(x);
    }
    net.linear("classifier.6", x, classes)
}
