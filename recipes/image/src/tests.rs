//! Against Pillow's pixels: exact for PNG, within a few grey levels for JPEG and WebP.

use std::path::{Path, PathBuf};

use galley_core::{InputError, MemoryBudget};
use image::{ExtendedColorType, ImageEncoder, codecs::jpeg::JpegEncoder, codecs::png::PngEncoder};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::*;

/// What EfficientNet-Lite0 sees.
const VIEW: View = View {
    resize: 256,
    crop: 224,
};

#[derive(Deserialize)]
struct Golden {
    image: String,
    folder: String,
    width: usize,
    height: usize,
    mean: [f64; 3],
    /// Of the decoded pixels, for PNG.
    rgb_sha256: Option<String>,
    /// Of the resized and cropped pixels, for PNG.
    view_sha256: Option<String>,
}

/// The recipe whose reference these pixels are.
fn recipe() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../efficientnet")
}

fn goldens() -> Vec<Golden> {
    serde_json::from_slice(&file("", "lite0.json")).unwrap()
}

fn path(folder: &str, image: &str) -> PathBuf {
    match folder {
        "photos" => recipe().join("../../loadgen/data/photos").join(image),
        _ => recipe().join("tests/data").join(folder).join(image),
    }
}

fn file(folder: &str, image: &str) -> Vec<u8> {
    let path = path(folder, image);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn decode_within(file: &[u8], max_pixels: u64, memory: u64) -> Result<Rgb, InputError> {
    let bounds = Bounds {
        max_pixels,
        memory: &MemoryBudget::new(memory),
        wanted: &|| true,
    };
    decode(file, &bounds)
}

fn decode_all(file: &[u8]) -> Result<Rgb, InputError> {
    decode_within(file, 64 << 20, u64::MAX)
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_kind_of_image_decodes_as_pillow_decodes_it() {
    for golden in goldens() {
        let image = decode_all(&file(&golden.folder, &golden.image)).unwrap();
        let name = &golden.image;
        assert_eq!(
            (image.width, image.height),
            (golden.width, golden.height),
            "{name}"
        );
        let tolerance = if name.contains("cmyk") { 2.0 } else { 1.0 };
        for (c, expected) in golden.mean.iter().enumerate() {
            let values = image.pixels.iter().skip(c).step_by(3);
            let sum: f64 = values.map(|&value| f64::from(value)).sum();
            let mean = sum / (image.width * image.height) as f64;
            assert!(
                (mean - expected).abs() < tolerance,
                "{name}: {mean}, {expected}"
            );
        }
        if let Some(expected) = golden.rgb_sha256 {
            assert_eq!(sha256(&image.pixels), expected, "{name}");
        }
    }
}

#[test]
fn png_views_equal_pillows_to_the_bit() {
    let mut checked = 0;
    for golden in goldens() {
        if let Some(expected) = golden.view_sha256 {
            let image = decode_all(&file(&golden.folder, &golden.image)).unwrap();
            assert_eq!(sha256(&VIEW.of(&image)), expected, "{}", golden.image);
            checked += 1;
        }
    }
    assert_eq!(checked, 13);
}

#[test]
fn jpeg_views_are_within_a_few_grey_levels_of_pillows() {
    for (folder, image, input) in [
        ("photos", "rocket.jpg", "rocket_jpg.png"),
        ("variants", "chelsea_exif6.jpg", "chelsea_exif6_jpg.png"),
        ("variants", "flower_cmyk.jpg", "flower_cmyk_jpg.png"),
        (
            "variants",
            "flower_thin_37x500.jpg",
            "flower_thin_37x500_jpg.png",
        ),
    ] {
        let view = VIEW.of(&decode_all(&file(folder, image)).unwrap());
        let expected = decode_all(&file("inputs", input)).unwrap().pixels;
        let differences = view.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b));
        let mean = differences.clone().map(f64::from).sum::<f64>() / view.len() as f64;
        let most = differences.max().unwrap();
        assert!(
            mean < 0.7 && most <= 16,
            "{image}: {mean} on average, {most} at most"
        );
    }
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    let bomb = file("", "bomb_40000x40000.png");
    let Err(error @ InputError::TooLarge { .. }) = decode_all(&bomb) else {
        panic!("expected TooLarge");
    };
    assert_eq!(
        error.to_string(),
        "image of 1600000000 pixels exceeds the limit of 67108864 pixels (--max-pixels)"
    );
    for (folder, image) in [
        ("photos", "rocket.jpg"),
        ("photos", "coffee.png"),
        ("variants", "coffee_small.webp"),
    ] {
        let refused = decode_within(&file(folder, image), 1000, u64::MAX);
        assert!(
            matches!(refused, Err(InputError::TooLarge { .. })),
            "{image}"
        );
    }
}

#[test]
fn damaged_files_are_refused() {
    let rocket = file("photos", "rocket.jpg");
    let mut flipped = file("photos", "coins.png");
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    let bad: [(&str, &[u8]); 6] = [
        ("empty", b""),
        ("text", b"this is no image at all, whatever its name says"),
        ("20 bytes", &rocket[..20]),
        ("a third", &rocket[..rocket.len() / 3]),
        ("all but the last bytes", &rocket[..rocket.len() - 3]),
        ("one bit flipped", &flipped),
    ];
    for (what, bytes) in bad {
        let refused = decode_all(bytes);
        assert!(matches!(refused, Err(InputError::Unreadable(_))), "{what}");
    }
}

#[test]
fn a_jpeg_too_short_for_its_size_is_refused() {
    let mut jpeg = file("variants", "flower_thin_37x500.jpg");
    let frame = jpeg
        .windows(2)
        .position(|pair| pair == [0xFF, 0xC0])
        .unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x1F, 0x40, 0x1F, 0x40]);
    let error = decode_all(&jpeg).unwrap_err().to_string();
    assert_eq!(error, "cannot read the image: the file ends too early");
}

fn png(width: u32, height: u32, color: ExtendedColorType, samples: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    PngEncoder::new(&mut file)
        .write_image(samples, width, height, color)
        .unwrap();
    file
}

#[test]
fn alpha_is_dropped_and_of_sixteen_bits_the_upper_half_taken() {
    let rgba = [10, 20, 30, 0, 250, 0, 7, 128];
    let image = decode_all(&png(2, 1, ExtendedColorType::Rgba8, &rgba)).unwrap();
    assert_eq!(image.pixels, [10, 20, 30, 250, 0, 7]);
    let wide: Vec<u8> = [256u16, 257, 65534, 65535, 0, 514]
        .iter()
        .flat_map(|value| value.to_ne_bytes())
        .collect();
    let image = decode_all(&png(2, 1, ExtendedColorType::Rgb16, &wide)).unwrap();
    assert_eq!(image.pixels, [1, 1, 255, 255, 0, 2]);
    // Grey alone is divided.
    let image = decode_all(&png(6, 1, ExtendedColorType::L16, &wide)).unwrap();
    assert_eq!(image.pixels[..9], [0, 0, 0, 1, 1, 1, 254, 254, 254]);
}

/// Files cut off anywhere, and files with a byte changed anywhere, give an error or an image, and never a panic.
#[test]
fn malformed_files_never_panic() {
    let samples: Vec<u8> = (0..40 * 30 * 3).map(|i| (i * i / 7 % 256) as u8).collect();
    let mut jpeg = Vec::new();
    JpegEncoder::new(&mut jpeg)
        .encode(&samples, 40, 30, ExtendedColorType::Rgb8)
        .unwrap();
    let png = png(40, 30, ExtendedColorType::Rgb8, &samples);
    let webp = file("variants", "coffee_small.webp");
    let progressive = file("variants", "coffee_progressive.jpg");
    for (file, stride) in [(&jpeg, 1), (&png, 7), (&webp, 499), (&progressive, 1499)] {
        assert!(decode_all(file).is_ok());
        for end in (0..file.len()).step_by(stride) {
            let _ = decode_all(&file[..end]);
            let mut changed = file.clone();
            changed[end] ^= 0xFF;
            let _ = decode_all(&changed);
        }
    }
    // The end marker itself may be missing.
    for end in 0..jpeg.len() - 2 {
        assert!(
            decode_all(&jpeg[..end]).is_err(),
            "a JPEG cut off at {end} of {}",
            jpeg.len()
        );
    }
    assert_eq!(
        decode_all(&jpeg[..jpeg.len() - 2]).unwrap().pixels,
        decode_all(&jpeg).unwrap().pixels
    );
}

/// What decoding takes is reserved at once, and refused where it could never be had.
#[test]
fn memory_is_taken_out_of_the_budget() {
    for (folder, image) in [
        ("photos", "rocket.jpg"),
        ("photos", "coffee.png"),
        ("variants", "camera_16bit.png"),
        ("variants", "coffee_progressive.jpg"),
        ("variants", "chelsea_exif6.jpg"),
        ("variants", "coffee_small.webp"),
    ] {
        let file = file(folder, image);
        let budget = MemoryBudget::new(64 << 20);
        let bounds = Bounds {
            max_pixels: 64 << 20,
            memory: &budget,
            wanted: &|| true,
        };
        let decoded = decode(&file, &bounds).unwrap();
        let held = budget.reserved();
        assert!(held >= decoded.pixels.len() as u64, "{image}: {held}");
        drop(decoded);
        assert_eq!(budget.reserved(), 0, "{image}");
        assert!(decode_within(&file, 64 << 20, held).is_ok(), "{image}");
        let error = decode_within(&file, 64 << 20, held - 1).unwrap_err();
        let InputError::TooLarge { what, option, .. } = error else {
            panic!("{image}: {error}");
        };
        assert_eq!(option, "--max-decode-memory");
        assert_eq!(what, format!("image that takes {held} bytes to decode"));
    }
}

#[test]
fn one_that_is_not_wanted_any_more_is_given_up() {
    for (folder, image) in [
        ("photos", "rocket.jpg"),
        ("photos", "coffee.png"),
        ("variants", "coffee_progressive.jpg"),
    ] {
        let asked = std::cell::Cell::new(0);
        let bounds = Bounds {
            max_pixels: 64 << 20,
            memory: &MemoryBudget::unlimited(),
            wanted: &|| {
                asked.set(asked.get() + 1);
                asked.get() <= 5
            },
        };
        let refused = decode(&file(folder, image), &bounds).unwrap_err();
        assert_eq!(refused, InputError::NotWanted, "{image}");
        assert!(asked.get() < 10, "{image}: asked {} times", asked.get());
    }
}
