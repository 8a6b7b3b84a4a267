//! A layer of an LSTM on a CUDA device: its launches there and back.
//!
//! As on the CPU, all that steps need not wait for are products before the first or after the last of them.

mod steps;

use candle_core::Result;

use self::steps::launch;
use crate::{
    cuda::{Argument, Draft, Element, Matrix, Product, Span},
    ops::Onto,
};

/// Columns of a block of `lstm_bias_sums_T`.
const COLUMNS: usize = 128;
const WARP: usize = 32;
const FLOAT: usize = size_of::<f32>();

/// The sizes of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) sequences: usize,
    pub(crate) steps: usize,
    pub(crate) inputs: usize,
    pub(crate) hidden: usize,
}

/// A layer, from states of zeros.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forward {
    pub(crate) sizes: Sizes,
    /// E `[sequences, steps, inputs]`.
    pub(crate) x: Span,
    /// Of inputs and of states, E `[4 * hidden, inputs]` and `[4 * hidden, hidden]`.
    pub(crate) weights: [Span; 2],
    /// E `[4 * hidden]`.
    pub(crate) biases: [Span; 2],
    /// E `[sequences, steps, hidden]`.
    pub(crate) y: Span,
    /// f32 gates `[sequences, steps, 4 * hidden]` and then cells `[sequences, steps, hidden]`.
    pub(crate) kept: Span,
}

/// The way back of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backward {
    pub(crate) sizes: Sizes,
    /// E `[sequences, steps, inputs]`.
    pub(crate) x: Span,
    /// As for [`Forward`].
    pub(crate) weights: [Span; 2],
    /// E `[sequences, steps, hidden]`.
    pub(crate) y: Span,
    /// What [`Forward`] has left.
    pub(crate) kept: Span,
    /// E `[sequences, steps, hidden]`.
    pub(crate) dy: Span,
    /// E `[sequences, steps, inputs]`, where somebody needs it.
    pub(crate) dx: Option<(Span, Onto)>,
    /// f32, as the weights.
    pub(crate) dweights: [Span; 2],
    /// f32 `[4 * hidden]`.
    pub(crate) dbiases: [Span; 2],
}

impl Sizes {
    /// Steps of all sequences.
    fn rows(self) -> usize {
        self.sequences * self.steps
    }

    /// Gates of a step.
    fn gates(self) -> usize {
        4 * self.hidden
    }

    /// Gates and cells.
    fn kept(self, kept: Span) -> [Span; 2] {
        let gates = self.rows() * self.gates() * FLOAT;
        [
            kept.first(gates),
            kept.part(gates, self.rows() * self.hidden * FLOAT),
        ]
    }

    /// One step's `columns` of all sequences.
    fn step(self, all: Matrix, step: usize, columns: usize) -> Matrix {
        let size = all.element.size();
        let values = (self.sequences - 1) * self.steps * columns + columns;
        Matrix {
            span: all.span.part(step * columns * size, values * size),
            pitch: self.steps * columns,
            ..all
        }
    }
}

impl Forward {
    /// # Errors
    /// There are more values than a launch takes.
    pub(crate) fn push(&self, draft: &mut Draft) -> Result<()> {
        let sizes = self.sizes;
        let element = draft.target.element;
        let [gates, cells] = sizes.kept(self.kept);
        let [input, _] = self.weights;
        draft.multiply(Product {
            sizes: [sizes.rows(), sizes.gates(), sizes.inputs],
            a: Matrix::rows(self.x, element, sizes.inputs),
            b: Matrix::rows(input, element, sizes.inputs).turned(),
            c: Matrix::rows(gates, Element::F32, sizes.gates()),
            bias: None,
            onto: Onto::Write,
        });
        self.steps(draft, [gates, cells])
    }
}

impl Backward {
    /// # Errors
    /// As [`Forward::push`].
    pub(crate) fn push(&self, draft: &mut Draft) -> Result<()> {
        let sizes = self.sizes;
        let element = draft.target.element;
        let [gates, cells] = sizes.kept(self.kept);
        let (rows, columns) = (sizes.rows(), sizes.gates());
        // As many parts as fill the card some times over.
        let across = columns.div_ceil(COLUMNS);
        let per = rows.div_ceil((4 * draft.target.processors).div_ceil(across).min(rows));
        let parts = rows.div_ceil(per);
        let state = sizes.sequences * sizes.hidden * FLOAT;
        let [dgates, product, dcells, turns, partials] = draft.scratch([
            rows * columns * element.size(),
            state,
            state,
            sizes.turns(),
            parts * columns * FLOAT,
        ]);
        self.steps(draft, [gates, cells], [product, dcells, turns, dgates])?;
        let all = Matrix::rows(dgates, element, columns);
        let [input, _] = self.weights;
        if let Some((dx, onto)) = self.dx {
            draft.multiply(Product {
                sizes: [rows, sizes.inputs, columns],
                a: all,
                b: Matrix::rows(input, element, sizes.inputs),
                c: Matrix::rows(dx, element, sizes.inputs),
                bias: None,
                onto,
            });
        }
        let [dinput, drecurrent] = self.dweights;
        draft.multiply(Product {
            sizes: [columns, sizes.inputs, rows],
            a: all.turned(),
            b: Matrix::rows(self.x, element, sizes.inputs),
            c: Matrix::rows(dinput, Element::F32, sizes.inputs),
            bias: None,
            onto: Onto::Write,
        });
        let arguments = [dgates.read(), partials.write()].into_iter();
        let numbers = [rows, columns, per].map(Argument::from);
        launch(
            draft,
            "bias_sums",
            [across, parts],
            arguments.chain(numbers),
        )?;
        let [first, second] = self.dbiases.map(Span::write);
        let arguments = [partials.read(), first, second, parts.into(), columns.into()];
        launch(draft, "bias", [columns.div_ceil(WARP), 1], arguments)?;
        self.recurrent(draft, dgates, drecurrent)
    }

    /// The gradient of the weights of states, which follows from each step's gates and the states before. Where a sequence begins
    /// these are zeros: other than its own states stand there, and its gates' gradients become zeros instead.
    fn recurrent(&self, draft: &mut Draft, dgates: Span, drecurrent: Span) -> Result<()> {
        let sizes = self.sizes;
        let element = draft.target.element;
        let (columns, hidden) = (sizes.gates(), sizes.hidden);
        let numbers = [sizes.sequences, sizes.steps, columns].map(Argument::from);
        let blocks = [(sizes.sequences * columns).div_ceil(steps::THREADS), 1];
        launch(
            draft,
            "clear",
            blocks,
            [dgates.write()].into_iter().chain(numbers),
        )?;
        // A single step has none before: its zeros make zeros of whatever there is.
        let after = usize::from(sizes.rows() > 1);
        let rows = sizes.rows() - after;
        let size = element.size();
        let gates = dgates.part(after * columns * size, rows * columns * size);
        draft.multiply(Product {
            sizes: [columns, hidden, rows],
            a: Matrix::rows(gates, element, columns).turned(),
            b: Matrix::rows(self.y.first(rows * hidden * size), element, hidden),
            c: Matrix::rows(drecurrent, Element::F32, hidden),
            bias: None,
            onto: Onto::Write,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{Layout, Target, Work};

    #[test]
    fn a_step_is_a_product_and_a_launch_or_all_are_one_launch() {
        let names = |target, hidden| {
            let work = [
                program(target, hidden, true),
                program(target, hidden, false),
            ];
            work.map(|draft| {
                let (program, _) = draft.finish();
                let name = |work: &Work| match work {
                    Work::Launch(launch) => launch.kernel.replace("lstm_", ""),
                    Work::Product(product) => format!("{:?}", product.sizes),
                    other => unreachable!("{other:?} in a layer"),
                };
                program
                    .work()
                    .iter()
                    .map(name)
                    .collect::<Vec<_>>()
                    .join(" ")
            })
        };
        let [there, back] = names(Target::hopper(Element::F32), 8);
        let step = "[2, 32, 8] cell_f32";
        assert_eq!(there, format!("[6, 32, 16] cell_f32 {step} {step}"));
        let step = "cell_back_f32 [2, 8, 32]";
        let end = "[6, 16, 32] [32, 16, 6] bias_sums_f32 bias_f32 clear_f32 [32, 8, 5]";
        assert_eq!(back, format!("{step} {step} cell_back_f32 {end}"));
        assert_eq!(
            names(Target::hopper(Element::F16), 64)[0]
                .matches("cell")
                .count(),
            3
        );
        assert_eq!(
            names(Target::ampere(Element::F16), 128)[0]
                .matches("cell")
                .count(),
            3
        );
        let [there, back] = names(Target::hopper(Element::F16), 128);
        assert_eq!(there, "[6, 512, 16] clear_f16 steps_f16");
        let end = "[6, 16, 512] [512, 16, 6] bias_sums_f16 bias_f16 clear_f16 [512, 128, 5]";
        assert_eq!(back, format!("clear_f16 steps_back_f16 {end}"));
    }

    /// A small layer, there or back.
    fn program(target: Target, hidden: usize, there: bool) -> Draft {
        let sizes = Sizes {
            sequences: 2,
            steps: 3,
            inputs: 16,
            hidden,
        };
        let size = target.element.size();
        let mut layout = Layout::default();
        let mut place = |values: usize, size: usize| layout.place(values * size);
        let rows = sizes.rows();
        let [x, dx] = [(); 2].map(|()| place(rows * 16, size));
        let [y, dy] = [(); 2].map(|()| place(rows * hidden, size));
        let kept = place(5 * rows * hidden, FLOAT);
        let weights = [16, hidden].map(|columns| place(4 * hidden * columns, size));
        let biases = [(); 2].map(|()| place(4 * hidden, size));
        let dweights = [16, hidden].map(|columns| place(4 * hidden * columns, FLOAT));
        let dbiases = [(); 2].map(|()| place(4 * hidden, FLOAT));
        let mut draft = Draft::new(target, layout);
        if there {
            let forward = Forward {
                sizes,
                x,
                weights,
                biases,
                y,
                kept,
            };
            forward.push(&mut draft).unwrap();
        } else {
            let backward = Backward {
                sizes,
                x,
                weights,
                y,
                kept,
                dy,
                dx: Some((dx, Onto::Write)),
                dweights,
                dbiases,
            };
            backward.push(&mut draft).unwrap();
        }
        draft
    }

    #[test]
    fn steps_are_rows_apart() {
        let sizes = Sizes {
            sequences: 3,
            steps: 5,
            inputs: 1,
            hidden: 8,
        };
        let mut layout = Layout::default();
        let span = layout.place(sizes.rows() * 8 * 2);
        let all = Matrix::rows(span, Element::F16, 8);
        let last = sizes.step(all, 4, 8);
        assert_eq!(
            (last.pitch, last.span),
            (40, span.part(64, span.bytes - 64))
        );
    }
}
