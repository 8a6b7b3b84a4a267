//! What a source delivers: something to answer, under an id.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::future::BoxFuture;
use galley_core::InputKind;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::guard::scheme;
use crate::predict::json_or_text;

/// A message as delivered, perhaps not for the first time.
pub struct Message {
    /// What it says.
    pub body: Arc<Body>,
    /// How often it has been delivered, this time included; at least 1.
    pub deliveries: u32,
    /// When it was given to the source, where the source knows.
    pub published_at: Option<SystemTime>,
    /// Whether it may be what ended a process: it was in hand when one died. Then it runs alone.
    pub suspect: bool,
    /// How the source is told what became of it.
    pub receipt: Arc<dyn Receipt>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.body.id)
            .field("deliveries", &self.deliveries)
            .field("suspect", &self.suspect)
            .finish_non_exhaustive()
    }
}

/// Why a source does not deliver, or was not told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It cannot be reached now; worth trying again.
    #[error("the source cannot be reached: {0}")]
    Unavailable(String),
    /// It will not work as it is: it cannot be read, or is not what it should be.
    #[error("{0}")]
    Broken(String),
}

/// Tells the source what became of one delivery. Each may fail without harm: what was not acknowledged is delivered again,
/// and its row is there already.
pub trait Receipt: Send + Sync {
    /// Its row is committed: it is never to be delivered again.
    fn ack(&self) -> BoxFuture<'_, Result<(), SourceError>>;

    /// It has no row: it is to be delivered again, at once or after a time.
    fn give_back(&self, delay: Option<Duration>) -> BoxFuture<'_, Result<(), SourceError>>;

    /// It is still being worked on, and is not to be delivered to another yet.
    fn renew(&self) -> BoxFuture<'_, Result<(), SourceError>>;
}

/// What a message says: its id and what is to be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    /// The producer's id, or the digest of what is to be answered.
    pub id: String,
    /// What is to be answered.
    pub payload: Payload,
}

/// What is to be answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// What lies at this URI or path.
    Uri(String),
    /// A text, or an object with one and options of the recipe's.
    Inline(Value),
    /// Nothing: the message cannot be read. It gets a row that says why.
    Malformed(String),
}

impl Payload {
    /// Where the input lies, if it is not in the message itself.
    pub fn uri(&self) -> Option<&str> {
        match self {
            Self::Uri(uri) => Some(uri),
            Self::Inline(_) | Self::Malformed(_) => None,
        }
    }
}

impl Body {
    /// What tells this input from another under the same id: where it lies, or the digest of what is in the message.
    pub fn identity(&self) -> String {
        match &self.payload {
            Payload::Uri(uri) => uri.clone(),
            Payload::Inline(value) => format!("sha256:{}", digest(value.to_string().as_bytes())),
            Payload::Malformed(_) => String::new(),
        }
    }

    /// Reads a line or a message: for recipes that take files a URI, for others a text; or an object in JSON with `uri` or
    /// `text`, perhaps an `id`, and for texts the recipe's options. `id` is what came beside the message and goes first.
    pub fn parse(text: &str, id: Option<String>, kind: InputKind) -> Self {
        let object = text.starts_with('{').then(|| serde_json::from_str(text));
        let (own, payload) = match (object, kind) {
            (Some(Ok(object)), _) => of_object(object, kind),
            (_, InputKind::File) => (None, Payload::Uri(text.to_owned())),
            (_, InputKind::Json) => (None, Payload::Inline(json_or_text(text.to_owned()))),
        };
        let input = payload.uri().unwrap_or(text);
        let id = id.or(own).unwrap_or_else(|| digest(input.as_bytes()));
        Self { id, payload }
    }

    /// With an absolute path in place of a relative one, which in another folder would be another file.
    pub fn absolute(self) -> Self {
        let Payload::Uri(uri) = &self.payload else {
            return self;
        };
        let path = match scheme(uri) {
            None => std::path::absolute(uri).ok(),
            Some(_) => None,
        };
        let Some(path) = path.as_ref().and_then(|path| path.to_str()) else {
            return self;
        };
        let id = match self.id == digest(uri.as_bytes()) {
            true => digest(path.as_bytes()),
            false => self.id,
        };
        Self {
            id,
            payload: Payload::Uri(path.to_owned()),
        }
    }
}

fn of_object(mut object: Map<String, Value>, kind: InputKind) -> (Option<String>, Payload) {
    let id = match object.get("id") {
        None => None,
        Some(Value::String(id)) if !id.is_empty() => Some(id.clone()),
        Some(_) => return (None, malformed("expected a text that is not empty as id")),
    };
    let payload = match (kind, object.get("uri")) {
        (InputKind::File, Some(Value::String(uri))) => Payload::Uri(uri.clone()),
        (InputKind::File, _) => malformed("expected an object with a uri"),
        (InputKind::Json, _) => {
            object.remove("id");
            Payload::Inline(Value::Object(object))
        }
    };
    (id, payload)
}

fn malformed(reason: &str) -> Payload {
    Payload::Malformed(reason.into())
}

/// The id of a message that has none of its own: the SHA-256 of what it says, in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_are_uris_or_texts_or_objects() {
        let file = |text| Body::parse(text, None, InputKind::File);
        let text = |text| Body::parse(text, None, InputKind::Json);
        let uri = |uri: &str| Payload::Uri(uri.into());
        assert_eq!(file("a b.jpg").payload, uri("a b.jpg"));
        assert_eq!(file("a b.jpg").id, digest(b"a b.jpg"));
        assert_eq!(
            file(r#"{"id": "7", "uri": "s3://a/b"}"#),
            Body {
                id: "7".into(),
                payload: uri("s3://a/b")
            }
        );
        assert_eq!(file("{odd}.jpg").payload, uri("{odd}.jpg"));
        assert!(matches!(
            file(r#"{"id": "7"}"#).payload,
            Payload::Malformed(_)
        ));
        assert!(matches!(
            file(r#"{"id": 7, "uri": "a"}"#).payload,
            Payload::Malformed(_)
        ));
        assert_eq!(text("hello").payload, Payload::Inline(json!("hello")));
        assert_eq!(
            text(r#"{"id": "7", "text": "a", "x": 1}"#),
            Body {
                id: "7".into(),
                payload: Payload::Inline(json!({"text": "a", "x": 1}))
            }
        );
    }

    #[test]
    fn relative_paths_become_absolute_and_with_them_their_ids() {
        let of = |text: &str| Body::parse(text, None, InputKind::File).absolute();
        let here = std::env::current_dir().unwrap().join("a.jpg");
        let here = here.to_str().unwrap();
        assert_eq!(of("a.jpg"), of(here));
        assert_eq!(of("./a.jpg").payload, Payload::Uri(here.into()));
        assert_eq!(of(r#"{"uri": "a.jpg"}"#), of(here));
        assert_eq!(of(r#"{"id": "7", "uri": "a.jpg"}"#).id, "7");
        for uri in ["/b/../a.jpg", "https://host/a.jpg", "file:a.jpg"] {
            let body = Body::parse(uri, None, InputKind::File);
            assert_eq!(body.clone().absolute(), body);
        }
    }

    #[test]
    fn an_id_from_beside_the_message_goes_first() {
        let body = Body::parse(
            r#"{"id": "7", "uri": "a"}"#,
            Some("8".into()),
            InputKind::File,
        );
        assert_eq!(body.id, "8");
    }
}
