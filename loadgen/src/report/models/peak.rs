//! What cards reach at best, as NVIDIA's data sheets say: dense products at boost clock. TF32 is not among them.

/// Names as NVML has them begin so; the first that fits counts. TFLOP/s in f16 with sums in f32, and in f32.
const CARDS: [(&str, f64, f64); 11] = [
    ("NVIDIA H200", 989.4, 66.9),
    ("NVIDIA H100 PCIe", 756.0, 51.2),
    ("NVIDIA H100 NVL", 835.0, 60.0),
    ("NVIDIA H100", 989.4, 66.9),
    ("NVIDIA A100", 312.0, 19.5),
    ("NVIDIA A10G", 70.0, 35.0),
    ("NVIDIA A10", 125.0, 31.2),
    ("NVIDIA L40S", 362.0, 91.6),
    ("NVIDIA L4", 121.0, 30.3),
    ("Tesla V100-SXM2", 125.0, 15.7),
    ("Tesla T4", 65.0, 8.1),
];

/// A card's TFLOP/s in a precision, where its data sheet is known.
pub(super) fn tflops(device: &str, precision: &str) -> Option<f64> {
    let (_, half, single) = CARDS.iter().find(|(name, ..)| device.starts_with(name))?;
    match precision {
        "float16" => Some(*half),
        "float32" => Some(*single),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_go_by_the_longest_name_that_is_theirs() {
        assert_eq!(tflops("NVIDIA H100 80GB HBM3", "float16"), Some(989.4));
        assert_eq!(tflops("NVIDIA H100 PCIe", "float16"), Some(756.0));
        assert_eq!(tflops("NVIDIA A100-SXM4-80GB", "float32"), Some(19.5));
        assert_eq!(tflops("NVIDIA A100-SXM4-80GB", "bfloat16"), None);
        assert_eq!(tflops("NVIDIA GeForce RTX 4090", "float16"), None);
        // A name that begins a later one would hide it.
        for (place, (name, ..)) in CARDS.iter().enumerate() {
            assert!(
                CARDS[..place]
                    .iter()
                    .all(|(before, ..)| !name.starts_with(before))
            );
        }
    }
}
