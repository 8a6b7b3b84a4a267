//! LayerNorm on a CUDA device: its launches there and back.

use candle_core::{Result, bail};

use crate::{
    cuda::{Argument, Draft, Grid, Source, Span, Target},
    ops::{Onto, pixels::cuda::adds},
};

/// Threads of a block, at most.
const MOST_THREADS: usize = 512;
/// Threads of a multiprocessor there, and back, where each block leaves sums that take time to add up.
const BUSY: usize = 2048;
const BUSY_BACK: usize = 512;
/// Rows of a block's turn.
const ROWS: usize = 4;
const WARP: usize = 32;
const FLOAT: usize = size_of::<f32>();

/// A LayerNorm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forward {
    pub(crate) rows: usize,
    pub(crate) features: usize,
    /// E `[rows, features]`.
    pub(crate) x: Span,
    /// f32 `[features]`.
    pub(crate) weight: Span,
    /// f32 `[features]`.
    pub(crate) bias: Span,
    pub(crate) eps: f64,
    /// E `[rows, features]`.
    pub(crate) y: Span,
    /// Of each row its mean and its reciprocal deviation, f32 `[rows, 2]`.
    pub(crate) kept: Span,
}

/// The way back of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backward {
    pub(crate) rows: usize,
    pub(crate) features: usize,
    /// E `[rows, features]`.
    pub(crate) x: Span,
    /// What [`Forward`] has left.
    pub(crate) kept: Span,
    /// f32 `[features]`.
    pub(crate) weight: Span,
    /// E `[rows, features]`.
    pub(crate) dy: Span,
    /// E `[rows, features]`, where somebody needs it.
    pub(crate) dx: Option<(Span, Onto)>,
    /// f32 `[features]`.
    pub(crate) dweight: Span,
    /// f32 `[features]`.
    pub(crate) dbias: Span,
}

impl Forward {
    /// # Errors
    /// A row is longer than a block takes, or there are too many.
    pub(crate) fn push(&self, draft: &mut Draft) -> Result<()> {
        let tiles = Tiles::new(draft.target, [self.rows, self.features], BUSY)?;
        let arguments = [
            self.x.read(),
            self.weight.read(),
            self.bias.read(),
            self.y.write(),
            self.kept.write(),
            self.rows.into(),
            self.features.into(),
            (self.eps as f32).into(),
        ];
        tiles.launch(draft, "forward", arguments)
    }
}

impl Backward {
    /// # Errors
    /// As [`Forward::push`].
    pub(crate) fn push(&self, draft: &mut Draft) -> Result<()> {
        let tiles = Tiles::new(draft.target, [self.rows, self.features], BUSY_BACK)?;
        let columns = 2 * self.features;
        let [partials] = draft.scratch([tiles.blocks * columns * FLOAT]);
        let dx = self.dx.map_or(Argument::Null, |(dx, _)| dx.write());
        let arguments = [
            self.x.read(),
            self.kept.read(),
            self.weight.read(),
            self.dy.read(),
            dx,
            partials.write(),
            self.rows.into(),
            self.features.into(),
            adds(self.dx.map_or(Onto::Write, |(_, onto)| onto)),
        ];
        tiles.launch(draft, "backward", arguments)?;
        let grid = Grid::row(columns.div_ceil(WARP), MOST_THREADS as u32);
        let arguments = [
            partials.read(),
            self.dweight.write(),
            self.dbias.write(),
            tiles.blocks.into(),
            self.features.into(),
        ];
        // SAFETY: the arguments of `layer_norm_finish_T`; each block has left sums of all columns.
        unsafe {
            draft.launch(
                (Source::TrainLayerNorm, "layer_norm_finish"),
                grid,
                arguments,
            )
        }
    }
}

/// How `train_layer_norm.cu` goes over rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tiles {
    /// Whether a thread reads 16 bytes of a row at a time, or one value.
    wide: bool,
    threads: usize,
    blocks: usize,
}

impl Tiles {
    fn new(target: Target, [rows, features]: [usize; 2], busy: usize) -> Result<Self> {
        let vector = 16 / target.element.size();
        let wide = features.is_multiple_of(vector);
        let vector = if wide { vector } else { 1 };
        let threads = (features / vector).next_multiple_of(WARP);
        if threads > MOST_THREADS {
            let most = MOST_THREADS * vector;
            bail!("LayerNorm on CUDA: expected rows of at most {most} features, got {features}")
        }
        let fill = target.processors * (busy / threads);
        Ok(Self {
            wide,
            threads,
            blocks: rows.div_ceil(ROWS).min(fill),
        })
    }

    fn launch(
        self,
        draft: &mut Draft,
        name: &str,
        arguments: impl IntoIterator<Item = Argument>,
    ) -> Result<()> {
        let kind = if self.wide { "wide" } else { "narrow" };
        let name = format!("layer_norm_{name}_{kind}");
        let grid = Grid::row(self.blocks, self.threads as u32);
        // SAFETY: callers give the arguments that the head of `train_layer_norm.cu` lists, of the shapes that it states.
        unsafe { draft.launch((Source::TrainLayerNorm, &*name), grid, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{Element, Layout};

    #[test]
    fn a_block_covers_a_row() {
        for element in [Element::F16, Element::F32] {
            for features in [1, 24, 37, 768, 1024, 1280, 1600] {
                for rows in [1, 5, 700, 16_384] {
                    let tiles =
                        Tiles::new(Target::hopper(element), [rows, features], BUSY).unwrap();
                    let what = format!("{rows} x {features}: {tiles:?}");
                    let vector = if tiles.wide { 16 / element.size() } else { 1 };
                    assert!(features.is_multiple_of(vector), "{what}");
                    assert!(tiles.threads * vector >= features, "{what}");
                    assert!(tiles.threads.is_multiple_of(WARP), "{what}");
                    assert!((1..=rows.div_ceil(ROWS)).contains(&tiles.blocks), "{what}");
                }
            }
        }
        assert!(Tiles::new(Target::hopper(Element::F16), [1, 4097], BUSY).is_err());
    }

    #[test]
    fn gradients_of_parameters_are_summed_last() {
        let mut layout = Layout::default();
        let (rows, features) = (10, 24);
        let [x, y, dy] = [(); 3].map(|()| layout.place(rows * features * FLOAT));
        let [weight, bias, dweight, dbias] = [(); 4].map(|()| layout.place(features * FLOAT));
        let kept = layout.place(2 * rows * FLOAT);
        let mut draft = Draft::new(Target::hopper(Element::F32), layout);
        let forward = Forward {
            rows,
            features,
            x,
            weight,
            bias,
            eps: 1e-5,
            y,
            kept,
        };
        forward.push(&mut draft).unwrap();
        let backward = Backward {
            rows,
            features,
            x,
            kept,
            weight,
            dy,
            dx: None,
            dweight,
            dbias,
        };
        backward.push(&mut draft).unwrap();
        let (program, _) = draft.finish();
        let kernels: Vec<_> = (program.launches())
            .map(|launch| (&*launch.kernel, launch.grid.blocks[0]))
            .collect();
        let expected = [
            ("layer_norm_forward_wide_f32", 3),
            ("layer_norm_backward_wide_f32", 3),
            ("layer_norm_finish_f32", 2),
        ];
        assert_eq!(kernels, expected);
    }
}
