//! What stands before a network that reads texts: texts and raw tensors in, packed tokens out, and the bounds on both.

use galley_core::{
    ForwardError, InputError, InputLimits, LoadError, LoadOptions, RawTensors, TextInput,
};
use galley_nn::text::{Packed, TransformerConfig};

use crate::{
    Document, Tokenizer,
    document::pack,
    files::config_error,
    tensors::{TensorLimits, packed},
};

/// The option's key among a recipe's own.
const MAX_TOKENS_KEY: &str = "max_tokens";

/// The most tokens of a text unless the option says otherwise: a long report. A text within `--max-text` alone could
/// hold the device for a minute, and every other caller would wait for it.
const MAX_TOKENS: usize = 16_384;

/// What a recipe's option `max_tokens` does.
pub const MAX_TOKENS_HELP: (&str, &str) = (
    MAX_TOKENS_KEY,
    "the most tokens that a text may have (default: 16384)",
);

/// Turns inputs into what a network reads.
#[derive(Clone, Debug)]
pub struct Reader {
    tokenizer: Tokenizer,
    bounds: TensorLimits,
    limits: InputLimits,
    max_tokens: usize,
    /// What sets the bound on a text's tokens, for the message that refuses one.
    option: &'static str,
}

impl Reader {
    /// For a network of this configuration; `option` is what sets the bound on a text's tokens, `--option
    /// RECIPE.max_tokens`.
    ///
    /// # Errors
    /// The tokenizer knows more tokens than the model has vectors for, or `max_tokens` is no number above 0.
    pub fn new(
        tokenizer: Tokenizer,
        encoder: &TransformerConfig,
        options: &LoadOptions,
        option: &'static str,
    ) -> Result<Self, LoadError> {
        let (tokens, vectors) = (tokenizer.vocabulary(), encoder.vocabulary);
        if tokens > vectors {
            return Err(config_error(format!(
                "vocab_size: expected the tokenizer's {tokens} at least, got {vectors}"
            )));
        }
        let max_tokens = match options.options.get(MAX_TOKENS_KEY) {
            None => MAX_TOKENS,
            Some(text) => (text.parse().ok().filter(|&limit| limit > 0)).ok_or_else(|| {
                LoadError::invalid(option, format!("expected a number above 0, got {text:?}"))
            })?,
        };
        Ok(Self {
            tokenizer,
            bounds: TensorLimits {
                vocabulary: vectors,
                max_positions: encoder.max_positions,
            },
            limits: options.limits,
            max_tokens,
            option,
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// A text, whose object form may have the fields `options` beside `text`.
    ///
    /// # Errors
    /// As [`TextInput::read`].
    pub fn text(
        &self,
        input: galley_core::Input,
        options: &[&str],
    ) -> Result<TextInput, InputError> {
        TextInput::read(input, options, &self.limits)
    }

    /// Tokenizes a text and cuts it into windows.
    ///
    /// # Errors
    /// It cannot be tokenized, or has too many tokens.
    pub fn document(&self, text: &str) -> Result<Document, InputError> {
        let tokens = self.tokenizer.tokens(text)?;
        if tokens.ids.len() > self.max_tokens {
            return Err(InputError::TooLarge {
                what: format!("text of {} tokens", tokens.ids.len()),
                limit: format!("{} tokens", self.max_tokens),
                option: self.option,
            });
        }
        Ok(Document::new(
            tokens,
            &self.tokenizer,
            self.bounds.max_positions,
        ))
    }

    /// Tokenizes a text that is read in one window, or as much of it as a window has room for if it is to be cut.
    ///
    /// # Errors
    /// It cannot be tokenized, has no token, or does not fit and is not to be cut.
    pub fn window(&self, text: &str, truncate: bool) -> Result<Document, InputError> {
        let mut tokens = self.tokenizer.tokens(text)?;
        let count = tokens.ids.len();
        let specials = self.tokenizer.specials();
        let room = self.bounds.max_positions.saturating_sub(specials);
        if count > room && !truncate {
            return Err(InputError::TooLarge {
                what: format!("text of {count} tokens"),
                limit: format!("{room} tokens"),
                option: self.option,
            });
        }
        if count + specials == 0 {
            return Err(InputError::Unreadable(
                "expected a text of at least one token, got one of none".into(),
            ));
        }
        tokens.ids.truncate(room);
        tokens.offsets.truncate(room);
        Ok(Document::new(
            tokens,
            &self.tokenizer,
            self.bounds.max_positions,
        ))
    }

    /// A made-up text of `size` tokens, special ones counted, each of one letter; no bound holds for it.
    pub fn sample(&self, size: usize, seed: u64) -> Document {
        Document::sample(size, seed, &self.tokenizer, self.bounds.max_positions)
    }

    /// All windows of a batch, document after document, packed into runs of at most `most_tokens`. One text may have any
    /// number of windows, and the memory that it takes must not grow with them.
    pub fn runs<'a>(
        &self,
        batch: impl IntoIterator<Item = &'a Document>,
        most_tokens: usize,
    ) -> Vec<Packed> {
        pack(batch, &self.tokenizer, most_tokens)
    }

    /// Raw tensors: `input_ids` and, optionally, `attention_mask` and `token_type_ids` (all 0), each `[n, l]`. Only the
    /// tokens that the mask shows are packed.
    ///
    /// # Errors
    /// A tensor is missing, unknown, of another shape or dtype, or holds a number out of range.
    pub fn tensors(&self, tensors: &RawTensors) -> Result<Packed, ForwardError> {
        packed(tensors, self.bounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WordPieceSettings;
    use galley_nn::text::{Activation, Norm};

    const OPTION: &str = "--option a.max_tokens";

    fn reader(max_tokens: Option<&str>, vocabulary: usize) -> Result<Reader, LoadError> {
        let vocab = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\n";
        let tokenizer = Tokenizer::from_vocab(vocab, &WordPieceSettings::default()).unwrap();
        let encoder = TransformerConfig {
            vocabulary,
            max_positions: 8,
            token_types: 0,
            hidden: 4,
            intermediate: 4,
            layers: 1,
            heads: 1,
            layer_norm_eps: 1e-12,
            norm: Norm::Post,
            causal: false,
            activation: Activation::Gelu,
        };
        let options = LoadOptions {
            options: max_tokens
                .map(|text| (MAX_TOKENS_KEY.to_owned(), text.to_owned()))
                .into_iter()
                .collect(),
            ..LoadOptions::default()
        };
        Reader::new(tokenizer, &encoder, &options, OPTION)
    }

    #[test]
    fn a_text_has_at_most_max_tokens() {
        let small = reader(Some("20"), 6).unwrap();
        assert_eq!(
            small.document(&"a ".repeat(20)).unwrap().tokens.ids.len(),
            20
        );
        assert_eq!(
            small.document(&"a ".repeat(21)).unwrap_err().to_string(),
            "text of 21 tokens exceeds the limit of 20 tokens (--option a.max_tokens)"
        );
        let usual = reader(None, 6).unwrap();
        assert!(usual.document(&"a ".repeat(MAX_TOKENS)).is_ok());
        assert!(usual.document(&"a ".repeat(MAX_TOKENS + 1)).is_err());
        assert!(MAX_TOKENS_HELP.1.contains(&MAX_TOKENS.to_string()));
    }

    #[test]
    fn a_limit_that_is_none_and_a_vocabulary_too_small_are_refused() {
        for text in ["0", "-1", "many"] {
            let error = reader(Some(text), 6).unwrap_err().to_string();
            assert!(error.contains(OPTION) && error.contains(text), "{error}");
        }
        let error = reader(None, 5).unwrap_err().to_string();
        assert!(
            error.contains("the tokenizer's 6 at least, got 5"),
            "{error}"
        );
    }
}
