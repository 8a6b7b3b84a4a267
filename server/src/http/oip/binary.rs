//! Tensors as bytes: elements in row-major order, little endian; each of BYTES after its length in four bytes.

use bytes::{Buf, Bytes};

use super::{input::Elements, interface::Datatype, output::Column};

/// Bytes of a length before an element.
const LENGTH: usize = 4;

/// Reads exactly `count` elements; those of BYTES are slices of `bytes`.
///
/// # Errors
/// There are more bytes or fewer, or a length reaches beyond them; the message says what was expected.
pub(super) fn decode(datatype: Datatype, bytes: Bytes, count: usize) -> Result<Elements, String> {
    match datatype {
        Datatype::Bytes => pieces(bytes, count).map(Elements::Bytes),
        Datatype::Fp32 => {
            let floats = scalars(&bytes, count, f32::from_le_bytes)?;
            Ok(Elements::Fp32(floats))
        }
        Datatype::Int64 => Err("INT64 is for outputs".into()),
    }
}

fn scalars<const SIZE: usize, T>(
    bytes: &[u8],
    count: usize,
    read: fn([u8; SIZE]) -> T,
) -> Result<Vec<T>, String> {
    let (values, rest) = bytes.as_chunks::<SIZE>();
    if values.len() != count || !rest.is_empty() {
        return Err(format!(
            "expected {} bytes for {count} elements of {SIZE}, got {}",
            count.saturating_mul(SIZE),
            bytes.len()
        ));
    }
    Ok(values.iter().map(|value| read(*value)).collect())
}

fn pieces(mut bytes: Bytes, count: usize) -> Result<Vec<Bytes>, String> {
    // A length before each is the least that they take.
    let mut pieces = Vec::with_capacity(count.min(bytes.len() / LENGTH));
    for place in 0..count {
        let length = bytes
            .try_get_u32_le()
            .map_err(|_| format!("expected {count} elements, got the bytes of {place}"))?;
        let length = length as usize;
        if length > bytes.len() {
            return Err(format!(
                "element {place} has {length} bytes by its length, but {} are left",
                bytes.len()
            ));
        }
        pieces.push(bytes.split_to(length));
    }
    match bytes.len() {
        0 => Ok(pieces),
        left => Err(format!("{left} bytes are left after {count} elements")),
    }
}

/// Appends a column's elements.
pub(super) fn encode(column: &Column, bytes: &mut Vec<u8>) {
    match column {
        Column::Text(texts) => {
            for text in texts {
                // The recipe made it: a text of 4 GiB would have failed long before.
                bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
        }
        Column::Fp32(values) => {
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        Column::Int64(values) => {
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(bytes: &[u8], count: usize) -> Result<Elements, String> {
        decode(Datatype::Bytes, Bytes::copy_from_slice(bytes), count)
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for (bytes, count, reason) in [
            (&b""[..], 1, "got the bytes of 0"),
            (b"\x01\0\0", 1, "got the bytes of 0"),
            (b"\x02\0\0\0a", 1, "element 0 has 2 bytes"),
            (
                b"\xff\xff\xff\xffa",
                1,
                "element 0 has 4294967295 bytes by its length, but 1 are left",
            ),
            (b"\x01\0\0\0ab", 1, "1 bytes are left"),
            (b"\x01\0\0\0a", 2, "got the bytes of 1"),
            (b"\x01\0\0\0a", 0, "5 bytes are left"),
            (b"", usize::MAX, "got the bytes of 0"),
        ] {
            let error = texts(bytes, count).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        for (bytes, count) in [(3, 1), (5, 1), (4, 2), (0, usize::MAX)] {
            let error = decode(Datatype::Fp32, vec![0; bytes].into(), count).unwrap_err();
            assert!(error.contains(&format!("got {bytes}")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn texts_come_back_as_they_went(texts in prop::collection::vec(".*", 0..8)) {
            let mut bytes = Vec::new();
            encode(&Column::Text(texts.clone()), &mut bytes);
            let read = decode(Datatype::Bytes, bytes.into(), texts.len()).unwrap();
            prop_assert_eq!(read, Elements::Bytes(texts.into_iter().map(Bytes::from).collect()));
        }

        #[test]
        fn floats_come_back_as_they_went(values in prop::collection::vec(-1e30f32..1e30, 0..8)) {
            let mut bytes = Vec::new();
            encode(&Column::Fp32(values.clone()), &mut bytes);
            let read = decode(Datatype::Fp32, bytes.into(), values.len()).unwrap();
            prop_assert_eq!(read, Elements::Fp32(values));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40), count in 0usize..12) {
            if let Ok(Elements::Bytes(pieces)) = texts(&bytes, count) {
                let total: usize = pieces.iter().map(|piece| piece.len() + LENGTH).sum();
                prop_assert_eq!((pieces.len(), total), (count, bytes.len()));
            }
        }
    }
}
