//! A bidirectional layer by itself, from rows of values to its output and its final states.

use candle_core::Result;
use candle_nn::VarBuilder;

use super::{
    Rows, Sequences,
    layer::{Layer, Recurrence, States},
    sequences, write,
};
use crate::cuda::{Element, Layout, Program, Span, Target, Weights};

/// What rows' strides are multiples of.
const ALIGNED: usize = 8;

/// The layer's weights in device memory.
#[derive(Debug)]
pub(super) struct Operator {
    element: Element,
    input: usize,
    hidden: usize,
    layer: Layer,
}

/// Rows and sequences of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) sequences: usize,
}

/// What a pass keeps where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub(super) layout: Layout,
    /// All that the host fills in.
    pub(super) input: Span,
    /// All that goes back.
    pub(super) results: Span,
    x: Rows,
    sequences: Sequences,
    gates: Span,
    /// `[rows, 2 * hidden]`.
    pub(super) output: Span,
    /// `[2, sequences, hidden]`.
    pub(super) hidden: Span,
    /// `[2, sequences, hidden]`, of f32.
    pub(super) cell: Span,
}

impl Operator {
    pub(super) fn load(
        weights: &mut Weights,
        vb: &VarBuilder<'_>,
        input: usize,
        hidden: usize,
    ) -> Result<Self> {
        Ok(Self {
            element: weights.element(),
            input,
            hidden,
            layer: Layer::load(weights, vb, &[input], hidden)?,
        })
    }

    pub(super) fn places(&self, shape: Shape) -> Places {
        let Shape { rows, sequences } = shape;
        let mut layout = Layout::default();
        let size = self.element.size();
        let stride = self.input.next_multiple_of(ALIGNED);
        let x = Rows {
            span: layout.place(rows * stride * size),
            stride,
        };
        let list = Sequences {
            span: layout.place(sequences * sequences::SIZE),
            count: sequences,
        };
        let input = layout.since(Layout::default());
        let gates = layout.place(rows * self.layer.gates());
        let start = layout;
        let states = 2 * sequences * self.hidden;
        Places {
            x,
            sequences: list,
            input,
            gates,
            output: layout.place(rows * 2 * self.hidden * size),
            hidden: layout.place(states * size),
            cell: layout.place(states * size_of::<f32>()),
            results: layout.since(start),
            layout,
        }
    }

    /// The launches of a pass.
    ///
    /// # Errors
    /// It is too large for them.
    pub(super) fn program(&self, target: Target, shape: Shape, places: &Places) -> Result<Program> {
        let mut program = Program::default();
        let gates = places.gates;
        self.layer
            .project(&mut program, target, places.x, shape.rows, gates)?;
        let recurrence = Recurrence {
            gates,
            index: None,
            sequences: places.sequences,
            out: Some(Rows {
                span: places.output,
                stride: 2 * self.hidden,
            }),
            states: Some(States {
                hidden: places.hidden,
                cell: Some(places.cell),
                direction_stride: shape.sequences * self.hidden,
                place_stride: self.hidden,
            }),
        };
        self.layer.recur(&mut program, target, &recurrence)?;
        Ok(program)
    }

    /// Writes rows `[rows, input]` and their sequences.
    pub(super) fn fill(&self, places: &Places, x: &[f32], lengths: &[usize], input: &mut [u8]) {
        let size = self.element.size();
        let rows = input.chunks_exact_mut(places.x.stride * size);
        for (to, row) in rows.zip(x.chunks_exact(self.input)) {
            self.element.write(row, to);
        }
        let list = sequences::sorted(lengths).into_iter().flatten();
        write(
            &mut input[places.input.distance(places.sequences.span)..],
            list.map(i32::cast_unsigned),
        );
    }
}

#[cfg(feature = "cuda")]
pub use device::CudaBiLstm;

#[cfg(feature = "cuda")]
mod device {
    use candle_core::{Device, Tensor, bail};

    use super::*;
    use crate::{
        Backend,
        backend::Kind,
        cuda::{Buffer, Gpu, Lane, Pass},
        host,
        lstm::LstmTensors,
        workspace::Workspaces,
    };

    /// Passes of up to this many rows are recorded: beyond, computing takes longer than launching.
    const RECORDED_ROWS: usize = 2048;

    /// A bidirectional LSTM layer in the memory of a CUDA device, from tensors on the host to tensors on the host.
    pub struct CudaBiLstm {
        gpu: Gpu,
        operator: Operator,
        weights: Buffer,
        lanes: Workspaces<Lane<Shape>>,
    }

    impl CudaBiLstm {
        /// Reads the same tensors as [`BiLstm::load`](crate::lstm::BiLstm::load).
        ///
        /// # Errors
        /// The backend is not a CUDA device, a tensor is missing or has another shape, or the layer is too large for the
        /// kernels.
        pub fn load(
            backend: &Backend,
            vb: &VarBuilder<'_>,
            input: usize,
            hidden: usize,
        ) -> Result<Self> {
            let Kind::Cuda(gpu) = &backend.0 else {
                bail!("bilstm: expected a CUDA device, got {backend:?}")
            };
            let mut weights = Weights::new(gpu.target().element);
            Ok(Self {
                gpu: gpu.clone(),
                operator: Operator::load(&mut weights, vb, input, hidden)?,
                weights: Buffer::of(gpu, &weights)?,
                lanes: Workspaces::default(),
            })
        }

        /// What it computes in: `f16` or `f32`.
        pub(crate) fn dtype(&self) -> &'static str {
            self.gpu.target().element.name()
        }

        /// As [`BiLstm::forward`](crate::lstm::BiLstm::forward).
        ///
        /// # Errors
        /// The shapes do not fit, `x` is not f32 on the CPU, or the device fails.
        pub fn forward(&self, x: &Tensor, lengths: &[usize]) -> Result<LstmTensors> {
            let (rows, sequences) = (lengths.iter().sum(), lengths.len());
            host::expect_shape("bilstm", x, &[rows, self.operator.input])?;
            let shape = Shape { rows, sequences };
            let places = self.operator.places(shape);
            let results = if sequences == 0 {
                Vec::new()
            } else {
                host::with(&x.contiguous()?, |x| self.run(shape, &places, x, lengths))?
            };
            let tensor = |span: Span, element: Element, shape: &[usize]| {
                let bytes = &results[places.results.distance(span)..][..span.bytes];
                Tensor::from_vec(element.read(bytes), shape, &Device::Cpu)
            };
            let (element, hidden) = (self.operator.element, self.operator.hidden);
            let states = [2, sequences, hidden];
            Ok(LstmTensors {
                output: tensor(places.output, element, &[rows, 2 * hidden])?,
                hidden: tensor(places.hidden, element, &states)?,
                cell: tensor(places.cell, Element::F32, &states)?,
            })
        }

        fn run(
            &self,
            shape: Shape,
            places: &Places,
            x: &[f32],
            lengths: &[usize],
        ) -> Result<Vec<u8>> {
            let pass = Pass {
                layout: places.layout,
                input: places.input,
                output: places.results,
                key: (shape.rows <= RECORDED_ROWS).then_some(shape),
            };
            self.lanes.with(|lane| {
                let fill = |input: &mut [u8]| self.operator.fill(places, x, lengths, input);
                let program = || self.operator.program(self.gpu.target(), shape, places);
                let results = lane.run(&self.gpu, &self.weights, &pass, fill, program)?;
                Ok(results.to_vec())
            })
        }
    }

    impl std::fmt::Debug for CudaBiLstm {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("CudaBiLstm")
                .field("operator", &self.operator)
                .finish_non_exhaustive()
        }
    }
}
