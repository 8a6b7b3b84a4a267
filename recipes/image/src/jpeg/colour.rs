//! The colours of components, and what libjpeg and Pillow make of them.

use galley_nn::jpeg::Kernels;

use super::{frame::Frame, tables::Tables};

/// What the components are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colours {
    Grey,
    /// Brightness, blue and red.
    Ycc,
    Rgb,
    /// Inverted, as Adobe writes them and everybody reads them.
    Cmyk,
    /// The first three of these as brightness, blue and red.
    Ycck,
}

impl Colours {
    pub(super) fn new(frame: &Frame, tables: &Tables) -> Self {
        let ids: Vec<u8> = frame.components.iter().map(|part| part.id).collect();
        match (&ids[..], tables.adobe) {
            ([_], _) => Self::Grey,
            ([_, _, _], _) if tables.is_jfif => Self::Ycc,
            ([_, _, _], Some(0)) => Self::Rgb,
            (b"RGB", None) => Self::Rgb,
            ([_, _, _], _) => Self::Ycc,
            (_, None | Some(0)) => Self::Cmyk,
            _ => Self::Ycck,
        }
    }

    /// A line of components -> its pixels.
    #[inline(always)]
    pub(super) fn convert(self, kernels: Kernels, [a, b, c, d]: [&[u8]; 4], pixels: &mut [u8]) {
        match self {
            Self::Grey => kernels.rgb([a, a, a], pixels),
            Self::Rgb => kernels.rgb([a, b, c], pixels),
            Self::Ycc => kernels.ycc([a, b, c], pixels),
            Self::Cmyk => {
                kernels.rgb([a, b, c], pixels);
                mix(kernels, pixels, d, |ink| !ink);
            }
            Self::Ycck => {
                kernels.ycc([a, b, c], pixels);
                mix(kernels, pixels, d, |ink| ink);
            }
        }
    }
}

/// Three inks, and a line of inverted black -> pixels, in their place.
#[inline(always)]
fn mix(kernels: Kernels, pixels: &mut [u8], light: &[u8], ink: impl Fn(u8) -> u8) {
    const PIECE: usize = 64;
    let mut for_each = [0; 3 * PIECE];
    for (pixels, light) in pixels.chunks_mut(3 * PIECE).zip(light.chunks(PIECE)) {
        let for_each = &mut for_each[..pixels.len()];
        kernels.rgb([light; 3], for_each);
        for (value, &mut light) in pixels.iter_mut().zip(for_each) {
            *value = left(ink(*value), light);
        }
    }
}

/// Pillow's conversion, without a profile.
#[inline(always)]
pub(crate) fn cmyk(cmy: [u8; 3], k: u8) -> [u8; 3] {
    cmy.map(|ink| left(ink, !k))
}

/// What an ink leaves of so much light.
#[inline(always)]
fn left(ink: u8, light: u8) -> u8 {
    let product = u16::from(ink) * u16::from(light) + 128;
    let dark = ((product >> 8) + product) >> 8;
    light.saturating_sub(dark as u8)
}
