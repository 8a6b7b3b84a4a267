//! Lines of every kind, and the rows that they get.

use serde_json::json;

use crate::program::{Place, repository, run};

#[test]
fn what_cannot_be_answered_has_a_row_that_says_why() {
    let place = Place::new();
    let photo = repository("recipes/efficientnet/examples/coffee_small.jpg");
    let photo = photo.to_str().unwrap();
    let bomb = repository("recipes/efficientnet/tests/data/bomb_40000x40000.png");
    let cases = [
        (bomb.to_str().unwrap().to_owned(), "--max-pixels"),
        (place.write("text.jpg", "no image"), ""),
        (place.write("empty.jpg", ""), ""),
        (place.write("large.jpg", vec![0; 2 << 20]), "--max-body"),
        (place.path("missing.jpg"), "No such file"),
        (place.path(""), "expected a file"),
        ("https://example.com/a.jpg".into(), "not allowed"),
        ("s3://bucket/a.jpg".into(), "not allowed"),
        ("ftp://example.com/a.jpg".into(), "expected a path or a URI"),
    ];
    let mut list = vec![photo.to_owned(), photo.to_owned()];
    list.extend(cases.iter().map(|(uri, _)| uri.clone()));
    list.push(r#"{"id": 7, "uri": "a.jpg"}"#.into());
    place.write("list", list.join("\n"));
    let args = ["--max-body", "1MiB"];
    let ended = run(place.stream("efficientnet_lite0", &args));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.count("refused"), cases.len() + 1);
    assert_eq!(ended.count("duplicate"), 1);
    for (uri, reason) in &cases {
        let row = place.row(uri);
        assert_eq!((row.status.as_str(), row.answer), ("refused", None));
        let error = row.error.unwrap();
        assert!(error.contains(reason), "{uri}: {error}");
    }
    assert_eq!(place.row(photo).status, "ok");
    let rows = place.rows();
    assert_eq!(rows.len(), cases.len() + 2);
    assert_eq!(run(place.stream("efficientnet_lite0", &args)).code, Some(0));
    assert_eq!(place.rows(), rows);
}

#[test]
fn texts_have_the_producer_s_ids_or_their_own() {
    let place = Place::new();
    let list = [
        json!({"id": "1", "text": "a"}).to_string(),
        json!({"id": "1", "text": "b"}).to_string(),
        "plain".into(),
        "[1, 2]".into(),
    ];
    place.write("list", list.join("\r\n"));
    let ended = run(place.stream("echo", &[]));
    assert_eq!(ended.count("conflict"), 1);
    let rows = place.rows();
    assert_eq!(rows.len(), 3);
    let answer = |id: &str| {
        let row = rows.iter().find(|row| row.id == id).unwrap();
        row.answer.clone().unwrap()
    };
    assert_eq!(answer("1"), r#"{"text":"a"}"#);
    // printf plain | sha256sum
    let id = "a116c9ed46d6207734a43317d30fd88f52ac8634c37d904bbf4e41d865f90475";
    assert_eq!(answer(id), r#""plain""#);
    assert!(
        rows.iter()
            .any(|row| row.answer.as_deref() == Some("[1,2]"))
    );
    // Options make another revision, and so other rows.
    run(place.stream("echo", &["--option", "sleep=1ms"]));
    assert_eq!(place.rows().len(), 6);
}
