//! A training step on a CUDA device, in f16 or f32: the plan's layers there, the losses, the way back and the update, as launches.
//!
//! Parameters, their gradients and what the optimizer keeps are f32; in f16 what computes reads a rounded copy of the parameters, and
//! the loss is multiplied by as much as gradients bear. Whether they have borne it is known on the device, where a step whose gradients
//! are not finite changes nothing but that number. So a step is the same launches each time.
//!
//! Several devices each have all of this and a part of the batch. Their gradients are averaged while the way back goes on
//! (`buckets`), before anybody looks at them: what is not finite on one is not finite on all then, so that all pass over the
//! same steps, and parameters, the optimizer's numbers and the loss's factor stay the same bits everywhere. Statistics of
//! BatchNorm are each device's own.

mod backward;
mod buckets;
#[cfg(feature = "cuda")]
mod device;
mod forward;
mod order;
mod places;
#[cfg(feature = "cuda")]
mod ranks;
mod sequences;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub(super) use ranks::Ranks;

use candle_core::Result;

use self::{buckets::Bucket, places::Places};
use super::{Optimizer, Plan, Settings};
use crate::{
    cuda::{Draft, Element, Layout, Program, Target},
    ops::{
        dropout::{Dropout, Stream},
        optimizer::cuda::{AdamW, Sgd, Trained},
        pixels,
    },
};

/// The parts of a step, and the memory that all of them use.
#[derive(Debug)]
struct Programs {
    /// What the first step needs besides parameters.
    start: Program,
    /// From the batch to the losses.
    forward: Program,
    /// The same without dropout, which leaves running statistics as they are.
    losses: Program,
    /// To all gradients.
    backward: Program,
    /// Of the parameters.
    update: Program,
    places: Places,
    layout: Layout,
}

impl Programs {
    /// # Errors
    /// The batch is too large for a launch.
    fn new(plan: &Plan, settings: &Settings, target: Target) -> Result<Self> {
        let mut layout = Layout::default();
        let kept = settings.optimizer.kept();
        let places = Places::new(plan, target.element, kept, &mut layout);
        let mut whole = layout;
        let mut make = |drops, push: &dyn Fn(&mut Making<'_>) -> Result<()>| -> Result<Program> {
            let mut making = Making {
                plan,
                places: &places,
                draft: Draft::new(target, layout),
                pure: is_pure(settings, target.element),
                seed: settings.dropout.unwrap_or(0),
                drops,
            };
            push(&mut making)?;
            let (program, used) = making.draft.finish();
            if used.bytes() > whole.bytes() {
                whole = used;
            }
            Ok(program)
        };
        let forward = |making: &mut Making<'_>| {
            (0..plan.layers.len()).try_for_each(|layer| making.forward(layer))?;
            (0..plan.losses.len()).try_for_each(|loss| making.loss(loss))
        };
        let backward = |making: &mut Making<'_>| -> Result<()> {
            let buckets = target.bucket.map(|values| Bucket::all(plan, values));
            for (step, backward) in plan.backward.iter().enumerate() {
                making.backward(backward)?;
                let buckets = buckets.iter().flatten();
                for bucket in buckets.filter(|bucket| bucket.after == step) {
                    making.draft.average(places.gradients_of(&bucket.values));
                }
            }
            if buckets.is_some() {
                making.draft.join();
            }
            Ok(())
        };
        Ok(Self {
            start: make(true, &|making| making.round())?,
            forward: make(true, &forward)?,
            losses: make(false, &forward)?,
            backward: make(true, &backward)?,
            update: make(true, &|making| making.update(settings.optimizer))?,
            places,
            layout: whole,
        })
    }
}

/// Whether f16 is all that there is on a device that computes in an element.
fn is_pure(settings: &Settings, element: Element) -> bool {
    settings.pure_half && element == Element::F16
}

/// A program in the making.
struct Making<'a> {
    plan: &'a Plan,
    places: &'a Places,
    draft: Draft,
    /// Whether f16 is all that there is.
    pure: bool,
    seed: u64,
    /// Whether dropout does anything, and running statistics run on.
    drops: bool,
}

impl Making<'_> {
    /// What a layer drops. The step's number is the device's.
    fn dropout(&self, share: f64, stream: u32) -> Dropout {
        let share = if self.drops { share } else { 0.0 };
        let numbers = Stream {
            seed: self.seed,
            step: 0,
            layer: stream,
        };
        Dropout::new(share, numbers)
    }

    /// Rounds the parameters, where the device computes with them rounded.
    fn round(&mut self) -> Result<()> {
        let places = self.places;
        match places.element {
            Element::F32 => Ok(()),
            Element::F16 => {
                let spans = [places.parameters, places.rounded];
                pixels::cuda::cast(&mut self.draft, spans, self.plan.parameters_len())
            }
        }
    }

    /// Pushes what becomes of the parameters, once there are all gradients.
    fn update(&mut self, optimizer: Optimizer) -> Result<()> {
        let places = self.places;
        let trained = Trained {
            len: self.plan.parameters_len(),
            parameters: places.parameters,
            copy: (places.element != Element::F32).then_some(places.rounded),
            gradients: places.gradients,
            state: places.state,
            pure: self.pure,
        };
        let draft = &mut self.draft;
        trained.check(draft)?;
        match optimizer {
            Optimizer::Sgd {
                lr,
                momentum,
                weight_decay,
                nesterov,
            } => trained.sgd(
                draft,
                &Sgd {
                    lr: lr as f32,
                    momentum: momentum as f32,
                    weight_decay: weight_decay as f32,
                    nesterov,
                    kept: places.kept.first().copied(),
                },
            )?,
            Optimizer::AdamW {
                lr,
                betas,
                eps,
                weight_decay,
            } => trained.adam_w(
                draft,
                &AdamW {
                    lr,
                    betas,
                    eps,
                    weight_decay,
                    kept: [places.kept[0], places.kept[1]],
                },
            )?,
        }
        trained.end(draft)
    }
}
