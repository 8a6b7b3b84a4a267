//! From bytes to inputs: recognising what a body is, unpacking it, reading it.

use std::{fmt, str::FromStr};

use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, stream};
use galley_core::{Input, InputError, InputKind};
use serde::de::Visitor;

use super::{
    answer::Format,
    items::{Digest, Items},
    query::Query,
    reader,
    sink::{Bounds, Sink},
};
use crate::http::{
    HttpConfig, budget::Share, encoding::Encoding, error::ApiError, json, pool, signature,
};

/// Bodies up to this size are read where they arrive, which takes less time than handing them to another thread.
const INLINE: usize = 64 << 10;
/// Compressed bodies may come out this large there.
const INLINE_DECOMPRESSED: u64 = 256 << 10;
/// Bytes of the largest body for each JSON value that a body may hold; a value takes about so many in memory.
const BYTES_A_VALUE: u64 = 32;
/// How deep msgpack may nest, as JSON may.
const MAX_DEPTH: usize = 128;

/// What a body is.
#[derive(Clone, Debug, PartialEq)]
enum Form {
    Json,
    Msgpack,
    /// With its boundary.
    Multipart(String),
    /// One file.
    File,
}

/// A body that has arrived, and how to read it.
pub(super) struct Arrived {
    body: Bytes,
    declared: Declared,
    bounds: Bounds,
    /// How it is compressed; the last of them is the outermost.
    packed: Vec<Encoding>,
    /// The most bytes that it may decompress to.
    max_decompressed: u64,
    /// Whether the digest is wanted.
    with_digest: bool,
    /// Whether the body itself is wanted too.
    with_source: bool,
    share: Share,
}

/// The inputs of a request.
pub(super) struct Read {
    pub(super) items: Items,
    /// Tells the request from others with the same id.
    pub(super) digest: Option<Digest>,
    /// The body that they were read from and what it is, for [`read_again`].
    pub(super) source: Option<(String, Bytes)>,
    /// Room that the inputs take.
    pub(super) share: Share,
}

impl Arrived {
    /// Recognises a body.
    pub(super) fn new(
        (body, share): (Bytes, Share),
        query: &Query,
        headers: &HeaderMap,
        takes: (InputKind, usize),
        config: &HttpConfig,
    ) -> Result<Self, ApiError> {
        let by_query = query.compressed.then_some(Encoding::Zstd);
        let packed = by_query.into_iter().chain(Encoding::of_body(headers)?);
        Ok(Self {
            declared: declared(query.input_type, headers)?,
            packed: packed.collect(),
            bounds: bounds(takes, config),
            max_decompressed: config.max_decompressed,
            with_digest: query.unique_id.is_some(),
            with_source: query.is_async && config.jobs.is_some(),
            body,
            share,
        })
    }

    /// Reads the inputs; large bodies on the CPU pool, so that other requests need not wait.
    pub(super) async fn read(mut self) -> Result<Read, ApiError> {
        if self.body.len() <= INLINE {
            match self.unpack(INLINE_DECOMPRESSED.min(self.max_decompressed)) {
                // Large after all.
                Err(ApiError::TooLarge { .. }) if self.max_decompressed > INLINE_DECOMPRESSED => {}
                Ok(()) if self.body.len() <= INLINE => return self.read_here(),
                unpacked => unpacked?,
            }
        }
        pool::run(move || self.read_here()).await
    }

    fn read_here(mut self) -> Result<Read, ApiError> {
        self.unpack(self.max_decompressed)?;
        let form = form(self.declared, &self.body, self.bounds.kind)?;
        let items = decode(&form, &self.body, self.bounds)?;
        let gone = if self.with_source { 0 } else { self.body.len() };
        // Many small values take more room than the body that they were.
        self.share.grow(items.memory().saturating_sub(gone))?;
        let digest = self.with_digest.then(|| items.digest());
        Ok(Read {
            items,
            digest,
            source: self.with_source.then(|| (form.to_string(), self.body)),
            share: self.share,
        })
    }

    /// Decompresses what is compressed, to at most `limit` bytes.
    fn unpack(&mut self, limit: u64) -> Result<(), ApiError> {
        while let Some(encoding) = self.packed.last() {
            let plain = encoding.decompress(&self.body, limit)?;
            self.share.grow(plain.len())?;
            self.body = plain;
            self.packed.pop();
        }
        Ok(())
    }
}

/// Reads the inputs of a body that was read before, perhaps by another version.
pub(super) async fn read_again(
    form: &str,
    (body, mut share): (Bytes, Share),
    takes: (InputKind, usize),
    config: &HttpConfig,
) -> Result<(Items, Share), ApiError> {
    let form: Form = form.parse()?;
    let bounds = bounds(takes, config);
    let inline = body.len() <= INLINE;
    let read = move || {
        let items = decode(&form, &body, bounds)?;
        share.grow(items.memory().saturating_sub(body.len()))?;
        Ok((items, share))
    };
    match inline {
        true => read(),
        false => pool::run(read).await,
    }
}

fn bounds((kind, items): (InputKind, usize), config: &HttpConfig) -> Bounds {
    Bounds {
        items,
        values: usize::try_from(config.max_body / BYTES_A_VALUE).unwrap_or(usize::MAX),
        kind,
    }
}

/// As a body's form is remembered.
impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json => f.write_str("json"),
            Self::Msgpack => f.write_str("msgpack"),
            Self::File => f.write_str("file"),
            Self::Multipart(boundary) => write!(f, "multipart {boundary}"),
        }
    }
}

impl FromStr for Form {
    type Err = ApiError;

    fn from_str(form: &str) -> Result<Self, ApiError> {
        match (form, form.split_once(' ')) {
            ("json", _) => Ok(Self::Json),
            ("msgpack", _) => Ok(Self::Msgpack),
            ("file", _) => Ok(Self::File),
            (_, Some(("multipart", boundary))) => Ok(Self::Multipart(boundary.into())),
            _ => Err(ApiError::malformed(
                "a body of a form that this version does not know",
            )),
        }
    }
}

/// What a request says that its body is.
#[derive(Clone, Debug, PartialEq)]
enum Declared {
    /// It does.
    As(Form),
    /// JSON, by its content type.
    JsonByType,
    /// Bytes of any kind.
    Bytes,
    /// Nothing that would be believed: programs like curl send a type of their own unless told.
    Nothing,
}

/// What the query names counts; without that, what the content type says.
fn declared(input_type: Option<Format>, headers: &HeaderMap) -> Result<Declared, ApiError> {
    match input_type {
        Some(Format::Json) => return Ok(Declared::As(Form::Json)),
        Some(Format::Msgpack) => return Ok(Declared::As(Form::Msgpack)),
        None => {}
    }
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else {
        return Ok(Declared::Nothing);
    };
    let content_type = String::from_utf8_lossy(content_type.as_bytes());
    let essence = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    Ok(match essence.as_str() {
        "multipart/form-data" => {
            let boundary = multer::parse_boundary(&*content_type).map_err(|_| {
                ApiError::malformed("multipart/form-data: expected a boundary in Content-Type")
            })?;
            Declared::As(Form::Multipart(boundary))
        }
        "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => {
            Declared::As(Form::Msgpack)
        }
        "application/octet-stream" => Declared::Bytes,
        "application/json" => Declared::JsonByType,
        image if image.starts_with("image/") => Declared::As(Form::File),
        _ => Declared::Nothing,
    })
}

/// What a body is: what it was said to be, or by its first bytes an image, or else JSON.
fn form(declared: Declared, body: &[u8], kind: InputKind) -> Result<Form, ApiError> {
    let is_json = match declared {
        Declared::As(Form::Json) => true,
        Declared::As(form) => return Ok(form),
        Declared::Bytes if kind == InputKind::File => return Ok(Form::File),
        Declared::JsonByType => true,
        Declared::Bytes | Declared::Nothing => false,
    };
    match (signature::image(body), kind) {
        (None, _) => Ok(Form::Json),
        (Some(_), InputKind::File) if !is_json => Ok(Form::File),
        (Some(image), InputKind::File) => Err(ApiError::malformed(format!(
            "expected JSON, as the request says, got an image; send it with Content-Type: {image} and without input_type"
        ))),
        (Some(image), InputKind::Json) => Err(ApiError::malformed(format!(
            "expected inputs in JSON, got an image ({image}), which this recipe does not take"
        ))),
    }
}

fn decode(form: &Form, body: &Bytes, bounds: Bounds) -> Result<Items, ApiError> {
    match form {
        Form::Json => {
            let body = json::without_mark(body);
            let refusal = |error: serde_json::Error| json::refusal(body, &error);
            let mut json = serde_json::Deserializer::from_slice(body);
            let items = reader::read(&mut json, refusal, bounds)?;
            json.end().map_err(refusal)?;
            Ok(items)
        }
        Form::Msgpack => {
            let mut msgpack = rmp_serde::Deserializer::from_read_ref(&**body);
            msgpack.set_max_depth(MAX_DEPTH);
            let refusal = |error| ApiError::malformed(format!("msgpack: {error}"));
            let items = reader::read(&mut msgpack, refusal, bounds)?;
            // Only where nothing is left there is no marker of another value.
            match serde::Deserializer::deserialize_any(&mut msgpack, Nothing) {
                Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(items),
                _ => Err(ApiError::malformed(
                    "msgpack: expected one value, got more after it",
                )),
            }
        }
        Form::Multipart(boundary) => multipart(body, boundary.clone(), bounds),
        Form::File if body.is_empty() => {
            Err(ApiError::malformed("the body is empty, expected a file"))
        }
        Form::File => Ok(Items {
            inputs: vec![Input::File(body.clone())],
            refused: Vec::new(),
        }),
    }
}

/// Takes no value at all.
struct Nothing;

impl Visitor<'_> for Nothing {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nothing")
    }
}

fn multipart(body: &Bytes, boundary: String, bounds: Bounds) -> Result<Items, ApiError> {
    let malformed =
        |error: multer::Error| ApiError::malformed(format!("multipart/form-data: {error}"));
    let sink = Sink::new(bounds);
    let whole = stream::iter([Ok::<_, std::convert::Infallible>(body.clone())]);
    let mut parts = multer::Multipart::new(whole, boundary);
    let read = async {
        while let Some(mut part) = parts.next_field().await.map_err(malformed)? {
            let mut bytes = part.chunk().await.map_err(malformed)?.unwrap_or_default();
            while let Some(more) = part.chunk().await.map_err(malformed)? {
                let mut both = BytesMut::from(bytes);
                both.extend_from_slice(&more);
                bytes = both.freeze();
            }
            sink.push(part_as_input(bytes, bounds.kind))?;
        }
        Ok(())
    };
    // Everything is in memory, so that there is nothing to wait for.
    read.now_or_never()
        .unwrap_or_else(|| Err(ApiError::malformed("multipart/form-data: incomplete")))?;
    Ok(sink.into_items())
}

/// A part is a file; for a recipe that takes none it is a text.
fn part_as_input(bytes: Bytes, kind: InputKind) -> Result<Input, InputError> {
    match kind {
        InputKind::File => Ok(Input::File(bytes)),
        InputKind::Json => match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Input::text(text)),
            Err(_) => Err(InputError::WrongKind {
                expected: "a text in UTF-8",
                got: "a file",
            }),
        },
    }
}

#[cfg(test)]
mod tests;
