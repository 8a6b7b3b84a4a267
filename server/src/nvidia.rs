//! What NVIDIA's management library (NVML) says of the devices that are served on: their memory, and how busy they are.
//!
//! The library comes with the driver and is looked for when the server starts. Without it there are no such metrics, and
//! nothing else is missing.

use std::{sync::Arc, time::Duration};

use candle_core::Device;
use metrics::Gauge;
use nvml_wrapper::{Nvml, error::NvmlError};

use crate::metrics::Registry;

/// Linux installs it under this name; the one without the number belongs to the toolkit.
const LIBRARY: &str = "libnvidia-ml.so.1";
const EVERY: Duration = Duration::from_secs(1);

/// Keeps the gauges of these devices up to date for as long as the runtime runs.
pub(crate) fn watch(devices: &[Device], registry: &Registry) {
    let cards: Vec<Card> = devices
        .iter()
        .filter_map(|device| Card::of(device, registry))
        .collect();
    if cards.is_empty() {
        return;
    }
    let nvml = match Nvml::builder().lib_path(LIBRARY.as_ref()).init() {
        Ok(nvml) => Arc::new(nvml),
        Err(error) => {
            tracing::warn!(%error, "no metrics of devices: NVML cannot be used");
            return;
        }
    };
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            for card in &cards {
                // What a card does not tell keeps the value of before.
                if let Err(error) = card.update(&nvml) {
                    tracing::debug!(uuid = card.uuid, %error, "NVML does not answer");
                }
            }
        }
    });
}

/// A device as NVML knows it: numbers may differ from CUDA's, as `CUDA_VISIBLE_DEVICES` hides and orders.
struct Card {
    uuid: String,
    used: Gauge,
    total: Gauge,
    utilization: Gauge,
}

impl Card {
    fn of(device: &Device, registry: &Registry) -> Option<Self> {
        let context = Arc::clone(device.as_cuda_device().ok()?.cuda_stream().context());
        let name = format!("cuda:{}", context.ordinal());
        let Some(uuid) = galley_catalog::device_uuid(device) else {
            tracing::warn!(
                device = name,
                "no metrics: the device does not say which it is"
            );
            return None;
        };
        Some(Self {
            uuid,
            used: registry.device_memory(name.clone(), "used"),
            total: registry.device_memory(name.clone(), "total"),
            utilization: registry.device_utilization(name),
        })
    }

    fn update(&self, nvml: &Nvml) -> Result<(), NvmlError> {
        let device = nvml.device_by_uuid(self.uuid.as_str())?;
        let memory = device.memory_info()?;
        self.used.set(memory.used as f64);
        self.total.set(memory.total as f64);
        let percent = device.utilization_rates()?.gpu;
        self.utilization.set(f64::from(percent) / 100.0);
        Ok(())
    }
}
