//! Request bodies: made from the corpus as they are needed, so that memory holds no more than what is in flight.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use galley_core::InputKind;
use hyper::{
    Method, Request, Uri,
    header::{CONTENT_TYPE, HeaderValue},
};
use reqwest::Url;
use serde_json::json;

use super::{
    answer::{self, Failure},
    target::{Form, Tensor},
};
use crate::{
    corpus::Corpus,
    error::{Error, Result},
};

/// Between the parts of a multipart body. No JPEG or PNG contains it but by a chance of one in 2^200.
const BOUNDARY: &str = "galley-bench-7f3e1c9a5b2d4e6f8091a2b3c4d5e6f7";
const FORM: &str = "multipart/form-data; boundary=galley-bench-7f3e1c9a5b2d4e6f8091a2b3c4d5e6f7";
/// The length of the JSON before binary tensors.
const HEADER_LENGTH: &str = "inference-header-content-length";

/// How a recipe's inputs are put into a request, and what a good answer to it is.
#[derive(Debug)]
pub(crate) enum Encoder {
    /// `multipart/form-data`, a part each.
    Multipart(Arc<Corpus>),
    /// A JSON list of texts; each text is encoded once.
    Json(Vec<Bytes>),
    /// A msgpack list of files.
    Msgpack(Arc<Corpus>),
    /// The Open Inference Protocol with texts in JSON, each encoded once.
    OipTexts(Tensor, Vec<Bytes>),
    /// The Open Inference Protocol with files as a binary tensor.
    OipFiles(Tensor, Arc<Corpus>),
}

impl Encoder {
    /// The encoding for a recipe that takes inputs of this kind from a server that is asked so.
    ///
    /// # Errors
    /// The corpus cannot be read.
    pub(crate) fn new(form: &Form, kind: InputKind, corpus: &Arc<Corpus>) -> Result<Self> {
        let files = || corpus.clone();
        Ok(match (form, kind) {
            (Form::Oip(tensor), InputKind::Json) => Self::OipTexts(tensor.clone(), texts(corpus)?),
            (Form::Oip(tensor), InputKind::File) => Self::OipFiles(tensor.clone(), files()),
            (_, InputKind::Json) => Self::Json(texts(corpus)?),
            (Form::Galley, InputKind::File) => Self::Multipart(files()),
            (Form::Fastdeploy, InputKind::File) => Self::Msgpack(files()),
        })
    }

    /// Where requests go, given where the recipe takes them.
    ///
    /// # Errors
    /// The URL cannot be asked for.
    pub(crate) fn uri(&self, infer: &Url) -> Result<Uri> {
        let mut url = infer.clone();
        if let Self::Msgpack(_) = self {
            url.set_query(Some("input_type=msgpack"));
        }
        uri(&url)
    }

    /// A request with these examples.
    ///
    /// # Errors
    /// The corpus cannot be read.
    pub(crate) fn request(&self, uri: &Uri, examples: Range<usize>) -> Result<Request<Bytes>> {
        let (json, body) = self.body(examples)?;
        let content_type = match self {
            Self::Multipart(_) => FORM,
            Self::Json(_) | Self::OipTexts(..) => "application/json",
            Self::Msgpack(_) => "application/msgpack",
            Self::OipFiles(..) => "application/octet-stream",
        };
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Self::OipFiles(..) = self {
            headers.insert(HEADER_LENGTH, json.into());
        }
        Ok(request)
    }

    /// Whether an answer is a good one to a request of `items` examples.
    pub(crate) fn check(&self, status: u16, body: &[u8], items: usize) -> Result<(), Failure> {
        match self {
            Self::Multipart(_) | Self::Json(_) => answer::check(status, body, items),
            Self::Msgpack(_) => answer::check_msgpack(status, body, items),
            Self::OipTexts(tensor, _) | Self::OipFiles(tensor, _) => {
                answer::check_oip(status, body, tensor.is_batched().then_some(items))
            }
        }
    }

    /// The body with these examples, and how much of its beginning is JSON where more follows.
    fn body(&self, examples: Range<usize>) -> Result<(usize, Bytes)> {
        let body = match self {
            Self::Json(texts) => list(&texts[examples]),
            Self::Multipart(corpus) => multipart(corpus, examples)?,
            Self::Msgpack(corpus) => msgpack(corpus, examples)?,
            Self::OipTexts(tensor, texts) => {
                let shape = tensor.shape_of(examples.len());
                let name = json!(tensor.name);
                let head = format!(
                    r#"{{"inputs":[{{"name":{name},"shape":{shape:?},"datatype":"BYTES","data":"#
                );
                [head.as_bytes(), &list(&texts[examples]), b"}]}"].concat()
            }
            Self::OipFiles(tensor, corpus) => {
                let shape = tensor.shape_of(examples.len());
                let elements = elements(corpus, examples)?;
                let parameters = json!({"binary_data_size": elements.len()});
                let input = json!({"name": tensor.name, "shape": shape, "datatype": "BYTES", "parameters": parameters});
                let json = json!({"inputs": [input]}).to_string();
                let body = [json.as_bytes(), &elements].concat();
                return Ok((json.len(), body.into()));
            }
        };
        Ok((body.len(), body.into()))
    }
}

/// A URL as a request has it.
///
/// # Errors
/// It cannot be asked for.
pub(super) fn uri(url: &Url) -> Result<Uri> {
    Uri::try_from(url.as_str()).map_err(|error| Error::Target {
        url: url.to_string(),
        reason: error.to_string(),
    })
}

/// Each text as JSON.
fn texts(corpus: &Corpus) -> Result<Vec<Bytes>> {
    let encode = |index| {
        let text = corpus.bytes(index)?;
        let text = String::from_utf8_lossy(&text);
        Ok(serde_json::Value::from(text).to_string().into())
    };
    (0..corpus.len()).map(encode).collect()
}

fn list(texts: &[Bytes]) -> Vec<u8> {
    let size = texts.iter().map(|text| text.len() + 1).sum::<usize>() + 1;
    let mut body = Vec::with_capacity(size);
    for text in texts {
        body.push(if body.is_empty() { b'[' } else { b',' });
        body.extend_from_slice(text);
    }
    body.push(b']');
    body
}

fn multipart(corpus: &Corpus, examples: Range<usize>) -> Result<Vec<u8>> {
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
    Ok(body)
}

/// A list of byte strings, each with its length in 32 bits: a reader takes that of short ones too.
fn msgpack(corpus: &Corpus, examples: Range<usize>) -> Result<Vec<u8>> {
    let mut body = vec![0xdd];
    body.extend(length(examples.len()).to_be_bytes());
    for index in examples {
        let file = corpus.bytes(index)?;
        body.push(0xc6);
        body.extend(length(file.len()).to_be_bytes());
        body.extend_from_slice(&file);
    }
    Ok(body)
}

/// The elements of a BYTES tensor, each behind its length.
fn elements(corpus: &Corpus, examples: Range<usize>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    for index in examples {
        let file = corpus.bytes(index)?;
        body.extend(length(file.len()).to_le_bytes());
        body.extend_from_slice(&file);
    }
    Ok(body)
}

fn length(size: usize) -> u32 {
    u32::try_from(size).expect("a request is smaller than 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        corpus::{CorpusKind, SEED},
        served::target::tensor,
    };

    fn body(form: Form, kind: InputKind) -> (usize, Bytes, Vec<Bytes>) {
        let corpus = Arc::new(Corpus::open(CorpusKind::Ner, 3, SEED, &|_, _| ()).unwrap());
        let encoder = Encoder::new(&form, kind, &corpus).unwrap();
        let (json, body) = encoder.body(1..3).unwrap();
        let examples = (1..3).map(|index| corpus.bytes(index).unwrap()).collect();
        (json, body, examples)
    }

    #[test]
    fn texts_become_a_json_list() {
        for form in [Form::Galley, Form::Fastdeploy] {
            let (_, body, examples) = body(form, InputKind::Json);
            let texts: Vec<String> = serde_json::from_slice(&body).unwrap();
            assert_eq!(texts, examples);
        }
    }

    #[test]
    fn files_become_parts_of_a_form() {
        assert!(FORM.ends_with(BOUNDARY));
        let (_, body, _) = body(Form::Galley, InputKind::File);
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert_eq!(body.matches("filename=").count(), 2);
        assert!(body.ends_with(&format!("\r\n--{BOUNDARY}--\r\n")));
    }

    #[test]
    fn files_become_a_msgpack_list() {
        let (_, body, examples) = body(Form::Fastdeploy, InputKind::File);
        let mut expected = vec![0xdd, 0, 0, 0, 2];
        for example in examples {
            expected.extend([0xc6, 0, 0]);
            expected.extend(u16::try_from(example.len()).unwrap().to_be_bytes());
            expected.extend(example);
        }
        assert_eq!(body, expected);
    }

    #[test]
    fn inputs_become_a_tensor() {
        let (_, body, examples) = body(Form::Oip(tensor("text", &[-1, 1])), InputKind::Json);
        let texts: Vec<String> = examples
            .iter()
            .map(|text| String::from_utf8(text.to_vec()).unwrap())
            .collect();
        let request: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let input = json!({"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": texts});
        assert_eq!(request, json!({"inputs": [input]}));
    }

    #[test]
    fn files_become_a_binary_tensor() {
        let (json, body, examples) = body(Form::Oip(tensor("image", &[-1])), InputKind::File);
        let request: serde_json::Value = serde_json::from_slice(&body[..json]).unwrap();
        let input = &request["inputs"][0];
        let size = examples.iter().map(|file| 4 + file.len()).sum::<usize>();
        assert_eq!(
            (&input["shape"], &input["parameters"]["binary_data_size"]),
            (&json!([2]), &json!(size))
        );
        assert_eq!(body.len(), json + size);
        assert!(body.ends_with(&examples[1]));
    }
}
