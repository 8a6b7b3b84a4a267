//! What a network is built for.

use candle_core::{DType, Device};

#[cfg(feature = "cuda")]
use crate::cuda::{Element, Gpu};
use crate::simd::Precision;

/// A device, and what networks on it compute in.
///
/// Weights are read on the host, in f32, and laid out for the device when a network is built.
#[derive(Clone, Debug)]
pub struct Backend(pub(crate) Kind);

/// What the vendor's libraries do where networks on a CUDA device use them, which those that are trained do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Libraries {
    /// Whether factors of f32 are rounded to TF32, in products and in cuDNN's convolutions.
    pub tf32: bool,
    /// Whether cuDNN's convolutions are used where it is found.
    pub cudnn: bool,
}

impl Default for Libraries {
    /// f32 is f32, and cuDNN is used.
    fn default() -> Self {
        Self {
            tf32: false,
            cudnn: true,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Cpu(Precision),
    #[cfg(feature = "cuda")]
    Cuda(Gpu),
}

impl Backend {
    /// A device that computes in a dtype: the CPU in f32 or bf16, a CUDA device in f16 or f32.
    ///
    /// # Errors
    /// The device does not compute in that dtype, or there are no kernels for it; the message is for whoever chose them.
    pub fn of(device: &Device, dtype: DType) -> Result<Self, String> {
        match device {
            Device::Cpu => Precision::of(dtype).map(Self::from),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                let element = match dtype {
                    DType::F16 => Element::F16,
                    DType::F32 => Element::F32,
                    other => {
                        return Err(format!(
                            "CUDA devices compute in f16 or f32, not in {}",
                            other.as_str()
                        ));
                    }
                };
                Gpu::new(device, element).map(|gpu| Self(Kind::Cuda(gpu)))
            }
            other => Err(format!("there are no kernels for {:?}", other.location())),
        }
    }

    /// The same with other use of the vendor's libraries; the CPU has none.
    #[must_use]
    #[cfg_attr(
        not(feature = "cuda"),
        expect(unused_variables, reason = "for CUDA devices")
    )]
    pub fn with_libraries(self, libraries: Libraries) -> Self {
        match self.0 {
            Kind::Cpu(precision) => Self(Kind::Cpu(precision)),
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => Self(Kind::Cuda(gpu.with_libraries(libraries))),
        }
    }

    /// Whether it is the CPU.
    pub fn is_cpu(&self) -> bool {
        matches!(self.0, Kind::Cpu(_))
    }

    /// What a network computes in that has kernels for the CPU alone.
    ///
    /// # Errors
    /// It is another device; the message is for whoever chose it.
    pub fn cpu(&self) -> Result<Precision, String> {
        match &self.0 {
            Kind::Cpu(precision) => Ok(*precision),
            #[cfg(feature = "cuda")]
            Kind::Cuda(_) => Err("this network has no CUDA kernels yet: use --device cpu".into()),
        }
    }
}

impl From<Precision> for Backend {
    fn from(precision: Precision) -> Self {
        Self(Kind::Cpu(precision))
    }
}

/// The number by which NVIDIA's tools know a CUDA device, `GPU-f0f1f2f3-...`: CUDA's own numbers hide and order as
/// `CUDA_VISIBLE_DEVICES` says. None of another device, or if the device does not tell.
pub fn device_uuid(device: &Device) -> Option<String> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            let uuid = device.cuda_stream().context().uuid().ok()?;
            Some(written(uuid.bytes.map(i8::cast_unsigned)))
        }
        _ => None,
    }
}

/// A device's number as NVIDIA's tools write it.
#[cfg(any(test, feature = "cuda"))]
fn written(bytes: [u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let (a, b, c, d, e) = (
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    );
    format!("GPU-{a}-{b}-{c}-{d}-{e}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_in_groups() {
        let bytes = std::array::from_fn(|i| 0xf0 + i as u8);
        assert_eq!(written(bytes), "GPU-f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff");
        assert_eq!(device_uuid(&Device::Cpu), None);
    }

    #[test]
    fn dtypes_that_the_cpu_has_not_are_refused() {
        let of = |dtype| Backend::of(&Device::Cpu, dtype);
        let backend = of(DType::F32).unwrap();
        assert!(backend.is_cpu());
        assert_eq!(backend.cpu(), Ok(Precision::F32));
        assert_eq!(of(DType::BF16).is_ok(), Precision::bf16().is_some());
        let error = of(DType::F16).unwrap_err();
        assert_eq!(error, "the CPU computes in f32 or bf16, not in f16");
    }
}
