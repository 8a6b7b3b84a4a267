//! A table that stands still: so does the stream, and nothing is lost.

use crate::program::{Place, Stream, until};

#[test]
fn a_locked_table_is_waited_for() {
    let place = Place::new();
    let lines: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    place.write("list", lines.join("\n"));
    let args = [
        "--option",
        "sleep=5ms",
        "--max-batch-size",
        "1",
        "--max-in-hand",
        "16",
    ];
    let mut stream = Stream::start(place.stream("echo", &args));
    until("rows are written", || !place.rows().is_empty());
    let connection = place.open().unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    let written = place.rows().len();
    assert!(written < 300, "it is too quick to be held up");
    stream.until_logged("the table cannot be reached");
    assert!(!stream.has_ended());
    assert_eq!(place.rows().len(), written);
    connection.execute_batch("ROLLBACK").unwrap();
    let ended = stream.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(place.rows().len(), 300);
}
