//! What a body is taken for.

use super::*;

const JPEG: &[u8] = b"\xff\xd8\xff\xe0";
const TEXT: &[u8] = b"[\"a\"]";

fn recognise(
    input_type: Option<Format>,
    content_type: &'static str,
    (body, kind): (&[u8], InputKind),
) -> Result<Form, ApiError> {
    let mut headers = HeaderMap::new();
    if !content_type.is_empty() {
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
    }
    form(declared(input_type, &headers)?, body, kind)
}

#[test]
fn bodies_are_recognised_by_query_then_content_type() {
    use InputKind::{File, Json};
    let multipart = "Multipart/Form-Data; boundary=\"x\"";
    let octets = "application/octet-stream";
    let (json, msgpack) = (Some(Format::Json), Some(Format::Msgpack));
    for (input_type, content_type, kind, expected) in [
        (None, "", File, Form::Json),
        (None, "application/json; charset=utf-8", File, Form::Json),
        (None, "application/x-www-form-urlencoded", Json, Form::Json),
        (None, octets, Json, Form::Json),
        (None, octets, File, Form::File),
        (None, "image/jpeg", Json, Form::File),
        (None, "IMAGE/PNG", File, Form::File),
        (None, "application/msgpack", Json, Form::Msgpack),
        (None, multipart, File, Form::Multipart("x".into())),
        (json, octets, File, Form::Json),
        (msgpack, octets, File, Form::Msgpack),
    ] {
        assert_eq!(
            recognise(input_type, content_type, (TEXT, kind)),
            Ok(expected),
            "{input_type:?} {content_type}"
        );
    }
    assert!(matches!(
        recognise(None, "multipart/form-data", (TEXT, File)),
        Err(ApiError::Malformed(_))
    ));
}

#[test]
fn an_image_is_known_without_its_type_and_refused_with_a_wrong_one() {
    use InputKind::{File, Json};
    for content_type in ["", "application/x-www-form-urlencoded", "text/plain"] {
        let form = recognise(None, content_type, (JPEG, File));
        assert_eq!(form, Ok(Form::File), "{content_type}");
    }
    for (input_type, content_type, kind, said) in [
        (None, "application/json", File, "Content-Type: image/jpeg"),
        (Some(Format::Json), "", File, "without input_type"),
        (None, "", Json, "does not take"),
        (None, "application/octet-stream", Json, "does not take"),
    ] {
        let error = recognise(input_type, content_type, (JPEG, kind)).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn forms_are_remembered() {
    let multipart = Form::Multipart("a b".into());
    for form in [Form::Json, Form::Msgpack, Form::File, multipart] {
        assert_eq!(form.to_string().parse(), Ok(form));
    }
    assert!("later".parse::<Form>().is_err());
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
