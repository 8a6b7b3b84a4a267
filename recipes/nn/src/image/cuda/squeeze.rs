//! Squeeze-excite, and the mean over all pixels.

use candle_core::{Result, bail};

use super::{
    depthwise::Partials,
    layout::{bias, padded, turned},
    planner::{Images, Planner},
};
use crate::{
    cuda::{Element, Grid, Source, Span, Weights},
    host,
    image::{Convolution, padding::Size},
};

const THREADS: usize = 512;

#[derive(Debug)]
pub(super) struct SqueezeExcite {
    /// `[squeezed, channels]`.
    reduce: Span,
    reduce_bias: Span,
    /// `[squeezed, channels]`.
    expand: Span,
    expand_bias: Span,
    squeezed: usize,
}

impl SqueezeExcite {
    /// For so many channels, before they are padded.
    ///
    /// # Errors
    /// The layers take or give another number.
    pub(super) fn new(
        weights: &mut Weights,
        [reduce, expand]: &[Convolution; 2],
        channels: usize,
    ) -> Result<Self> {
        let shape = |layer: &Convolution| layer.weight.flatten_from(1)?.dims2();
        let (squeezed, inputs) = shape(reduce)?;
        if inputs != channels || shape(expand)? != (channels, squeezed) {
            bail!(
                "expected a squeeze-excite for {channels} channels, got weights {:?} and {:?}",
                reduce.weight.dims(),
                expand.weight.dims()
            )
        }
        let rows = reduce.weight.flatten_from(1)?;
        let rows = rows.pad_with_zeros(1, 0, padded(channels) - channels)?;
        host::expect_shape("bias", &reduce.bias, &[squeezed])?;
        Ok(Self {
            reduce: weights.tensor(&rows)?,
            reduce_bias: weights.float_tensor(&reduce.bias)?,
            expand: weights.values(&turned(&host::to_vec(&expand.weight)?, squeezed)),
            expand_bias: bias(weights, expand, channels)?,
            squeezed,
        })
    }

    /// From sums over `images` to their gates, `[count, channels]`.
    ///
    /// # Errors
    /// There are too many channels for a block of threads.
    pub(super) fn push(
        &self,
        planner: &mut Planner<'_>,
        images: Images,
        partials: Partials,
    ) -> Result<Span> {
        let Images {
            count, channels, ..
        } = images;
        let element = planner.target.element;
        let gates = (planner.scratch).take(count * channels * element.size());
        let vector = match element {
            Element::F16 => 8,
            Element::F32 => 4,
        };
        let along = (THREADS / (channels / vector)).max(1);
        let floats = channels + self.squeezed.next_multiple_of(4) + along * channels;
        let grid = Grid {
            blocks: [count, 1, 1],
            threads: THREADS as u32,
            shared: u32::try_from(floats * size_of::<f32>()).unwrap_or(u32::MAX),
        };
        let arguments = [
            partials.span.read(),
            self.reduce.read(),
            self.reduce_bias.read(),
            self.expand.read(),
            self.expand_bias.read(),
            gates.write(),
            count.into(),
            partials.tiles.into(),
            images.size.pixels().into(),
            channels.into(),
            self.squeezed.into(),
        ];
        let kernel = format!("squeeze_excite_{}", element.name());
        // SAFETY: the arguments are those that the head of `squeeze_excite.cu` lists, of the shapes that it states.
        unsafe { (planner.program).push((Source::SqueezeExcite, kernel), grid, arguments) }?;
        Ok(gates)
    }
}

/// Images -> images of one pixel.
///
/// # Errors
/// There are too many for a launch.
pub(super) fn mean(planner: &mut Planner<'_>, x: Images) -> Result<Images> {
    const ONE: Size = Size {
        height: 1,
        width: 1,
    };
    let out = planner.images(x.count, ONE, x.channels)?;
    let grid = Grid {
        blocks: [x.channels.div_ceil(64), x.count, 1],
        threads: 256,
        shared: 0,
    };
    let arguments = [
        x.span.read(),
        out.span.write(),
        x.size.pixels().into(),
        x.channels.into(),
    ];
    let kernel = format!("mean_{}", planner.target.element.name());
    // SAFETY: as above.
    unsafe { (planner.program).push((Source::SqueezeExcite, kernel), grid, arguments) }?;
    Ok(out)
}
