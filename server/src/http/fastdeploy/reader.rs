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
    match Whole(&sink).deserialize(body) {
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

impl<'de> DeserializeSeed<'de> for Whole<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

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
                (true, false) => map.next_value_seed(List(self.0))?,
                // A list, an object, or a file of that name.
                (true, true) => map.next_value_seed(Data(self.0))?,
                (false, true) => map.next_value_seed(Item(self.0))?,
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

/// Prints what a visitor expects.
struct Expected<'a, V>(&'a V);

impl<'de, V: Visitor<'de>> std::fmt::Display for Expected<'_, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.expecting(f)
    }
}

/// A list of items.
struct List<'a>(&'a Sink);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of inputs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Item(self.0))?.is_some() {}
        Ok(())
    }
}

/// What stands under `data` for a recipe that takes files.
struct Data<'a>(&'a Sink);

impl<'de> DeserializeSeed<'de> for Data<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

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

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
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
            map.next_value_seed(OneFile(self.0))?;
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

impl<'de> DeserializeSeed<'de> for OneFile<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

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
mod tests {
    use galley_core::InputKind;
    use serde_json::json;

    use super::*;

    const JSON: Bounds = Bounds {
        items: 4,
        values: 8,
        kind: InputKind::Json,
    };
    const FILES: Bounds = Bounds {
        kind: InputKind::File,
        ..JSON
    };

    fn json(body: &str, bounds: Bounds) -> Result<Items, ApiError> {
        read(
            &mut serde_json::Deserializer::from_str(body),
            |error| ApiError::malformed(error.to_string()),
            bounds,
        )
    }

    fn texts(texts: &[&str]) -> Items {
        Items {
            inputs: texts.iter().map(|text| Input::text(*text)).collect(),
            refused: Vec::new(),
        }
    }

    fn files(files: &[&'static str]) -> Vec<Input> {
        files
            .iter()
            .map(|file| Input::File(file.as_bytes().into()))
            .collect()
    }

    #[test]
    fn lists_and_lists_under_data_are_inputs() {
        for body in [
            r#"["a", "ü"]"#,
            r#"{"data": ["a", "\u00fc"]}"#,
            r#"{"x": [{}], "data": ["a", "ü"], "y": 1}"#,
        ] {
            assert_eq!(json(body, JSON), Ok(texts(&["a", "ü"])), "{body}");
        }
        let any = json!([null, true, -1, {"a": [1.5, "b", 18446744073709551615u64]}]);
        let inputs = any
            .as_array()
            .unwrap()
            .iter()
            .cloned()
            .map(Input::Json)
            .collect();
        assert_eq!(
            json(&any.to_string(), JSON),
            Ok(Items {
                inputs,
                refused: Vec::new()
            })
        );
        for body in [
            "1",
            "\"a\"",
            "null",
            "{}",
            r#"{"inputs": []}"#,
            r#"{"data": "a"}"#,
            r#"{"data": [], "data": []}"#,
        ] {
            let error = json(body, JSON).unwrap_err();
            assert!(
                matches!(&error, ApiError::Malformed(reason) if reason.contains("data") || reason.contains("list")),
                "{body}: {error}"
            );
        }
    }

    #[test]
    fn files_come_in_base64_and_each_stands_for_itself() {
        for body in [
            r#"["Y2F0", "ZG9n"]"#,
            r#"{"data": ["Y2F0", "ZG9n"]}"#,
            r#"{"z.jpg": "Y2F0", "a.jpg": "ZG9n"}"#,
            r#"{"data": {"z.jpg": "Y2F0", "a.jpg": "ZG9n"}}"#,
            r#"[{"z.jpg": "Y2F0"}, {"a.jpg": "ZG9n"}]"#,
            r#"["Y2\nF0\n", "data:image/png;base64,ZG9n"]"#,
        ] {
            assert_eq!(
                json(body, FILES).unwrap().inputs,
                files(&["cat", "dog"]),
                "{body}"
            );
        }
        let items = json(r#"["Y2F0", "?", 7, "ZG9n"]"#, FILES).unwrap();
        assert_eq!(items.inputs, files(&["cat", "dog"]));
        let places: Vec<usize> = items.refused.iter().map(|(place, _)| *place).collect();
        assert_eq!(places, [1, 2]);
        assert_eq!(
            items.refused[1].1.to_string(),
            "expected a file in base64, got a number"
        );
    }

    #[test]
    fn msgpack_carries_files_and_texts() {
        let body = rmp_serde::to_vec(&("a", serde_json::json!({"k": [1, 2.5]}))).unwrap();
        let mut bytes = body.clone();
        bytes[0] = 0x93;
        bytes.extend([0xc4, 3, b'c', b'a', b't']);
        let read = |bytes: &[u8], bounds| {
            read(
                &mut rmp_serde::Deserializer::from_read_ref(bytes),
                |error| ApiError::malformed(error.to_string()),
                bounds,
            )
        };
        let expected = vec![
            Input::text("a"),
            Input::Json(json!({"k": [1, 2.5]})),
            Input::File("cat".into()),
        ];
        assert_eq!(read(&bytes, JSON).unwrap().inputs, expected);
        // A length that is claimed, and not there; an extension; NaN; a number as a key; binary inside a value.
        for bytes in [
            &[0xdd, 0xff, 0xff, 0xff, 0xff, 0xc0][..],
            &[0x91, 0xd4, 1, 1],
            &[0x91, 0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0],
            &[0x91, 0x81, 1, 1],
            &[0x91, 0x91, 0xc4, 1, 1],
        ] {
            assert!(
                matches!(read(bytes, JSON), Err(ApiError::Malformed(_))),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn items_and_values_are_bounded() {
        let error = json("[1,2,3,4,5]", JSON).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the number of inputs exceeds the limit of 4 items (--max-queue-size)"
        );
        assert!(json("[[1,2,3,4],[5,6,7,8]]", JSON).is_ok());
        assert!(matches!(
            json("[[1,2,3,4],[5,6,7,[8]]]", JSON),
            Err(ApiError::TooLarge { .. })
        ));
        assert!(matches!(
            json(&"[".repeat(500), JSON),
            Err(ApiError::Malformed(_) | ApiError::TooLarge { .. })
        ));
    }

    #[test]
    fn a_digest_knows_inputs_and_not_their_encoding() {
        let digest = |body: &str, bounds| json(body, bounds).unwrap().digest();
        assert_eq!(
            digest(r#"["a", {"k": 1}]"#, JSON),
            digest(r#"{"data": ["\u0061", {"k" : 1}]}"#, JSON)
        );
        assert_eq!(
            digest(r#"["Y2F0"]"#, FILES),
            digest(r#"{"cat.jpg": "Y2F0"}"#, FILES)
        );
        let different = [
            r#"["a","b"]"#,
            r#"["ab"]"#,
            r#"["b","a"]"#,
            r#"["a",["b"]]"#,
            "[]",
            r#"["1"]"#,
            "[1]",
        ];
        let digests: std::collections::HashSet<_> =
            different.iter().map(|body| digest(body, JSON)).collect();
        assert_eq!(digests.len(), different.len());
    }
}
