//! What steps read from weights, laid out for a CUDA device.

use candle_core::Result;

use super::{
    super::weights::{self as laid, Reader},
    VECTOR,
};
use crate::{
    activation::Activation,
    cuda::{Span, Target, Weights},
    image::{self, cuda::depthwise::Depthwise},
    matmul::cuda::Dense,
    ops::convolution::cuda::{Around, Before, Convolution},
    plan::{Operation, Plan, Step, View},
};

/// Images that channels are gathered from at once.
pub(super) const SOURCES: usize = 16;

/// A step's numbers.
#[derive(Debug)]
pub(super) enum Numbers {
    Convolution(Convolution),
    Depthwise(Depthwise, Activation),
    Linear(Dense, Activation),
    /// Factors and terms, f32.
    Scale([Span; 2], Activation),
    /// For each channel the source and the channel there; the sources.
    Gather(Span, Vec<View>),
}

/// A step's, if it has any.
pub(super) fn lay(
    weights: &mut Weights,
    target: &Target,
    (step, plan): (&Step, &Plan),
    reader: &Reader<'_>,
) -> Result<Option<Numbers>> {
    Ok(Some(match &step.operation {
        Operation::Convolution {
            input,
            before,
            layer,
            residual,
            ..
        } => {
            let folded = reader.folded(layer, input.view.channels)?;
            let weight = match layer.convolution.groups {
                1 => laid::ordered(&folded.weight, 1, input)?,
                _ => folded.weight,
            };
            let before = match before {
                Some(scaling) => Some(Before {
                    factors: reader.factors(input, scaling)?,
                    activation: scaling.activation,
                }),
                None => None,
            };
            let convolution = Convolution::new(
                (weights, target),
                &layer.convolution,
                [&weight, &folded.bias],
                Around {
                    before: before.as_ref(),
                    activation: layer.activation,
                    sums: residual.is_some(),
                    first: reads_alone(plan, input.view),
                },
            )?;
            Numbers::Convolution(convolution)
        }
        Operation::Depthwise { input, layer, .. } => {
            let folded = reader.filters(layer, Some(input))?;
            let known = [
                Activation::None,
                Activation::Relu,
                Activation::Relu6,
                Activation::Silu,
            ];
            if known.contains(&layer.activation) {
                let window = image::Window {
                    stride: layer.convolution.window.stride[0],
                    padding: image::Padding::Symmetric(layer.convolution.window.padding[0]),
                };
                let (depthwise, _) = Depthwise::new(weights, &folded, window)?;
                Numbers::Depthwise(depthwise, layer.activation)
            } else {
                Numbers::Convolution(Convolution::new(
                    (weights, target),
                    &layer.convolution,
                    [&folded.weight, &folded.bias],
                    Around {
                        before: None,
                        activation: layer.activation,
                        sums: false,
                        first: false,
                    },
                )?)
            }
        }
        Operation::Linear {
            input,
            layer: (name, activation),
        } => {
            let pixels = plan.buffers[input.view.buffer].pixels();
            let outputs = step.output.channels;
            let layer = reader.linear(name, input, [outputs, pixels])?;
            // Each pixel's channels are followed by nothing but zeros, up to a vector.
            let channels = input.view.channels;
            let more = |count: usize| count.next_multiple_of(VECTOR) - count;
            let weight = (layer.weight.reshape((outputs, pixels, channels))?)
                .pad_with_zeros(2, 0, more(channels))?
                .pad_with_zeros(0, 0, more(outputs))?
                .flatten_from(1)?;
            let bias = layer.bias.pad_with_zeros(0, 0, more(outputs))?;
            Numbers::Linear(Dense::new(weights, &weight, &bias)?, *activation)
        }
        Operation::Scale { input, scaling } => {
            let factors = reader.factors(input, scaling)?.map(|mut factors| {
                factors.resize(factors.len().next_multiple_of(VECTOR), 0.0);
                weights.floats(&factors)
            });
            Numbers::Scale(factors, scaling.activation)
        }
        Operation::Gather { parts } => {
            let mut sources: Vec<View> = Vec::new();
            let wide = step.output.channels.next_multiple_of(VECTOR);
            let mut table = vec![[-1_i32, 0]; wide];
            for (view, first) in parts {
                let known = sources
                    .iter()
                    .position(|source| source.buffer == view.buffer);
                let source = known.unwrap_or_else(|| {
                    sources.push(View { first: 0, ..*view });
                    sources.len() - 1
                });
                for i in 0..view.channels {
                    table[first + i] = [source as i32, (view.first + i) as i32];
                }
            }
            if sources.len() > SOURCES {
                candle_core::bail!(
                    "channels of more than {SOURCES} images come together in {}",
                    step.name
                )
            }
            let words = table.iter().flatten().map(|word| word.to_le_bytes());
            let words: Vec<_> = words.collect();
            Numbers::Gather(weights.raw(words.into_iter()), sources)
        }
        Operation::Pool { .. }
        | Operation::Mean { .. }
        | Operation::Add { .. }
        | Operation::Gate { .. } => return Ok(None),
    }))
}

/// Whether a view is of what comes in, and of this one step.
fn reads_alone(plan: &Plan, view: View) -> bool {
    let reads = plan.steps.iter().flat_map(|step| step.operation.reads());
    view.buffer == 0 && reads.filter(|read| read.buffer == 0).count() == 1
}
