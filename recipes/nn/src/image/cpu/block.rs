//! An inverted bottleneck: the steps of [`Bottleneck`], of which the first two are one pass ([`fused`]).

use candle_core::{Result, bail};

use super::{Size, dense::Dense, depthwise::Depthwise, fused, means};
use crate::{
    activation::Activation,
    aligned::Aligned,
    image::{Bottleneck, padding::Axis},
    matmul::{Gates, Product, on_vectors},
    simd::{Level, Precision},
};

/// Channels from which on an expansion gains more by bf16 than its rounding costs.
const LEAST_ROUNDED: usize = 32;

#[derive(Debug)]
pub(super) struct Block {
    expand: Option<Dense>,
    depthwise: Depthwise,
    squeeze_excite: Option<[Dense; 2]>,
    project: Dense,
    residual: bool,
}

/// What blocks compute in, one after the other.
#[derive(Default)]
pub(super) struct Workspace {
    /// The input of the expansion, or of the projection, as words.
    words: Aligned,
    /// What the depthwise convolution gives.
    wide: Aligned,
    /// Its sums over each line.
    sums: Aligned,
    means: Aligned,
    squeezed: Aligned,
    gates: Aligned,
}

impl Block {
    /// `precision` is that of the expansion, if it has many channels. What a projection rounds, all later layers see: in
    /// EfficientNet-Lite0, bf16 projections alone change the class of one image in forty, bf16 expansions that of one in four
    /// hundred.
    pub(super) fn new(
        layer: &Bottleneck,
        activation: Activation,
        precision: Precision,
    ) -> Result<Self> {
        let depthwise = Depthwise::new(&layer.depthwise, layer.window, activation)?;
        let wide = depthwise.channels();
        let dense =
            |layer, inputs, activation| Dense::new(layer, inputs, activation, Precision::F32);
        let expand = match &layer.expand {
            Some(layer) if layer.weight.dim(1)? >= LEAST_ROUNDED => {
                Some(Dense::new(layer, None, activation, on_vectors(precision))?)
            }
            Some(layer) => Some(dense(layer, None, activation)?),
            None => None,
        };
        if expand
            .as_ref()
            .is_some_and(|expand| expand.outputs() != wide)
        {
            bail!("a block expands to other than its depthwise convolution's {wide} channels")
        }
        let squeeze_excite = match &layer.squeeze_excite {
            Some([reduce, expand]) => {
                let reduce = dense(reduce, Some(wide), Activation::Silu)?;
                let expand = dense(expand, Some(reduce.outputs()), Activation::Sigmoid)?;
                if expand.outputs() != wide {
                    bail!(
                        "a squeeze-excite gives {} gates for {wide} channels",
                        expand.outputs()
                    )
                }
                Some([reduce, expand])
            }
            None => None,
        };
        let project = dense(&layer.project, Some(wide), Activation::None)?;
        let block = Self {
            expand,
            depthwise,
            squeeze_excite,
            project,
            residual: layer.residual,
        };
        if block.residual && (block.inputs() != block.outputs() || layer.window.stride != 1) {
            bail!("a block whose input is added to its output must keep its shape")
        }
        Ok(block)
    }

    pub(super) fn inputs(&self) -> usize {
        match &self.expand {
            Some(expand) => expand.inputs(),
            None => self.depthwise.channels(),
        }
    }

    pub(super) fn outputs(&self) -> usize {
        self.project.outputs()
    }

    /// Channels between expansion and projection.
    pub(super) fn wide(&self) -> usize {
        self.depthwise.channels()
    }

    pub(super) fn output(&self, size: Size) -> Result<Size> {
        let [rows, columns] = self.axes(size)?;
        Ok(Size {
            height: rows.out,
            width: columns.out,
        })
    }

    fn axes(&self, size: Size) -> Result<[Axis; 2]> {
        let window = self.depthwise.window;
        let kernel = self.depthwise.kernel;
        window.padding.axes(size, kernel, window.stride)
    }

    /// `[images, height, width, inputs]` -> `[images, out height, out width, outputs]`.
    pub(super) fn forward(
        &self,
        level: Level,
        x: &[f32],
        (images, size): (usize, Size),
        workspace: &mut Workspace,
        out: &mut [f32],
    ) -> Result<()> {
        let [rows, columns] = self.axes(size)?;
        let (channels, pixels) = (self.depthwise.channels(), rows.out * columns.out);
        let wide = workspace.wide.at_least(images * pixels * channels);
        let sums = workspace.sums.at_least(images * rows.out * channels);
        let words = match &self.expand {
            Some(expand) => expand.matrix.as_words(level, x, &mut workspace.words),
            None => x,
        };
        fused::Pass {
            expand: self.expand.as_ref(),
            depthwise: &self.depthwise,
            rows,
            columns,
        }
        .run(level, words, images, [wide, sums]);
        let gates = self.squeeze_excite.as_ref().map(|[reduce, expand]| {
            let means = workspace.means.at_least(images * channels);
            means::of_rows(level, sums, channels, pixels, means);
            let squeezed = workspace.squeezed.at_least(images * reduce.outputs());
            reduce.product(means, images).compute_into(level, squeezed);
            let gates = workspace.gates.at_least(images * channels);
            expand.product(squeezed, images).compute_into(level, gates);
            Gates {
                values: gates,
                rows: pixels,
            }
        });
        let product = Product {
            gates,
            residual: self.residual.then_some(x),
            ..self.project.product(wide, images * pixels)
        };
        product
            .prepared(level, &mut workspace.words)
            .compute_into(level, out);
        Ok(())
    }
}
