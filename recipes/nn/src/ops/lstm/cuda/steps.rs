//! Steps, there and back: one launch for all of them where the card has room for it; elsewhere a product for each, which tells what
//! the states before make of gates or what gates after make of states, and a launch for the cells.

use candle_core::Result;

use super::{Backward, Forward, Sizes};
use crate::{
    cuda::{Argument, Draft, Element, Grid, Matrix, Product, Source, Span},
    ops::Onto,
};

/// Threads of a block.
pub(super) const THREADS: usize = 256;
/// Units of which a layer has a multiple for `train_lstm_sm90.cu`.
const WHOLE: usize = 128;
/// Units of a block there, and sequences.
const OWN: usize = 8;
const SEQUENCES: usize = 32;
/// Bytes of what tells the blocks of some sequences their turn.
const TURN: usize = 128;

impl Sizes {
    /// Blocks that take all steps together, if the card may run so many at once; whether it does is asked when a program is
    /// made ready.
    fn together(self, draft: &Draft) -> Option<[usize; 2]> {
        let target = draft.target;
        let blocks = [self.hidden / OWN, self.sequences.div_ceil(SEQUENCES)];
        let fits = target.element == Element::F16
            && target.capability == (9, 0)
            && self.hidden.is_multiple_of(WHOLE)
            && blocks[0] * blocks[1] <= target.processors;
        fits.then_some(blocks)
    }

    /// A kernel of `train_lstm_sm90.cu`, with so many bytes of shared memory.
    fn together_launch<const N: usize>(
        self,
        draft: &mut Draft,
        name: &str,
        (blocks, shared): ([usize; 2], usize),
        spans: [Argument; N],
        turns: Span,
    ) -> Result<()> {
        let values = turns.bytes / draft.target.element.size();
        let zeros = [1, 1, values].map(Argument::from);
        let arguments = [turns.write()].into_iter().chain(zeros);
        launch(draft, "clear", [values.div_ceil(THREADS), 1], arguments)?;
        let grid = Grid {
            blocks: [blocks[0], blocks[1], 1],
            threads: THREADS as u32,
            shared: shared as u32,
        };
        let numbers = [self.sequences, self.steps, self.hidden].map(Argument::from);
        let arguments = (spans.into_iter().chain([turns.write()])).chain(numbers);
        // SAFETY: callers give the arguments that the head of `train_lstm_sm90.cu` lists, of the shapes that it states; the launch
        // before writes zeros.
        unsafe { draft.launch_together((Source::TrainLstmSm90, name), grid, arguments) }
    }

    /// A kernel of `train_lstm.cu` with a thread for each unit of a step.
    fn cell<const N: usize>(
        self,
        draft: &mut Draft,
        name: &str,
        spans: [Argument; N],
        step: usize,
    ) -> Result<()> {
        let blocks = (self.sequences * self.hidden).div_ceil(THREADS);
        let numbers = [self.sequences, self.steps, step, self.hidden].map(Argument::from);
        launch(draft, name, [blocks, 1], spans.into_iter().chain(numbers))
    }
}

impl Forward {
    /// All steps, when all gates hold the inputs' part.
    pub(super) fn steps(&self, draft: &mut Draft, [gates, cells]: [Span; 2]) -> Result<()> {
        let sizes = self.sizes;
        let (element, hidden) = (draft.target.element, sizes.hidden);
        let [_, recurrent] = self.weights;
        let [input_bias, recurrent_bias] = self.biases.map(Span::read);
        let written = [gates, cells, self.y].map(Span::write);
        if let Some(blocks) = sizes.together(draft) {
            let [turns] = draft.scratch([sizes.turns()]);
            let room = 64 * hidden + 37_888;
            let [gates, cells, y] = written;
            let spans = [
                recurrent.read(),
                input_bias,
                recurrent_bias,
                gates,
                cells,
                y,
            ];
            return sizes.together_launch(draft, "lstm_steps", (blocks, room), spans, turns);
        }
        let states = Matrix::rows(self.y, element, hidden);
        let all = Matrix::rows(gates, Element::F32, sizes.gates());
        for step in 0..sizes.steps {
            if step > 0 {
                draft.multiply(Product {
                    sizes: [sizes.sequences, sizes.gates(), hidden],
                    a: sizes.step(states, step - 1, hidden),
                    b: Matrix::rows(recurrent, element, hidden).turned(),
                    c: sizes.step(all, step, sizes.gates()),
                    bias: None,
                    onto: Onto::Add,
                });
            }
            let [gates, cells, y] = written;
            sizes.cell(
                draft,
                "cell",
                [gates, input_bias, recurrent_bias, cells, y],
                step,
            )?;
        }
        Ok(())
    }
}

impl Backward {
    /// All steps, the last one first; their gates' gradients are left in `dgates`. The other memory is that of a step's states, and
    /// [`Sizes::turns`].
    pub(super) fn steps(
        &self,
        draft: &mut Draft,
        [gates, cells]: [Span; 2],
        [product, dcells, turns, dgates]: [Span; 4],
    ) -> Result<()> {
        let sizes = self.sizes;
        let (element, hidden) = (draft.target.element, sizes.hidden);
        let [_, recurrent] = self.weights;
        let [gates, cells, dy] = [gates, cells, self.dy].map(Span::read);
        if let Some(blocks) = sizes.together(draft) {
            let room = 72 * hidden + (32 * hidden + 512).max(9216);
            let spans = [recurrent.read(), gates, cells, dy, dgates.write()];
            return sizes.together_launch(draft, "lstm_steps_back", (blocks, room), spans, turns);
        }
        let all = Matrix::rows(dgates, element, sizes.gates());
        for step in (0..sizes.steps).rev() {
            // Nothing follows the last one.
            let follows = (step + 1 < sizes.steps).then_some(product);
            let written = [dcells, dgates].map(Span::write);
            let [dcells, dgates] = written;
            let spans = [gates, cells, dy, follows.into(), dcells, dgates];
            sizes.cell(draft, "cell_back", spans, step)?;
            if step > 0 {
                draft.multiply(Product {
                    sizes: [sizes.sequences, hidden, sizes.gates()],
                    a: sizes.step(all, step, sizes.gates()),
                    b: Matrix::rows(recurrent, element, hidden),
                    c: Matrix::rows(product, Element::F32, hidden),
                    bias: None,
                    onto: Onto::Write,
                });
            }
        }
        Ok(())
    }
}

impl Sizes {
    /// Bytes of what tells blocks their turns.
    pub(super) fn turns(self) -> usize {
        self.sequences.div_ceil(SEQUENCES) * TURN
    }
}

/// A kernel of `train_lstm.cu`.
pub(super) fn launch(
    draft: &mut Draft,
    name: &str,
    [x, y]: [usize; 2],
    arguments: impl IntoIterator<Item = Argument>,
) -> Result<()> {
    let grid = Grid {
        blocks: [x, y, 1],
        ..Grid::row(1, THREADS as u32)
    };
    // SAFETY: callers give the arguments that the head of `train_lstm.cu` lists, of the shapes that it states.
    unsafe {
        draft.launch(
            (Source::TrainLstm, &*format!("lstm_{name}")),
            grid,
            arguments,
        )
    }
}
