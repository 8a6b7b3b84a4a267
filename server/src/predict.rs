//! `galley predict`: inputs on the command line, answers as JSON lines.

use std::io::{BufRead, Read, Write};

use anyhow::{Context, bail};
use candle_core::Device;
use galley_core::{ErasedRecipe, Input, InputKind};
use serde_json::{Value, json};

use crate::{
    cli::PredictArgs,
    config::{self, ModelConfig},
    stdout::until_reader_goes,
};

/// Runs the command, and writes its answers to `out`.
///
/// # Errors
/// The recipe cannot be loaded or run, or a file cannot be read. An input that cannot be answered has its error in its
/// line, and makes the whole command fail at its end.
pub fn run(args: &PredictArgs, config: &ModelConfig, out: &mut impl Write) -> anyhow::Result<()> {
    until_reader_goes(print(args, config, out))
}

fn print(args: &PredictArgs, config: &ModelConfig, out: &mut impl Write) -> anyhow::Result<()> {
    let device = config.devices.first().context("no device")?;
    let recipe = galley_catalog::load(&args.recipe, &config.load_options(&args.recipe, device))?;
    if let Some(path) = &args.raw {
        let bytes = config::read(path)?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .map_err(galley_core::without_backtrace)
            .with_context(|| format!("cannot read {} as safetensors", path.display()))?;
        for line in recipe.forward_tensors(&tensors)? {
            writeln!(out, "{line}")?;
        }
        return Ok(());
    }
    let mut failed = 0;
    let mut inputs = args
        .inputs
        .iter()
        .flat_map(|argument| read(argument, recipe.info().input_kind))
        .peekable();
    while inputs.peek().is_some() {
        let batch = inputs
            .by_ref()
            .take(args.batch.get())
            .collect::<anyhow::Result<Vec<_>>>()?;
        failed += answer(recipe.as_ref(), batch, out)?;
    }
    match failed {
        0 => Ok(()),
        _ => bail!("{failed} inputs could not be answered"),
    }
}

/// Answers a batch and says how many of its inputs failed.
fn answer(
    recipe: &dyn ErasedRecipe,
    batch: Vec<Input>,
    out: &mut impl Write,
) -> anyhow::Result<usize> {
    let mut failed = 0;
    for answer in galley_core::run_batch(recipe, batch)? {
        match answer {
            Ok(output) => writeln!(out, "{}", serde_json::to_string(&output)?)?,
            Err(error) => {
                failed += 1;
                writeln!(out, "{}", json!({"error": error.to_string()}))?;
            }
        }
    }
    Ok(failed)
}

/// The inputs that one argument stands for.
fn read(argument: &str, kind: InputKind) -> Box<dyn Iterator<Item = anyhow::Result<Input>>> {
    match (kind, argument) {
        (InputKind::Json, "-") => Box::new(
            std::io::stdin()
                .lock()
                .lines()
                .map(|line| Ok(Input::Json(json_or_text(line?)))),
        ),
        (InputKind::File, "-") => Box::new(std::iter::once_with(|| {
            let mut bytes = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .context("cannot read stdin")?;
            Ok(Input::File(bytes.into()))
        })),
        (InputKind::File, path) => Box::new(std::iter::once(
            config::read(&path.into()).map(|bytes| Input::File(bytes.into())),
        )),
        (InputKind::Json, text) => Box::new(std::iter::once(match text.strip_prefix('@') {
            None => Ok(Input::Json(json_or_text(text.to_owned()))),
            Some(path) => config::read(&path.into()).and_then(|bytes| {
                Ok(Input::text(
                    String::from_utf8(bytes).with_context(|| format!("{path} is not UTF-8"))?,
                ))
            }),
        })),
    }
}

/// An object or a list in JSON is taken as such, anything else as a text.
pub(crate) fn json_or_text(text: String) -> Value {
    let structured = text
        .starts_with(['{', '['])
        .then(|| serde_json::from_str::<Value>(&text).ok())
        .flatten();
    structured.unwrap_or(Value::String(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(argument: &str) -> Vec<Input> {
        read(argument, InputKind::Json)
            .collect::<anyhow::Result<_>>()
            .unwrap()
    }

    #[test]
    fn arguments_are_texts_or_json_objects_or_files() {
        assert_eq!(inputs("hello"), [Input::text("hello")]);
        assert_eq!(inputs("{not json"), [Input::text("{not json")]);
        assert_eq!(
            inputs(r#"{"text": "a"}"#),
            [Input::Json(json!({"text": "a"}))]
        );
        let manifest = concat!("@", env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert!(
            matches!(&inputs(manifest)[..], [Input::Json(Value::String(text))] if text.contains("galley"))
        );
        assert!(
            read("@no/such/file", InputKind::Json)
                .next()
                .unwrap()
                .is_err()
        );
    }

    #[test]
    fn answers_are_lines_in_order_and_failures_are_counted() {
        let recipe = galley_catalog::load("echo", &Default::default()).unwrap();
        let mut out = Vec::new();
        let batch = vec![
            Input::text("a"),
            Input::File(b"x".as_slice().into()),
            Input::text("b"),
        ];
        assert_eq!(answer(recipe.as_ref(), batch, &mut out).unwrap(), 1);
        let lines: Vec<&str> = std::str::from_utf8(&out).unwrap().lines().collect();
        assert_eq!((lines[0], lines[2]), ("\"a\"", "\"b\""));
        assert!(lines[1].starts_with("{\"error\":"));
    }
}
