//! The parts of the report.

use std::collections::BTreeMap;

use super::{
    Report,
    figures::{Figures, percent},
};
use crate::report::{
    cells::{mebibytes, number},
    document::Table,
    plot::{Bars, Plot},
    record::Steps,
};

impl Report<'_> {
    pub(super) fn heading(&self) -> String {
        let nodes = self.nodes.iter().map(|node| {
            let card = node
                .steps
                .iter()
                .find_map(|steps| steps.device_name.as_ref());
            let device = card.unwrap_or(&node.run.device);
            format!("{} ({device})", node.name)
        });
        let nodes: Vec<String> = nodes.collect();
        format!(
            "Models of SuperBench on random weights and inputs, run by galley {} on {}. `results-summary.jsonl` has its metrics by their \
             names; this report has what they leave out.",
            self.run.galley,
            nodes.join(", ")
        )
    }

    pub(super) fn table(&self) -> Table {
        let mut table = Table::new(&[
            "model",
            "precision",
            "action",
            "node",
            "run",
            "batch",
            "steps",
            "step ms",
            "±95 %",
            "deviation",
            "p50 ms",
            "p99 ms",
            "samples/s",
            "TFLOP/s",
            "of the peak",
            "copy ms",
            "forward ms",
            "backward ms",
            "update ms",
            "loss",
            "device ms",
            "beside it ms",
            "memory",
            "device allocated",
            "J/sample",
        ]);
        let several = |yes: bool, text: String| if yes { text } else { "-".into() };
        let runs = self.steps().any(|(_, steps)| steps.run > 0);
        for (node, steps) in self.steps() {
            let figures = Figures::of(steps);
            let shape: Vec<String> = steps.shape.iter().map(usize::to_string).collect();
            let or_none = |value: Option<f64>| value.map_or("-".into(), number);
            let training = steps.training.as_ref();
            let losses = training.map_or("-".into(), |training| {
                format!("{:.5} to {:.5}", training.loss_before, training.loss_after)
            });
            table.row([
                steps.model.clone(),
                steps.precision.clone(),
                steps.action.clone(),
                several(self.nodes.len() > 1, node.to_owned()),
                several(runs, steps.run.to_string()),
                shape.join("x"),
                steps.step_ms.0.len().to_string(),
                number(figures.step_ms),
                figures.half_interval.map_or("-".into(), percent),
                percent(figures.deviation),
                number(figures.p50),
                or_none(figures.p99),
                number(figures.throughput),
                number(figures.tflops),
                figures.of_peak.map_or("-".into(), percent),
                or_none((training.map(|training| training.copy_ms)).filter(|ms| *ms > 0.0)),
                or_none(training.map(|training| training.forward_ms)),
                or_none(training.map(|training| training.backward_ms)),
                or_none(training.map(|training| training.update_ms)),
                losses,
                or_none(steps.resident_ms),
                or_none(figures.beside),
                mebibytes(steps.peak_rss_bytes),
                mebibytes(steps.device_allocated_bytes),
                or_none(figures.joules),
            ]);
        }
        table.without_empty_columns()
    }

    /// A bar for each model; a plot for each node, precision and action.
    pub(super) fn plots(&self) -> Vec<Plot> {
        let mut plots = BTreeMap::<_, Vec<(String, Vec<f64>)>>::new();
        for (node, steps) in self.steps().filter(|(_, steps)| steps.run == 0) {
            let bars = plots.entry((node, &steps.precision, &steps.action));
            let bar = (steps.model.clone(), vec![Figures::of(steps).tflops]);
            bars.or_default().push(bar);
        }
        let plot = |((node, precision, action), bars)| {
            Plot::Bars(Bars {
                title: format!("{action} in {precision} on {node}"),
                unit: "TFLOP/s".into(),
                parts: vec!["all of a step".into()],
                bars,
            })
        };
        plots.into_iter().map(plot).collect()
    }

    pub(super) fn remarks(&self) -> Table {
        let mut table = Table::new(&["model", "node", "return code", "why"]);
        for node in &self.nodes {
            for ended in &node.ended {
                for remark in &ended.remarks {
                    table.row([
                        ended.model.clone(),
                        node.name.clone(),
                        ended.return_code.to_string(),
                        remark.clone(),
                    ]);
                }
            }
        }
        table
    }

    pub(super) fn method(&self) -> Vec<String> {
        let mut method = vec![
            "A step of inference begins with a batch on the host, as the model reads it, and ends with the logits there. SuperBench's ends \
             on the device."
                .to_owned(),
            "Samples a second are the mean of each step's, as SuperBench has it, which is a little more than samples over time.".into(),
            "±95 % is half of the mean's interval of 95 % confidence as a part of it, by the means of twenty blocks of steps; deviation is \
             the standard deviation of a step as a part of the mean."
                .into(),
            "TFLOP/s count two operations for each multiplication of convolutions, matrices and attention that the model's definition asks \
             for, whatever of it is saved. In causal attention only what is not masked counts."
                .into(),
        ];
        let any = |test: fn(&Steps) -> bool| self.steps().any(|(_, steps)| test(steps));
        if any(|steps| steps.training.is_some()) {
            method.push(
                "A step of training begins with a batch on the host and ends with the parameters updated; its TFLOP/s count three times the \
                 forward pass. Losses are those on the one batch, before the first step and after the last, without dropout: where it does not \
                 fall the model has failed."
                    .into(),
            );
        }
        if any(|steps| steps.device_name.is_some()) {
            method.push(
                "The peak is what the card's data sheet says of dense products in that precision, f32 without TF32.".into(),
            );
        }
        if any(|steps| steps.resident_ms.is_some()) {
            method.push(
                "Device: a step on a batch that lies in the device's memory already, without the copy back, in the mean of passes one right \
                 after the other. Beside it is the rest of a step: both copies, and starting and waiting."
                    .into(),
            );
        }
        if any(|steps| steps.copies_excluded && steps.device != "cpu") {
            method.push(
                "`--exclude-copy-time`: steps are without copies from and to the host.".into(),
            );
        }
        if any(|steps| steps.device_allocated_bytes.is_some()) {
            method.push(
                "Device allocated: the most of the device's memory that galley had allocated at a time during the steps. That is weights, \
                 gradients, what the optimizer keeps, the batch, what is computed in between, and what the vendor's libraries are given to \
                 work in; it is not the driver's context, kernels' code and what libraries allocate themselves."
                    .into(),
            );
        }
        method
    }
}
