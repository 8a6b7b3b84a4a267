//! What several families have.

use galley_nn::graph::{Activation, Builder, Convolution, Value};

/// A part's name within the module `at`.
pub(crate) fn within(at: &str, part: &str) -> String {
    if at.is_empty() {
        part.into()
    } else {
        format!("{at}.{part}")
    }
}

/// A convolution and the BatchNorm after it, by their names within `at`.
pub(crate) fn normed(
    net: &mut Builder,
    x: Value,
    at: &str,
    [convolution, norm]: [&str; 2],
    layer: Convolution,
) -> Value {
    let x = net.convolution(&within(at, convolution), x, layer);
    net.batch_norm(&within(at, norm), x)
}

/// The same, and ReLU.
pub(crate) fn normed_relu(
    net: &mut Builder,
    x: Value,
    at: &str,
    names: [&str; 2],
    layer: Convolution,
) -> Value {
    let x = normed(net, x, at, names, layer);
    net.relu(x)
}

/// A convolution with a bias, and ReLU.
pub(crate) fn biased_relu(net: &mut Builder, x: Value, name: &str, layer: Convolution) -> Value {
    let x = net.convolution(name, x, layer.biased());
    net.relu(x)
}

/// What the Inception networks call `BasicConv2d`: BatchNorm's epsilon is 0.001.
pub(crate) fn basic(net: &mut Builder, x: Value, at: &str, layer: Convolution) -> Value {
    let x = net.convolution(&within(at, "conv"), x, layer);
    let x = net.batch_norm_with(&within(at, "bn"), x, 1e-3);
    net.relu(x)
}

/// An inverted bottleneck: to `wide` channels, a filter for each of them, and down to `outputs`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inverted {
    pub(crate) wide: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) outputs: usize,
    pub(crate) activation: Activation,
}

impl Inverted {
    /// The names are those of a convolution and its norm; without the first pair, the input is as wide as it has to be.
    pub(crate) fn add(
        self,
        net: &mut Builder,
        x: Value,
        at: &str,
        (expand, depthwise, project): (Option<[&str; 2]>, [&str; 2], [&str; 2]),
    ) -> Value {
        let mut y = x;
        if let Some(names) = expand {
            y = normed(net, y, at, names, Convolution::new(self.wide, 1));
            y = net.activation(y, self.activation);
        }
        let filters = Convolution::new(self.wide, self.kernel)
            .stride(self.stride)
            .padding(self.kernel / 2)
            .groups(self.wide);
        y = normed(net, y, at, depthwise, filters);
        y = net.activation(y, self.activation);
        y = normed(net, y, at, project, Convolution::new(self.outputs, 1));
        if self.stride == 1 && net.shape(x) == net.shape(y) {
            y = net.sum(x, y);
        }
        y
    }
}
