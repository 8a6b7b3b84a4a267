//! EfficientNet recipes: an image file in, its five likeliest classes out.
//!
//! Four networks, one implementation: a `spec` says what a network looks like and how images are prepared for it,
//! `names` what its weight files call their tensors, and `network` fills any of them with weights for `galley-nn` to run.
//! `galley-image` reads the files and names the classes.

mod names;
mod network;
mod spec;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use galley_core::{
    AnyRecipe, BundledWeights, Embedded, Entry, HubWeights, InputKind, LoadError, LoadOptions,
    Source, counted, synthetic, weights,
};
use galley_image::{Classifier, Config, IMAGENET, OPTIONS, Parts};
use galley_nn::{Backend, image::Network};

use crate::{names::Naming, spec::Spec};

/// The catalog's entries.
pub static ENTRIES: &[Entry] = &[
    Entry {
        name: "efficientnet_b2",
        summary: "image to ImageNet classes: EfficientNet-B2, noisy student, 260 pixels",
        hub: Some(HubWeights {
            repo: "timm/tf_efficientnet_b2.ns_jft_in1k",
            files: &["model.safetensors", "config.json"],
            optional_files: &[],
            licence: "Apache-2.0",
        }),
        synthetic_seed: Some(1002),
        ..IMAGE_CLASSES
    },
    Entry {
        name: "efficientnet_b2_torchvision",
        summary: "image to ImageNet classes: torchvision's EfficientNet-B2, 288 pixels",
        synthetic_seed: Some(1002),
        ..IMAGE_CLASSES
    },
    Entry {
        name: "efficientnet_b0",
        summary: "image to ImageNet classes: torchvision's EfficientNet-B0, 224 pixels",
        synthetic_seed: Some(1000),
        ..IMAGE_CLASSES
    },
    Entry {
        name: "efficientnet_lite0",
        summary: "image to ImageNet classes: EfficientNet-Lite0, small and quick, 224 pixels",
        bundled: Some(BundledWeights {
            name: "efficientnet-lite0",
            licence: "Apache-2.0",
            files: Embedded(&[&LITE0_WEIGHTS, &IMAGENET]),
        }),
        ..IMAGE_CLASSES
    },
];

/// What all entries have in common.
const IMAGE_CLASSES: Entry = Entry {
    name: "",
    summary: "",
    samples: &[],
    input_kind: InputKind::File,
    bundled: None,
    hub: None,
    synthetic_seed: None,
    options: OPTIONS,
    benchmark: None,
    load,
};

galley_core::embed!(LITE0_WEIGHTS, "../weights/lite0/model.safetensors");

fn spec(name: &str) -> Spec {
    match name {
        "efficientnet_b0" => spec::B0,
        "efficientnet_b2" => spec::B2,
        "efficientnet_b2_torchvision" => spec::B2_TORCHVISION,
        _ => spec::LITE0,
    }
}

fn load(entry: &Entry, options: &LoadOptions) -> Result<AnyRecipe, LoadError> {
    let backend = Backend::of(&options.device, options.dtype).map_err(LoadError::Unsupported)?;
    let spec = spec(entry.name);
    let source = entry.source(&options.weights)?;
    let mut config = Config::default();
    let (weights, naming): (_, &Naming) = match &source {
        Source::Bundled(_) => {
            let weights = weights::safetensors_bytes(&LITE0_WEIGHTS)?;
            (weights, spec.naming)
        }
        Source::Dir { path, .. } => {
            config = Config::read(path, spec.architecture)?;
            (weights::safetensors_dir(path)?, spec.naming)
        }
        // Synthetic values depend on names, and are defined for torchvision's.
        Source::Synthetic(seed) => {
            let weights = synthetic::var_builder(*seed);
            (weights, &names::TORCHVISION)
        }
    };
    let labels = config.labels()?;
    let (weights, parameters) = counted(weights);
    let layers = network::layers(&spec, naming, config.classes(), &weights)?;
    let parts = Parts {
        network: Box::new(Network::new(&layers, &backend)?),
        labels,
        view: spec.view,
        parameters: parameters.get(),
    };
    let recipe = Classifier::new(entry, options, source.to_string(), parts)?;
    Ok(Arc::new(recipe))
}
