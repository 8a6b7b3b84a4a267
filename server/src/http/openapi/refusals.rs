//! How refusals are described: each status once, in the shape of its protocol.

use std::collections::BTreeMap;

use utoipa::{
    IntoResponses, ToSchema,
    openapi::{
        Content, HeaderBuilder, Object, RefOr, Response, ResponseBuilder, Type,
        schema::{Ref, Schema},
    },
};

use crate::http::{fastdeploy, oip};

/// A protocol's refusals with these statuses.
pub(in crate::http) trait Refusals {
    /// The shape.
    type Body: ToSchema;
    /// The statuses.
    const STATUSES: &'static [u16];
    /// The content types besides JSON.
    const ENCODED: &'static [&'static str] = &[];
}

/// The response to a request without a key, in the shape of the protocol whose path it is.
pub(super) fn unauthorized(path: &str) -> RefOr<Response> {
    match oip::is_here(path) {
        true => response::<oip::ErrorBody>(401, &[]).into(),
        false => response::<fastdeploy::Answer<'_>>(401, fastdeploy::ENCODED).into(),
    }
}

fn response<T: ToSchema>(status: u16, encoded: &[&str]) -> Response {
    let body = Ref::from_schema_name(T::name());
    let mut response = ResponseBuilder::new()
        .description(meaning(status))
        .content("application/json", Content::new(Some(body)));
    for content_type in encoded {
        response = response.content(*content_type, binary());
    }
    let header = match status {
        401 => Some(("WWW-Authenticate", Type::String)),
        429 => Some(("Retry-After", Type::Integer)),
        _ => None,
    };
    if let Some((name, kind)) = header {
        let header = HeaderBuilder::new().schema(Some(Object::with_type(kind)));
        response = response.header(name, header.build());
    }
    response.build()
}

/// Bytes that JSON cannot describe.
fn binary() -> Content {
    Content::new(None::<RefOr<Schema>>)
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The query or the body is not what was expected, or no input of it can be read",
        401 => "No valid API key came along",
        404 => "There is no such recipe or result",
        408 => "The body stood still, or came too slowly while its room was needed",
        409 => "The id stands for another request",
        413 => "Larger than a limit; the reason names it and its option",
        415 => "The body's format is not supported",
        429 => "The queue is full, or the server holds as many bytes of bodies as it may",
        500 => "The device or the recipe failed",
        503 => "Not ready, draining, not healthy, or a job's table cannot be reached",
        504 => "The deadline passed",
        _ => "",
    }
}

/// What to write in a handler's list of responses for a protocol's refusals.
#[derive(Debug)]
pub(in crate::http) struct Described<T>(std::marker::PhantomData<T>);

impl<T: Refusals> IntoResponses for Described<T> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let entry = |status: &u16| {
            let response = response::<T::Body>(*status, T::ENCODED);
            (status.to_string(), response.into())
        };
        T::STATUSES.iter().map(entry).collect()
    }
}
