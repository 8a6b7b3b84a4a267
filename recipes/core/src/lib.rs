//! What a recipe is, and nothing about how it is served.
//!
//! A *recipe* is a model together with its pre- and post-processing. It has three stages, because they want three
//! different places to run: [`Recipe::prepare`] (one input, CPU, parallel), [`Recipe::forward`] (a batch, the device's
//! own thread) and [`Recipe::finish`] (one answer, CPU again). Server and benchmark call the same three functions.
//!
//! This crate knows neither an async runtime nor HTTP, so a recipe also runs in a plain program:
//!
//! ```no_run
//! # use galley_core::{AnyRecipe, Input, RunError};
//! # fn run(recipe: AnyRecipe) -> Result<(), RunError> {
//! let answers = galley_core::run_batch(recipe.as_ref(), vec![Input::text("galley serves recipes")])?;
//! println!("{}", serde_json::json!(answers[0].as_ref().ok()));
//! # Ok(()) }
//! ```

mod architecture;
mod benchmark;
mod device;
mod entry;
mod error;
pub mod hub;
mod input;
mod memory;
mod output;
mod recipe;
mod signature;
pub mod synthetic;
mod text_input;
pub mod weights;

pub use architecture::{Architecture, ParameterCount, counted};
pub use benchmark::{BatchShape, MakeSteps, ModelBenchmark, Steps};
pub use device::{DeviceName, device_name, usual_dtype};
pub use entry::{BundledWeights, Embedded, Entry, HubWeights, LoadOptions, Source, WeightSource};
pub use error::{ForwardError, InputError, LoadError, RunError, without_backtrace};
pub use input::{Input, InputKind, InputLimits, Pixels};
pub use memory::{MemoryBudget, NoMemory, Reservation};
pub use output::{Entity, ImageClass, Output, TextLabel};
pub use recipe::{
    AnyRecipe, Decoded, ErasedRecipe, Prepared, RawOutput, RawTensors, Recipe, RecipeInfo,
    run_batch,
};
pub use signature::{AnswerForm, Signature};
pub use text_input::TextInput;
