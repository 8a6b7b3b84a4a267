//! The README of a run: everything needed to judge its figures, or to run it again.

use std::fmt::Write;

use super::record::{Run, SCHEMA_TEXT};

/// The README's text; `report` is the file with the figures.
pub(super) fn render(run: &Run, report: &str) -> String {
    let what = match (&run.recipe, run.what.as_str()) {
        (Some(recipe), _) => recipe,
        (None, "operators") => "all operators",
        (None, _) => "several recipes",
    };
    let mut text = format!("# {}: {what}\n\n", run.what);
    let _ = writeln!(text, "```sh\n{}\n```\n", run.command);
    text.push_str("| | |\n| --- | --- |\n");
    for (name, value) in rows(run) {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    let _ = write!(
        text,
        "\nThe figures are in [{report}]({report}) and, with plots, in `report.html`; `galley bench report` writes them again from \
         the records.\n\n## Records\n\n{SCHEMA_TEXT}"
    );
    text
}

fn rows(run: &Run) -> Vec<(&'static str, String)> {
    let machine = &run.machine;
    let mut rows = vec![
        ("date", run.date.clone()),
        (
            "galley",
            match &run.commit {
                Some(commit) => format!("{} ({commit})", run.galley),
                None => run.galley.clone(),
            },
        ),
        (
            "processor",
            format!("{}, {} cores", machine.cpu, machine.cores),
        ),
        (
            "memory",
            machine.memory_bytes.map_or_else(
                || "unknown".into(),
                |bytes| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
            ),
        ),
        (
            "system",
            format!("{} {}", machine.os, machine.kernel.as_deref().unwrap_or("")),
        ),
        ("weights", run.weights.clone()),
        ("dtype", run.dtype.clone()),
        ("device", run.device.clone()),
        ("threads in process", run.threads.to_string()),
    ];
    if let Some(corpus) = &run.corpus {
        rows.push(("inputs", corpus.clone()));
        rows.push(("examples in each run", examples(run)));
        rows.push(("repeats", run.repeats.to_string()));
    }
    if let Some(old) = &run.old {
        rows.push(("the other build", old.clone()));
    }
    if let Some(threads) = run.client_threads {
        rows.push(("threads of the load generator", threads.to_string()));
    }
    if let Some(server) = &run.server {
        let known = [
            ("weights", &server.weights),
            ("dtype", &server.dtype),
            ("device", &server.device),
            ("version", &server.version),
        ];
        let mut parts: Vec<_> = known
            .iter()
            .filter_map(|(key, value)| Some(format!("{key} {}", value.as_ref()?)))
            .collect();
        parts.extend(
            server
                .max_batch_size
                .map(|size| format!("max_batch_size {size}")),
        );
        rows.push(("server", parts.join(", ")));
    }
    rows
}

fn examples(run: &Run) -> String {
    if run.examples < run.examples_wanted {
        format!(
            "{}, distinct ({} were wanted; --seconds allowed fewer)",
            run.examples, run.examples_wanted
        )
    } else {
        format!("{}, distinct", run.examples)
    }
}
