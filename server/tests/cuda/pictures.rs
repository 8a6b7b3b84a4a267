//! JPEG files that the device decodes, held against the same files decoded by the CPU.

use std::io::Write;

use bytes::Bytes;
use candle_core::DType;
use galley_core::{AnyRecipe, Decoded, Input, LoadOptions, Prepared, WeightSource};

use crate::{CARD, device};

/// 120 by 180 pixels, colours of half the width.
const COLOURED: &[u8] = include_bytes!("../../../recipes/efficientnet/examples/coffee_small.jpg");
/// Colours of half the resolution, with restarts.
const SMALL: &[u8] =
    include_bytes!("../../../recipes/image/tests/data/compressed/colour_48x32.jpg");
const GREY: &[u8] = include_bytes!("../../../recipes/image/tests/data/compressed/grey_16x8.jpg");
/// How far a logit may be from that of the CPU's pixels, of which the device's should differ by a level. In f32.
const TOLERANCE: f32 = 0.1;

/// The network on the device, if that decodes; in f32, so that only pixels differ.
fn recipe(name: &str, weights: WeightSource) -> Option<AnyRecipe> {
    let options = LoadOptions {
        device: device()?,
        dtype: DType::F32,
        weights,
        options: [("jpeg".into(), "device".into())].into(),
        ..LoadOptions::default()
    };
    match galley_catalog::load(name, &options) {
        Ok(recipe) => Some(recipe),
        Err(error) => {
            assert!(error.to_string().contains("libnvjpeg.so"), "{error}");
            let _ = writeln!(std::io::stderr(), "skipped: {error}");
            None
        }
    }
}

fn prepared(recipe: &AnyRecipe, file: &[u8]) -> Prepared {
    recipe
        .prepare(Input::File(Bytes::copy_from_slice(file)))
        .unwrap()
}

fn logits(recipe: &AnyRecipe, batch: &[Prepared]) -> Vec<Vec<f32>> {
    let raw = recipe.forward(&batch.iter().collect::<Vec<_>>()).unwrap();
    raw.iter().flat_map(|raw| recipe.logits(raw)).collect()
}

/// The same file as an extended frame, which the CPU decodes, to the same pixels as before.
fn extended(file: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    let frame = file
        .windows(2)
        .position(|bytes| bytes == [0xFF, 0xC0])
        .unwrap();
    file[frame + 1] = 0xC1;
    file
}

/// With an orientation, in EXIF's own segment.
fn turned(file: &[u8], orientation: u8) -> Vec<u8> {
    let exif = [
        &b"\xFF\xE1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"[..],
        &[orientation, 0, 0, 0, 0, 0, 0, 0][..],
    ];
    [&file[..2], &exif.concat(), &file[2..]].concat()
}

fn assert_near(what: &str, got: &[f32], expected: &[f32]) {
    let largest = got
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    let _ = writeln!(std::io::stderr(), "{what}: logits within {largest}");
    assert!(
        got.len() == expected.len() && largest < TOLERANCE,
        "{what}: {largest}"
    );
}

/// Alone, turned every way, and in a batch of all kinds in any order.
async fn compare(name: &str, weights: WeightSource) {
    let Some(recipe) = recipe(name, weights) else {
        return;
    };
    let _card = CARD.lock().await;
    let mut files = Vec::new();
    for file in [COLOURED, SMALL, GREY] {
        files.extend((1..=8).map(|orientation| turned(file, orientation)));
    }
    let expected: Vec<Vec<f32>> = files
        .iter()
        .map(|file| logits(&recipe, &[prepared(&recipe, &extended(file))]).remove(0))
        .collect();
    let on_cpu = files.len() as u64;
    assert_eq!(
        recipe.decoded(),
        Decoded {
            on_device: 0,
            on_cpu
        }
    );
    for (i, file) in files.iter().enumerate() {
        let got = logits(&recipe, &[prepared(&recipe, file)]).remove(0);
        assert_near(&format!("{name} {i}"), &got, &expected[i]);
    }
    let on_device = files.len() as u64;
    assert_eq!(
        recipe.decoded(),
        Decoded {
            on_device,
            on_cpu: 0
        }
    );
    // Several times: one by one, recorded, and played back.
    for _ in 0..3 {
        let of = |(i, file): (usize, &Vec<u8>)| match i % 3 {
            0 => prepared(&recipe, &extended(file)),
            _ => prepared(&recipe, file),
        };
        let batch: Vec<Prepared> = files.iter().enumerate().map(of).collect();
        for (i, got) in logits(&recipe, &batch).iter().enumerate() {
            assert_near(&format!("{name} {i} of a batch"), got, &expected[i]);
        }
    }
    let decoded = recipe.decoded();
    assert_eq!((decoded.on_device, decoded.on_cpu), (48, 24));
}

#[tokio::test]
async fn an_efficientnet_sees_what_the_cpu_decodes() {
    compare("efficientnet_lite0", WeightSource::Bundled).await;
}

#[tokio::test]
async fn a_described_network_sees_what_the_cpu_decodes() {
    compare("resnet18", WeightSource::Synthetic(None)).await;
}

/// Files cut off anywhere are refused with the CPU's words, and nobody else's answer suffers.
#[tokio::test]
async fn broken_files_have_the_cpu_s_errors() {
    let Some(recipe) = recipe("efficientnet_lite0", WeightSource::Bundled) else {
        return;
    };
    let _card = CARD.lock().await;
    let options = LoadOptions::default();
    let cpu = galley_catalog::load("efficientnet_lite0", &options).unwrap();
    let error = |recipe: &AnyRecipe, file: &[u8]| {
        let prepared = recipe.prepare(Input::File(Bytes::copy_from_slice(file)));
        prepared.err().map(|error| error.to_string())
    };
    for len in (0..SMALL.len()).step_by(7) {
        let expected = error(&cpu, &SMALL[..len]);
        assert_eq!(error(&recipe, &SMALL[..len]), expected, "{len} bytes");
    }
}

/// Two threads at once, each in a lane of its own, which record while the other decodes.
#[tokio::test]
async fn two_lanes_decode_at_once() {
    let Some(recipe) = recipe("efficientnet_lite0", WeightSource::Bundled) else {
        return;
    };
    let _card = CARD.lock().await;
    let expected = logits(&recipe, &[prepared(&recipe, COLOURED)]).remove(0);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (recipe, expected) = (&recipe, &expected);
            scope.spawn(move || {
                for count in 1..40 {
                    let batch: Vec<Prepared> = (0..(count * (thread + 1)) % 37 + 1)
                        .map(|_| prepared(recipe, COLOURED))
                        .collect();
                    for got in logits(recipe, &batch) {
                        assert_eq!(&got, expected, "{} files", batch.len());
                    }
                }
            });
        }
    });
}
