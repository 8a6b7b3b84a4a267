//! VGG (Simonyan and Zisserman 2014), with and without BatchNorm.

use galley_nn::graph::{Builder, Convolution, Pool, Value};

/// So many 3x3 convolutions before each pool.
pub(crate) fn vgg(net: &mut Builder, repeats: [usize; 5], norms: bool, classes: usize) -> Value {
    let mut x = net.input();
    let mut index = 0;
    for (repeats, channels) in repeats.into_iter().zip([64, 128, 256, 512, 512]) {
        for _ in 0..repeats {
            let layer = Convolution::new(channels, 3).padding(1).biased();
            x = net.convolution(&format!("features.{index}"), x, layer);
            index += 1;
            if norms {
                x = net.batch_norm(&format!("features.{index}"), x);
                index += 1;
            }
            x = net.relu(x);
            index += 1;
        }
        x = net.pool(x, Pool::max(2).stride(2));
        index += 1;
    }
    x = net.adaptive_mean(x, [7, 7]);
    for name in ["classifier.0", "classifier.3"] {
        x = net.linear(name, x, 4096);
        x = net.relu(x);
        x = net.dropout(x, 0.5);
    }
    net.linear("classifier.6", x, classes)
}
