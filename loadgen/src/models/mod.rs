//! SuperBench's model benchmarks: models of the catalog, each for some steps on random inputs.
//!
//! Order, steps and what counts of them are SuperBench's: for each precision and action the model is loaded anew, some steps warm it up,
//! and the rest are timed one by one. What an action does is the model's affair ([`galley_core::Steps`]); a model that fails leaves a
//! return code, and the next one goes on.

mod benchmark;
mod losses;
mod stop;
mod training;

use candle_core::Device;
use galley_core::{DeviceName, Entry, LoadError, LoadOptions, ModelBenchmark, device_name};

use self::{benchmark::Benchmarks, stop::Stop};
use crate::{
    args::{Action, ModelsArgs, Precision},
    error::{Error, Result},
    meter::Meter,
    output::Output,
    plan::{described, finish},
    progress::Progress,
    report::{MODELS, record::Run},
    setup::{Context, set_threads},
};

/// Stands for every model.
const ALL: &str = "all";

/// Runs the benchmarks.
///
/// # Errors
/// The arguments ask for what there is not, or figures cannot be written. A model that fails is no error.
pub(crate) fn run(args: &ModelsArgs, context: &Context) -> Result<()> {
    set_threads(args.threads);
    let stop = Stop::of(args)?;
    let models = chosen(&args.names())?;
    let (precisions, actions) = (
        distinct(args.precision.clone()),
        distinct(args.action.clone()),
    );
    let devices = open(&args.device, &actions)?;
    let names: Vec<String> = devices.iter().map(device_name).collect();
    let Some((device, beside)) = devices.split_first() else {
        return Err(Error::option("--device", "expected a device, got none"));
    };
    let meter = Meter::of(device);
    let options = LoadOptions {
        device: device.clone(),
        weights: args.weights.clone(),
        ..LoadOptions::default()
    };
    if let Some(input) = &args.training.input {
        if actions != [Action::Train] {
            let reason = "expected --action train, of which there are losses";
            return Err(Error::option("--losses", reason));
        }
        return losses::run(args, &options, beside, input);
    }
    let pure = args.training.pure_half && actions.contains(&Action::Train);
    let dtypes: Vec<&str> = (precisions.iter())
        .map(|precision| match precision {
            Precision::Float16 if pure => "float16 (pure)",
            precision => precision.name(),
        })
        .collect();
    let run = Run {
        weights: options.weights.to_string(),
        dtype: dtypes.join(","),
        device: names.join(","),
        repeats: args.run_count.get(),
        ..described(MODELS, context, args.output.machine.as_deref()).bare()
    };
    let cells = models.len() * precisions.len() * actions.len() * run.repeats;
    let mut output = Output::open(&args.output, &run)?;
    let benchmarks = Benchmarks {
        args,
        precisions,
        actions,
        stop,
        device: run.device.clone(),
        options,
        beside,
        meter,
        progress: Progress::new(cells as f64, args.output.json),
    };
    let result = (models.iter())
        .try_for_each(|(entry, benchmark)| benchmarks.model(entry, benchmark, &mut output));
    benchmarks.progress.clear();
    finish(output, result)
}

/// Opens the devices of these names.
///
/// # Errors
/// One cannot be used, or there are several and not only training.
fn open(names: &[DeviceName], actions: &[Action]) -> Result<Vec<Device>> {
    if names.len() > 1 && actions != [Action::Train] {
        let reason = format!(
            "expected one device for inference, got {}: several are for --action train alone",
            names.len()
        );
        return Err(Error::option("--device", reason));
    }
    let open = |name: &DeviceName| {
        let opened = name.open();
        opened.map_err(|reason| LoadError::Unsupported(format!("--device {reason}")).into())
    };
    names.iter().map(open).collect()
}

/// The models of these names, each once.
///
/// # Errors
/// One is none of SuperBench's.
fn chosen(names: &[String]) -> Result<Vec<(&'static Entry, ModelBenchmark)>> {
    let all: Vec<_> = galley_catalog::entries()
        .filter_map(|entry| Some((entry, entry.benchmark?)))
        .collect();
    let known: Vec<&str> = all.iter().map(|(entry, _)| entry.name).collect();
    let names = names.iter().flat_map(|name| match name.as_str() {
        ALL => known.clone(),
        name => vec![name],
    });
    let find = |name: &str| {
        let found = all.iter().find(|(entry, _)| entry.name == name).copied();
        found.ok_or_else(|| {
            let reason = format!("expected {ALL} or some of {}, got {name}", known.join(", "));
            Error::option("--models", reason)
        })
    };
    distinct(names.collect()).into_iter().map(find).collect()
}

/// The same in order, each once.
fn distinct<T: PartialEq>(all: Vec<T>) -> Vec<T> {
    let mut distinct = Vec::with_capacity(all.len());
    for one in all {
        if !distinct.contains(&one) {
            distinct.push(one);
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn names(models: &[&str]) -> Vec<&'static str> {
        let models: Vec<String> = models.iter().map(|&name| name.to_owned()).collect();
        let chosen = chosen(&models).unwrap();
        chosen.iter().map(|(entry, _)| entry.name).collect()
    }

    #[test]
    fn all_are_superbenchs_forty_two() {
        let all = names(&["all"]);
        assert_eq!(all.len(), 42);
        assert_eq!(names(&["lstm", "all", "lstm"]).len(), 42);
        let groups: BTreeMap<&str, usize> = chosen(&["all".into()]).unwrap().iter().fold(
            Default::default(),
            |mut groups, (_, benchmark)| {
                *groups.entry(benchmark.group).or_default() += 1;
                groups
            },
        );
        let expected = [
            ("alexnet", 1),
            ("bert", 2),
            ("densenet", 4),
            ("googlenet", 1),
            ("gpt", 4),
            ("inception", 1),
            ("lstm", 1),
            ("mnasnet", 4),
            ("mobilenet", 1),
            ("resnet", 5),
            ("resnext", 2),
            ("shufflenet", 4),
            ("squeezenet", 2),
            ("vgg", 8),
            ("wide_resnet", 2),
        ];
        assert_eq!(groups, BTreeMap::from(expected));
    }

    #[test]
    fn several_devices_are_for_training() {
        let two = [DeviceName::Cpu; 2];
        assert_eq!(open(&two, &[Action::Train]).unwrap().len(), 2);
        assert_eq!(open(&two[1..], &[Action::Inference]).unwrap().len(), 1);
        for actions in [
            &[Action::Inference][..],
            &[Action::Train, Action::Inference],
        ] {
            let told = open(&two, actions).unwrap_err().to_string();
            assert!(
                told.contains("--device: expected one device for inference, got 2"),
                "{told}"
            );
        }
    }

    #[test]
    fn models_keep_their_order_and_others_are_refused() {
        assert_eq!(
            names(&["vgg11", "bert-base", "vgg11"]),
            ["vgg11", "bert-base"]
        );
        // A recipe that SuperBench knows nothing of.
        for name in ["echo", "resnet51", ""] {
            let error = chosen(&[name.into()]).unwrap_err().to_string();
            assert!(
                error.contains("--models") && error.contains("bert-large"),
                "{error}"
            );
        }
    }
}
