//! Small files of every kind, and what Pillow makes of them (`data/matrix.py`): the same pixels, or a refusal where the
//! file is damaged.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use galley_core::{InputError, MemoryBudget};
use galley_image::{Bounds, Rgb, decode};
use serde::Deserialize;

#[derive(Deserialize)]
struct Index {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    at: usize,
    length: usize,
    expect: Option<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    width: usize,
    height: usize,
    at: usize,
}

struct Matrix {
    cases: Vec<Case>,
    data: Vec<u8>,
    files: usize,
    pixels: usize,
}

impl Matrix {
    fn read() -> Self {
        let data = zstd::decode_all(&include_bytes!("data/matrix.zst")[..]).unwrap();
        let number = |at: usize| u32::from_le_bytes(*data[at..].first_chunk().unwrap()) as usize;
        let (index, files) = (number(0), number(4));
        let read: Index = serde_json::from_slice(&data[8..8 + index]).unwrap();
        Self {
            cases: read.cases,
            files: 8 + index,
            pixels: 8 + index + files,
            data,
        }
    }

    fn of(&self, format: &str) -> impl Iterator<Item = (&Case, &[u8])> {
        let ours = move |case: &&Case| case.name.split(' ').next() == Some(format);
        self.cases
            .iter()
            .filter(ours)
            .map(|case| (case, &self.data[self.files + case.at..][..case.length]))
    }

    fn pixels(&self, expected: &Expected) -> &[u8] {
        &self.data[self.pixels + expected.at..][..expected.width * expected.height * 3]
    }
}

fn read(file: &[u8]) -> Result<Rgb, InputError> {
    let bounds = Bounds {
        max_pixels: 1 << 20,
        memory: &MemoryBudget::new(64 << 20),
        wanted: &|| true,
    };
    decode(file, &bounds)
}

/// Checks all files of a format, and how many have their pixels and how many are refused.
fn check(format: &str, tolerance: u8, counts: [usize; 2]) {
    let matrix = Matrix::read();
    let mut seen = [0, 0];
    let mut wrong = Vec::new();
    for (case, file) in matrix.of(format) {
        match (&case.expect, read(file)) {
            (None, Err(InputError::Unreadable(_))) => seen[1] += 1,
            (Some(expected), Ok(image)) => {
                let (width, height) = (expected.width, expected.height);
                let pixels = image.pixels.iter().zip(matrix.pixels(expected));
                let most = pixels.map(|(a, b)| a.abs_diff(*b)).max();
                if (image.width, image.height) != (width, height) {
                    let (w, h) = (image.width, image.height);
                    wrong.push(format!("{}: {w}x{h}, not {width}x{height}", case.name));
                } else if most > Some(tolerance) {
                    wrong.push(format!("{}: off by {most:?}", case.name));
                }
                seen[0] += 1;
            }
            (None, Ok(_)) => wrong.push(format!("{}: read", case.name)),
            (_, Err(error)) => wrong.push(format!("{}: {error}", case.name)),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(seen, counts);
}

#[test]
fn jpegs() {
    check("jpeg", 0, [490, 59]);
}

#[test]
fn pngs() {
    check("png", 0, [159, 4]);
}

#[test]
fn gifs() {
    check("gif", 0, [35, 2]);
}

#[test]
fn bmps() {
    // Of five bits Pillow makes eight by cutting off, we by rounding.
    check("bmp", 1, [22, 2]);
}

#[test]
fn tiffs() {
    check("tiff", 0, [79, 4]);
}

#[test]
fn webps() {
    check("webp", 2, [33, 2]);
}

/// Half a picture is never shown: data that ends anywhere is refused, with and without an end marker after it.
#[test]
fn jpegs_that_end_early() {
    let matrix = Matrix::read();
    let mut cuts = 0;
    for (case, file) in matrix.of("jpeg") {
        // Some have a second picture behind the first.
        let is_one = file.ends_with(&[0xFF, 0xD9]) && !case.name.contains("followed by");
        if case.expect.is_none() || !is_one {
            continue;
        }
        let scan = file.windows(2).position(|pair| pair == [0xFF, 0xDA]);
        let (first, end) = (scan.unwrap() + 2, file.len() - 2);
        for cut in (first..end).step_by(1 + (end - first) / 16) {
            let mut cut_off = file[..cut].to_vec();
            assert!(
                read(&cut_off).is_err(),
                "{} cut at {cut} of {end}",
                case.name
            );
            cut_off.extend([0xFF, 0xD9]);
            let refused = read(&cut_off).is_err();
            assert!(refused, "{} cut at {cut} of {end}, with an end", case.name);
            cuts += 1;
        }
    }
    assert!(cuts > 6000, "{cuts}");
}

/// Any byte may be another: there is an image or an error, and never a panic.
#[test]
fn changed_bytes_never_panic() {
    let matrix = Matrix::read();
    for format in ["jpeg", "png", "gif", "bmp", "tiff", "webp"] {
        for (number, (_, file)) in matrix.of(format).enumerate() {
            let mut changed = file.to_vec();
            for at in (number % 7..file.len()).step_by(7 + file.len() / 40) {
                for with in [0x00, 0xFF, 0x80] {
                    changed[at] ^= with;
                    let _ = read(&changed);
                    changed[at] = file[at];
                }
            }
        }
    }
}
