//! What steps read from weights, laid out for the CPU.

use candle_core::{DType::F64, Device, Result, Tensor};
use candle_nn::VarBuilder;

use crate::{
    host,
    image::{
        self, BatchNorm,
        cpu::{dense::Dense, depthwise::Depthwise},
    },
    ops::convolution::{Before, Convolution, Weights},
    plan::{Layer, Norm, Operand, Operation, Plan, Scaling, Step},
    simd::Precision,
};

/// A step's weights.
#[derive(Debug)]
pub(super) struct Laid {
    /// What they were laid out for.
    key: Key,
    pub(super) weights: Numbers,
}

/// What weights depend on.
#[derive(Debug, PartialEq)]
pub(super) struct Key {
    operation: Operation<Option<Vec<usize>>>,
    /// Values of an image, where each has a weight of its own.
    inputs: usize,
}

#[derive(Debug)]
pub(super) enum Numbers {
    None,
    Convolution(Convolution),
    Depthwise {
        expand: Option<Dense>,
        layer: Depthwise,
    },
    Linear(Dense),
    Scale(Before),
}

impl Laid {
    /// Whether a step reads any.
    pub(super) fn is_needed(step: &Step) -> bool {
        matches!(
            step.operation,
            Operation::Convolution { .. }
                | Operation::Depthwise { .. }
                | Operation::Linear { .. }
                | Operation::Scale { .. }
        )
    }

    /// Whether they are those of a step of another plan.
    pub(super) fn fits(&self, step: &Step, plan: &Plan) -> bool {
        self.key == Key::of(step, plan)
    }
}

impl Key {
    pub(super) fn of(step: &Step, plan: &Plan) -> Self {
        let inputs = match &step.operation {
            Operation::Linear { input, .. } => plan.buffers[input.view.buffer].len(),
            _ => 0,
        };
        Self {
            operation: step.operation.orders(),
            inputs,
        }
    }
}

/// Reads and lays out a step's.
pub(super) fn lay(step: &Step, plan: &Plan, reader: &Reader<'_>) -> Result<Laid> {
    let numbers = match &step.operation {
        Operation::Convolution {
            input,
            before,
            layer,
            ..
        } => {
            let pixels = plan.buffers[step.output.buffer].pixels();
            let before = before.as_ref();
            Numbers::Convolution(reader.convolution((input, pixels), before, layer)?)
        }
        Operation::Depthwise {
            input,
            expand,
            layer,
        } => reader.depthwise(input, expand.as_ref(), layer)?,
        Operation::Linear {
            input,
            layer: (name, activation),
        } => {
            let pixels = plan.buffers[input.view.buffer].pixels();
            let layer = reader.linear(name, input, [step.output.channels, pixels])?;
            let inputs = input.view.channels * pixels;
            Numbers::Linear(Dense::new(
                &layer,
                Some(inputs),
                *activation,
                Precision::F32,
            )?)
        }
        Operation::Scale { input, scaling } => Numbers::Scale(reader.before(input, scaling)?),
        Operation::Pool { .. }
        | Operation::Mean { .. }
        | Operation::Add { .. }
        | Operation::Gate { .. }
        | Operation::Gather { .. } => Numbers::None,
    };
    Ok(Laid {
        key: Key::of(step, plan),
        weights: numbers,
    })
}

/// A state dict, read as steps want it.
pub(super) struct Reader<'a>(pub(super) &'a VarBuilder<'a>);

impl Reader<'_> {
    fn convolution(
        &self,
        (input, pixels): (&Operand, usize),
        before: Option<&Scaling>,
        layer: &Layer,
    ) -> Result<Convolution> {
        let inputs = input.view.channels;
        let folded = self.folded(layer, inputs)?;
        let laid = host::with(&folded.weight.contiguous()?, |weight| {
            host::with(&folded.bias.contiguous()?, |bias| {
                let weights = Weights {
                    weight,
                    bias,
                    order: input.order.as_deref(),
                };
                Ok(Convolution::new(
                    &layer.convolution,
                    [inputs, pixels],
                    weights,
                    layer.activation,
                ))
            })
        })?;
        Ok(match before {
            Some(before) => laid.after(self.before(input, before)?),
            None => laid,
        })
    }

    fn depthwise(&self, input: &Operand, expand: Option<&Layer>, layer: &Layer) -> Result<Numbers> {
        let expand = match expand {
            Some(expand) => {
                let mut folded = self.folded(expand, input.view.channels)?;
                folded.weight = ordered(&folded.weight, 1, input)?;
                Some(Dense::new(
                    &folded,
                    None,
                    expand.activation,
                    Precision::F32,
                )?)
            }
            None => None,
        };
        let folded = self.filters(layer, expand.is_none().then_some(input))?;
        let window = image::Window {
            stride: layer.convolution.window.stride[0],
            padding: image::Padding::Symmetric(layer.convolution.window.padding[0]),
        };
        let layer = Depthwise::new(&folded, window, layer.activation)?;
        Ok(Numbers::Depthwise { expand, layer })
    }

    /// Filters of each channel, in the order of the images that they read, unless an expansion stands between.
    pub(super) fn filters(
        &self,
        layer: &Layer,
        input: Option<&Operand>,
    ) -> Result<image::Convolution> {
        let mut folded = self.folded(layer, layer.convolution.outputs)?;
        if let Some(input) = input {
            folded.weight = ordered(&folded.weight, 0, input)?;
            folded.bias = ordered(&folded.bias, 0, input)?;
        }
        Ok(folded)
    }

    /// A weight's columns are in the order of an image's memory, pixel by pixel; a state dict's are channel by channel.
    pub(super) fn linear(
        &self,
        name: &str,
        input: &Operand,
        [outputs, pixels]: [usize; 2],
    ) -> Result<image::Convolution> {
        let inputs = input.view.channels;
        let weight = self
            .0
            .get((outputs, inputs * pixels), &format!("{name}.weight"))?;
        let weight = if pixels == 1 && input.order.is_none() {
            weight
        } else {
            let weight = weight.reshape((outputs, inputs, pixels))?;
            let weight = ordered(&weight, 1, input)?.permute((0, 2, 1))?;
            weight.contiguous()?.reshape((outputs, inputs * pixels))?
        };
        Ok(image::Convolution {
            weight,
            bias: self.0.get(outputs, &format!("{name}.bias"))?,
        })
    }

    /// A convolution's weight and bias, with the BatchNorm after it folded in.
    pub(super) fn folded(&self, layer: &Layer, inputs: usize) -> Result<image::Convolution> {
        let convolution = &layer.convolution;
        let [down, across] = convolution.window.kernel;
        let outputs = convolution.outputs;
        let shape = [outputs, inputs / convolution.groups, down, across];
        let weight = self.0.get(&shape, &format!("{}.weight", layer.name))?;
        let bias = if convolution.bias {
            Some(self.0.get(outputs, &format!("{}.bias", layer.name))?)
        } else {
            None
        };
        match (&layer.norm, bias) {
            (None, Some(bias)) => Ok(image::Convolution { weight, bias }),
            (None, None) => {
                let bias = Tensor::zeros(outputs, weight.dtype(), &Device::Cpu)?;
                Ok(image::Convolution { weight, bias })
            }
            (Some(norm), bias) => {
                let mut norm = self.norm(norm, outputs)?;
                if let Some(bias) = bias {
                    // The norm's input is so much higher, and its mean therefore so much lower.
                    norm.mean = (norm.mean - bias)?;
                }
                norm.fold(&weight)
            }
        }
    }

    fn norm(&self, norm: &Norm, channels: usize) -> Result<BatchNorm> {
        let part = |part| self.0.get(channels, &format!("{}.{part}", norm.name));
        Ok(BatchNorm {
            scale: part("weight")?,
            shift: part("bias")?,
            mean: part("running_mean")?,
            variance: part("running_var")?,
            eps: norm.eps,
        })
    }

    fn before(&self, input: &Operand, scaling: &Scaling) -> Result<Before> {
        let [scale, shift] = self.factors(input, scaling)?;
        Ok(Before {
            scale,
            shift,
            activation: scaling.activation,
        })
    }

    /// Factors and terms in the order of the input's channels.
    pub(super) fn factors(&self, input: &Operand, scaling: &Scaling) -> Result<[Vec<f32>; 2]> {
        let channels = input.view.channels;
        let Some(norm) = &scaling.norm else {
            return Ok([vec![1.0; channels], vec![0.0; channels]]);
        };
        let norm = self.norm(norm, channels)?;
        let [variance, scale, shift, mean] =
            [&norm.variance, &norm.scale, &norm.shift, &norm.mean].map(|x| x.to_dtype(F64));
        let scale = (scale? / (variance? + norm.eps)?.sqrt()?)?;
        let shift = (shift? - (mean? * &scale)?)?;
        Ok([
            host::to_vec(&ordered(&scale, 0, input)?)?,
            host::to_vec(&ordered(&shift, 0, input)?)?,
        ])
    }
}

/// A weight with what belongs to the input's channels in their order.
pub(super) fn ordered(weight: &Tensor, dim: usize, input: &Operand) -> Result<Tensor> {
    let Some(order) = &input.order else {
        return Ok(weight.clone());
    };
    let order: Vec<u32> = order.iter().map(|i| *i as u32).collect();
    weight.index_select(&Tensor::new(order, &Device::Cpu)?, dim)
}
