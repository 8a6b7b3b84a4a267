//! The tagger on a device.

use std::fmt;

use candle_core::Result;
use candle_nn::VarBuilder;

use super::network::{Network, Shape, Wanted};
use crate::{
    cuda::{Buffer, Gpu, Lane, Pass, Weights},
    lstm::tagger::{TaggerConfig, Words},
    workspace::Workspaces,
};

/// Passes of up to this many words are recorded: beyond, computing takes longer than launching.
const RECORDED_WORDS: usize = 2048;

/// A network on a device.
pub(crate) struct Tagger {
    gpu: Gpu,
    network: Network,
    weights: Buffer,
    lanes: Workspaces<Lane<Shape>>,
}

impl Tagger {
    pub(crate) fn load(gpu: &Gpu, vb: &VarBuilder<'_>, config: &TaggerConfig) -> Result<Self> {
        let mut weights = Weights::new(gpu.target().element);
        let network = Network::load(&mut weights, vb, config)?;
        Ok(Self {
            gpu: gpu.clone(),
            network,
            weights: Buffer::of(gpu, &weights)?,
            lanes: Workspaces::default(),
        })
    }

    pub(crate) fn tags(&self, words: &Words) -> Result<Vec<u8>> {
        let rows = words.rows.len();
        self.run(words, Wanted::Tags, |bytes| bytes[..rows].to_vec())
    }

    pub(crate) fn scores(&self, words: &Words) -> Result<Vec<f32>> {
        let count = words.rows.len() * self.network.config().tags;
        self.run(words, Wanted::Scores, |bytes| {
            let (numbers, _) = bytes.as_chunks();
            numbers[..count]
                .iter()
                .map(|&bytes| f32::from_le_bytes(bytes))
                .collect()
        })
    }

    /// Runs a pass, and takes from what it gives.
    fn run<T>(&self, words: &Words, wanted: Wanted, take: impl FnOnce(&[u8]) -> T) -> Result<T> {
        words.check(self.network.config())?;
        if words.rows.is_empty() {
            return Ok(take(&[]));
        }
        let mut shape = Shape::of(words);
        let recorded = wanted == Wanted::Tags && shape.words.max(shape.rows) <= RECORDED_WORDS;
        if recorded {
            shape = shape.rounded();
        }
        let places = self.network.places(shape, words.chars.len());
        let pass = Pass {
            layout: places.layout,
            input: places.input,
            output: match wanted {
                Wanted::Scores => places.scores,
                Wanted::Tags => places.tags,
            },
            key: recorded.then_some(shape),
        };
        self.lanes.with(|lane| {
            let fill = |input: &mut [u8]| places.fill(words, input);
            let program = || {
                self.network
                    .program(self.gpu.target(), shape, &places, wanted)
            };
            lane.run(&self.gpu, &self.weights, &pass, fill, program)
                .map(take)
        })
    }
}

impl fmt::Debug for Tagger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tagger")
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}
