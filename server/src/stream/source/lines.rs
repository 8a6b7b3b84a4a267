//! Lines of a file or of stdin, read by a thread of their own: who types them may take for ever.

use std::{
    io::{self, BufRead, Read},
    thread,
};

use tokio::sync::mpsc;

use crate::stream::message::{Body, Payload, digest};
use galley_core::InputKind;

/// How many lines are read before they are asked for.
const AHEAD: usize = 1024;
/// The longest line, in bytes: a text of the longest that recipes take by default, and what JSON adds to it.
const LONGEST: u64 = 8 << 20;

/// Reads lines as messages until there are no more. A line that cannot be read is one that says so.
pub(super) fn read(
    mut lines: impl BufRead + Send + 'static,
    kind: InputKind,
) -> io::Result<mpsc::Receiver<io::Result<Body>>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    thread::Builder::new().name("list".into()).spawn(move || {
        while let Some(body) = next(&mut lines, kind).transpose() {
            let failed = body.is_err();
            // Nobody may want them any more.
            if sender.blocking_send(body).is_err() || failed {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// The next line that is not empty.
fn next(lines: &mut impl BufRead, kind: InputKind) -> io::Result<Option<Body>> {
    loop {
        let mut line = Vec::new();
        if lines.by_ref().take(LONGEST).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        if line.len() as u64 == LONGEST && !line.ends_with(b"\n") {
            lines.skip_until(b'\n')?;
            return Ok(Some(malformed(
                &line,
                format!("expected a line of {LONGEST} bytes at the most"),
            )));
        }
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match std::str::from_utf8(line) {
            Ok("") => {}
            Ok(text) => return Ok(Some(Body::parse(text, None, kind).absolute())),
            Err(_) => return Ok(Some(malformed(line, "expected UTF-8".into()))),
        }
    }
}

fn malformed(line: &[u8], reason: String) -> Body {
    Body {
        id: digest(line),
        payload: Payload::Malformed(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_lines_are_none_and_odd_ones_say_so() {
        let long = "x".repeat(LONGEST as usize + 10);
        let mut lines = Vec::from("a.jpg\n\r\n\nb.jpg\r\n");
        lines.extend(b"\xff.jpg\n");
        lines.extend(long.as_bytes());
        lines.extend(b"\nlast");
        let mut lines = lines.as_slice();
        let mut payloads = Vec::new();
        while let Some(body) = next(&mut lines, InputKind::File).unwrap() {
            payloads.push(body.payload);
        }
        let here = std::env::current_dir().unwrap();
        let uri = |name: &str| Payload::Uri(here.join(name).to_str().unwrap().into());
        assert_eq!(payloads[..2], [uri("a.jpg"), uri("b.jpg")]);
        assert!(matches!(&payloads[2], Payload::Malformed(why) if why.contains("UTF-8")));
        assert!(matches!(&payloads[3], Payload::Malformed(why) if why.contains("bytes")));
        assert_eq!(payloads[4..], [uri("last")]);
    }
}
