//! A tensor's `data` in JSON: flat, or nested as its shape says, in row-major order.
//!
//! Values are read straight into elements, as many as the shape has and no more, so that a body costs what it holds.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{input::Elements, interface::Datatype};

/// What elements of BYTES are in JSON, where every string is a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// The element itself.
    Plain,
    /// A file in base64.
    Base64,
}

/// Reads the elements of a tensor of this shape, `count` in all.
///
/// # Errors
/// They are of another kind or number, or nested in another way; the message says what was expected.
pub(super) fn read(
    data: &RawValue,
    datatype: Datatype,
    text: Text,
    (shape, count): (&[usize], usize),
) -> Result<Elements, String> {
    let mut flat = Flat {
        elements: match datatype {
            Datatype::Bytes => Elements::Bytes(Vec::new()),
            Datatype::Fp32 => Elements::Fp32(Vec::new()),
            Datatype::Int64 => return Err("INT64 is for outputs".into()),
        },
        text,
        count,
    };
    let whole = Level {
        flat: &mut flat,
        shape,
        is_outermost: true,
    };
    let kind = whole
        .deserialize(&mut serde_json::Deserializer::from_str(data.get()))
        .map_err(|error| error.to_string())?;
    if kind == Kind::Element {
        return Err("expected a list".into());
    }
    match flat.elements.len() {
        read if read == count => Ok(flat.elements),
        read => Err(format!(
            "expected {count} elements by the shape, got {read}"
        )),
    }
}

/// The elements so far.
struct Flat {
    elements: Elements,
    text: Text,
    /// The most that there may be.
    count: usize,
}

impl Flat {
    fn push_text<E: Error>(&mut self, text: &str) -> Result<(), E> {
        self.room()?;
        let Elements::Bytes(elements) = &mut self.elements else {
            return Err(E::custom("expected a number, got a text"));
        };
        elements.push(match self.text {
            Text::Plain => Bytes::copy_from_slice(text.as_bytes()),
            Text::Base64 => STANDARD.decode(text).map(Bytes::from).map_err(|error| {
                let place = elements.len();
                E::custom(format!(
                    "element {place}: expected a file in base64: {error}"
                ))
            })?,
        });
        Ok(())
    }

    fn push_number<E: Error>(&mut self, number: f64) -> Result<(), E> {
        self.room()?;
        let Elements::Fp32(elements) = &mut self.elements else {
            return Err(E::custom("expected a text, got a number"));
        };
        elements.push(number as f32);
        Ok(())
    }

    fn room<E: Error>(&self) -> Result<(), E> {
        match self.elements.len() < self.count {
            true => Ok(()),
            false => Err(E::custom(format!(
                "expected {} elements by the shape, got more",
                self.count
            ))),
        }
    }
}

/// What a value was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Element,
    List,
}

/// A value at some depth.
struct Level<'a> {
    flat: &'a mut Flat,
    /// The sizes from this depth on.
    shape: &'a [usize],
    is_outermost: bool,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = Kind;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.flat.elements {
            Elements::Bytes(_) => "a text or a list of them",
            Elements::Fp32(_) => "a number or a list of them",
        })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Kind, E> {
        self.flat.push_text(text).map(|()| Kind::Element)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Kind, E> {
        self.flat.push_number(number).map(|()| Kind::Element)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Kind, E> {
        self.visit_f64(number as f64)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Kind, E> {
        self.visit_f64(number as f64)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let (&size, inner) = self
            .shape
            .split_first()
            .ok_or_else(|| A::Error::custom("the lists are nested deeper than the shape"))?;
        let mut found = None;
        let mut length = 0;
        while let Some(kind) = seq.next_element_seed(Level {
            flat: self.flat,
            shape: inner,
            is_outermost: false,
        })? {
            if *found.get_or_insert(kind) != kind {
                return Err(A::Error::custom(
                    "expected either elements or lists in a list",
                ));
            }
            length += 1;
        }
        // All elements in one list, whatever the shape; how many, the caller knows.
        if self.is_outermost && found != Some(Kind::List) {
            return Ok(Kind::List);
        }
        if found == Some(Kind::Element) && !inner.is_empty() {
            return Err(A::Error::custom(
                "the lists are nested less deep than the shape",
            ));
        }
        match length == size {
            true => Ok(Kind::List),
            false => Err(A::Error::custom(format!(
                "expected lists of {size} by the shape, got one of {length}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(json: &str, shape: &[usize]) -> Result<Elements, String> {
        let raw = RawValue::from_string(json.into()).unwrap();
        let count = shape.iter().product();
        read(&raw, Datatype::Fp32, Text::Plain, (shape, count))
    }

    fn texts(json: &str, text: Text, count: usize) -> Result<Elements, String> {
        let raw = RawValue::from_string(json.into()).unwrap();
        read(&raw, Datatype::Bytes, text, (&[count], count))
    }

    #[test]
    fn flat_and_nested_lists_are_the_same() {
        let expected = Elements::Fp32(vec![1.0, 2.5, -3.0, 4.0]);
        for json in ["[1, 2.5, -3, 4]", "[[1, 2.5], [-3, 4]]"] {
            assert_eq!(floats(json, &[2, 2]).unwrap(), expected);
        }
        assert_eq!(
            floats("[[[1], [2.5]], [[-3], [4]]]", &[2, 2, 1]).unwrap(),
            expected
        );
        assert_eq!(floats("[]", &[0, 3]).unwrap(), Elements::Fp32(vec![]));
    }

    #[test]
    fn what_does_not_fit_the_shape_is_refused() {
        for (json, reason) in [
            ("[1, 2, 3]", "expected 4 elements by the shape, got 3"),
            (
                "[1, 2, 3, 4, 5]",
                "expected 4 elements by the shape, got more",
            ),
            (
                "[[1, 2, 3], [4]]",
                "expected lists of 2 by the shape, got one of 3",
            ),
            ("[[1], [2], [3], [4]]", "expected lists of 2"),
            ("[[1, 2], [3, 4], []]", "expected lists of 2"),
            ("[1, 2, [3, 4]]", "either elements or lists"),
            ("[[[1, 2], [3, 4]]]", "nested deeper"),
            ("[[[1], [2]], [[3], [4]]]", "nested deeper"),
            ("7", "expected a list"),
            (r#"["a"]"#, "expected a number, got a text"),
            ("[null]", "expected a number or a list of them"),
            ("[true]", "expected a number or a list of them"),
            (r#"{"a": 1}"#, "expected a number or a list of them"),
        ] {
            let error = floats(json, &[2, 2]).unwrap_err();
            assert!(error.contains(reason), "{json}: {error}");
        }
        assert!(
            floats("[[1, 2], [3, 4]]", &[2, 2, 1])
                .unwrap_err()
                .contains("less deep")
        );
    }

    #[test]
    fn texts_are_taken_as_they_are_and_files_in_base64() {
        let elements = |items: &[&'static str]| {
            Elements::Bytes(items.iter().map(|item| Bytes::from(*item)).collect())
        };
        assert_eq!(
            texts(r#"["a\u00fc", ""]"#, Text::Plain, 2).unwrap(),
            elements(&["aü", ""])
        );
        assert_eq!(
            texts(r#"["Y2F0"]"#, Text::Base64, 1).unwrap(),
            elements(&["cat"])
        );
        let error = texts(r#"["Y2F0", "?"]"#, Text::Base64, 2).unwrap_err();
        assert!(
            error.contains("element 1: expected a file in base64"),
            "{error}"
        );
        assert!(
            texts("[1]", Text::Plain, 1)
                .unwrap_err()
                .contains("expected a text")
        );
    }
}
