//! Tokenizers from Hugging Face files: `tokenizer.json`, or a WordPiece `vocab.txt` as older repositories have it.
//!
//! Truncation and padding that a file asks for are switched off: the recipes cut long texts into windows, and pack
//! batches without padding.

use std::{collections::HashMap, io::Read, path::Path};

use flate2::read::MultiGzDecoder;
use galley_core::{InputError, LoadError, weights::read_file};
use serde::Deserialize;
use tokenizers::{
    AddedToken, Decoder, DecoderWrapper, ModelWrapper, decoders, models::wordpiece::WordPiece,
    normalizers, pre_tokenizers, processors::bert::BertProcessing,
};

/// A tokenizer, and the special tokens that it puts around a text.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Ids that a text starts with, `[CLS]`.
    prefix: Vec<u32>,
    /// Ids that a text ends with, `[SEP]`.
    suffix: Vec<u32>,
    unknown: Option<u32>,
    /// What marks a piece that continues a word, `##`; `None` for models without such a mark.
    continuation: Option<String>,
    /// Each id's token, which the tokenizer itself would look for in two maps and copy. A file may have ids of any size.
    tokens: HashMap<u32, String>,
}

/// A text's tokens, special ones left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Their ids.
    pub ids: Vec<u32>,
    /// Where in the text each comes from, in bytes, at the bounds of characters.
    pub offsets: Vec<(usize, usize)>,
}

impl Tokenizer {
    /// From a folder: its `tokenizer.json`, otherwise its `vocab.txt` with the settings of `tokenizer_config.json`.
    ///
    /// # Errors
    /// There is neither file, or what there is cannot be read.
    pub fn from_dir(dir: &Path) -> Result<Self, LoadError> {
        let json = dir.join("tokenizer.json");
        if json.is_file() {
            return Self::from_bytes(&read_file(&json)?);
        }
        let vocab = dir.join("vocab.txt");
        if !vocab.is_file() {
            return Err(LoadError::invalid(
                dir.display().to_string(),
                "expected a tokenizer.json or a vocab.txt, found neither",
            ));
        }
        let config = dir.join("tokenizer_config.json");
        let settings = if config.is_file() {
            serde_json::from_slice(&read_file(&config)?)
                .map_err(|error| LoadError::invalid(config.display().to_string(), error))?
        } else {
            WordPieceSettings::default()
        };
        Self::from_vocab(&read_file(&vocab)?, &settings)
    }

    /// From the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// The bytes are no such file.
    pub fn from_bytes(json: &[u8]) -> Result<Self, LoadError> {
        tokenizers::Tokenizer::from_bytes(json)
            .and_then(Self::new)
            .map_err(|error| LoadError::invalid("tokenizer.json", error))
    }

    /// From those of a `tokenizer.json.gz`, as the bundled ones are.
    ///
    /// # Errors
    /// The bytes are no such file.
    pub fn from_gzip(packed: &[u8]) -> Result<Self, LoadError> {
        let mut json = Vec::new();
        MultiGzDecoder::new(packed)
            .read_to_end(&mut json)
            .map_err(|error| LoadError::invalid("tokenizer.json.gz", error))?;
        Self::from_bytes(&json)
    }

    /// A BERT tokenizer from the bytes of a `vocab.txt`.
    ///
    /// # Errors
    /// The vocabulary lacks a special token or is not text.
    pub fn from_vocab(vocab: &[u8], settings: &WordPieceSettings) -> Result<Self, LoadError> {
        bert(vocab, settings)
            .and_then(Self::new)
            .map_err(|error| LoadError::invalid("vocab.txt", error))
    }

    fn new(mut inner: tokenizers::Tokenizer) -> tokenizers::Result<Self> {
        inner.with_truncation(None)?.with_padding(None);
        let (unknown, continuation) = match inner.get_model() {
            ModelWrapper::WordPiece(model) => (
                Some(model.unk_token.clone()),
                Some(model.continuing_subword_prefix.clone()),
            ),
            ModelWrapper::BPE(model) => (
                model.unk_token.clone(),
                model.continuing_subword_prefix.clone(),
            ),
            _ => (None, None),
        };
        let (prefix, suffix) = frame_of(&inner)?;
        let ids = inner.get_vocab(true).into_values();
        let tokens = ids.filter_map(|id| Some((id, inner.id_to_token(id)?)));
        Ok(Self {
            tokens: tokens.collect(),
            prefix,
            suffix,
            unknown: unknown.and_then(|token| inner.token_to_id(&token)),
            continuation: continuation.filter(|mark| !mark.is_empty()),
            inner,
        })
    }

    /// The tokens of a text and their places in it; an empty text has none.
    ///
    /// # Errors
    /// The text has a word that the vocabulary cannot spell, and the vocabulary has no token for unknown words.
    pub fn tokens(&self, text: &str) -> Result<Tokens, InputError> {
        let encoding = self.inner.encode(text, false).map_err(|error| {
            InputError::Unreadable(format!("cannot tokenize the text: {error}"))
        })?;
        Ok(Tokens {
            ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
        })
    }

    /// How many special tokens stand around a text.
    pub fn specials(&self) -> usize {
        self.prefix.len() + self.suffix.len()
    }

    /// How many special tokens stand before a text.
    pub fn prefix_len(&self) -> usize {
        self.prefix.len()
    }

    /// The ids as a model reads them: `[CLS] ids [SEP]`.
    pub fn framed<'a>(&'a self, ids: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
        [self.prefix.as_slice(), ids, self.suffix.as_slice()]
            .into_iter()
            .flatten()
            .copied()
    }

    /// The token of an id, `##ing`; empty if the vocabulary has no such id.
    pub fn token(&self, id: u32) -> &str {
        self.tokens.get(&id).map_or("", String::as_str)
    }

    /// The id that stands for words that the vocabulary cannot spell, `[UNK]`.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// Whether pieces that continue a word are marked (`##`), so that words can be told from the tokens.
    pub fn marks_continuations(&self) -> bool {
        self.continuation.is_some()
    }

    /// How many entries the vocabulary has.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Tokens put together to text, as the tokenizer's decoder does it.
    pub fn text(&self, tokens: &[&str]) -> String {
        let Some(decoder) = self.inner.get_decoder() else {
            return tokens.join(" ");
        };
        if let DecoderWrapper::WordPiece(pieces) = decoder
            && let Some(text) = joined(tokens, &pieces.prefix)
        {
            return text;
        }
        let owned = tokens.iter().map(|&token| token.into()).collect();
        // A decoder that fails leaves no better text than the tokens themselves.
        decoder.decode(owned).unwrap_or_else(|_| tokens.join(" "))
    }
}

/// What the decoder of word pieces makes of tokens; none where one has a space or punctuation in it, around which the decoder puts
/// spaces right. It looks for that in each token eleven times, which took longer than all else that is done with an entity.
fn joined(tokens: &[&str], mark: &str) -> Option<String> {
    let mut text = String::with_capacity(tokens.iter().map(|token| token.len() + 1).sum());
    for (i, token) in tokens.iter().enumerate() {
        let piece = match token.strip_prefix(mark) {
            Some(piece) if i > 0 => piece,
            _ => {
                text.extend((i > 0).then_some(' '));
                token
            }
        };
        if piece.contains([' ', '.', '?', '!', ',', '\'']) {
            return None;
        }
        text.push_str(piece);
    }
    Some(text)
}

/// The settings of a `vocab.txt`'s tokenizer, named as in `tokenizer_config.json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct WordPieceSettings {
    /// Whether text is lowercased.
    pub do_lower_case: bool,
    /// Whether accents are taken off; by default where text is lowercased.
    pub strip_accents: Option<bool>,
    /// Whether each Chinese character is a word of its own.
    pub tokenize_chinese_chars: bool,
}

impl Default for WordPieceSettings {
    /// The defaults of transformers' `BertTokenizer`.
    fn default() -> Self {
        Self {
            do_lower_case: true,
            strip_accents: None,
            tokenize_chinese_chars: true,
        }
    }
}

/// What stands around any text is what stands around this one.
fn frame_of(tokenizer: &tokenizers::Tokenizer) -> tokenizers::Result<(Vec<u32>, Vec<u32>)> {
    let framed = tokenizer.encode_fast("a", true)?;
    let special: Vec<bool> = framed
        .get_special_tokens_mask()
        .iter()
        .map(|&special| special != 0)
        .collect();
    let ids = framed.get_ids();
    let before = special.iter().take_while(|&&special| special).count();
    let after = special[before..]
        .iter()
        .rev()
        .take_while(|&&special| special)
        .count();
    Ok((ids[..before].to_vec(), ids[ids.len() - after..].to_vec()))
}

/// The tokenizer that transformers makes of a BERT vocabulary, one token a line.
fn bert(vocab: &[u8], settings: &WordPieceSettings) -> tokenizers::Result<tokenizers::Tokenizer> {
    const MARK: &str = "##";
    let vocab = WordPiece::read_bytes(vocab)?;
    let special = |token: &str| match vocab.get(token) {
        Some(&id) => Ok((token.to_owned(), id)),
        None => Err(format!("the token {token} is missing")),
    };
    let (cls, sep, unknown) = (special("[CLS]")?, special("[SEP]")?, special("[UNK]")?);
    let added: Vec<AddedToken> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        .into_iter()
        .filter(|token| vocab.contains_key(*token))
        .map(|token| AddedToken::from(token, true))
        .collect();
    let model = WordPiece::builder()
        .vocab(vocab)
        .unk_token(unknown.0)
        .continuing_subword_prefix(MARK.into())
        .build()?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(normalizers::BertNormalizer::new(
            true,
            settings.tokenize_chinese_chars,
            settings.strip_accents,
            settings.do_lower_case,
        )))?
        .with_pre_tokenizer(Some(pre_tokenizers::bert::BertPreTokenizer))
        .with_post_processor(Some(BertProcessing::new(sep, cls)))
        .with_decoder(Some(decoders::wordpiece::WordPiece::new(MARK.into(), true)));
    tokenizer.add_special_tokens(added)?;
    Ok(tokenizer)
}
