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
                mix(pixels, d, |ink| !ink);
            }
            Self::Ycck => {
                kernels.ycc([a, b, c], pixels);
                mix(pixels, d, |ink| ink);
            }
        }
    }
}

/// Three inks, and a line of inverted black -> pixels, in their place.
#[inline(always)]
fn mix(pixels: &mut [u8], black: &[u8], ink: impl Fn(u8) -> u8) {
    for (pixel, black) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(black) {
        *pixel = cmyk(pixel.map(&ink), !black);
    }
}

/// Pillow's conversion, without a profile.
#[inline(always)]
pub(crate) fn cmyk(cmy: [u8; 3], k: u8) -> [u8; 3] {
    let light = i32::from(255 - k);
    cmy.map(|ink| {
        let product = i32::from(ink) * light + 128;
        let dark = ((product >> 8) + product) >> 8;
        (light - dark).clamp(0, 255) as u8
    })
}
