//! The image corpus: crops of 14 photographs, scaled, perhaps mirrored, made lighter or darker, and encoded as JPEG.

use std::{collections::HashSet, path::Path};

use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::U8x3,
};
use image::RgbImage;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use rayon::prelude::*;

use super::{
    pack::{PACK, Pack, Packs, hash},
    rng::Rng,
};
use crate::error::{Error, Result};

/// Width and height of every image.
const SIZE: (usize, usize) = (500, 375);
const QUALITY: u8 = 90;
/// Changes whenever other bytes are generated, so that a cache of old ones is not used.
const VERSION: u32 = 1;

macro_rules! photos {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../data/photos/", $name)))),*]
    };
}

/// The photographs, in the order that examples use them.
const PHOTOS: &[(&str, &[u8])] = photos![
    "astronaut.webp",
    "brick.png",
    "camera.png",
    "chelsea.webp",
    "china.jpg",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "flower.jpg",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "rocket.jpg",
];

/// What is drawn for one example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Draw {
    photo: usize,
    x: usize,
    y: usize,
    width: usize,
    height: usize,
    mirror: bool,
    /// In thousandths.
    brightness: usize,
}

/// Opens the first `count` images in the cache folder, and generates those that it lacks.
pub(super) fn open(
    cache: &Path,
    count: usize,
    seed: u64,
    progress: &dyn Fn(usize, usize),
) -> Result<Packs> {
    let mut photos = None;
    let mut seen = HashSet::new();
    let mut packs = Vec::new();
    while packs.len() * PACK < count {
        let first = packs.len() * PACK;
        let path = cache.join(format!("images-v{VERSION}-seed{seed}-{first:06}.pack"));
        let pack = match Pack::open(&path) {
            Some(pack) => pack,
            None => {
                progress(first, count);
                let photos = match &photos {
                    Some(photos) => photos,
                    None => photos.insert(decode_photos()?),
                };
                Pack::write(&path, &generate(photos, first, seed, &seen)?)?
            }
        };
        seen.extend(&pack.hashes);
        packs.push(pack);
    }
    progress(count, count);
    Ok(Packs::new(packs, count))
}

/// One pack's images, none of which has been `seen`.
fn generate(
    photos: &[RgbImage],
    first: usize,
    seed: u64,
    seen: &HashSet<u64>,
) -> Result<Vec<Vec<u8>>> {
    let mut images: Vec<_> = (first..first + PACK)
        .into_par_iter()
        .map_init(Resizer::new, |resizer, index| {
            let bytes = render(photos, index, Rng::of(seed, index, 0), resizer)?;
            Ok((hash(&bytes), bytes))
        })
        .collect::<Result<_>>()?;
    let mut here = HashSet::new();
    for (offset, (key, bytes)) in images.iter_mut().enumerate() {
        let mut attempt = 0;
        while seen.contains(key) || !here.insert(*key) {
            attempt += 1;
            let rng = Rng::of(seed, first + offset, attempt);
            *bytes = render(photos, first + offset, rng, &mut Resizer::new())?;
            *key = hash(bytes);
        }
    }
    Ok(images.into_iter().map(|(_, bytes)| bytes).collect())
}

fn decode_photos() -> Result<Vec<RgbImage>> {
    PHOTOS
        .par_iter()
        .map(|(what, bytes)| {
            image::load_from_memory(bytes)
                .map(|image| image.into_rgb8())
                .map_err(|error| bundled(what, error))
        })
        .collect()
}

fn draw(photos: &[RgbImage], index: usize, mut rng: Rng) -> Draw {
    let photo = index % photos.len();
    let (w, h) = photos[photo].dimensions();
    let (w, h) = (w as usize, h as usize);
    let widest = w.min(h * 4 / 3);
    let width = widest * (5500 + rng.below(4501)) / 10000;
    let height = width * 3 / 4;
    Draw {
        photo,
        x: rng.below(w - width + 1),
        y: rng.below(h - height + 1),
        width,
        height,
        mirror: rng.below(2) == 1,
        brightness: 800 + rng.below(401),
    }
}

fn render(photos: &[RgbImage], index: usize, rng: Rng, resizer: &mut Resizer) -> Result<Vec<u8>> {
    let draw = draw(photos, index, rng);
    let what = PHOTOS[draw.photo].0;
    let mut pixels =
        resize(&photos[draw.photo], draw, resizer).map_err(|error| bundled(what, error))?;
    if draw.mirror {
        for row in pixels.chunks_exact_mut(SIZE.0 * 3) {
            mirror(row);
        }
    }
    for value in &mut pixels {
        *value = (usize::from(*value) * draw.brightness / 1000).min(255) as u8;
    }
    let mut bytes = Vec::with_capacity(64 << 10);
    let mut encoder = Encoder::new(&mut bytes, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    encoder
        .encode(&pixels, SIZE.0 as u16, SIZE.1 as u16, ColorType::Rgb)
        .map_err(|error| bundled(what, error))?;
    Ok(bytes)
}

/// The crop at the size of the corpus, RGB row by row.
fn resize(
    photo: &RgbImage,
    draw: Draw,
    resizer: &mut Resizer,
) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let stride = photo.width() as usize * 3;
    let mut crop: Vec<u8> = Vec::with_capacity(draw.width * draw.height * 3);
    for row in photo
        .as_raw()
        .chunks_exact(stride)
        .skip(draw.y)
        .take(draw.height)
    {
        crop.extend(&row[draw.x * 3..(draw.x + draw.width) * 3]);
    }
    let (width, height) = (draw.width as u32, draw.height as u32);
    let mut out = vec![0; SIZE.0 * SIZE.1 * 3];
    // Of known type: otherwise the resizer is compiled for the dozen that it knows.
    let crop = TypedImageRef::<U8x3>::from_buffer(width, height, &crop)?;
    let mut resized = TypedImage::from_buffer(SIZE.0 as u32, SIZE.1 as u32, &mut out)?;
    let bicubic = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    resizer.resize_typed(&crop, &mut resized, &bicubic)?;
    Ok(out)
}

fn mirror(row: &mut [u8]) {
    let width = row.len() / 3;
    for left in 0..width / 2 {
        for channel in 0..3 {
            row.swap(left * 3 + channel, (width - 1 - left) * 3 + channel);
        }
    }
}

fn bundled(what: &'static str, error: impl std::fmt::Display) -> Error {
    Error::Bundled {
        what,
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_distinct_and_inside_their_photo() {
        let photos = decode_photos().unwrap();
        let mut seen = HashSet::new();
        for index in 0..8192 {
            let draw = draw(&photos, index, Rng::of(1, index, 0));
            let (w, h) = photos[draw.photo].dimensions();
            assert!(draw.x + draw.width <= w as usize && draw.y + draw.height <= h as usize);
            assert!(seen.insert(draw), "{draw:?} was drawn twice");
        }
    }

    #[test]
    fn images_are_read_back_as_they_were_generated() {
        let cache = tempfile::tempdir().unwrap();
        let fresh = open(cache.path(), 20, 1, &|_, _| ()).unwrap();
        let again = open(cache.path(), 20, 1, &|done, of| assert_eq!(done, of)).unwrap();
        let mut bytes = 0;
        for index in 0..20 {
            let image = fresh.read(index).unwrap();
            assert_eq!(image, again.read(index).unwrap());
            let decoded = image::load_from_memory(&image).unwrap();
            assert_eq!((decoded.width(), decoded.height()), (500, 375));
            assert_eq!(decoded.color(), image::ColorType::Rgb8);
            bytes += image.len();
        }
        assert!((30_000..60_000).contains(&(bytes / 20)), "{bytes}");
    }

    #[test]
    fn a_damaged_pack_is_made_again() {
        let cache = tempfile::tempdir().unwrap();
        let good = open(cache.path(), 1, 1, &|_, _| ())
            .unwrap()
            .read(0)
            .unwrap();
        let pack = std::fs::read_dir(cache.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        std::fs::write(pack.path(), b"short").unwrap();
        let again = open(cache.path(), 1, 1, &|_, _| ()).unwrap();
        assert_eq!(again.read(0).unwrap(), good);
    }

    #[test]
    fn mirroring_twice_changes_nothing() {
        let mut row: Vec<u8> = (0..15).collect();
        mirror(&mut row);
        assert_eq!(row[..3], [12, 13, 14]);
        mirror(&mut row);
        assert_eq!(row, (0..15).collect::<Vec<_>>());
    }
}
