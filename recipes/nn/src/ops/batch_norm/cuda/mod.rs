//! BatchNorm on a CUDA device: its launches there and back, one each where the values fit on the chip, and two elsewhere.

mod tiles;

use candle_core::Result;

use self::tiles::Tiles;
use crate::{
    activation::Activation,
    cuda::{Argument, Draft, Grid, Source, Span},
    ops::Onto,
};

/// A BatchNorm, with a sum and an activation after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forward {
    /// Of all images together.
    pub(crate) pixels: usize,
    pub(crate) channels: usize,
    /// E `[pixels, channels]`.
    pub(crate) x: Span,
    /// f32 `[channels]`.
    pub(crate) scale: Span,
    /// f32 `[channels]`.
    pub(crate) shift: Span,
    /// The running mean and variance, f32 `[channels]`, which are moved on.
    pub(crate) running: [Span; 2],
    /// The batch's share of these.
    pub(crate) momentum: f32,
    pub(crate) eps: f64,
    /// What is added, E `[pixels, channels]`.
    pub(crate) residual: Option<Span>,
    pub(crate) activation: Activation,
    /// E `[pixels, channels]`.
    pub(crate) y: Span,
    /// Means and reciprocal deviations, f32 `[2, channels]`: what the way back reads.
    pub(crate) statistics: Span,
}

/// The way back of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backward {
    pub(crate) pixels: usize,
    pub(crate) channels: usize,
    /// E `[pixels, channels]`.
    pub(crate) x: Span,
    /// What [`Forward`] has left.
    pub(crate) statistics: Span,
    /// f32 `[channels]`.
    pub(crate) scale: Span,
    /// E `[pixels, channels]`; not read where there was no activation.
    pub(crate) y: Option<Span>,
    pub(crate) activation: Activation,
    /// E `[pixels, channels]`.
    pub(crate) dy: Span,
    /// E `[pixels, channels]`, where somebody needs it.
    pub(crate) dx: Option<(Span, Onto)>,
    /// The gradient of what was added, likewise; that of x, if it was this.
    pub(crate) residual: Option<(Span, Onto)>,
    /// f32 `[channels]`.
    pub(crate) dscale: Span,
    /// f32 `[channels]`.
    pub(crate) dshift: Span,
}

impl Forward {
    /// # Errors
    /// There are more values than a launch takes.
    ///
    /// # Panics
    /// The activation is not one of ReLU and ReLU6.
    pub(crate) fn push(&self, draft: &mut Draft) -> Result<()> {
        let [low, high] = limits(self.activation);
        let [mean, variance] = self.running;
        let values = [self.x.read(), self.residual.into()].into_iter();
        let parameters = [
            self.scale.read(),
            self.shift.read(),
            mean.write(),
            variance.write(),
            self.statistics.write(),
            self.y.write(),
        ];
        let numbers = [self.momentum, self.eps as f32, low, high].map(Argument::from);
        if let Some(tiles) = Tiles::whole(draft.target, [self.pixels, self.channels], 1) {
            let sizes = parameters.into_iter().chain(tiles.sizes());
            return tiles.launch(draft, "forward", values.chain(sizes).chain(numbers));
        }
        let tiles = Tiles::new(draft.target, [self.pixels, self.channels]);
        let [partials] = draft.scratch([tiles.partials()]);
        let spans = [self.x.read(), partials.write()].into_iter();
        tiles.launch(draft, "moments", spans.chain(tiles.sizes()))?;
        let arguments = (values.chain([partials.read()]).chain(parameters))
            .chain(tiles.sizes())
            .chain([tiles.parts.into()])
            .chain(numbers);
        tiles.launch(draft, "forward", arguments)
    }
}

impl Backward {
    /// # Errors
    /// There are more values than a launch takes.
    ///
    /// # Panics
    /// As [`Forward::push`]; or there was an activation, and there is no `y`.
    pub(crate) fn push(&self, draft: &mut Draft) -> Result<()> {
        let [_, high] = limits(self.activation);
        let y = match self.activation {
            Activation::None => Argument::Null,
            _ => self.y.expect("an activation's output is kept").read(),
        };
        let values = [self.x.read(), y, self.dy.read(), self.statistics.read()].into_iter();
        let write = |gradient: Option<(Span, Onto)>| {
            gradient.map_or(Argument::Null, |(span, _)| span.write())
        };
        // What is normalised may be what is added, too.
        let both = (self.dx.zip(self.residual)).is_some_and(|(dx, residual)| dx.0 == residual.0);
        let residual = self.residual.filter(|_| !both);
        let adds =
            [self.dx, residual].map(|gradient| gradient.is_some_and(|(_, onto)| onto == Onto::Add));
        let [dx_adds, residual_adds, both] = [adds[0], adds[1], both].map(usize::from);
        let gradients = [
            write(self.dx),
            write(residual),
            self.dscale.write(),
            self.dshift.write(),
        ];
        let adds = dx_adds + 2 * residual_adds + 4 * both;
        let end = [Argument::from(adds), high.into()];
        if let Some(tiles) = Tiles::whole(draft.target, [self.pixels, self.channels], 2) {
            let arguments = (values.chain([self.scale.read()]).chain(gradients))
                .chain(tiles.sizes())
                .chain(end);
            return tiles.launch(draft, "backward", arguments);
        }
        let tiles = Tiles::new(draft.target, [self.pixels, self.channels]);
        let [partials] = draft.scratch([tiles.partials()]);
        let arguments = (values.clone().chain([partials.write()]))
            .chain(tiles.sizes())
            .chain([high.into()]);
        tiles.launch(draft, "products", arguments)?;
        let arguments = (values
            .chain([self.scale.read(), partials.read()])
            .chain(gradients))
        .chain(tiles.sizes())
        .chain([tiles.parts.into()])
        .chain(end);
        tiles.launch(draft, "backward", arguments)
    }
}

/// Between which values an activation leaves what it is given.
fn limits(activation: Activation) -> [f32; 2] {
    match activation {
        Activation::None => [f32::NEG_INFINITY, f32::INFINITY],
        Activation::Relu => [0.0, f32::INFINITY],
        Activation::Relu6 => [0.0, 6.0],
        other => unreachable!("{other:?} is a step of its own"),
    }
}

impl Tiles {
    /// As all kernels take them.
    fn sizes(&self) -> [Argument; 5] {
        [self.rows, self.channels, self.width, self.lanes, self.per].map(Argument::from)
    }

    /// A kernel of `train_norm.cu`, or of `train_norm_sm90.cu`.
    fn launch(
        &self,
        draft: &mut Draft,
        name: &str,
        arguments: impl IntoIterator<Item = Argument>,
    ) -> Result<()> {
        let (source, name) = match (self.held, self.vector) {
            (0, 1) => (Source::TrainNorm, format!("{name}_narrow")),
            (0, _) => (Source::TrainNorm, format!("{name}_wide")),
            _ => (
                Source::TrainNormSm90,
                format!("whole_{name}_{}", self.parts),
            ),
        };
        let grid = Grid {
            blocks: [self.parts, self.slices, 1],
            threads: tiles::THREADS as u32,
            shared: self.held as u32,
        };
        // SAFETY: callers give the arguments that the heads of these files list, of the shapes that they state.
        unsafe { draft.launch((source, &*format!("batch_norm_{name}")), grid, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{Element, Layout, Target};

    /// A small one, there and back.
    fn program(target: Target) -> Draft {
        let mut layout = Layout::default();
        let (pixels, channels) = (98, 24);
        let [x, y, dx, dy] = [(); 4].map(|()| layout.place(pixels * channels * 2));
        let [scale, shift, mean, variance, dscale, dshift] =
            [(); 6].map(|()| layout.place(channels * size_of::<f32>()));
        let statistics = layout.place(2 * channels * size_of::<f32>());
        let mut draft = Draft::new(target, layout);
        let forward = Forward {
            pixels,
            channels,
            x,
            scale,
            shift,
            running: [mean, variance],
            momentum: 0.1,
            eps: 1e-5,
            residual: None,
            activation: Activation::Relu,
            y,
            statistics,
        };
        forward.push(&mut draft).unwrap();
        let backward = Backward {
            pixels,
            channels,
            x,
            statistics,
            scale,
            y: Some(y),
            activation: Activation::Relu,
            dy,
            dx: Some((dx, Onto::Write)),
            residual: None,
            dscale,
            dshift,
        };
        backward.push(&mut draft).unwrap();
        draft
    }

    #[test]
    fn there_and_back_are_two_launches_each_or_one() {
        let names = |target| {
            let (program, _) = program(target).finish();
            let launches = program.launches().map(|launch| {
                let name = launch.kernel.trim_start_matches("batch_norm_");
                format!("{name} {}", launch.arguments.len())
            });
            launches.collect::<Vec<_>>().join(", ")
        };
        assert_eq!(
            names(Target::ampere(Element::F16)),
            "moments_wide_f16 7, forward_wide_f16 19, products_wide_f16 11, backward_wide_f16 18"
        );
        assert_eq!(
            names(Target::hopper(Element::F16)),
            "whole_forward_1_f16 17, whole_backward_1_f16 16"
        );
    }
}
