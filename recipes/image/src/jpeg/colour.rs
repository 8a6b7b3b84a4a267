//! The colours of components, and what libjpeg and Pillow make of them.

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
    pub(super) fn convert(self, [a, b, c, d]: [&[u8]; 4], pixels: &mut [u8]) {
        match self {
            Self::Grey => in_pieces([a, a, a, a], pixels, |grey, _, _, _| [grey; 3]),
            Self::Rgb => in_pieces([a, b, c, c], pixels, |r, g, b, _| [r, g, b]),
            Self::Ycc => in_pieces([a, b, c, c], pixels, |y, cb, cr, _| ycc(y, cb, cr)),
            Self::Cmyk => in_pieces([a, b, c, d], pixels, |c, m, y, k| cmyk([!c, !m, !y], !k)),
            Self::Ycck => in_pieces([a, b, c, d], pixels, |y, cb, cr, k| {
                cmyk(ycc(y, cb, cr), !k)
            }),
        }
    }
}

/// Converts a line in pieces of a known length, colour by colour.
#[allow(
    clippy::needless_range_loop,
    reason = "compilers make vectors of plain loops over arrays"
)]
#[inline(always)]
fn in_pieces(
    components: [&[u8]; 4],
    pixels: &mut [u8],
    convert: impl Fn(u8, u8, u8, u8) -> [u8; 3],
) {
    const PIECE: usize = 32;
    let [a, b, c, d] = components.map(|line| line.as_chunks::<PIECE>());
    let (whole, rest) = pixels.as_chunks_mut::<{ 3 * PIECE }>();
    for ((((to, a), b), c), d) in whole.iter_mut().zip(a.0).zip(b.0).zip(c.0).zip(d.0) {
        let mut colours = [[0; PIECE]; 3];
        for i in 0..PIECE {
            let rgb = convert(a[i], b[i], c[i], d[i]);
            for (colour, value) in colours.iter_mut().zip(rgb) {
                colour[i] = value;
            }
        }
        for i in 0..PIECE {
            to[3 * i] = colours[0][i];
            to[3 * i + 1] = colours[1][i];
            to[3 * i + 2] = colours[2][i];
        }
    }
    let rest = rest.as_chunks_mut::<3>().0.iter_mut();
    for ((((to, &a), &b), &c), &d) in rest.zip(a.1).zip(b.1).zip(c.1).zip(d.1) {
        *to = convert(a, b, c, d);
    }
}

/// JFIF's conversion, in libjpeg's 16 bits of fraction.
#[inline(always)]
fn ycc(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let clip = |value: i32| value.clamp(0, 255) as u8;
    [
        clip(y + ((91881 * cr + HALF) >> 16)),
        clip(y + ((-22554 * cb - 46802 * cr + HALF) >> 16)),
        clip(y + ((116_130 * cb + HALF) >> 16)),
    ]
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
