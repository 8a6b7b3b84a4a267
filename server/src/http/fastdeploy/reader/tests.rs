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
