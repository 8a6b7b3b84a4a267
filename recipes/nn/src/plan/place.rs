//! Where tensors are: side by side where somebody reads them as one, and in buffers of their own otherwise.

use std::{cmp::Reverse, collections::HashMap};

use super::{
    Buffer, Need, Operand, Operation, Plan, Step, View, WHOLE,
    fuse::{Channel, Channels, Draft, Tensor},
    memory,
};

pub(super) fn place(draft: Draft, vector: usize) -> Plan {
    let mut placer = Placer::new(&draft, vector);
    for step in draft.steps {
        let keeps_order = step.operation.keeps_order();
        let mut order = None;
        let operation = step.operation.map(|channels, need| {
            let operand = placer.operand(&channels, need);
            order.clone_from(&operand.order);
            operand
        });
        if keeps_order {
            placer.orders[step.output] = order.map(|order| Order::new(&order));
        }
        placer.steps.push(Step {
            name: step.name,
            operation,
            output: placer.view(step.output),
        });
    }
    let need = Need {
        exact: true,
        ..WHOLE
    };
    let output = placer.operand(&draft.output, need).view;
    let Placer {
        mut buffers, steps, ..
    } = placer;
    let lives = memory::lives(&steps, buffers.len(), output.buffer);
    let lens: Vec<usize> = buffers.iter().map(Buffer::len).collect();
    let (offsets, len) = memory::allocate(&lens, &lives);
    for (buffer, offset) in buffers.iter_mut().zip(offsets) {
        buffer.offset = offset;
    }
    Plan {
        steps,
        buffers,
        output,
        len,
    }
}

struct Placer {
    /// Tensors begin at its multiples.
    vector: usize,
    tensors: Vec<Tensor>,
    /// Of each tensor, its buffer and its first channel there.
    homes: Vec<[usize; 2]>,
    /// The order of each tensor's channels, where it is not the layer's.
    orders: Vec<Option<Order>>,
    buffers: Vec<Buffer>,
    steps: Vec<Step>,
    /// What has been gathered already, and in which order.
    gathered: HashMap<(Channels, bool), Operand>,
}

/// Where a tensor's channels are within it.
struct Order {
    /// Of each channel, its place.
    places: Vec<usize>,
}

impl Order {
    /// From the channel at each place.
    fn new(channels: &[usize]) -> Self {
        let mut places = vec![0; channels.len()];
        for (place, channel) in channels.iter().enumerate() {
            places[*channel] = place;
        }
        Self { places }
    }
}

impl Placer {
    fn new(draft: &Draft, vector: usize) -> Self {
        let tensors = &draft.tensors;
        let wide = |tensor: usize| tensors[tensor].shape.channels.next_multiple_of(vector);
        let mut homes = vec![None; tensors.len()];
        let mut buffers = Vec::new();
        // The input's is the first.
        homes[0] = Some([0, 0]);
        buffers.push(room(&tensors[0], wide(0)));
        let mut lists = lists(draft);
        lists.sort_by_key(|list| Reverse(list.len()));
        for list in lists {
            let Some(members) = members(&list, tensors) else {
                continue;
            };
            if members.iter().any(|member| homes[*member].is_some()) {
                continue;
            }
            let mut first = 0;
            for member in members {
                homes[member] = Some([buffers.len(), first]);
                first += wide(member);
            }
            buffers.push(room(&tensors[list[0].tensor], first));
        }
        let homes = homes.into_iter().enumerate().map(|(tensor, home)| {
            home.unwrap_or_else(|| {
                buffers.push(room(&tensors[tensor], wide(tensor)));
                [buffers.len() - 1, 0]
            })
        });
        let homes = homes.collect();
        Self {
            vector,
            tensors: tensors.clone(),
            homes,
            orders: tensors.iter().map(|_| None).collect(),
            buffers,
            steps: Vec::new(),
            gathered: HashMap::new(),
        }
    }

    /// All of a tensor.
    fn view(&self, tensor: usize) -> View {
        let [buffer, first] = self.homes[tensor];
        View {
            buffer,
            first,
            channels: self.tensors[tensor].shape.channels,
        }
    }

    /// A channel's buffer, and its place there.
    fn at(&self, channel: Channel) -> [usize; 2] {
        let [buffer, first] = self.homes[channel.tensor];
        let order = self.orders[channel.tensor].as_ref();
        let place = order.map_or(channel.index, |order| order.places[channel.index]);
        [buffer, first + place]
    }

    /// Channels as a step needs them, gathered if they are not.
    fn operand(&mut self, channels: &Channels, need: Need) -> Operand {
        let places: Vec<_> = channels.iter().map(|channel| self.at(*channel)).collect();
        let mut order: Vec<usize> = (0..places.len()).collect();
        if !need.exact {
            order.sort_by_key(|i| places[*i]);
        }
        let [buffer, first] = order.first().map_or([0; 2], |i| places[*i]);
        let together = order
            .iter()
            .enumerate()
            .all(|(place, i)| places[*i] == [buffer, first + place]);
        let wide = places.len().next_multiple_of(self.vector);
        let fits = !need.whole || self.buffers[buffer].channels == wide;
        if together && fits && first.is_multiple_of(self.vector) {
            let view = View {
                buffer,
                first,
                channels: places.len(),
            };
            return operand(view, order);
        }
        let key = (channels.clone(), need.exact);
        if let Some(operand) = self.gathered.get(&key) {
            return operand.clone();
        }
        let parts = parts(order.iter().map(|i| places[*i]));
        let view = View {
            buffer: self.buffers.len(),
            first: 0,
            channels: places.len(),
        };
        let of = &self.tensors[channels[0].tensor];
        self.buffers.push(room(of, wide));
        self.steps.push(Step {
            name: format!("gather {}", view.buffer),
            operation: Operation::Gather { parts },
            output: view,
        });
        let operand = operand(view, order);
        self.gathered.insert(key, operand.clone());
        operand
    }
}

fn operand(view: View, order: Vec<usize>) -> Operand {
    let plain = order.iter().enumerate().all(|(place, i)| place == *i);
    Operand {
        view,
        order: (!plain).then_some(order),
    }
}

/// Places as views of channels that lie side by side, each with the channel that it goes to.
fn parts(places: impl Iterator<Item = [usize; 2]>) -> Vec<(View, usize)> {
    let mut parts: Vec<(View, usize)> = Vec::new();
    for (to, [buffer, place]) in places.enumerate() {
        match parts.last_mut() {
            Some((view, _)) if [view.buffer, view.first + view.channels] == [buffer, place] => {
                view.channels += 1;
            }
            _ => {
                let view = View {
                    buffer,
                    first: place,
                    channels: 1,
                };
                parts.push((view, to));
            }
        }
    }
    parts
}

/// A buffer for so many channels of a tensor's size.
fn room(tensor: &Tensor, channels: usize) -> Buffer {
    Buffer {
        size: [tensor.shape.height, tensor.shape.width],
        channels,
        offset: 0,
    }
}

/// All that steps read, and the answer.
fn lists(draft: &Draft) -> Vec<Channels> {
    let mut lists = vec![draft.output.clone()];
    for step in &draft.steps {
        let _: Operation<()> = step.operation.clone().map(|list, _| lists.push(list));
    }
    lists
}

/// The tensors of a list, if it has several, each of them whole and free to be written beside the others.
fn members(list: &[Channel], tensors: &[Tensor]) -> Option<Vec<usize>> {
    let mut members = Vec::new();
    let mut rest = list;
    while let Some(first) = rest.first() {
        let tensor = tensors[first.tensor];
        let channels = tensor.shape.channels;
        let whole = rest
            .get(..channels)?
            .iter()
            .enumerate()
            .all(|(index, channel)| {
                *channel
                    == Channel {
                        index,
                        tensor: first.tensor,
                    }
            });
        if !whole || !tensor.movable || members.contains(&first.tensor) {
            return None;
        }
        members.push(first.tensor);
        rest = &rest[channels..];
    }
    (members.len() > 1).then_some(members)
}
