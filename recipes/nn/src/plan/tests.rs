//! What plans promise, on random networks.

use super::*;
use crate::{
    executor::tests::network,
    graph::{Attention, Builder, Embedding, End, Lstm, Row, Stored, Value},
};

/// Who wrote each value of a plan's memory last: the buffer and its channel.
struct Memory<'a> {
    plan: &'a Plan,
    owners: Vec<Option<[usize; 2]>>,
}

impl Memory<'_> {
    fn places(&self, view: View) -> impl Iterator<Item = (usize, [usize; 2])> {
        let buffer = self.plan.buffers[view.buffer].clone();
        (0..buffer.pixels()).flat_map(move |pixel| {
            let first = buffer.offset + pixel * buffer.channels;
            (view.first..view.first + view.channels)
                .map(move |channel| (first + channel, [view.buffer, channel]))
        })
    }

    fn read(&self, view: View, what: &str) {
        for (place, owner) in self.places(view) {
            assert_eq!(
                self.owners[place],
                Some(owner),
                "{what}: was not written, or written over"
            );
        }
    }

    fn write(&mut self, view: View) {
        for (place, owner) in self.places(view).collect::<Vec<_>>() {
            self.owners[place] = Some(owner);
        }
    }
}

/// As a device that moves whole vectors wants it.
const GAPS: Form = Form {
    vector: 8,
    expands: false,
};

/// Walks through a plan: nothing is read that is not there, and views begin where the device can.
fn check(plan: &Plan, form: Form) {
    let mut memory = Memory {
        plan,
        owners: vec![None; plan.len],
    };
    let input = &plan.buffers[0];
    memory.write(View {
        buffer: 0,
        first: 0,
        channels: input.channels,
    });
    for step in &plan.steps {
        let reads = step.operation.reads();
        for view in &reads {
            memory.read(*view, &step.name);
        }
        memory.write(step.output);
        assert!(step.output.first.is_multiple_of(form.vector), "{step:?}");
        // What is gathered is read channel by channel.
        let is_gathered = matches!(step.operation, Operation::Gather { .. });
        for view in reads.iter().filter(|_| !is_gathered) {
            assert!(view.first.is_multiple_of(form.vector), "{step:?}");
        }
        // A step's result must not be where something lies that it still reads.
        for view in &reads {
            memory.read(*view, &step.name);
        }
    }
    memory.read(plan.output, "the answer");
    assert_eq!(
        plan.output.channels.next_multiple_of(form.vector),
        plan.buffers[plan.output.buffer].channels
    );
}

#[test]
fn nothing_is_read_that_is_not_there() {
    for seed in 1000..1600 {
        for form in [Form::CPU, GAPS] {
            check(&Plan::new(&network(seed), form).unwrap(), form);
        }
    }
}

#[test]
fn buffers_that_live_together_lie_apart() {
    for seed in 1600..2200 {
        let plan = Plan::new(&network(seed), Form::CPU).unwrap();
        let lives = memory::lives(&plan.steps, plan.buffers.len(), plan.output.buffer);
        for (i, a) in plan.buffers.iter().enumerate() {
            assert!(a.offset + a.len() <= plan.len);
            for (j, b) in plan.buffers.iter().enumerate().skip(i + 1) {
                let together =
                    lives[i].start() <= lives[j].end() && lives[j].start() <= lives[i].end();
                let apart = a.offset + a.len() <= b.offset || b.offset + b.len() <= a.offset;
                assert!(apart || !together, "seed {seed}: {a:?} and {b:?}");
            }
        }
    }
}

fn plan(describe: impl Fn(&mut Builder, Value) -> Value) -> Plan {
    let mut net = Builder::new(8, [6, 6]);
    let x = net.input();
    let x = describe(&mut net, x);
    let plan = Plan::new(&net.finish(x).unwrap(), Form::CPU).unwrap();
    check(&plan, Form::CPU);
    plan
}

fn kinds(plan: &Plan) -> Vec<&'static str> {
    let kind = |step: &Step| match step.operation {
        Operation::Convolution { .. } => "convolution",
        Operation::Depthwise {
            expand: Some(_), ..
        } => "expansion and filters",
        Operation::Depthwise { .. } => "filters",
        Operation::Linear { .. } => "linear",
        Operation::Pool { .. } => "pool",
        Operation::Mean { .. } => "mean",
        Operation::Scale { .. } => "scale",
        Operation::Add { .. } => "add",
        Operation::Gate { .. } => "gate",
        Operation::Gather { .. } => "gather",
    };
    plan.steps.iter().map(kind).collect()
}

#[test]
fn norms_activations_and_sums_are_part_of_convolutions() {
    let plan = plan(|net, x| {
        let y = net.convolution("a", x, Convolution::new(8, 3).padding(1));
        let y = net.batch_norm("b", y);
        let y = net.relu(y);
        let y = net.sum(y, x);
        net.activation(y, Activation::Relu6)
    });
    let [step] = &plan.steps[..] else {
        panic!("{plan:?}")
    };
    let Operation::Convolution {
        before: None,
        layer,
        residual: Some(residual),
        after: Activation::Relu6,
        ..
    } = &step.operation
    else {
        panic!("{step:?}")
    };
    assert_eq!(residual.view.buffer, 0);
    assert_eq!(layer.norm.as_ref().unwrap().name, "b");
    assert_eq!(layer.activation, Activation::Relu);
}

#[test]
fn what_stands_before_convolutions_is_done_as_they_read() {
    let plan = plan(|net, x| {
        let y = net.batch_norm("a", x);
        let y = net.relu(y);
        let left = net.convolution("b", y, Convolution::new(4, 3));
        let right = net.convolution("c", y, Convolution::new(4, 3));
        net.concat(&[left, right])
    });
    assert_eq!(kinds(&plan), ["convolution"; 2]);
    for step in &plan.steps {
        assert!(matches!(
            &step.operation,
            Operation::Convolution {
                before: Some(_),
                ..
            }
        ));
    }
    // Both write their part of the answer.
    let [left, right] = [0, 1].map(|i| plan.steps[i].output);
    assert_eq!([left.first, right.first], [0, 4]);
    assert_eq!(left.buffer, right.buffer);
    assert_eq!(plan.output.channels, 8);
}

#[test]
fn shuffles_become_the_order_of_weights() {
    let plan = plan(|net, x| {
        let x = net.shuffle(x, 2);
        net.convolution("a", x, Convolution::new(3, 1))
    });
    let [step] = &plan.steps[..] else {
        panic!("{plan:?}")
    };
    let Operation::Convolution { input, .. } = &step.operation else {
        panic!("{step:?}")
    };
    // Of the shuffled channels 0, 4, 1, 5, 2, 6, 3, 7, those that lie first, second, ...
    assert_eq!(input.order.as_deref(), Some(&[0, 2, 4, 6, 1, 3, 5, 7][..]));
}

#[test]
fn expansions_and_filters_are_one_step_and_dropout_is_none() {
    let plan = plan(|net, x| {
        let y = net.convolution("a", x, Convolution::new(20, 1));
        let y = net.batch_norm("b", y);
        let y = net.relu(y);
        let filters = Convolution::new(20, 3).padding(1).groups(20);
        let y = net.convolution("c", y, filters);
        let y = net.batch_norm("d", y);
        let y = net.relu(y);
        let y = net.convolution("e", y, Convolution::new(8, 1));
        let y = net.sum(x, y);
        let y = net.mean(y);
        let y = net.dropout(y, 0.2);
        net.linear("f", y, 5)
    });
    assert_eq!(
        kinds(&plan),
        ["expansion and filters", "convolution", "mean", "linear"]
    );
}

#[test]
fn sequences_are_refused() {
    let refusal = |mut net: Builder, describe: &dyn Fn(&mut Builder, Value) -> Value| {
        let x = net.input();
        let x = describe(&mut net, x);
        let graph = net.finish(x).unwrap();
        Plan::new(&graph, Form::CPU).unwrap_err().to_string()
    };
    let rows = || Builder::new(6, [1, 5]);
    let attention = Attention {
        heads: 2,
        causal: false,
        dropout: 0.0,
    };
    let lstm = Lstm {
        prefix: "cell".into(),
        layer: 3,
    };
    for (told, expected) in [
        (
            refusal(Builder::of_ids(5), &|net, x| {
                net.embedding("words", x, Embedding::new(9, Row::Id), 6)
            }),
            "input: expected a layer of images, got token ids",
        ),
        (
            refusal(rows(), &|net, x| net.layer_norm("norm", x, 1e-5)),
            "norm: expected a layer of images, got a LayerNorm",
        ),
        (
            refusal(rows(), &|net, x| net.attention(x, attention.clone())),
            "attention after input: expected a layer of images, got attention",
        ),
        (
            refusal(rows(), &|net, x| net.lstm(lstm.clone(), x, 4)),
            "cell.l3: expected a layer of images, got an LSTM",
        ),
        (
            refusal(rows(), &|net, x| net.pick(x, End::Last)),
            "pick after input: expected a layer of images, got one token of a sequence",
        ),
        (
            refusal(rows(), &|net, x| {
                net.convolution("dense", x, Convolution::dense(4, Stored::Linear))
            }),
            "dense: expected a layer of images, got a linear layer for each token",
        ),
    ] {
        assert_eq!(told, expected);
    }
}
