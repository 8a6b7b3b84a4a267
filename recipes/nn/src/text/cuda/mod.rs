//! A transformer and its head on a CUDA device: a whole pass, from token ids to what the head gives, without the host.
//!
//! `model` lays the weights out, `shape` says what a pass depends on and fills its input, `program` lists its launches.

mod model;
mod program;
mod shape;
#[cfg(test)]
mod tests;
mod tiles;

#[cfg(feature = "cuda")]
pub(super) use on_device::Network;

#[cfg(feature = "cuda")]
mod on_device {
    use candle_core::Result;
    use candle_nn::VarBuilder;

    use super::{
        model::Model,
        shape::{Input, Shape},
    };
    use crate::{
        cuda::{Buffer, Gpu, Lane, Pass, Weights},
        text::{Head, Packed, TensorNames, TransformerConfig},
        workspace::Workspaces,
    };

    /// A transformer with its head on a device.
    #[derive(Debug)]
    pub(in crate::text) struct Network {
        gpu: Gpu,
        model: Model,
        weights: Buffer,
        lanes: Workspaces<Lane<Shape>>,
    }

    impl Network {
        pub(in crate::text) fn load(
            gpu: &Gpu,
            config: &TransformerConfig,
            names: &TensorNames,
            head: &Head,
            vb: &VarBuilder,
        ) -> Result<Self> {
            let mut weights = Weights::new(gpu.target().element);
            let model = Model::load(config, names, head, vb, &mut weights)?;
            Ok(Self {
                weights: Buffer::of(gpu, &weights)?,
                gpu: gpu.clone(),
                model,
                lanes: Workspaces::default(),
            })
        }

        /// What the head gives, `[rows, outputs]`.
        pub(in crate::text) fn forward(&self, batch: &Packed) -> Result<Vec<f32>> {
            let target = self.gpu.target();
            let input = Input::new(&self.model, batch, target.element)?;
            if input.rows == 0 {
                return Ok(Vec::new());
            }
            let plan = self.model.plan(input.shape, target.element);
            let pass = Pass {
                layout: plan.layout,
                input: plan.input,
                output: self.model.output(&plan, input.rows, target.element),
                key: input.recorded.then_some(input.shape),
            };
            self.lanes.with(|lane| {
                let output = lane.run(
                    &self.gpu,
                    &self.weights,
                    &pass,
                    |to| input.write(&plan, to),
                    || self.model.program(input.shape, &plan, &target),
                )?;
                Ok(self.model.values(output, target.element))
            })
        }
    }
}
