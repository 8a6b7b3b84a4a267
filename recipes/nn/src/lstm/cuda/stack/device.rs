//! A stack on a device.

use std::fmt;

use candle_core::Result;
use candle_nn::VarBuilder;

use super::{Shape, Stack};
use crate::{
    cuda::{Buffer, Gpu, Lane, Pass, Weights},
    lstm::LstmConfig,
    workspace::Workspaces,
};

/// A stack with its linear layer in the memory of a CUDA device.
pub(in crate::lstm) struct Classifier {
    gpu: Gpu,
    stack: Stack,
    weights: Buffer,
    lanes: Workspaces<Lane<Shape>>,
}

impl Classifier {
    /// # Errors
    /// A tensor is missing or has another shape, or the device has too little memory.
    pub(in crate::lstm) fn load(
        gpu: &Gpu,
        lstm: (&VarBuilder<'_>, LstmConfig),
        head: (&VarBuilder<'_>, usize),
    ) -> Result<Self> {
        let mut weights = Weights::new(gpu.target().element);
        let stack = Stack::load(&mut weights, gpu.target(), lstm, head)?;
        Ok(Self {
            gpu: gpu.clone(),
            stack,
            weights: Buffer::of(gpu, &weights)?,
            lanes: Workspaces::default(),
        })
    }

    /// Logits `[sequences, classes]` of sequences packed end to end, `x` being `[rows, input]`.
    ///
    /// # Errors
    /// The device failed.
    pub(in crate::lstm) fn forward(&self, x: &[f32], lengths: &[usize]) -> Result<Vec<f32>> {
        if lengths.is_empty() {
            return Ok(Vec::new());
        }
        let shape = Shape::of(lengths);
        let places = self.stack.places(shape);
        let pass = Pass {
            layout: places.layout,
            input: places.input,
            output: places.logits,
            key: Some(shape),
        };
        let element = self.gpu.target().element;
        let mut logits = self.lanes.with(|lane| {
            let fill = |input: &mut [u8]| self.stack.fill(shape, &places, x, lengths, input);
            let program = || self.stack.program(self.gpu.target(), shape, &places);
            let logits = lane.run(&self.gpu, &self.weights, &pass, fill, program)?;
            Ok::<_, candle_core::Error>(element.read(logits))
        })?;
        logits.truncate(lengths.len() * self.stack.head.classes);
        Ok(logits)
    }
}

impl fmt::Debug for Classifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Classifier")
            .field("stack", &self.stack)
            .finish_non_exhaustive()
    }
}
