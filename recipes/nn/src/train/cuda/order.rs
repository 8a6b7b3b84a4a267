//! The order in which the device has a weight's values: channels last, as those of images.

use crate::train::{Operation, Plan};

/// A weight `[outputs, channels, pixels]` in its state dict, which the device has as `[outputs, pixels, channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// Its place among the plan's parameters.
    index: usize,
    channels: usize,
    pixels: usize,
}

impl Order {
    /// Of all weights whose order is another than their state dict's.
    pub(super) fn all(plan: &Plan) -> Vec<Self> {
        let order = |layer: &crate::train::Layer| match &layer.operation {
            Operation::Convolution(convolution) => Some(Self {
                index: *layer.parameters.first()?,
                channels: layer.inputs[0].shape.channels / convolution.groups,
                pixels: convolution.window.kernel.iter().product(),
            }),
            _ => None,
        };
        let orders = plan.layers.iter().filter_map(order);
        orders
            .filter(|order| order.channels > 1 && order.pixels > 1)
            .collect()
    }

    /// Of an array of all parameters, puts this one in the device's order.
    pub(super) fn lay(self, plan: &Plan, values: &mut [f32]) {
        self.exchange(plan, values, [self.channels, self.pixels]);
    }

    /// The other way round.
    pub(super) fn restore(self, plan: &Plan, values: &mut [f32]) {
        self.exchange(plan, values, [self.pixels, self.channels]);
    }

    /// From `[outputs, rows, columns]` to `[outputs, columns, rows]`.
    fn exchange(self, plan: &Plan, values: &mut [f32], [rows, columns]: [usize; 2]) {
        let values = &mut values[plan.parameters[self.index].range.clone()];
        for output in values.chunks_exact_mut(rows * columns) {
            let from = output.to_vec();
            for (to, column) in output.chunks_exact_mut(rows).zip(0..) {
                let column = from.iter().skip(column).step_by(columns);
                to.iter_mut().zip(column).for_each(|(to, from)| *to = *from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::{Builder, Convolution},
        train::{Form, differentiate},
    };

    #[test]
    fn channels_of_a_weight_come_last_on_the_device() {
        let mut net = Builder::new(4, [5, 5]);
        let x = net.input();
        let grouped = Convolution {
            groups: 2,
            ..Convolution::new(2, [1, 3])
        };
        let x = net.convolution("grouped", x, grouped);
        let x = net.linear("linear", x, 3);
        let form = Form {
            batch: 2,
            dropout: false,
        };
        let plan = differentiate(&net.finish(x).unwrap(), form).unwrap();
        let orders = Order::all(&plan);
        assert_eq!(orders.len(), 2);
        let mut values: Vec<f32> = (0..plan.parameters_len()).map(|i| i as f32).collect();
        let before = values.clone();
        orders
            .iter()
            .for_each(|order| order.lay(&plan, &mut values));
        let weight = plan.parameters[0].range.clone();
        // Two outputs of two channels under three pixels.
        assert_eq!(
            values[weight],
            [0.0, 3.0, 1.0, 4.0, 2.0, 5.0, 6.0, 9.0, 7.0, 10.0, 8.0, 11.0]
        );
        orders
            .iter()
            .for_each(|order| order.restore(&plan, &mut values));
        assert_eq!(values, before);
    }
}
