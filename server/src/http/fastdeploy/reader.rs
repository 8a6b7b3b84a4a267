//! Inputs read straight from JSON or msgpack, by the same visitors: no tree of the whole body is built on the way.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use galley_core::{Input, InputError};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{
    items::Items,
    sink::{Bounds, Sink},
    value::{AnyValue, finite},
};
use crate::http::error::ApiError;

/// Reads a whole body.
///
/// # Errors
/// A limit that is exceeded, or what `refusal` makes of an error of the format.
pub(super) fn read<'de, D: Deserializer<'de>>(
    body: D,
    refusal: impl FnOnce(D::Error) -> ApiError,
    bounds: Bounds,
) -> Result<Items, ApiError> {
    let sink = Sink::new(bounds);
    match body.deserialize_any(Whole(&sink)) {
        Ok(()) => Ok(sink.into_items()),
        Err(error) => Err(sink.exceeded().unwrap_or_else(|| refusal(error))),
    }
}

/// Decodes a file in text: base64, perhaps in lines, perhaps as a data URL.
fn file_in(text: &str) -> Result<Input, InputError> {
    let text = text
        .strip_prefix("data:")
        .and_then(|url| url.split_once(";base64,"))
        .map_or(text, |(_, data)| data);
    let decoded = STANDARD.decode(text).or_else(|_| {
        let without_spaces: Vec<u8> = text
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        STANDARD.decode(without_spaces)
    });
    decoded
        .map(|bytes| Input::File(bytes.into()))
        .map_err(|_| InputError::Unreadable("expected a file in base64".into()))
}

const FILE_IN_TEXT: &str = "a file in base64";

/// The whole body: a list, or a list under `data`; for files also an object of them.
struct Whole<'a>(&'a Sink);

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of inputs, or an object with that list under \"data\"")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        List(self.0).visit_seq(seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let takes_files = self.0.takes_files();
        let mut is_empty = true;
        while let Some(key) = map.next_key::<String>()? {
            match (key == "data", takes_files) {
                (true, false) => map.next_value_seed(By(List(self.0)))?,
                // A list, an object, or a file of that name.
                (true, true) => map.next_value_seed(By(Data(self.0)))?,
                (false, true) => map.next_value_seed(By(Item(self.0)))?,
                (false, false) => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            }
            if !is_empty && !takes_files {
                return Err(A::Error::custom("\"data\" is there twice"));
            }
            is_empty = false;
        }
        if is_empty {
            Err(A::Error::custom(format_args!(
                "expected {}",
                Expected(&self)
            )))
        } else {
            Ok(())
        }
    }
}

/// Reads a part by a visitor, whatever it is.
struct By<V>(V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for By<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_any(self.0)
    }
}

/// Prints what a visitor expects.
struct Expected<'a, V>(&'a V);

impl<'de, V: Visitor<'de>> std::fmt::Display for Expected<'_, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.expecting(f)
    }
}

/// A list of items.
struct List<'a>(&'a Sink);

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of inputs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(By(Item(self.0)))?.is_some() {}
        Ok(())
    }
}

/// What stands under `data` for a recipe that takes files.
struct Data<'a>(&'a Sink);

impl<'de> Visitor<'de> for Data<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list or an object of files in base64")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        List(self.0).visit_seq(seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        Item(self.0).visit_map(map)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        Item(self.0).visit_str(text)
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<(), E> {
        Item(self.0).visit_bytes(bytes)
    }
}

/// One item: a JSON value or a file, as the recipe takes it; or an object of files, each of them an item.
struct Item<'a>(&'a Sink);

impl Item<'_> {
    fn value<E: Error>(self, value: Value) -> Result<(), E> {
        let input = Input::Json(value);
        let item = match self.0.takes_files() {
            true => Err(InputError::WrongKind {
                expected: FILE_IN_TEXT,
                got: input.describe(),
            }),
            false => Ok(input),
        };
        self.0.push_or(item)
    }
}

impl<'de> Visitor<'de> for Item<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an input")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.value(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.value(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.value(number.into())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.value(number.into())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.value(finite(number)?)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match self.0.takes_files() {
            true => self.0.push_or(file_in(text)),
            false => self.value(Value::String(text.to_owned())),
        }
    }

    fn visit_string<E: Error>(self, text: String) -> Result<(), E> {
        match self.0.takes_files() {
            true => self.0.push_or(file_in(&text)),
            false => self.value(Value::String(text)),
        }
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<(), E> {
        self.0
            .push_or(Ok(Input::File(Bytes::copy_from_slice(bytes))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if !self.0.takes_files() {
            let value = AnyValue(self.0).visit_seq(seq)?;
            return self.value(value);
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        self.value(Value::Array(Vec::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if !self.0.takes_files() {
            let value = AnyValue(self.0).visit_map(map)?;
            return self.value(value);
        }
        let mut is_empty = true;
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(By(OneFile(self.0)))?;
            is_empty = false;
        }
        if is_empty {
            self.value(Value::Object(Map::new()))
        } else {
            Ok(())
        }
    }
}

/// A file in an object of files: what [`Item`] takes, but no objects in turn.
struct OneFile<'a>(&'a Sink);

impl<'de> Visitor<'de> for OneFile<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(FILE_IN_TEXT)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        Item(self.0).visit_str(text)
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<(), E> {
        Item(self.0).visit_bytes(bytes)
    }
}

#[cfg(test)]
mod tests;
