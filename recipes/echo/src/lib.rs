//! Echo: JSON in, the same JSON out. It measures and tests the server itself, for its model costs nothing,
//! or exactly what `--option echo.sleep=5ms` says that a batch costs.

use std::{thread, time::Duration};

use galley_core::{
    AnyRecipe, Entry, ForwardError, Input, InputError, InputKind, LoadError, LoadOptions, Output,
    RawTensors, Recipe, RecipeInfo,
};
use serde_json::Value;

/// The catalog's entries.
pub static ENTRIES: &[Entry] = &[Entry {
    name: "echo",
    summary: "any JSON value in, the same out: what the server itself costs",
    samples: &[],
    input_kind: InputKind::Json,
    bundled: Some(galley_core::BundledWeights {
        name: "none",
        licence: "none",
        files: galley_core::Embedded(&[]),
    }),
    hub: None,
    synthetic_seed: Some(0),
    options: &[
        (
            "sleep",
            "how long a batch takes, for instance 5ms (default: 0s)",
        ),
        (
            "abort",
            "a text that the process ends of, to test what stands around it (default: none)",
        ),
    ],
    benchmark: None,
    load,
}];

fn load(entry: &Entry, options: &LoadOptions) -> Result<AnyRecipe, LoadError> {
    let sleep = match options.options.get("sleep") {
        None => Duration::ZERO,
        Some(text) => humantime::parse_duration(text)
            .map_err(|error| LoadError::invalid("option echo.sleep", error))?,
    };
    let info = RecipeInfo {
        name: entry.name,
        input_kind: InputKind::Json,
        weights: "none".into(),
        dtype: "json",
        device: "cpu".into(),
        cost_unit: "items",
        inline_bytes: usize::MAX,
        max_batch_size: None,
    };
    let abort = options.options.get("abort").cloned().map(Value::String);
    Ok(std::sync::Arc::new(Echo { info, sleep, abort }))
}

struct Echo {
    info: RecipeInfo,
    sleep: Duration,
    abort: Option<Value>,
}

impl Recipe for Echo {
    type Prepared = Value;
    type Raw = ();

    fn info(&self) -> &RecipeInfo {
        &self.info
    }

    fn example(&self) -> Input {
        Input::text("hello")
    }

    fn prepare(&self, input: Input) -> Result<Value, InputError> {
        match input {
            Input::Json(value) if self.abort.as_ref() == Some(&value) => std::process::abort(),
            Input::Json(value) => Ok(value),
            Input::File(_) | Input::Pixels(_) => Err(InputError::WrongKind {
                expected: "a JSON value",
                got: input.describe(),
            }),
        }
    }

    fn forward(&self, batch: &[&Value]) -> Result<Vec<()>, ForwardError> {
        if !self.sleep.is_zero() {
            thread::sleep(self.sleep);
        }
        Ok(vec![(); batch.len()])
    }

    fn finish(&self, prepared: Value, (): ()) -> Output {
        Output::Json(prepared)
    }

    fn sample(&self, size: Option<usize>, seed: u64) -> Value {
        Value::String(format!("{seed:x}").repeat(size.unwrap_or(1)))
    }

    fn forward_tensors(&self, _: &RawTensors) -> Result<Vec<Value>, ForwardError> {
        Err(ForwardError::BadTensors(
            "echo has no model and takes no tensors".into(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn returns_values_as_they_came_and_refuses_files() {
        let echo = load(&ENTRIES[0], &LoadOptions::default()).unwrap();
        let value = json!({"a": [1, "ü", null]});
        let inputs = vec![
            Input::Json(value.clone()),
            Input::File(b"x".as_slice().into()),
        ];
        let answers = galley_core::run_batch(echo.as_ref(), inputs).unwrap();
        assert_eq!(answers[0], Ok(Output::Json(value)));
        assert!(matches!(answers[1], Err(InputError::WrongKind { .. })));
    }

    #[test]
    fn a_sleep_that_is_no_duration_is_refused_by_name() {
        let options = LoadOptions {
            options: [("sleep".to_owned(), "soon".to_owned())].into(),
            ..LoadOptions::default()
        };
        let error = load(&ENTRIES[0], &options).err().unwrap().to_string();
        assert!(error.contains("echo.sleep"), "{error}");
    }
}
