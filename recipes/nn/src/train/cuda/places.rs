//! Where everything of a training step lies in the device's memory.

use std::{collections::HashMap, ops::Range};

use crate::{
    cuda::{Element, Layout, Span},
    ops::optimizer::cuda::State,
    train::{Operation, Plan},
};

/// Bytes of what the device has in f32 or as whole numbers whatever its element.
const WORD: usize = 4;

/// The places of a step. All but values and the memory to work in stay from step to step.
#[derive(Clone, Debug)]
pub(in crate::train) struct Places {
    pub(super) element: Element,
    /// What comes in: images and rows in the device's element, ids as whole numbers.
    pub(super) input: Span,
    /// Whole numbers.
    pub(super) labels: Span,
    /// Of each loss, f32.
    pub(super) losses: Span,
    /// All parameters, f32.
    pub(super) parameters: Span,
    /// The same in the device's element. In f32 it is the same memory.
    pub(super) rounded: Span,
    /// f32.
    pub(super) gradients: Span,
    /// f32.
    pub(super) buffers: Span,
    /// What the optimizer keeps, f32 as the parameters.
    pub(super) kept: Vec<Span>,
    /// Counts, and what the loss is multiplied by.
    pub(super) state: Span,
    /// The state and the losses, in one piece.
    pub(super) results: Span,
    /// Of each slot of the plan.
    slots: Vec<Span>,
    /// Of each BatchNorm, by its place in the plan: mean and reciprocal deviation of the batch, f32.
    statistics: HashMap<usize, Span>,
}

impl Places {
    /// For a plan whose optimizer keeps so many arrays of parameters' length.
    pub(in crate::train) fn new(
        plan: &Plan,
        element: Element,
        kept: usize,
        layout: &mut Layout,
    ) -> Self {
        let words = |layout: &mut Layout, count: usize| layout.place(count * WORD);
        let parameters = words(layout, plan.parameters_len());
        let rounded = match element {
            Element::F32 => parameters,
            Element::F16 => layout.place(plan.parameters_len() * element.size()),
        };
        let gradients = words(layout, plan.parameters_len());
        let buffers = words(layout, plan.buffers_len());
        let kept: Vec<_> = (0..kept)
            .map(|_| words(layout, plan.parameters_len()))
            .collect();
        let labels = words(layout, plan.batch);
        let before = *layout;
        let state = layout.place(State::BYTES);
        let losses = words(layout, plan.losses.len());
        let results = layout.since(before);
        let layers = plan.layers.iter().enumerate();
        let norms =
            layers.filter(|(_, layer)| matches!(layer.operation, Operation::BatchNorm { .. }));
        let statistics = norms
            .map(|(i, layer)| (i, words(layout, 2 * layer.output.shape.channels)))
            .collect();
        let size = element.size();
        // What a layer keeps is f32, and ids are words.
        let mut wide: Vec<usize> = plan.layers.iter().filter_map(|layer| layer.kept).collect();
        if takes_ids(plan) {
            wide.push(plan.input);
        }
        let width = |slot| if wide.contains(&slot) { WORD / size } else { 1 };
        let (slots, len) = plan.laid_out(width);
        let memory = layout.place(len * size);
        let slots: Vec<Span> = (slots.iter())
            .map(|slot| memory.part(slot.offset * size, slot.len * size))
            .collect();
        Self {
            element,
            input: slots[plan.input],
            labels,
            losses,
            parameters,
            rounded,
            gradients,
            buffers,
            kept,
            state,
            results,
            slots,
            statistics,
        }
    }

    pub(super) fn slot(&self, slot: usize) -> Span {
        self.slots[slot]
    }

    /// Where a loss goes.
    pub(super) fn loss(&self, index: usize) -> Span {
        self.losses.part(index * WORD, WORD)
    }

    /// # Panics
    /// The layer is no BatchNorm.
    pub(super) fn statistics(&self, layer: usize) -> Span {
        self.statistics[&layer]
    }

    /// A parameter in f32.
    pub(super) fn parameter(&self, plan: &Plan, index: usize) -> Span {
        let range = &plan.parameters[index].range;
        (self.parameters).part(range.start * WORD, range.len() * WORD)
    }

    /// A parameter in the device's element.
    pub(super) fn weight(&self, plan: &Plan, index: usize) -> Span {
        let (range, size) = (&plan.parameters[index].range, self.element.size());
        (self.rounded).part(range.start * size, range.len() * size)
    }

    /// A parameter's gradient.
    pub(super) fn gradient(&self, plan: &Plan, index: usize) -> Span {
        self.gradients_of(&plan.parameters[index].range)
    }

    /// So many gradients.
    pub(super) fn gradients_of(&self, values: &Range<usize>) -> Span {
        (self.gradients).part(values.start * WORD, values.len() * WORD)
    }

    /// A running statistic.
    pub(super) fn buffer(&self, plan: &Plan, index: usize) -> Span {
        let range = &plan.buffers[index].range;
        (self.buffers).part(range.start * WORD, range.len() * WORD)
    }
}

/// Whether a plan's input is ids.
pub(super) fn takes_ids(plan: &Plan) -> bool {
    plan.layers.iter().any(|layer| {
        let is_lookup = matches!(layer.operation, Operation::Embedding(_));
        is_lookup && layer.inputs[0].slot == plan.input
    })
}
