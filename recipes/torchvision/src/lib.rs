//! The convolutional networks of torchvision: an image file in, its five likeliest classes out.
//!
//! One file a family, each a description that reads as its paper does, and [`zoo`] the list of all. A folder with a
//! `model.safetensors` that has the names of torchvision's state dict is all that a recipe needs.
//!
//! Of `googlenet` and `inception_v3`, torchvision's published weights want colours scaled by their own rule
//! (`transform_input`); so that is how files are scaled for these two. `pixels` are what the first convolution reads.

mod alexnet;
mod densenet;
mod googlenet;
mod inception_v3;
mod layers;
mod mnasnet;
mod mobilenet_v2;
mod resnet;
mod shufflenet_v2;
mod squeezenet;
mod steps;
mod vgg;
pub mod zoo;

use std::sync::Arc;

use galley_core::{
    AnyRecipe, Entry, InputKind, LoadError, LoadOptions, ModelBenchmark, Source, counted,
    synthetic, weights,
};
use galley_image::{Classifier, Config, OPTIONS, Parts, View};
use galley_nn::{
    Backend,
    executor::Executor,
    graph::{Graph, Mistake},
    image::Colours,
};

use crate::zoo::{Listed, NETWORKS, Settings};

/// The catalog's entries.
pub static ENTRIES: &[Entry] = &entries();

const fn entries() -> [Entry; NETWORKS.len()] {
    let mut entries = [Entry {
        name: "",
        summary: "",
        samples: &[],
        input_kind: InputKind::File,
        bundled: None,
        hub: None,
        synthetic_seed: Some(1000),
        options: OPTIONS,
        benchmark: None,
        load,
    }; NETWORKS.len()];
    let mut i = 0;
    while i < NETWORKS.len() {
        entries[i].name = NETWORKS[i].name;
        entries[i].summary = NETWORKS[i].summary;
        entries[i].benchmark = Some(ModelBenchmark {
            group: NETWORKS[i].group,
            inference: steps::inference,
        });
        i += 1;
    }
    entries
}

/// ImageNet's colours, as torchvision scales them.
const IMAGENET: Colours = Colours {
    mean: [0.485 * 255.0, 0.456 * 255.0, 0.406 * 255.0],
    deviation: [0.229 * 255.0, 0.224 * 255.0, 0.225 * 255.0],
};

/// From -1 to 1, which is what torchvision's Inceptions turn the others into.
const HALVES: Colours = Colours {
    mean: [127.5; 3],
    deviation: [127.5; 3],
};

/// How images are prepared for a network.
fn preparation(name: &str) -> (View, Colours) {
    let view = View {
        resize: 256,
        crop: 224,
    };
    match name {
        "googlenet" => (view, HALVES),
        "inception_v3" => {
            let view = View {
                resize: 342,
                crop: 299,
            };
            (view, HALVES)
        }
        _ => (view, IMAGENET),
    }
}

/// The network of this name as it is trained, with the classifiers that are trained besides, if it is one of these. `size` is
/// that of its images, pixels down as across; without it, as large as those that it is served with.
///
/// # Errors
/// The images are too small for it: `inception_v3`'s auxiliary classifier does not fit 224 pixels.
pub fn trained(name: &str, size: Option<usize>) -> Option<Result<Graph, Mistake>> {
    let (view, _) = preparation(name);
    let settings = Settings {
        size: [size.unwrap_or(view.crop); 2],
        classes: Config::default().classes(),
        auxiliary: true,
    };
    zoo::describe(name, settings)
}

fn load(entry: &Entry, options: &LoadOptions) -> Result<AnyRecipe, LoadError> {
    let (view, _) = preparation(entry.name);
    let Loaded {
        executor,
        parameters,
        config,
        source,
    } = Loaded::new(entry, options, view.crop)?;
    let parts = Parts {
        network: Box::new(executor),
        labels: config.labels()?,
        view,
        parameters,
    };
    let recipe = Classifier::new(entry, options, source, parts)?;
    Ok(Arc::new(recipe))
}

/// A network on its device.
struct Loaded {
    executor: Executor,
    parameters: u64,
    config: Config,
    /// Where the weights come from.
    source: String,
}

impl Loaded {
    /// Loads a network that is mostly for images of so many pixels a side.
    fn new(entry: &Entry, options: &LoadOptions, size: usize) -> Result<Self, LoadError> {
        let backend =
            Backend::of(&options.device, options.dtype).map_err(LoadError::Unsupported)?;
        Executor::runs_on(&backend).map_err(LoadError::Unsupported)?;
        let source = entry.source(&options.weights)?;
        let network = listed(entry)?;
        let mut config = Config::default();
        let weights = match &source {
            Source::Dir { path, .. } => {
                config = Config::read(path, entry.name)?;
                weights::safetensors_dir(path)?
            }
            Source::Synthetic(seed) => synthetic::var_builder(*seed),
            Source::Bundled(_) => return Err(unknown(entry)),
        };
        let classes = config.classes();
        let describe = move |size| {
            let settings = Settings {
                size,
                classes,
                auxiliary: false,
            };
            network.describe(settings)
        };
        let (_, colours) = preparation(entry.name);
        let (weights, parameters) = counted(weights);
        let describe = Box::new(describe);
        let executor = Executor::new(describe, [size; 2], &weights, &backend, &colours)?;
        Ok(Self {
            executor,
            parameters: parameters.get(),
            config,
            source: source.to_string(),
        })
    }
}

fn listed(entry: &Entry) -> Result<&'static Listed, LoadError> {
    zoo::find(entry.name).ok_or_else(|| unknown(entry))
}

fn unknown(entry: &Entry) -> LoadError {
    LoadError::invalid("recipe", format!("no network is called {}", entry.name))
}
