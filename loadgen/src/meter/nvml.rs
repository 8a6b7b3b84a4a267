//! An NVIDIA card through NVML, the driver's management library.

use candle_core::Device;
use nvml_wrapper::{
    Nvml, bitmasks::device::ThrottleReasons, enum_wrappers::device::Clock, error::NvmlError,
};

use super::{Facts, Samples};

/// Linux installs it under this name; the one without the number belongs to the toolkit.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// A card, and the library that knows it.
pub(crate) struct Card {
    nvml: Nvml,
    uuid: String,
}

impl Card {
    /// The card that is this device.
    ///
    /// # Errors
    /// There is no NVML, or it does not know the device; the message says which.
    pub(super) fn of(device: &Device) -> Result<Self, String> {
        let uuid = galley_nn::device_uuid(device)
            .ok_or_else(|| "the device does not say which it is".to_owned())?;
        let nvml = Nvml::builder()
            .lib_path(LIBRARY.as_ref())
            .init()
            .map_err(|error| format!("NVML cannot be used: {error}"))?;
        let card = Self { nvml, uuid };
        card.device()
            .map_err(|error| format!("NVML does not know the device: {error}"))?;
        Ok(card)
    }

    fn device(&self) -> Result<nvml_wrapper::Device<'_>, NvmlError> {
        self.nvml.device_by_uuid(self.uuid.as_str())
    }

    pub(super) fn facts(&self) -> Facts {
        let device = self.device().ok();
        let of = device.as_ref();
        Facts {
            name: of.and_then(|device| device.name().ok()),
            memory_bytes: of.and_then(|device| Some(device.memory_info().ok()?.total)),
            driver: self.nvml.sys_driver_version().ok(),
        }
    }

    /// The card's energy counter, which cards have since Volta.
    pub(super) fn joules(&self) -> Option<f64> {
        let millijoules = self.device().ok()?.total_energy_consumption().ok()?;
        Some(millijoules as f64 / 1e3)
    }

    /// Looks at memory and clocks; what the card does not tell is left as it was.
    pub(super) fn sample(&self, samples: &mut Samples) {
        let Ok(device) = self.device() else {
            return;
        };
        if let Ok(memory) = device.memory_info() {
            samples.peak_bytes = samples.peak_bytes.max(Some(memory.used));
        }
        if let Ok(clock) = device.clock_info(Clock::SM) {
            samples.clocks_mhz.push(f64::from(clock));
        }
        let reasons = device.current_throttle_reasons();
        for name in reasons.map(limits).unwrap_or_default() {
            if !samples.throttled.contains(&name) {
                samples.throttled.push(name);
            }
        }
    }
}

/// The names of what holds clocks down; being idle, or set to a clock, is no limit that a run meets.
fn limits(mut reasons: ThrottleReasons) -> Vec<String> {
    reasons.remove(ThrottleReasons::GPU_IDLE | ThrottleReasons::APPLICATIONS_CLOCKS_SETTING);
    reasons
        .iter_names()
        .map(|(name, _)| name.to_lowercase().replace('_', " "))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_named_and_idleness_is_none() {
        assert!(limits(ThrottleReasons::GPU_IDLE).is_empty());
        let reasons = ThrottleReasons::GPU_IDLE | ThrottleReasons::SW_POWER_CAP;
        assert_eq!(limits(reasons), ["sw power cap"]);
    }
}
