//! The inputs of a benchmark: any number of distinct examples, the same ones on every machine.
//!
//! Example *i* depends on the corpus, the seed and *i* alone, so that a shorter run sends a prefix of what a longer one
//! sends. Texts are drawn from real sentences and film reviews, images are crops of 14 photographs; both are bundled.
//! Texts stay in memory. Images (44 KB each) are generated once and kept in files in the user's cache folder.

mod images;
mod pack;
mod rng;
mod texts;

pub(crate) use self::rng::Rng;

use bytes::Bytes;
use clap::ValueEnum;
use galley_core::{Entry, Input, InputKind};

use crate::error::Result;

/// The seed of every corpus that a report is made with.
pub const SEED: u64 = 1;
/// The seed of examples for estimating, before anything is measured, how long it will take.
pub const CALIBRATION_SEED: u64 = 2;

/// What the examples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CorpusKind {
    /// 500x375 JPEGs, 44 KB each.
    Images,
    /// 1 to 4 sentences of social media.
    Ner,
    /// 1 to 3 film review snippets of one opinion.
    Sentiment,
    /// Film review snippets of one opinion, as many as make a review of the length that people write.
    Reviews,
    /// 3 to 8 snippets run together without punctuation.
    Segment,
}

impl CorpusKind {
    /// The corpus that suits a recipe. This is the only place that knows.
    pub fn of(entry: &Entry) -> Self {
        match (entry.input_kind, entry.name) {
            (InputKind::File, _) => Self::Images,
            (_, "deepsegment_en") => Self::Segment,
            (_, "distilbert_sst2") => Self::Sentiment,
            _ => Self::Ner,
        }
    }

    /// Its name, as reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Ner => "ner",
            Self::Sentiment => "sentiment",
            Self::Reviews => "reviews",
            Self::Segment => "segment",
        }
    }

    /// One example in words, for reports.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Images => "500x375 JPEGs, quality 90, 4:2:0, cut from 14 photographs",
            Self::Ner => "1 to 4 sentences of social media (WNUT 2017), 46 words on average",
            Self::Sentiment => {
                "1 to 3 film review snippets (Sentence Polarity 1.0), 43 words on average"
            }
            Self::Reviews => {
                "film review snippets of one opinion (Sentence Polarity 1.0) joined to reviews of 40 to 760 words, 235 on average"
            }
            Self::Segment => {
                "3 to 8 film review snippets run together without punctuation, 105 words on average"
            }
        }
    }
}

impl CorpusKind {
    /// Whether a recipe of this kind of input takes its examples.
    pub(crate) fn suits(self, entry: &Entry) -> bool {
        (self == Self::Images) == (entry.input_kind == InputKind::File)
    }
}

/// A corpus of a certain size.
#[derive(Debug)]
pub struct Corpus {
    kind: CorpusKind,
    items: Items,
}

#[derive(Debug)]
enum Items {
    Texts(Vec<String>),
    Images(pack::Packs),
}

impl Corpus {
    /// The first `count` examples. Images that the cache lacks are generated, on all cores; `progress` is told how many
    /// there are and how many are wanted.
    ///
    /// # Errors
    /// The cache cannot be written, or `count` is more than there are distinct texts.
    pub fn open(
        kind: CorpusKind,
        count: usize,
        seed: u64,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self> {
        let items = match kind {
            CorpusKind::Images => {
                Items::Images(images::open(&pack::cache_dir(), count, seed, progress)?)
            }
            _ => Items::Texts(
                texts::generate(kind, count, seed)?
                    .into_iter()
                    .map(|example| example.text)
                    .collect(),
            ),
        };
        Ok(Self { kind, items })
    }

    /// Texts made of a corpus of this kind.
    pub(crate) fn of_texts(kind: CorpusKind, texts: Vec<String>) -> Self {
        Self {
            kind,
            items: Items::Texts(texts),
        }
    }

    /// What the examples are.
    pub fn kind(&self) -> CorpusKind {
        self.kind
    }

    /// How many examples there are.
    pub fn len(&self) -> usize {
        match &self.items {
            Items::Texts(texts) => texts.len(),
            Items::Images(packs) => packs.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An example as a recipe takes it.
    ///
    /// # Errors
    /// The cache has been damaged since it was opened.
    ///
    /// # Panics
    /// There is no such example.
    pub fn input(&self, index: usize) -> Result<Input> {
        Ok(match &self.items {
            Items::Texts(texts) => Input::text(texts[index].clone()),
            Items::Images(packs) => Input::File(packs.read(index)?.into()),
        })
    }

    /// An example's bytes: the file, or the text.
    ///
    /// # Errors
    /// As [`Corpus::input`].
    ///
    /// # Panics
    /// There is no such example.
    pub fn bytes(&self, index: usize) -> Result<Bytes> {
        Ok(match &self.items {
            Items::Texts(texts) => Bytes::copy_from_slice(texts[index].as_bytes()),
            Items::Images(packs) => packs.read(index)?.into(),
        })
    }
}
