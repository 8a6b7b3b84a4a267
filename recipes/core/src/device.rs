//! Devices by name, and the dtype that suits one.

use std::{fmt, str::FromStr};

use candle_core::{DType, Device, DeviceLocation, utils::cuda_is_available};

use crate::without_backtrace;

/// A device as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The first CUDA device if this build can use one and it answers, otherwise the CPU.
    Auto,
    /// The processor.
    Cpu,
    /// A CUDA device, by its number.
    Cuda(usize),
}

impl DeviceName {
    /// Opens it.
    ///
    /// # Errors
    /// This build has no kernels for it, or it does not answer; the message is for whoever chose it.
    pub fn open(self) -> Result<Device, String> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto if cuda_is_available() => Ok(Device::new_cuda(0).unwrap_or(Device::Cpu)),
            Self::Auto => Ok(Device::Cpu),
            Self::Cuda(_) if !cuda_is_available() => Err(format!(
                "{self}: this build of galley is for the CPU alone; one with --features cuda has CUDA devices"
            )),
            Self::Cuda(ordinal) => Device::new_cuda(ordinal)
                .map_err(|error| format!("{self}: {}", without_backtrace(error))),
        }
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("cuda:")) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            (_, Some(number)) => match number.parse() {
                Ok(ordinal) => Ok(Self::Cuda(ordinal)),
                Err(_) => Err(format!("expected a number after cuda:, got {number:?}")),
            },
            _ => Err(format!("expected auto, cpu or cuda:N, got {text:?}")),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// A device's name: `cpu`, `cuda:0`.
pub fn device_name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "cpu".into(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// The dtype that a device computes in unless told otherwise: f32 on the CPU, for then answers are the same on every
/// machine, and f16 on others.
pub fn usual_dtype(device: &Device) -> DType {
    if device.is_cpu() {
        DType::F32
    } else {
        DType::F16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_they_print() {
        for text in ["auto", "cpu", "cuda:0", "cuda:12"] {
            assert_eq!(text.parse::<DeviceName>().unwrap().to_string(), text);
        }
        for text in ["", "cuda", "cuda:", "cuda:x", "cuda:-1", "tpu"] {
            assert!(text.parse::<DeviceName>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_this_build_cannot_use_is_refused() {
        assert!(DeviceName::Cpu.open().unwrap().is_cpu());
        assert!(DeviceName::Auto.open().is_ok());
        assert_eq!(usual_dtype(&Device::Cpu), DType::F32);
        if !cuda_is_available() {
            let error = DeviceName::Cuda(0).open().unwrap_err();
            assert!(
                error.contains("cuda:0") && error.contains("--features cuda"),
                "{error}"
            );
        }
    }
}
