//! The three stages of a recipe, as a trait with types and as an object without.

use std::{any::Any, collections::HashMap, sync::Arc};

use candle_core::Tensor;
use serde::Serialize;
use serde_json::Value;

use crate::{
    Architecture, ForwardError, Input, InputError, InputKind, Output, RunError, Signature,
};

/// What a loaded recipe says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct RecipeInfo {
    /// Its name in the catalog.
    pub name: &'static str,
    /// The kind of input it takes.
    pub input_kind: InputKind,
    /// Which weights run, as shown in `/meta`, logs and reports: `bundled: efficientnet-lite0`, `synthetic:1002`,
    /// `hub: dslim/bert-base-NER@d1a3e8f`.
    pub weights: String,
    /// The dtype of the computation, `f32`.
    pub dtype: &'static str,
    /// The device: `cpu`, `cuda:0`.
    pub device: String,
    /// What [`Recipe::cost`] counts: `images`, `tokens`, `words`.
    pub cost_unit: &'static str,
    /// An input up to this many bytes is prepared and finished faster than it could be handed to another thread.
    pub inline_bytes: usize,
    /// The largest batch that `forward` takes, if there is one.
    pub max_batch_size: Option<usize>,
}

/// Named tensors handed straight to a model (`galley predict --raw`). They are in host memory whatever device the model runs
/// on, as what [`Recipe::prepare`] makes is.
pub type RawTensors = HashMap<String, Tensor>;

/// Images by what decoded them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// The device that the model runs on.
    pub on_device: u64,
    /// The CPU.
    pub on_cpu: u64,
}

/// A model with its pre- and post-processing.
///
/// Answers must not depend on batch-mates: `forward` of many equals `forward` of each, within the dtype's tolerance.
pub trait Recipe: Send + Sync + 'static {
    /// One input, ready for a batch: host data, no device memory.
    type Prepared: Send + Sync + 'static;
    /// What the model gives for one item.
    type Raw: Send + 'static;

    /// What this recipe is.
    fn info(&self) -> &RecipeInfo;

    /// What its model is made of.
    fn architecture(&self) -> Architecture {
        Architecture::default()
    }

    /// What its device decodes JPEG files with, in words for a log; none where the CPU decodes all.
    fn decoder(&self) -> Option<&'static str> {
        None
    }

    /// The images that were decoded since it was last asked.
    fn decoded(&self) -> Decoded {
        Decoded::default()
    }

    /// How its inputs and answers look as tensors.
    fn signature(&self) -> Signature {
        Signature::default()
    }

    /// A small valid input, shown in `/meta` and used to probe readiness.
    fn example(&self) -> Input;

    /// Reads one input. Called from many threads at once.
    ///
    /// # Errors
    /// The input is of the wrong kind, unreadable or too large; the message is for the caller.
    fn prepare(&self, input: Input) -> Result<Self::Prepared, InputError>;

    /// The same for as long as it is `wanted`. A recipe whose inputs take long to read asks often, and gives up; others
    /// need not.
    ///
    /// # Errors
    /// As [`Recipe::prepare`], or [`InputError::NotWanted`].
    fn prepare_while(
        &self,
        input: Input,
        _wanted: &dyn Fn() -> bool,
    ) -> Result<Self::Prepared, InputError> {
        self.prepare(input)
    }

    /// What the item will cost in `forward`, in [`RecipeInfo::cost_unit`]s; at least 1.
    fn cost(&self, _prepared: &Self::Prepared) -> u32 {
        1
    }

    /// Runs a batch and gives one output an item, in order. Called from one thread at a time for each batch
    /// that the device has in flight (`--batches-in-flight`).
    ///
    /// # Errors
    /// Out of memory or a failing device. Never because of an item: `prepare` has refused those that cannot run.
    fn forward(&self, batch: &[&Self::Prepared]) -> Result<Vec<Self::Raw>, ForwardError>;

    /// Turns one raw output into the answer. Called from many threads at once.
    fn finish(&self, prepared: Self::Prepared, raw: Self::Raw) -> Output;

    /// The logits of a raw output, a row for each label that is chosen by them: an image's, a token's, a text's. None where
    /// answers do not come from logits, or not from them alone.
    fn logits(&self, _raw: &Self::Raw) -> Vec<Vec<f32>> {
        Vec::new()
    }

    /// Whether all numbers that the answer follows from are finite; otherwise there is no answer.
    fn is_finite(&self, raw: &Self::Raw) -> bool {
        let logits = self.logits(raw);
        logits.iter().flatten().all(|logit| logit.is_finite())
    }

    /// An item made up from `seed`, for warm-up and for timing the model alone: of the typical size, or of `size`
    /// (pixels a side, tokens, words).
    fn sample(&self, size: Option<usize>, seed: u64) -> Self::Prepared;

    /// Runs the model on its own input tensors and gives one JSON object an item, `{"logits": [...]}`.
    ///
    /// # Errors
    /// [`ForwardError::BadTensors`] says which tensors, shapes and dtypes are expected.
    fn forward_tensors(&self, tensors: &RawTensors) -> Result<Vec<Value>, ForwardError>;
}

/// A prepared item whose type only its recipe knows.
pub struct Prepared {
    cost: u32,
    item: Box<dyn Any + Send + Sync>,
}

impl Prepared {
    /// What it will cost, see [`Recipe::cost`].
    pub fn cost(&self) -> u32 {
        self.cost
    }
}

/// A raw output whose type only its recipe knows.
pub struct RawOutput(Box<dyn Any + Send>);

/// A [`Recipe`] without its types, so that different ones can stand in one list. Every recipe is one.
///
/// Items must go back to the recipe that made them; another recipe's item is a bug of the caller and panics.
pub trait ErasedRecipe: Send + Sync + 'static {
    /// See [`Recipe::info`].
    fn info(&self) -> &RecipeInfo;
    /// See [`Recipe::architecture`].
    fn architecture(&self) -> Architecture;
    /// See [`Recipe::decoder`].
    fn decoder(&self) -> Option<&'static str>;
    /// See [`Recipe::decoded`].
    fn decoded(&self) -> Decoded;
    /// See [`Recipe::signature`].
    fn signature(&self) -> Signature;
    /// See [`Recipe::example`].
    fn example(&self) -> Input;
    /// See [`Recipe::prepare`].
    ///
    /// # Errors
    /// As [`Recipe::prepare`].
    fn prepare(&self, input: Input) -> Result<Prepared, InputError>;
    /// See [`Recipe::prepare_while`].
    ///
    /// # Errors
    /// As [`Recipe::prepare_while`].
    fn prepare_while(
        &self,
        input: Input,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Prepared, InputError>;
    /// See [`Recipe::forward`].
    ///
    /// # Errors
    /// As [`Recipe::forward`].
    fn forward(&self, batch: &[&Prepared]) -> Result<Vec<RawOutput>, ForwardError>;
    /// See [`Recipe::finish`].
    ///
    /// # Errors
    /// [`InputError::NotFinite`] where [`Recipe::is_finite`] says so.
    fn finish(&self, prepared: Prepared, raw: RawOutput) -> Result<Output, InputError>;
    /// See [`Recipe::logits`].
    fn logits(&self, raw: &RawOutput) -> Vec<Vec<f32>>;
    /// See [`Recipe::sample`].
    fn sample(&self, size: Option<usize>, seed: u64) -> Prepared;
    /// See [`Recipe::forward_tensors`].
    ///
    /// # Errors
    /// As [`Recipe::forward_tensors`].
    fn forward_tensors(&self, tensors: &RawTensors) -> Result<Vec<Value>, ForwardError>;
}

/// A recipe of any kind.
pub type AnyRecipe = Arc<dyn ErasedRecipe>;

const OWN_ITEM: &str = "an item goes back to the recipe that made it";

impl<R: Recipe> ErasedRecipe for R {
    fn info(&self) -> &RecipeInfo {
        Recipe::info(self)
    }

    fn architecture(&self) -> Architecture {
        Recipe::architecture(self)
    }

    fn decoder(&self) -> Option<&'static str> {
        Recipe::decoder(self)
    }

    fn decoded(&self) -> Decoded {
        Recipe::decoded(self)
    }

    fn signature(&self) -> Signature {
        Recipe::signature(self)
    }

    fn example(&self) -> Input {
        Recipe::example(self)
    }

    fn prepare(&self, input: Input) -> Result<Prepared, InputError> {
        Recipe::prepare(self, input).map(|item| erase(self, item))
    }

    fn prepare_while(
        &self,
        input: Input,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Prepared, InputError> {
        Recipe::prepare_while(self, input, wanted).map(|item| erase(self, item))
    }

    fn forward(&self, batch: &[&Prepared]) -> Result<Vec<RawOutput>, ForwardError> {
        let items: Vec<&R::Prepared> = batch
            .iter()
            .map(|prepared| prepared.item.downcast_ref().expect(OWN_ITEM))
            .collect();
        let raw = Recipe::forward(self, &items)?;
        assert_eq!(raw.len(), batch.len(), "a recipe gives one output an item");
        Ok(raw
            .into_iter()
            .map(|raw| RawOutput(Box::new(raw)))
            .collect())
    }

    fn finish(&self, prepared: Prepared, raw: RawOutput) -> Result<Output, InputError> {
        let item = prepared.item.downcast::<R::Prepared>().expect(OWN_ITEM);
        let raw = raw.0.downcast::<R::Raw>().expect(OWN_ITEM);
        if !Recipe::is_finite(self, &raw) {
            let dtype = Recipe::info(self).dtype;
            return Err(InputError::NotFinite { dtype });
        }
        Ok(Recipe::finish(self, *item, *raw))
    }

    fn logits(&self, raw: &RawOutput) -> Vec<Vec<f32>> {
        Recipe::logits(self, raw.0.downcast_ref().expect(OWN_ITEM))
    }

    fn sample(&self, size: Option<usize>, seed: u64) -> Prepared {
        erase(self, Recipe::sample(self, size, seed))
    }

    fn forward_tensors(&self, tensors: &RawTensors) -> Result<Vec<Value>, ForwardError> {
        Recipe::forward_tensors(self, tensors)
    }
}

fn erase<R: Recipe>(recipe: &R, item: R::Prepared) -> Prepared {
    Prepared {
        cost: recipe.cost(&item).max(1),
        item: Box::new(item),
    }
}

/// Runs inputs as one batch on the calling thread: prepare, forward, finish. Unreadable inputs fail alone.
///
/// # Errors
/// The forward pass failed, so that nothing can be answered.
pub fn run_batch(
    recipe: &dyn ErasedRecipe,
    inputs: Vec<Input>,
) -> Result<Vec<Result<Output, InputError>>, RunError> {
    let prepared: Vec<_> = inputs
        .into_iter()
        .map(|input| recipe.prepare(input))
        .collect();
    let batch: Vec<&Prepared> = prepared.iter().flatten().collect();
    let mut raw = if batch.is_empty() {
        Vec::new()
    } else {
        recipe.forward(&batch)?
    }
    .into_iter();
    Ok(prepared
        .into_iter()
        .map(|item| {
            let raw = item.is_ok().then(|| raw.next()).flatten();
            recipe.finish(item?, raw.expect("forward gives one output an item"))
        })
        .collect())
}
