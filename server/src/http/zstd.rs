//! zstd with bounds: on what comes out, and on the window that a stream may claim.

use std::io::Read;

use bytes::Bytes;
use zstd::stream::read::Decoder;

use super::error::ApiError;

/// The level of answers; they are small, and time counts more than bytes.
const LEVEL: i32 = 1;
/// The largest window, as a power of two: 16 MiB, twice what the format asks decoders to support.
const MAX_WINDOW_LOG: u32 = 24;

/// Decompresses to at most `limit` bytes.
pub(super) fn decompress(bytes: &[u8], limit: u64) -> Result<Bytes, ApiError> {
    let mut plain = Vec::new();
    let read = Decoder::with_buffer(bytes).and_then(|mut decoder| {
        decoder.window_log_max(MAX_WINDOW_LOG)?;
        decoder
            .take(limit.saturating_add(1))
            .read_to_end(&mut plain)
    });
    if read.is_err() {
        return Err(ApiError::malformed(
            "expected a body compressed with zstd, with a window of at most 16 MiB",
        ));
    }
    if plain.len() as u64 > limit {
        return Err(ApiError::decompresses_to_more(limit));
    }
    Ok(plain.into())
}

/// Compresses into one frame that states its content's size, as the official client needs to decompress it.
pub(super) fn compress(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    zstd::bulk::compress(bytes, LEVEL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_comes_out_again_up_to_the_limit() {
        let text = b"abc".repeat(1000);
        let packed = compress(&text).unwrap();
        assert_eq!(decompress(&packed, 3000).unwrap(), text);
        assert!(matches!(
            decompress(&packed, 2999),
            Err(ApiError::TooLarge { .. })
        ));
        assert!(matches!(
            decompress(b"not zstd", 10),
            Err(ApiError::Malformed(_))
        ));
        assert!(matches!(
            decompress(&packed[..packed.len() - 1], 3000),
            Err(ApiError::Malformed(_))
        ));
    }

    #[test]
    fn a_window_over_the_limit_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(25).unwrap();
        std::io::copy(&mut std::io::repeat(7).take(1 << 26), &mut encoder).unwrap();
        let packed = encoder.finish().unwrap();
        assert!(matches!(
            decompress(&packed, 1 << 30),
            Err(ApiError::Malformed(_))
        ));
    }
}
