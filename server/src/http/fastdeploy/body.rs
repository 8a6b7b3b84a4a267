//! From bytes to inputs: recognising what a body is, unpacking it, reading it.

use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, stream};
use galley_core::{Input, InputError, InputKind};

use super::{
    answer::Format,
    items::{Digest, Items},
    query::Query,
    reader,
    sink::{Bounds, Sink},
    zstd,
};
use crate::http::{HttpConfig, error::ApiError, limits::Share, pool};

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
    form: Form,
    bounds: Bounds,
    /// The most bytes that it may decompress to, if it is compressed.
    max_decompressed: Option<u64>,
    /// Whether the digest is wanted.
    with_digest: bool,
    share: Share,
}

/// The inputs of a request.
pub(super) struct Read {
    pub(super) items: Items,
    /// Tells the request from others with the same id.
    pub(super) digest: Option<Digest>,
    /// Room that the inputs take.
    pub(super) share: Share,
}

impl Arrived {
    /// Recognises a body.
    pub(super) fn new(
        (body, share): (Bytes, Share),
        query: &Query,
        headers: &HeaderMap,
        (kind, max_items): (InputKind, usize),
        config: &HttpConfig,
    ) -> Result<Self, ApiError> {
        let values = usize::try_from(config.max_body / BYTES_A_VALUE).unwrap_or(usize::MAX);
        Ok(Self {
            form: recognise(query.input_type, headers, kind)?,
            bounds: Bounds {
                items: max_items,
                values,
                kind,
            },
            max_decompressed: query.compressed.then_some(config.max_decompressed),
            with_digest: query.unique_id.is_some(),
            body,
            share,
        })
    }

    /// Reads the inputs; large bodies on the CPU pool, so that other requests need not wait.
    pub(super) async fn read(mut self) -> Result<Read, ApiError> {
        if let Some(max) = self.max_decompressed {
            if self.body.len() > INLINE {
                return self.read_pooled().await;
            }
            match zstd::decompress(&self.body, max.min(INLINE_DECOMPRESSED)) {
                Err(ApiError::TooLarge { .. }) if max > INLINE_DECOMPRESSED => {
                    return self.read_pooled().await;
                }
                plain => self.unpacked(plain?)?,
            }
        }
        if self.body.len() > INLINE {
            self.read_pooled().await
        } else {
            self.read_here()
        }
    }

    async fn read_pooled(self) -> Result<Read, ApiError> {
        pool::run(move || self.read_here()).await
    }

    fn read_here(mut self) -> Result<Read, ApiError> {
        if let Some(max) = self.max_decompressed {
            let plain = zstd::decompress(&self.body, max)?;
            self.unpacked(plain)?;
        }
        let items = decode(self.form, &self.body, self.bounds)?;
        let digest = self.with_digest.then(|| items.digest());
        Ok(Read {
            items,
            digest,
            share: self.share,
        })
    }

    fn unpacked(&mut self, plain: Bytes) -> Result<(), ApiError> {
        self.share.grow(plain.len())?;
        self.body = plain;
        self.max_decompressed = None;
        Ok(())
    }
}

/// What the query names counts; without that, what the content type says; without either it is JSON.
fn recognise(
    input_type: Option<Format>,
    headers: &HeaderMap,
    kind: InputKind,
) -> Result<Form, ApiError> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && encoding != "identity"
    {
        return Err(ApiError::UnsupportedType(
            "no Content-Encoding is supported; use compressed=True with a body compressed with zstd".into(),
        ));
    }
    match input_type {
        Some(Format::Json) => return Ok(Form::Json),
        Some(Format::Msgpack) => return Ok(Form::Msgpack),
        None => {}
    }
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else {
        return Ok(Form::Json);
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
            Form::Multipart(multer::parse_boundary(&*content_type).map_err(|_| {
                ApiError::malformed("multipart/form-data: expected a boundary in Content-Type")
            })?)
        }
        "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => {
            Form::Msgpack
        }
        "application/octet-stream" if kind == InputKind::File => Form::File,
        image if image.starts_with("image/") => Form::File,
        _ => Form::Json,
    })
}

fn decode(form: Form, body: &Bytes, bounds: Bounds) -> Result<Items, ApiError> {
    match form {
        Form::Json => {
            let mut json = serde_json::Deserializer::from_slice(body);
            let items = reader::read(&mut json, "JSON", bounds)?;
            json.end()
                .map_err(|error| ApiError::malformed(format!("JSON: {error}")))?;
            Ok(items)
        }
        Form::Msgpack => {
            let mut msgpack = rmp_serde::Deserializer::from_read_ref(&**body);
            msgpack.set_max_depth(MAX_DEPTH);
            reader::read(&mut msgpack, "msgpack", bounds)
        }
        Form::Multipart(boundary) => multipart(body, boundary, bounds),
        Form::File if body.is_empty() => {
            Err(ApiError::malformed("the body is empty, expected a file"))
        }
        Form::File => Ok(Items {
            inputs: vec![Input::File(body.clone())],
            refused: Vec::new(),
        }),
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
mod tests {
    use super::*;

    fn form(
        input_type: Option<Format>,
        content_type: &'static str,
        kind: InputKind,
    ) -> Result<Form, ApiError> {
        let mut headers = HeaderMap::new();
        if !content_type.is_empty() {
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        }
        recognise(input_type, &headers, kind)
    }

    #[test]
    fn bodies_are_recognised_by_query_then_content_type() {
        use InputKind::{File, Json};
        let multipart = "Multipart/Form-Data; boundary=\"x\"";
        for (input_type, content_type, kind, expected) in [
            (None, "", File, Form::Json),
            (None, "application/json; charset=utf-8", File, Form::Json),
            (None, "application/x-www-form-urlencoded", Json, Form::Json),
            (None, "application/octet-stream", Json, Form::Json),
            (None, "application/octet-stream", File, Form::File),
            (None, "image/jpeg", Json, Form::File),
            (None, "IMAGE/PNG", File, Form::File),
            (None, "application/msgpack", Json, Form::Msgpack),
            (None, multipart, File, Form::Multipart("x".into())),
            (
                Some(Format::Json),
                "application/octet-stream",
                File,
                Form::Json,
            ),
            (
                Some(Format::Msgpack),
                "application/octet-stream",
                File,
                Form::Msgpack,
            ),
        ] {
            assert_eq!(
                form(input_type, content_type, kind),
                Ok(expected),
                "{input_type:?} {content_type}"
            );
        }
        assert!(matches!(
            form(None, "multipart/form-data", File),
            Err(ApiError::Malformed(_))
        ));
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
        assert!(matches!(
            recognise(None, &headers, Json),
            Err(ApiError::UnsupportedType(_))
        ));
    }

    #[test]
    fn parts_keep_their_order_and_names_do_not_matter() {
        let body = "--x\r\nContent-Disposition: form-data; name=\"z\"; filename=\"z.jpg\"\r\n\r\nfirst\r\n\
            --x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\r\n\
            --x\r\nContent-Disposition: form-data; name=\"z\"\r\n\r\nthird\r\n--x--\r\n";
        let bounds = Bounds {
            items: 3,
            values: 0,
            kind: InputKind::File,
        };
        let items = multipart(&body.into(), "x".into(), bounds).unwrap();
        assert_eq!(
            items.inputs,
            ["first", "", "third"].map(|file| Input::File(file.into()))
        );
        let few = Bounds { items: 2, ..bounds };
        assert!(matches!(
            multipart(&body.into(), "x".into(), few),
            Err(ApiError::TooLarge { .. })
        ));
        assert!(matches!(
            multipart(&body[..90].into(), "x".into(), bounds),
            Err(ApiError::Malformed(_))
        ));
        let texts = multipart(
            &body.into(),
            "x".into(),
            Bounds {
                kind: InputKind::Json,
                ..bounds
            },
        )
        .unwrap();
        assert_eq!(texts.inputs[2], Input::text("third"));
    }
}
