//! Request bodies: made from the corpus as they are needed, so that memory holds no more than what is in flight.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use galley_core::InputKind;

use crate::{corpus::Corpus, error::Result};

/// Between the parts of a multipart body. No JPEG or PNG contains it but by a chance of one in 2^200.
const BOUNDARY: &str = "galley-bench-7f3e1c9a5b2d4e6f8091a2b3c4d5e6f7";

/// How a recipe's inputs are put into a request.
#[derive(Debug)]
pub(crate) enum Encoder {
    /// `multipart/form-data`, a part each.
    Multipart(Arc<Corpus>),
    /// A JSON list of texts; each text is encoded once.
    Json(Vec<Bytes>),
}

impl Encoder {
    /// The encoding for a recipe that takes inputs of this kind.
    ///
    /// # Errors
    /// The corpus cannot be read.
    pub(crate) fn new(kind: InputKind, corpus: &Arc<Corpus>) -> Result<Self> {
        match kind {
            InputKind::File => Ok(Self::Multipart(corpus.clone())),
            InputKind::Json => (0..corpus.len())
                .map(|index| {
                    let text = corpus.bytes(index)?;
                    let text = String::from_utf8_lossy(&text);
                    Ok(serde_json::Value::from(text).to_string().into())
                })
                .collect::<Result<_>>()
                .map(Self::Json),
        }
    }

    /// The request's `Content-Type`.
    pub(crate) fn content_type(&self) -> String {
        match self {
            Self::Multipart(_) => format!("multipart/form-data; boundary={BOUNDARY}"),
            Self::Json(_) => "application/json".into(),
        }
    }

    /// The body with these examples.
    ///
    /// # Errors
    /// The corpus cannot be read.
    pub(crate) fn body(&self, examples: Range<usize>) -> Result<Bytes> {
        match self {
            Self::Json(texts) => {
                let texts = &texts[examples];
                let size = texts.iter().map(|text| text.len() + 1).sum::<usize>() + 1;
                let mut body = Vec::with_capacity(size);
                for text in texts {
                    body.push(if body.is_empty() { b'[' } else { b',' });
                    body.extend_from_slice(text);
                }
                body.push(b']');
                Ok(body.into())
            }
            Self::Multipart(corpus) => {
                let mut body = Vec::new();
                for index in examples {
                    let head = format!(
                        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{index}\"; filename=\"{index}.jpg\"\r\n\
                         Content-Type: image/jpeg\r\n\r\n"
                    );
                    let file = corpus.bytes(index)?;
                    body.reserve(head.len() + file.len() + 2 * BOUNDARY.len());
                    body.extend_from_slice(head.as_bytes());
                    body.extend_from_slice(&file);
                    body.extend_from_slice(b"\r\n");
                }
                body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
                Ok(body.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::{CorpusKind, SEED};

    #[test]
    fn texts_become_a_json_list() {
        let corpus = Arc::new(Corpus::open(CorpusKind::Ner, 3, SEED, &|_, _| ()).unwrap());
        let encoder = Encoder::new(InputKind::Json, &corpus).unwrap();
        let texts: Vec<String> = serde_json::from_slice(&encoder.body(1..3).unwrap()).unwrap();
        assert_eq!(texts.len(), 2);
        assert_eq!(texts[0].as_bytes(), corpus.bytes(1).unwrap());
    }

    #[test]
    fn files_become_parts_of_a_form() {
        let corpus = Arc::new(Corpus::open(CorpusKind::Sentiment, 2, SEED, &|_, _| ()).unwrap());
        let encoder = Encoder::new(InputKind::File, &corpus).unwrap();
        let body = String::from_utf8(encoder.body(0..2).unwrap().to_vec()).unwrap();
        assert_eq!(body.matches("filename=").count(), 2);
        assert!(body.ends_with(&format!("\r\n--{BOUNDARY}--\r\n")));
        assert!(encoder.content_type().ends_with(BOUNDARY));
    }
}
