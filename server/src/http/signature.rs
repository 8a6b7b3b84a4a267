//! What a body is by its first bytes: clients send files without saying so.

/// What else is sent for JSON, and what there is to say of it.
const OTHERS: [(&[u8], &str); 5] = [
    (
        b"\x1f\x8b",
        "the body is compressed with gzip; send it with Content-Encoding: gzip",
    ),
    (
        b"\x28\xb5\x2f\xfd",
        "the body is compressed with zstd; send it with Content-Encoding: zstd",
    ),
    (b"\xff\xfe", "expected JSON in UTF-8, got UTF-16"),
    (b"\xfe\xff", "expected JSON in UTF-8, got UTF-16"),
    (b"%PDF-", "expected JSON or an image, got a PDF"),
];

/// The content type of an image. Nothing that is JSON begins as one does.
pub(super) fn image(bytes: &[u8]) -> Option<&'static str> {
    let at = |place, signature: &[u8]| {
        let there = bytes.get(place..);
        there.is_some_and(|there| there.starts_with(signature))
    };
    let is_iso = at(0, b"\0\0\0") && at(4, b"ftyp");
    let formats = [
        ("image/jpeg", at(0, b"\xff\xd8\xff")),
        ("image/png", at(0, b"\x89PNG\r\n\x1a\n")),
        ("image/gif", at(0, b"GIF87a") || at(0, b"GIF89a")),
        ("image/webp", at(0, b"RIFF") && at(8, b"WEBP")),
        // Two letters alone may begin a text.
        ("image/bmp", at(0, b"BM") && at(6, b"\0\0\0\0")),
        ("image/tiff", at(0, b"II*\0") || at(0, b"MM\0*")),
        ("image/avif", is_iso && at(8, b"avi")),
        ("image/heic", is_iso),
        ("image/jxl", at(0, b"\xff\x0a") || at(4, b"JXL \r\n\x87\n")),
        ("image/jp2", at(4, b"jP  \r\n\x87\n")),
    ];
    let known = formats.into_iter().find(|(_, is_it)| *is_it);
    known.map(|(content_type, _)| content_type)
}

/// What a body is that was taken for JSON, in words; nothing for what may be some.
pub(super) fn not_json(bytes: &[u8]) -> Option<&'static str> {
    let known = OTHERS
        .iter()
        .find(|(signature, _)| bytes.starts_with(signature));
    known.map(|(_, words)| *words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_known_by_their_first_bytes() {
        for (bytes, expected) in [
            (&b"\xff\xd8\xff\xe0\0\x10JFIF"[..], Some("image/jpeg")),
            (b"\x89PNG\r\n\x1a\n\0", Some("image/png")),
            (b"GIF89a\x01\0", Some("image/gif")),
            (b"RIFF\x10\0\0\0WEBPVP8 ", Some("image/webp")),
            (b"RIFF\x10\0\0\0WAVEfmt ", None),
            (b"BM\x10\x01\0\0\0\0\0\0\x36", Some("image/bmp")),
            (b"BMW is a make of cars", None),
            (b"MM\0*\0\0\0\x08", Some("image/tiff")),
            (b"\0\0\0\x1cftypavif", Some("image/avif")),
            (b"\0\0\0\x18ftypheic", Some("image/heic")),
            (b"\0\0\0\x18ftypmif1", Some("image/heic")),
            (b"\0\0\0\x0cJXL \r\n\x87\n", Some("image/jxl")),
            (b"\xff\xd8", None),
            (b"", None),
            (b"[\"BM\"]", None),
            (b"{\"data\": []}", None),
            (b"\"ftyp\"", None),
            (b"    \"ftyp", None),
        ] {
            assert_eq!(image(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_json_is_told() {
        for (bytes, words) in [
            (&b"\x1f\x8b\x08\0"[..], "Content-Encoding: gzip"),
            (b"\x28\xb5\x2f\xfd\x04", "Content-Encoding: zstd"),
            (b"\xff\xfe[\0]\0", "UTF-16"),
        ] {
            assert!(not_json(bytes).unwrap().contains(words));
        }
        assert_eq!(not_json(b"[1]"), None);
    }
}
