//! Which gradients are averaged over devices together, and when.

use std::ops::Range;

use crate::train::Plan;

/// Gradients that lie side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    /// Where, in the array of all.
    pub(super) values: Range<usize>,
    /// The place in [`Plan::backward`] of the step after which nobody writes any of them.
    pub(super) after: usize,
}

impl Bucket {
    /// All gradients in pieces of so many values at least, but for one. As the way back begins with the last layers, whose
    /// gradients lie last, pieces are made from the end on: the first of them is full early, and what is short is the last.
    pub(super) fn all(plan: &Plan, values: usize) -> Vec<Self> {
        let mut written = vec![0; plan.parameters.len()];
        for (step, backward) in plan.backward.iter().enumerate() {
            for parameter in &plan.layers[backward.layer].parameters {
                written[*parameter] = step;
            }
        }
        let mut buckets: Vec<Self> = Vec::new();
        let mut end = plan.parameters_len();
        let mut after = 0;
        for (place, tensor) in plan.parameters.iter().enumerate().rev() {
            // The first also has what there may be before it.
            let start = if place == 0 { 0 } else { tensor.range.start };
            after = after.max(written[place]);
            if end - start >= values || place == 0 {
                let values = start..end;
                buckets.push(Self { values, after });
                (end, after) = (start, 0);
            }
        }
        buckets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        executor::tests::network,
        graph::Builder,
        train::{Form, differentiate},
    };

    const FORM: Form = Form {
        batch: 3,
        dropout: false,
    };

    #[test]
    fn each_gradient_is_in_one_bucket_which_is_full_after_its_last_write() {
        let mut several = 0;
        for seed in 5000..5060 {
            let plan = differentiate(&network(seed), FORM).unwrap();
            for values in [1, 100, 1000, usize::MAX] {
                let buckets = Bucket::all(&plan, values);
                several += usize::from(buckets.len() > 1);
                let mut end = plan.parameters_len();
                for (i, bucket) in buckets.iter().enumerate() {
                    assert_eq!(bucket.values.end, end, "seed {seed}");
                    end = bucket.values.start;
                    let is_last = i + 1 == buckets.len();
                    assert!(bucket.values.len() >= values || is_last, "seed {seed}");
                    let inside = |parameter: &usize| {
                        let range = &plan.parameters[*parameter].range;
                        range.start < bucket.values.end && bucket.values.start < range.end
                    };
                    let writes = |step: &usize| {
                        let layer = &plan.layers[plan.backward[*step].layer];
                        layer.parameters.iter().any(inside)
                    };
                    let last = (0..plan.backward.len()).rfind(writes);
                    assert_eq!(last, Some(bucket.after), "seed {seed}");
                }
                assert_eq!(end, 0, "seed {seed}");
            }
        }
        assert!(several > 100, "{several}");
    }

    #[test]
    fn the_last_layers_gradients_are_averaged_first() {
        let mut net = Builder::new(3, [4, 4]);
        let x = net.mean(net.input());
        let x = net.linear("first", x, 64);
        let x = net.relu(x);
        let x = net.linear("second", x, 48);
        let x = net.relu(x);
        let x = net.linear("third", x, 4);
        let plan = differentiate(&net.finish(x).unwrap(), FORM).unwrap();
        let starts = plan.parameters.iter().map(|tensor| tensor.range.start);
        let starts: Vec<usize> = starts.collect();
        let layer = |name: &str| {
            let mut steps = plan.backward.iter();
            let found = steps.position(|step| plan.layers[step.layer].name == name);
            found.unwrap()
        };
        let bucket = |values, name| Bucket {
            values,
            after: layer(name),
        };
        let end = plan.parameters_len();
        // The third layer's are too few by themselves.
        let expected = [
            bucket(starts[2]..end, "second"),
            bucket(0..starts[2], "first"),
        ];
        assert_eq!(Bucket::all(&plan, 1000), expected);
        let [third, second, first] = ["third", "second", "first"].map(layer);
        assert!(third < second && second < first);
        assert_eq!(Bucket::all(&plan, 1).len(), plan.parameters.len());
        assert_eq!(Bucket::all(&plan, end), [bucket(0..end, "first")]);
    }
}
