//! What the numbers of a TIFF mean, and their colours as Pillow has them.
//!
//! The decoder knows fewer meanings than we do (no palettes) and treats each in its own way. It is given a copy of the file
//! that says of its numbers only that they are numbers; their meaning is put to them here.

use galley_core::InputError;
use tiff::tags::Tag;

use super::Reader;
use crate::{jpeg::colour::cmyk, unreadable};

/// The number that stands for "grey, black is 0".
pub(super) const GREY: u16 = 1;

#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Grey { is_inverted: bool },
    Rgb { is_multiplied: bool },
    Palette(Vec<[u8; 3]>),
    Cmyk,
}

/// The samples of a pixel.
#[derive(Debug)]
pub(super) struct Samples {
    meaning: Meaning,
    count: usize,
    bits: usize,
    /// Each stands in a plane of its own.
    in_planes: bool,
}

impl Samples {
    pub(super) fn of(decoder: &mut Reader) -> Result<Self, InputError> {
        let mut one = |tag, usual: u16| match decoder.find_tag_unsigned(tag) {
            Ok(number) => Ok(number.unwrap_or(usual)),
            Err(error) => Err(unreadable(error)),
        };
        let count = usize::from(one(Tag::SamplesPerPixel, 1)?);
        let in_planes = one(Tag::PlanarConfiguration, 1)? == 2 && count > 1;
        let photometric = one(Tag::PhotometricInterpretation, GREY)?;
        let fill_order = one(Tag::FillOrder, 1)?;
        let mut list = |tag| match decoder.find_tag_unsigned_vec::<u16>(tag) {
            Ok(numbers) => Ok(numbers.unwrap_or_default()),
            Err(error) => Err(unreadable(error)),
        };
        let bits = list(Tag::BitsPerSample)?;
        let formats = list(Tag::SampleFormat)?;
        let extra = list(Tag::ExtraSamples)?;
        let bits = match &bits[..] {
            [] => 1,
            [first, rest @ ..] if rest.iter().all(|bits| bits == first) => usize::from(*first),
            _ => return Err(unreadable("its samples are of several sizes")),
        };
        if !formats.iter().all(|&format| format == 1) {
            return Err(unreadable(
                "expected samples that are whole numbers without a sign",
            ));
        }
        if fill_order != 1 {
            return Err(unreadable("its bits stand in reverse order"));
        }
        let meaning = match photometric {
            0 | GREY => Meaning::Grey {
                is_inverted: photometric == 0,
            },
            2 => Meaning::Rgb {
                is_multiplied: extra.first() == Some(&1),
            },
            3 => Meaning::Palette(palette(&list(Tag::ColorMap)?, bits)?),
            5 => Meaning::Cmyk,
            other => {
                return Err(unreadable(format!(
                    "expected grey, RGB, a palette or CMYK, got the photometric interpretation {other}"
                )));
            }
        };
        let samples = Self {
            meaning,
            count,
            bits,
            in_planes,
        };
        samples.check()?;
        Ok(samples)
    }

    fn check(&self) -> Result<(), InputError> {
        let (least, small, planes) = match self.meaning {
            Meaning::Grey { .. } => (1, self.count == 1, true),
            Meaning::Rgb { is_multiplied } => (3, false, !is_multiplied),
            Meaning::Palette(_) => (1, self.count == 1, true),
            Meaning::Cmyk => (4, false, false),
        };
        let wide = self.bits == 16 && !matches!(self.meaning, Meaning::Palette(_));
        let fits = self.bits == 8 || wide || small && matches!(self.bits, 1 | 2 | 4);
        if self.count < least || self.count > 8 || !fits || self.in_planes && !planes {
            return Err(unreadable(format!(
                "expected samples of 8 or 16 bits beside each other, got {} of {} bits{}",
                self.count,
                self.bits,
                if self.in_planes { " in planes" } else { "" }
            )));
        }
        Ok(())
    }

    /// Bytes of so many pixels, in one plane.
    pub(super) fn bytes(&self, [width, height]: [usize; 2]) -> u64 {
        let samples = if self.in_planes { 1 } else { self.count };
        let line = (width as u64).saturating_mul((samples * self.bits) as u64);
        line.div_ceil(8).saturating_mul(height as u64)
    }

    pub(super) fn planes(&self) -> usize {
        if self.in_planes { self.count } else { 1 }
    }

    /// Puts a line of a plane's numbers, or of all numbers, into its pixels.
    pub(super) fn write(&self, values: &[u8], plane: usize, to: &mut [[u8; 3]]) {
        let step = if self.in_planes { 1 } else { self.count };
        match &self.meaning {
            Meaning::Grey { is_inverted } => {
                if plane > 0 {
                    return;
                }
                for (i, to) in to.iter_mut().enumerate() {
                    let grey = self.grey(values, i * step);
                    *to = [if *is_inverted { !grey } else { grey }; 3];
                }
            }
            Meaning::Palette(colours) => {
                if plane > 0 {
                    return;
                }
                for (i, to) in to.iter_mut().enumerate() {
                    let index = self.number(values, i * step);
                    *to = colours.get(index).copied().unwrap_or_default();
                }
            }
            Meaning::Rgb { .. } if self.in_planes => {
                for (i, to) in to.iter_mut().enumerate() {
                    if let Some(to) = to.get_mut(plane) {
                        *to = self.high(values, i);
                    }
                }
            }
            Meaning::Rgb { is_multiplied } => {
                for (i, to) in to.iter_mut().enumerate() {
                    *to = std::array::from_fn(|c| self.high(values, i * step + c));
                    if *is_multiplied && self.count > 3 {
                        *to = divide(*to, self.high(values, i * step + 3));
                    }
                }
            }
            Meaning::Cmyk => {
                for (i, to) in to.iter_mut().enumerate() {
                    let inks = std::array::from_fn(|c| self.high(values, i * step + c));
                    *to = cmyk(inks, self.high(values, i * step + 3));
                }
            }
        }
    }

    fn number(&self, values: &[u8], place: usize) -> usize {
        let byte = |at: usize| values.get(at).copied().unwrap_or_default();
        match self.bits {
            16 => usize::from(u16::from_ne_bytes([byte(2 * place), byte(2 * place + 1)])),
            8 => usize::from(byte(place)),
            bits => {
                let first = place * bits;
                let shift = 8 - bits - first % 8;
                usize::from(byte(first / 8) >> shift) & ((1 << bits) - 1)
            }
        }
    }

    /// In eight bits: of sixteen the upper half.
    fn high(&self, values: &[u8], place: usize) -> u8 {
        let number = self.number(values, place);
        (if self.bits == 16 { number >> 8 } else { number }) as u8
    }

    /// In eight bits, black to white.
    fn grey(&self, values: &[u8], place: usize) -> u8 {
        let number = self.number(values, place);
        (match self.bits {
            16 => number / 257,
            bits => number * 255 / ((1 << bits) - 1),
        }) as u8
    }
}

/// Colours that were multiplied by their alpha, as they were before.
fn divide(rgb: [u8; 3], alpha: u8) -> [u8; 3] {
    match u32::from(alpha) {
        0 | 255 => rgb,
        alpha => rgb.map(|value| (u32::from(value) * 255 / alpha).min(255) as u8),
    }
}

/// All reds, all greens, all blues, in sixteen bits.
fn palette(map: &[u16], bits: usize) -> Result<Vec<[u8; 3]>, InputError> {
    let count = map.len() / 3;
    if bits > 8 || count < 1 << bits {
        return Err(unreadable("its palette is missing or too short"));
    }
    let colour = |i: usize| [map[i], map[count + i], map[2 * count + i]];
    Ok((0..count)
        .map(|i| colour(i).map(|value| (value >> 8) as u8))
        .collect())
}
