//! Layers one after the other, to a [`Graph`].

use super::{
    Activation, Auxiliary, Convolution, Graph, Mistake, Node, Op, Pool, Shape, Stored, Value,
    Window, sequences,
};

/// Makes a graph. It works out shapes as layers are added; the first mistake is kept, and [`Self::finish`] tells it, so
/// that a description reads as one.
#[derive(Clone, Debug)]
pub struct Builder {
    nodes: Vec<Node>,
    auxiliary: Vec<Auxiliary>,
    mistake: Option<Mistake>,
}

impl Builder {
    /// For images of so many channels, and pixels `[down, across]`.
    pub fn new(channels: usize, [height, width]: [usize; 2]) -> Self {
        Self::of(
            Op::Input,
            Shape {
                channels,
                height,
                width,
            },
        )
    }

    /// For sequences of so many token ids.
    pub fn of_ids(tokens: usize) -> Self {
        Self::of(
            Op::Ids,
            Shape {
                channels: 1,
                height: 1,
                width: tokens,
            },
        )
    }

    fn of(op: Op, shape: Shape) -> Self {
        let node = Node {
            name: "input".into(),
            op,
            inputs: Vec::new(),
            shape,
        };
        Self {
            nodes: vec![node],
            auxiliary: Vec::new(),
            mistake: None,
        }
    }

    /// The images, or the ids.
    pub fn input(&self) -> Value {
        Value(0)
    }

    /// The shape of what a layer gives.
    pub fn shape(&self, x: Value) -> Shape {
        self.nodes[x.0].shape
    }

    /// A convolution.
    pub fn convolution(&mut self, name: &str, x: Value, convolution: Convolution) -> Value {
        self.add(name, Op::Convolution(convolution), &[x], None)
    }

    /// BatchNorm with PyTorch's usual epsilon of 1e-5.
    pub fn batch_norm(&mut self, name: &str, x: Value) -> Value {
        self.batch_norm_with(name, x, 1e-5)
    }

    /// BatchNorm with an epsilon of its own.
    pub fn batch_norm_with(&mut self, name: &str, x: Value, eps: f64) -> Value {
        self.add(name, Op::BatchNorm { eps }, &[x], None)
    }

    /// A function of each value.
    pub fn activation(&mut self, x: Value, activation: Activation) -> Value {
        let name = self.after(&format!("{activation:?}").to_lowercase(), x);
        self.add(&name, Op::Activation(activation), &[x], None)
    }

    /// `max(x, 0)`.
    pub fn relu(&mut self, x: Value) -> Value {
        self.activation(x, Activation::Relu)
    }

    /// A pool.
    pub fn pool(&mut self, x: Value, pool: Pool) -> Value {
        let name = self.after("pool", x);
        self.add(&name, Op::Pool(pool), &[x], None)
    }

    /// The mean over all pixels.
    pub fn mean(&mut self, x: Value) -> Value {
        self.adaptive_mean(x, [1, 1])
    }

    /// Means over as many fields of pixels, `[down, across]`.
    pub fn adaptive_mean(&mut self, x: Value, [height, width]: [usize; 2]) -> Value {
        let name = self.after("mean", x);
        let shape = Shape {
            height,
            width,
            ..self.shape(x)
        };
        self.add(&name, Op::AdaptiveMean, &[x], Some(shape))
    }

    /// A linear layer over all of an image's values.
    pub fn linear(&mut self, name: &str, x: Value, outputs: usize) -> Value {
        let shape = Shape {
            channels: outputs,
            height: 1,
            width: 1,
        };
        self.add(name, Op::Linear, &[x], Some(shape))
    }

    /// The sum.
    pub fn sum(&mut self, left: Value, right: Value) -> Value {
        let name = self.after("sum", left);
        self.add(&name, Op::Add, &[left, right], None)
    }

    /// All channels, one after the other.
    pub fn concat(&mut self, parts: &[Value]) -> Value {
        let name = self.after("concat", parts.last().copied().unwrap_or(Value(0)));
        self.add(&name, Op::Concat, parts, None)
    }

    /// Channels from `first` on.
    pub fn slice(&mut self, x: Value, first: usize, channels: usize) -> Value {
        let name = self.after("slice", x);
        let shape = Shape {
            channels,
            ..self.shape(x)
        };
        self.add(&name, Op::Slice { first }, &[x], Some(shape))
    }

    /// The channels of so many groups in turns.
    pub fn shuffle(&mut self, x: Value, groups: usize) -> Value {
        let name = self.after("shuffle", x);
        self.add(&name, Op::Shuffle { groups }, &[x], None)
    }

    /// Channels times the gates of an image.
    pub fn gate(&mut self, x: Value, gates: Value) -> Value {
        let name = self.after("gate", x);
        self.add(&name, Op::Gate, &[x, gates], None)
    }

    /// Dropout.
    pub fn dropout(&mut self, x: Value, share: f64) -> Value {
        let name = self.after("dropout", x);
        self.add(&name, Op::Dropout { share }, &[x], None)
    }

    /// What is to be answered besides while training, and what its loss counts beside the answer's.
    pub fn auxiliary(&mut self, logits: Value, weight: f64) {
        self.auxiliary.push(Auxiliary { logits, weight });
    }

    /// The graph.
    ///
    /// # Errors
    /// The first layer that did not fit.
    pub fn finish(self, output: Value) -> Result<Graph, Mistake> {
        match self.mistake {
            Some(mistake) => Err(mistake),
            None => Ok(Graph {
                nodes: self.nodes,
                output,
                auxiliary: self.auxiliary,
            }),
        }
    }

    /// A name for a layer that has no weights.
    pub(super) fn after(&self, what: &str, x: Value) -> String {
        let name = &self.nodes[x.0].name;
        let last = name.rsplit(" after ").next().unwrap_or(name);
        let name = format!("{what} after {last}");
        // The first of them is the only one in most networks.
        let mut names = std::iter::once(name.clone()).chain((2..).map(|i| format!("{name} ({i})")));
        names
            .find(|name| self.nodes.iter().all(|node| node.name != *name))
            .unwrap_or(name)
    }

    /// Adds a layer, whose shape is `stated` where its op and its input do not tell it.
    pub(super) fn add(
        &mut self,
        name: &str,
        op: Op,
        inputs: &[Value],
        stated: Option<Shape>,
    ) -> Value {
        if self.mistake.is_some() {
            return Value(0);
        }
        match self.infer(&op, inputs, stated) {
            Ok(_) if self.nodes.iter().any(|node| node.name == name) => {
                self.mistake = Some(Mistake {
                    layer: name.into(),
                    wanted: "a name of its own".into(),
                    got: "another layer's".into(),
                });
                Value(0)
            }
            Ok(shape) => {
                self.nodes.push(Node {
                    name: name.into(),
                    op,
                    inputs: inputs.to_vec(),
                    shape,
                });
                Value(self.nodes.len() - 1)
            }
            Err((wanted, got)) => {
                self.mistake = Some(Mistake {
                    layer: name.into(),
                    wanted,
                    got,
                });
                Value(0)
            }
        }
    }

    /// A layer's shape, or what it wanted and what it got.
    fn infer(
        &self,
        op: &Op,
        inputs: &[Value],
        stated: Option<Shape>,
    ) -> Result<Shape, (String, String)> {
        let Some(x) = inputs.first().map(|x| self.shape(*x)) else {
            return Err(("an input".into(), "none".into()));
        };
        let wrong = |wanted: String| Err((wanted, format!("{x:?}")));
        let ids = |x: &Value| self.nodes[x.0].op == Op::Ids;
        if inputs.iter().any(ids) != matches!(op, Op::Embedding(_)) {
            return match op {
                Op::Embedding(_) => wrong("token ids".into()),
                _ => Err(("features".into(), "token ids".into())),
            };
        }
        let sized = |channels, window: Window, ceil| match window.over([x.height, x.width], ceil) {
            Some([height, width]) => Ok(Shape {
                channels,
                height,
                width,
            }),
            None => wrong(format!("an image that {window:?} fits into")),
        };
        match op {
            Op::Input | Op::Ids => wrong("no input".into()),
            Op::Convolution(Convolution {
                outputs,
                window,
                groups,
                stored,
                ..
            }) => {
                let dense = *groups == 1 && window.is_pointwise();
                if *stored != Stored::Kernel && !dense {
                    return wrong(format!("a linear layer for each pixel, not {window:?}"));
                }
                let whole = |channels: usize| {
                    *groups > 0 && channels > 0 && channels.is_multiple_of(*groups)
                };
                if !whole(x.channels) || !whole(*outputs) {
                    return wrong(format!(
                        "a multiple of {groups} channels to make {outputs} of"
                    ));
                }
                sized(*outputs, *window, false)
            }
            Op::Pool(Pool { window, ceil, .. }) => {
                // A window of nothing but padding would have neither a largest value nor a mean.
                let half = |(kernel, padding): (usize, usize)| 2 * padding <= kernel;
                if !window.kernel.into_iter().zip(window.padding).all(half) {
                    return wrong(format!("padding of half a window at most, not {window:?}"));
                }
                sized(x.channels, *window, *ceil)
            }
            Op::BatchNorm { .. }
            | Op::LayerNorm { .. }
            | Op::Activation(_)
            | Op::Dropout { .. } => Ok(x),
            Op::Embedding(embedding) => embedding.shape(x, stated).or_else(wrong),
            Op::Attention(attention) => attention.shape(x).or_else(wrong),
            Op::Lstm(_) | Op::Pick(_) => sequences::line(x, stated).or_else(wrong),
            Op::AdaptiveMean | Op::Linear => match stated {
                Some(shape) if shape.values() > 0 => Ok(shape),
                _ => wrong("a size".into()),
            },
            Op::Add => match self.shape(inputs[1]) {
                other if other == x => Ok(x),
                other => Err((format!("{x:?}"), format!("{other:?}"))),
            },
            Op::Gate => {
                let (wanted, got) = (
                    Shape {
                        height: 1,
                        width: 1,
                        ..x
                    },
                    self.shape(inputs[1]),
                );
                if got == wanted {
                    Ok(x)
                } else {
                    Err((format!("gates {wanted:?}"), format!("{got:?}")))
                }
            }
            Op::Concat => {
                let shapes = || inputs.iter().map(|input| self.shape(*input));
                match shapes().find(|shape| [shape.height, shape.width] != [x.height, x.width]) {
                    None => Ok(Shape {
                        channels: shapes().map(|shape| shape.channels).sum(),
                        ..x
                    }),
                    Some(other) => Err((
                        format!("{} by {} pixels", x.height, x.width),
                        format!("{other:?}"),
                    )),
                }
            }
            Op::Slice { first } => match stated {
                Some(shape) if shape.channels > 0 && first + shape.channels <= x.channels => {
                    Ok(shape)
                }
                _ => {
                    let channels = stated.map_or(0, |shape| shape.channels);
                    wrong(format!("{channels} channels from {first} on"))
                }
            },
            Op::Shuffle { groups } if *groups > 0 && x.channels.is_multiple_of(*groups) => Ok(x),
            Op::Shuffle { groups } => wrong(format!("a multiple of {groups} channels")),
        }
    }
}
