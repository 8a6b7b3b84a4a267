//! What the broker sends, without a broker.

use async_nats::HeaderMap;

use super::*;

fn message(payload: &'static [u8], id: Option<&str>) -> async_nats::Message {
    let headers = id.map(|id| {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, id);
        headers
    });
    async_nats::Message {
        subject: "images".into(),
        reply: None,
        payload: payload.into(),
        headers,
        status: None,
        description: None,
        length: payload.len(),
    }
}

#[test]
fn the_id_beside_a_message_goes_before_that_within() {
    let object = br#"{"id": "2", "uri": "a.jpg"}"#;
    let id = |message| body(&message, InputKind::File).id;
    assert_eq!(id(message(object, Some("1"))), "1");
    assert_eq!(id(message(object, Some(""))), "2");
    assert_eq!(id(message(object, None)), "2");
    assert_eq!(id(message(b"a.jpg", None)), digest(b"a.jpg"));
}

#[test]
fn only_a_consumer_that_is_gone_ends_it() {
    assert_eq!(meaning(StatusCode::TIMEOUT, "Request Timeout"), None);
    let ended = |description| meaning(StatusCode::REQUEST_TERMINATED, description);
    assert!(matches!(
        ended("Consumer Deleted"),
        Some(SourceError::Broken(_))
    ));
    for passing in [
        "Leadership Change",
        "Server Shutdown",
        "Exceeded MaxWaiting",
    ] {
        assert!(
            matches!(ended(passing), Some(SourceError::Unavailable(_))),
            "{passing}"
        );
    }
    let starting = meaning(StatusCode::NO_RESPONDERS, "");
    assert!(matches!(starting, Some(SourceError::Unavailable(_))));
}

#[test]
fn what_is_no_text_is_a_message_all_the_same() {
    let body = body(&message(b"\xff", Some("1")), InputKind::Json);
    assert_eq!(body.id, "1");
    assert!(matches!(body.payload, Payload::Malformed(_)));
}
