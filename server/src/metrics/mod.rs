//! Every metric that Galley exports, registered in this one place.
//!
//! Names carry base units; labels are bounded: recipe names, protocols and outcomes, never a client's string. The
//! recorder belongs to a server and not to the process, so that tests can run several servers side by side.

mod jobs;
mod recipe;
mod stream;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _, Unit};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

pub use jobs::{JobEvent, JobMetrics};
pub use recipe::RecipeMetrics;
pub use stream::{Stage, StreamMetrics, StreamOutcome};

/// Buckets of durations in seconds: 100 us to 60 s.
const DURATION_BUCKETS: [f64; 18] = [
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
];
const BATCH_BUCKETS: [f64; 11] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0,
];

/// Buckets of an actual time over the one that was predicted: narrow about 1.
const RATIO_BUCKETS: [f64; 13] = [
    0.25, 0.5, 0.67, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0,
];

/// Which family of clients a request speaks for; the label `protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `/infer` and its kin.
    FastDeploy,
    /// The Open Inference Protocol, over REST and gRPC.
    Oip,
    /// The server's own probes.
    Probe,
}

/// How a request ended; the label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, every item.
    Ok,
    /// Answered, with an error in place of some items.
    Partial,
    /// Refused: malformed, or no item could be read.
    BadRequest,
    /// Refused: larger than a limit.
    TooLarge,
    /// Refused: the queue was full.
    QueueFull,
    /// Refused: warming up or draining.
    Unavailable,
    /// The deadline passed.
    Timeout,
    /// The device or the recipe failed.
    Failed,
    /// The caller went away.
    Cancelled,
}

const PROTOCOLS: [(Protocol, &str); 3] = [
    (Protocol::FastDeploy, "fastdeploy"),
    (Protocol::Oip, "oip"),
    (Protocol::Probe, "probe"),
];
const OUTCOMES: [(Outcome, &str); 9] = [
    (Outcome::Ok, "ok"),
    (Outcome::Partial, "partial"),
    (Outcome::BadRequest, "bad_request"),
    (Outcome::TooLarge, "too_large"),
    (Outcome::QueueFull, "queue_full"),
    (Outcome::Unavailable, "unavailable"),
    (Outcome::Timeout, "timeout"),
    (Outcome::Failed, "failed"),
    (Outcome::Cancelled, "cancelled"),
];

/// The recorder of one server.
pub struct Registry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    unauthorized: Counter,
    connections: Gauge,
    connections_over_limit: Counter,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    /// An empty registry with `galley_build_info` in it.
    ///
    /// # Errors
    /// The exporter refuses the buckets.
    pub fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(
                Matcher::Suffix("_duration_seconds".into()),
                &DURATION_BUCKETS,
            )?
            .set_buckets_for_metric(Matcher::Full("galley_batch_size".into()), &BATCH_BUCKETS)?
            .set_buckets_for_metric(Matcher::Suffix("_prediction_ratio".into()), &RATIO_BUCKETS)?
            .build_recorder();
        let unauthorized =
            recorder.register_counter(&Key::from_name("galley_unauthorized_total"), &METADATA);
        let connections = recorder.register_gauge(&Key::from_name("galley_connections"), &METADATA);
        let connections_over_limit = recorder.register_counter(
            &Key::from_name("galley_connections_over_limit_total"),
            &METADATA,
        );
        let registry = Self {
            handle: recorder.handle(),
            recorder,
            unauthorized,
            connections,
            connections_over_limit,
        };
        registry.describe();
        registry
            .gauge(
                "galley_build_info",
                vec![Label::new("version", env!("CARGO_PKG_VERSION"))],
            )
            .set(1.0);
        Ok(registry)
    }

    /// The Prometheus text.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds recorded samples into their buckets. To be called every second or so: until then each sample is kept.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// Requests refused for want of a valid API key.
    pub fn unauthorized(&self) -> &Counter {
        &self.unauthorized
    }

    /// Connections that are open.
    pub fn connections(&self) -> &Gauge {
        &self.connections
    }

    /// Connections that came when as many were open as may be.
    pub fn connections_over_limit(&self) -> &Counter {
        &self.connections_over_limit
    }

    /// `galley_device_memory_bytes` of one device; `kind` is `used` or `total`, or for the CPU `resident`.
    pub fn device_memory(&self, device: String, kind: &'static str) -> Gauge {
        self.gauge(
            "galley_device_memory_bytes",
            vec![Label::new("device", device), Label::new("kind", kind)],
        )
    }

    /// `galley_device_utilization_ratio` of one device.
    #[cfg(feature = "cuda")]
    pub fn device_utilization(&self, device: String) -> Gauge {
        self.gauge(
            "galley_device_utilization_ratio",
            vec![Label::new("device", device)],
        )
    }

    fn describe(&self) {
        let counters = [
            ("galley_requests_total", "Requests by how they ended."),
            ("galley_items_total", "Items answered by a forward pass."),
            (
                "galley_images_decoded_total",
                "Images by what decoded them: the CPU, or the device that their model runs on.",
            ),
            (
                "galley_unauthorized_total",
                "Requests refused for want of a valid API key.",
            ),
            (
                "galley_connections_over_limit_total",
                "Connections that came when as many were open as may be (--max-connections).",
            ),
            (
                "galley_oom_retries_total",
                "Batches halved because the device ran out of memory.",
            ),
        ];
        for (name, text) in counters {
            self.describe_counter(name, text);
        }
        let gauges = [
            (
                "galley_queue_depth",
                "Items admitted that no batch has taken yet.",
            ),
            ("galley_in_flight", "Requests being answered."),
            ("galley_connections", "Connections that are open."),
            ("galley_device_memory_bytes", "Memory of a device, by kind."),
            (
                "galley_device_utilization_ratio",
                "The share of the last moments in which a device computed, 0 to 1.",
            ),
            ("galley_build_info", "The version that runs; always 1."),
        ];
        for (name, text) in gauges {
            self.describe_gauge(name, text);
        }
        let durations = [
            (
                "galley_request_duration_seconds",
                "From a request's arrival to its end, by how it ended; without the server's own probes.",
            ),
            (
                "galley_queue_duration_seconds",
                "From an item's entry into the queue to its batch.",
            ),
            ("galley_prepare_duration_seconds", "Preparing one item."),
            (
                "galley_forward_duration_seconds",
                "One batch on the device.",
            ),
            (
                "galley_finish_duration_seconds",
                "Finishing the items of one request.",
            ),
        ];
        for (name, text) in durations {
            self.describe_histogram(name, Unit::Seconds, text);
        }
        self.describe_histogram("galley_batch_size", Unit::Count, "Items of a batch.");
        self.describe_histogram(
            "galley_forward_prediction_ratio",
            Unit::Count,
            "What a batch took of the device's time over what was predicted; 1 is as predicted.",
        );
    }

    fn describe_counter(&self, name: &'static str, text: &'static str) {
        self.recorder
            .describe_counter(name.into(), Some(Unit::Count), text.into());
    }

    fn describe_gauge(&self, name: &'static str, text: &'static str) {
        self.recorder.describe_gauge(name.into(), None, text.into());
    }

    fn describe_histogram(&self, name: &'static str, unit: Unit, text: &'static str) {
        self.recorder
            .describe_histogram(name.into(), Some(unit), text.into());
    }

    fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.recorder
            .register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        self.recorder
            .register_gauge(&Key::from_parts(name, labels), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        self.recorder
            .register_histogram(&Key::from_parts(name, labels), &METADATA)
    }
}

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn labels_stand_at_the_place_of_their_variant() {
        for (place, (protocol, _)) in PROTOCOLS.iter().enumerate() {
            assert_eq!(*protocol as usize, place);
        }
        for (place, (outcome, _)) in OUTCOMES.iter().enumerate() {
            assert_eq!(*outcome as usize, place);
        }
    }

    #[test]
    fn what_is_recorded_is_rendered_with_its_labels() {
        let registry = Registry::new().unwrap();
        let metrics = registry.recipe("echo");
        metrics.request(
            Protocol::FastDeploy,
            Outcome::QueueFull,
            Duration::from_millis(3),
        );
        metrics.request(Protocol::Oip, Outcome::Ok, Duration::from_millis(300));
        metrics.request(Protocol::Probe, Outcome::Ok, Duration::from_millis(3));
        metrics.batch_size.record(32.0);
        metrics.forward_prediction_ratio.record(1.02);
        let text = registry.render();
        for line in [
            r#"galley_requests_total{recipe="echo",protocol="fastdeploy",outcome="queue_full"} 1"#,
            r#"galley_requests_total{recipe="echo",protocol="probe",outcome="ok"} 1"#,
            r#"galley_request_duration_seconds_bucket{recipe="echo",outcome="queue_full",le="0.005"} 1"#,
            r#"galley_request_duration_seconds_bucket{recipe="echo",outcome="ok",le="0.25"} 0"#,
            r#"galley_request_duration_seconds_count{recipe="echo",outcome="ok"} 1"#,
            r#"galley_batch_size_bucket{recipe="echo",le="16"} 0"#,
            r#"galley_batch_size_bucket{recipe="echo",le="32"} 1"#,
            r#"galley_forward_prediction_ratio_bucket{recipe="echo",le="1"} 0"#,
            r#"galley_forward_prediction_ratio_bucket{recipe="echo",le="1.05"} 1"#,
            "# HELP galley_queue_depth",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
