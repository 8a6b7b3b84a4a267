//! Attention in training on a CUDA device: its launches there and back.

use candle_core::{Result, bail};

use crate::{
    cuda::{Argument, Draft, Element, Grid, Source, Span, Target},
    ops::{Onto, dropout::Dropout, pixels::cuda::adds},
};

/// Queries, or keys, of a block.
const TILE: usize = 64;
/// Threads of a block on tensor cores.
const THREADS: usize = 128;
/// Threads of another block.
const PLAIN_THREADS: usize = 256;
/// Features that one access takes on tensor cores.
const VECTOR: usize = 8;
const FLOAT: usize = size_of::<f32>();

/// Sequences of one length that attend to themselves, and what of the softmax's results is dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequences {
    pub(crate) batch: usize,
    pub(crate) tokens: usize,
    pub(crate) heads: usize,
    /// Features of a head.
    pub(crate) dim: usize,
    /// Whether a query sees no key after it.
    pub(crate) causal: bool,
    /// The numbers' step is the state's, which is beside it.
    pub(crate) dropout: Option<(Dropout, Span)>,
}

/// Attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forward {
    pub(crate) sequences: Sequences,
    /// E `[batch * tokens, 3 * heads * dim]`: of each token its query, key and value, each of all heads side by side.
    pub(crate) qkv: Span,
    /// E `[batch * tokens, heads * dim]`.
    pub(crate) out: Span,
    /// The logarithm of the sum of each query's powers, f32 `[heads, batch * tokens]`.
    pub(crate) log_sums: Span,
}

/// Its way back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backward {
    /// As [`Forward`] had them.
    pub(crate) sequences: Sequences,
    /// What it read.
    pub(crate) qkv: Span,
    /// What it gave.
    pub(crate) out: Span,
    /// What it kept.
    pub(crate) log_sums: Span,
    /// E `[batch * tokens, heads * dim]`.
    pub(crate) dout: Span,
    /// E `[batch * tokens, 3 * heads * dim]`.
    pub(crate) dqkv: (Span, Onto),
}

impl Forward {
    /// # Errors
    /// A head has too many features, or there are too many tokens.
    pub(crate) fn push(&self, draft: &mut Draft) -> Result<()> {
        let kind = Kind::new(draft.target, &self.sequences)?;
        let spans = [self.qkv.read(), self.out.write(), self.log_sums.write()];
        let arguments = spans
            .into_iter()
            .chain(self.sequences.dropout())
            .chain(self.sequences.sizes());
        kind.launch(draft, "forward", &self.sequences, arguments)
    }
}

impl Backward {
    /// # Errors
    /// As [`Forward::push`].
    pub(crate) fn push(&self, draft: &mut Draft) -> Result<()> {
        let of = &self.sequences;
        let kind = Kind::new(draft.target, of)?;
        // On tensor cores the first kernel leaves the second one which weights dropout keeps.
        let leaves = matches!(kind, Kind::Tensor { drops: true, .. });
        let bits = of.blocks() * of.tiles() * THREADS * size_of::<u32>();
        let [dots, kept] = draft.scratch([
            of.batch * of.tokens * of.heads * FLOAT,
            if leaves { bits } else { 0 },
        ]);
        let kept = leaves.then_some(kept);
        let (dqkv, onto) = self.dqkv;
        let adds = adds(onto);
        let [qkv, out, log_sums, dout] =
            [self.qkv, self.out, self.log_sums, self.dout].map(Span::read);
        let rest = || {
            let numbers = of.dropout().into_iter().chain(of.sizes()).chain([adds]);
            [dqkv.write()].into_iter().chain(numbers)
        };
        let left = kept.map_or(Argument::Null, Span::write);
        let arguments = [qkv, out, log_sums, dout, dots.write(), left];
        kind.launch(draft, "queries", of, arguments.into_iter().chain(rest()))?;
        let arguments = [qkv, log_sums, dout, dots.read(), kept.into()];
        kind.launch(draft, "keys", of, arguments.into_iter().chain(rest()))
    }
}

impl Sequences {
    /// Of a sequence's tokens.
    fn tiles(&self) -> usize {
        self.tokens.div_ceil(TILE)
    }

    /// A tile of a head is a block's.
    fn blocks(&self) -> usize {
        self.batch * self.heads * self.tiles()
    }

    /// As all kernels take it.
    fn dropout(&self) -> [Argument; 6] {
        match &self.dropout {
            Some((dropout, state)) => {
                let [seed_low, seed_high, layer, threshold, factor] = dropout.arguments();
                [state.read(), seed_low, seed_high, layer, threshold, factor]
            }
            None => {
                let zero = Argument::from(0);
                [Argument::Null, zero, zero, zero, zero, Argument::from(1.0)]
            }
        }
    }

    /// As all kernels take them.
    fn sizes(&self) -> [Argument; 5] {
        let causal = usize::from(self.causal);
        [self.batch, self.tokens, self.heads, self.dim, causal].map(Argument::from)
    }
}

/// Which kernels compute it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Those of `train_attention.cu` and `train_attention_back.cu`, for heads of at most so many features.
    Tensor { dim: usize, drops: bool },
    /// Those of `train_attention_plain.cu`.
    Plain { dim: usize },
}

impl Kind {
    fn new(target: Target, of: &Sequences) -> Result<Self> {
        let aligned = target.element == Element::F16 && of.dim.is_multiple_of(VECTOR);
        match [32, 64, 128].into_iter().find(|&dim| of.dim <= dim) {
            Some(dim @ (32 | 64)) if aligned => Ok(Self::Tensor {
                dim,
                drops: of.dropout.is_some(),
            }),
            Some(dim) => Ok(Self::Plain { dim }),
            None => bail!(
                "attention on CUDA: expected heads of at most 128 features, got {}",
                of.dim
            ),
        }
    }

    /// Bytes of a block's shared memory beside what its kernel declares, and its threads.
    fn block(self, name: &str) -> (usize, usize) {
        match self {
            Self::Tensor { dim, .. } => {
                let tiles = 6 * TILE * dim * Element::F16.size();
                let numbers = 2 * (2 * TILE + THREADS) * FLOAT;
                (if name == "keys" { tiles + numbers } else { 0 }, THREADS)
            }
            Self::Plain { dim } => {
                let tile = |dim| TILE * (dim + 4) * FLOAT;
                let tiles = if name == "forward" { 3 } else { 4 };
                (tiles * tile(dim) + tile(TILE), PLAIN_THREADS)
            }
        }
    }

    fn launch(
        self,
        draft: &mut Draft,
        name: &str,
        of: &Sequences,
        arguments: impl Iterator<Item = Argument>,
    ) -> Result<()> {
        let (source, kernel) = match self {
            Self::Tensor { dim, drops } => {
                let source = match name {
                    "forward" => Source::TrainAttention,
                    _ => Source::TrainAttentionBack,
                };
                let drop = if drops { "_drop" } else { "" };
                (source, format!("attention_{name}_d{dim}{drop}"))
            }
            Self::Plain { dim } => {
                let kernel = format!("attention_{name}_plain_d{dim}");
                (Source::TrainAttentionPlain, kernel)
            }
        };
        let (shared, threads) = self.block(name);
        let grid = Grid {
            shared: shared as u32,
            ..Grid::row(of.blocks(), threads as u32)
        };
        // SAFETY: callers give the arguments that the heads of the sources list, of the shapes that they state.
        unsafe { draft.launch((source, &*kernel), grid, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cuda::{Layout, Place},
        ops::dropout::Stream,
    };

    /// Shared memory of a multiprocessor of compute capability 8.0, and what each of its blocks takes besides.
    const SHARED: usize = 164 << 10;
    const RESERVED: usize = 1 << 10;

    fn sequences(tokens: usize, dim: usize, dropout: Option<(Dropout, Span)>) -> Sequences {
        Sequences {
            batch: 3,
            tokens,
            heads: 5,
            dim,
            causal: false,
            dropout,
        }
    }

    #[test]
    fn each_head_has_kernels_that_hold_it() {
        for element in [Element::F16, Element::F32] {
            for dim in 1..=128 {
                let kind = Kind::new(Target::ampere(element), &sequences(20, dim, None)).unwrap();
                match kind {
                    Kind::Tensor { dim: holds, drops } => {
                        assert!(element == Element::F16 && !drops, "{dim}");
                        assert!(dim <= holds && dim.is_multiple_of(VECTOR), "{dim}");
                    }
                    Kind::Plain { dim: holds } => assert!(dim <= holds, "{dim}"),
                }
                for name in ["forward", "queries", "keys"] {
                    let (shared, _) = kind.block(name);
                    assert!(shared + RESERVED <= SHARED, "{dim}");
                }
            }
            let wide = sequences(20, 129, None);
            assert!(Kind::new(Target::hopper(element), &wide).is_err());
        }
    }

    #[test]
    fn there_and_back_are_launched_in_order_and_cover_all_tiles() {
        for (element, dim, drops, kernels) in [
            (
                Element::F16,
                64,
                false,
                ["forward_d64_f16", "queries_d64_f16", "keys_d64_f16"],
            ),
            (
                Element::F16,
                24,
                true,
                [
                    "forward_d32_drop_f16",
                    "queries_d32_drop_f16",
                    "keys_d32_drop_f16",
                ],
            ),
            (
                Element::F32,
                64,
                true,
                [
                    "forward_plain_d64_f32",
                    "queries_plain_d64_f32",
                    "keys_plain_d64_f32",
                ],
            ),
        ] {
            for (tokens, tiles) in [(1, 1), (20, 1), (64, 1), (65, 2), (1024, 16)] {
                let mut layout = Layout::default();
                let state = layout.place(32);
                let stream = Stream {
                    seed: 1,
                    step: 0,
                    layer: 2,
                };
                let dropout = drops.then(|| (Dropout::new(0.1, stream), state));
                let sequences = sequences(tokens, dim, dropout);
                let values = 3 * tokens * 5 * dim * element.size();
                let [qkv, dqkv] = [3 * values; 2].map(|bytes| layout.place(bytes));
                let [out, dout] = [values; 2].map(|bytes| layout.place(bytes));
                let log_sums = layout.place(3 * tokens * 5 * FLOAT);
                let mut draft = Draft::new(Target::hopper(element), layout);
                let forward = Forward {
                    sequences,
                    qkv,
                    out,
                    log_sums,
                };
                forward.push(&mut draft).unwrap();
                let backward = Backward {
                    sequences,
                    qkv,
                    out,
                    log_sums,
                    dout,
                    dqkv: (dqkv, Onto::Add),
                };
                backward.push(&mut draft).unwrap();
                let (program, all) = draft.finish();
                let launches: Vec<_> = program.launches().collect();
                let names: Vec<_> = launches.iter().map(|launch| &launch.kernel[..]).collect();
                assert_eq!(names, kernels.map(|name| format!("attention_{name}")));
                for launch in launches {
                    assert_eq!(launch.grid.blocks, [3 * 5 * tiles, 1, 1]);
                    for argument in &launch.arguments {
                        let (Argument::Read(span) | Argument::Write(span)) = argument else {
                            continue;
                        };
                        let Place::Pass(start) = span.place else {
                            panic!("{span:?}")
                        };
                        assert!(start + span.bytes <= all.bytes());
                    }
                }
            }
        }
    }
}
