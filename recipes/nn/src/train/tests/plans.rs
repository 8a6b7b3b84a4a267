//! What plans promise, on random networks, and what is no network to train.

use crate::{
    executor::tests::network,
    graph::{Activation, Builder, Convolution, Graph, Value},
    train::{Form, Onto, Operation, Plan, differentiate},
};

fn plan(graph: &Graph, batch: usize, dropout: bool) -> Plan {
    differentiate(graph, Form { batch, dropout }).unwrap()
}

#[test]
fn nothing_is_read_that_is_not_there() {
    for seed in 3000..3600 {
        for dropout in [false, true] {
            let plan = plan(&network(seed), 2, dropout);
            plan.verify()
                .unwrap_or_else(|what| panic!("seed {seed}: {what}\n{plan:#?}"));
        }
    }
}

fn residual(net: &mut Builder) -> Value {
    let x = net.convolution("stem", net.input(), Convolution::new(8, 3).padding(1));
    let x = net.batch_norm("norm", x);
    let x = net.relu(x);
    let y = net.convolution("a", x, Convolution::new(8, 3).padding(1));
    let y = net.batch_norm("a_norm", y);
    let y = net.relu(y);
    let y = net.convolution("b", y, Convolution::new(8, 3).padding(1));
    let y = net.batch_norm("b_norm", y);
    let y = net.sum(y, x);
    let y = net.relu(y);
    let y = net.mean(y);
    let y = net.dropout(y, 0.5);
    net.linear("fc", y, 5)
}

/// A plan in which something is wrong is told from one in which nothing is.
#[test]
fn a_walk_sees_what_is_wrong() {
    let mut net = Builder::new(3, [6, 6]);
    let output = residual(&mut net);
    let whole = plan(&net.finish(output).unwrap(), 2, true);
    whole.verify().unwrap();
    let wrong = |change: &dyn Fn(&mut Plan)| {
        let mut plan = whole.clone();
        change(&mut plan);
        plan.verify().unwrap_err()
    };
    let told = wrong(&|plan| plan.slots.iter_mut().for_each(|slot| slot.offset = 0));
    assert!(told.contains("is written over slot"), "{told}");
    let told = wrong(&|plan| plan.layers.swap(1, 2));
    assert!(told.starts_with("a: slot"), "{told}");
    let told = wrong(&|plan| plan.backward.swap(3, 4));
    assert!(told.contains("was not written"), "{told}");
    let told = wrong(&|plan| plan.len -= 16);
    assert!(told.contains("does not lie in the memory"), "{told}");
    let told = wrong(&|plan| plan.backward.truncate(7));
    assert_eq!(told, "stem.weight has 0 gradients");
}

#[test]
fn norm_sum_and_activation_are_one_layer() {
    let mut net = Builder::new(3, [6, 6]);
    let output = residual(&mut net);
    let plan = plan(&net.finish(output).unwrap(), 4, false);
    let names: Vec<_> = plan.layers.iter().map(|layer| &layer.name[..]).collect();
    let expected = [
        "stem",
        "norm",
        "a",
        "a_norm",
        "b",
        "b_norm",
        "mean after b_norm",
        "fc",
    ];
    assert_eq!(names, expected);
    let sum = &plan.layers[5];
    let relu = Operation::BatchNorm {
        eps: 1e-5,
        activation: Activation::Relu,
    };
    assert_eq!((&sum.operation, sum.inputs.len()), (&relu, 2));
    // What came around is there when the first convolution's gradient is added to it; the images have none.
    let inputs = |i: usize| {
        plan.backward[i]
            .inputs
            .iter()
            .map(|input| input.map(|(_, onto)| onto))
    };
    assert!(inputs(2).eq([Some(Onto::Write); 2]));
    assert!(inputs(5).eq([Some(Onto::Add)]));
    assert!(inputs(7).eq([None]));
}

#[test]
fn activations_of_what_nobody_else_reads_are_made_in_place() {
    let mut net = Builder::new(3, [6, 6]);
    let x = net.convolution("a", net.input(), Convolution::new(8, 3).biased());
    let x = net.relu(x);
    let y = net.convolution("b", x, Convolution::new(8, 1).biased());
    let y = net.activation(y, Activation::Silu);
    let x = net.sum(x, y);
    let x = net.mean(x);
    let plan = plan(&net.finish(x).unwrap(), 2, false);
    let over = |layer: usize| plan.slots[plan.layers[layer].output.slot].over;
    // ReLU's slope is known by its result, SiLU's is not.
    assert_eq!(over(1), Some(plan.layers[0].output.slot));
    assert_eq!(over(3), None);
    plan.verify().unwrap();
}

#[test]
fn what_is_wider_has_room_and_nothing_is_overwritten() {
    let graph = super::sequences::lstm();
    let plan = plan(&graph, 2, false);
    assert_eq!(plan.laid_out(|_| 1), (plan.slots.clone(), plan.len));
    let kept: Vec<usize> = plan.layers.iter().filter_map(|layer| layer.kept).collect();
    assert!(!kept.is_empty());
    let (slots, len) = plan.laid_out(|slot| 1 + usize::from(kept.contains(&slot)));
    for (i, (wide, slot)) in slots.iter().zip(&plan.slots).enumerate() {
        assert_eq!(wide.len, slot.len * if kept.contains(&i) { 2 } else { 1 });
        assert!(wide.offset + wide.len <= len);
    }
    // What is kept takes its own room, and not that of values beside.
    let kept: usize = kept.iter().map(|slot| plan.slots[*slot].len).sum();
    assert!(len > plan.len && len < plan.len + 2 * kept);
    let wide = Plan { slots, len, ..plan };
    wide.verify().unwrap();
}

#[test]
fn what_cannot_be_trained_is_told() {
    let told = |batch, describe: &dyn Fn(&mut Builder) -> Value| {
        let mut net = Builder::new(3, [2, 2]);
        let output = describe(&mut net);
        let form = Form {
            batch,
            dropout: false,
        };
        let graph = net.finish(output).unwrap();
        differentiate(&graph, form).map_err(|mistake| mistake.to_string())
    };
    let single = |net: &mut Builder| {
        let x = net.convolution("stem", net.input(), Convolution::new(4, 2));
        net.batch_norm("norm", x)
    };
    assert!(told(2, &single).is_ok());
    let expected = "norm: expected at least two values of each channel to train on, got a batch of 1 of [4, 1, 1]";
    assert_eq!(told(1, &single).unwrap_err(), expected);
    let pixels = |net: &mut Builder| net.convolution("stem", net.input(), Convolution::new(4, 1));
    let expected = "stem: expected one row of logits to train, got [4, 2, 2]";
    assert_eq!(told(2, &pixels).unwrap_err(), expected);
    assert!(told(0, &pixels).unwrap_err().contains("examples"));
}
