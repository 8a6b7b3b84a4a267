//! What is counted of one recipe.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Label};

use super::{OUTCOMES, Outcome, PROTOCOLS, Protocol, Registry};

/// The metrics of one recipe, registered once so that recording costs no look-up.
pub struct RecipeMetrics {
    requests: [[Counter; OUTCOMES.len()]; PROTOCOLS.len()],
    /// By outcome: a refusal takes microseconds, and among answers would hide what those take.
    request_duration: [Histogram; OUTCOMES.len()],
    /// From the queue's end to a batch.
    pub queue_duration: Histogram,
    /// Preparing one item.
    pub prepare_duration: Histogram,
    /// One batch on the device.
    pub forward_duration: Histogram,
    /// What a batch took over what was predicted.
    pub forward_prediction_ratio: Histogram,
    /// Finishing the items of one request.
    pub finish_duration: Histogram,
    /// Items of a batch.
    pub batch_size: Histogram,
    /// Items admitted that no batch has taken yet.
    pub queue_depth: Gauge,
    /// Requests being answered.
    pub in_flight: Gauge,
    /// Items answered by a forward pass.
    pub items: Counter,
    /// Images decoded by the device that their model runs on.
    pub images_on_device: Counter,
    /// Images decoded by the CPU.
    pub images_on_cpu: Counter,
    /// Batches halved for want of memory.
    pub oom_retries: Counter,
}

impl std::fmt::Debug for RecipeMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecipeMetrics").finish_non_exhaustive()
    }
}

impl RecipeMetrics {
    /// Counts a request that has ended.
    pub fn request(&self, protocol: Protocol, outcome: Outcome, duration: Duration) {
        self.requests[protocol as usize][outcome as usize].increment(1);
        // A probe is nobody's request.
        if protocol != Protocol::Probe {
            self.request_duration[outcome as usize].record(duration);
        }
    }
}

impl Registry {
    /// The metrics of one recipe.
    pub fn recipe(&self, recipe: &'static str) -> RecipeMetrics {
        let label = || Label::new("recipe", recipe);
        let histogram = |name| self.histogram(name, vec![label()]);
        let requests = PROTOCOLS.map(|(_, protocol)| {
            OUTCOMES.map(|(_, outcome)| {
                let labels = vec![
                    label(),
                    Label::new("protocol", protocol),
                    Label::new("outcome", outcome),
                ];
                self.counter("galley_requests_total", labels)
            })
        });
        let images = |decoder| {
            let labels = vec![label(), Label::new("decoder", decoder)];
            self.counter("galley_images_decoded_total", labels)
        };
        let request_duration = OUTCOMES.map(|(_, outcome)| {
            let labels = vec![label(), Label::new("outcome", outcome)];
            self.histogram("galley_request_duration_seconds", labels)
        });
        RecipeMetrics {
            requests,
            request_duration,
            queue_duration: histogram("galley_queue_duration_seconds"),
            prepare_duration: histogram("galley_prepare_duration_seconds"),
            forward_duration: histogram("galley_forward_duration_seconds"),
            forward_prediction_ratio: histogram("galley_forward_prediction_ratio"),
            finish_duration: histogram("galley_finish_duration_seconds"),
            batch_size: histogram("galley_batch_size"),
            queue_depth: self.gauge("galley_queue_depth", vec![label()]),
            in_flight: self.gauge("galley_in_flight", vec![label()]),
            items: self.counter("galley_items_total", vec![label()]),
            images_on_device: images("device"),
            images_on_cpu: images("cpu"),
            oom_retries: self.counter("galley_oom_retries_total", vec![label()]),
        }
    }
}
