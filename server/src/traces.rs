//! Traces of requests, sent to a collector over OTLP (`--otlp-endpoint`).
//!
//! Whoever serves a protocol begins a request's span, under its caller's if it names one, and runs the request within
//! the context that it gets (`Traces::begin`). The engine adds the stages to whatever span is current (`stages`),
//! so that nothing in between need know of traces, and nothing is done where there are none. Spans are sent by a thread
//! of their own; what it cannot keep up with is dropped, not waited for.
//!
//! What waits to be sent is bounded in number by OpenTelemetry's queue, and each span in size here: a request has one span
//! and four for its stages however many items it has, and nothing in them is as long as a caller likes.

use std::{
    borrow::Cow,
    ops::Range,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, ensure};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{SpanKind, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};
use url::Url;

/// How long the last spans may take to be sent.
const LAST: Duration = Duration::from_secs(5);
/// More attributes than any span has. Events and links none has.
const MAX_ATTRIBUTES: u32 = 16;
/// The most bytes of `tracestate` that are passed on with each span, the least that W3C's Trace Context asks for. A longer
/// one is left out, as that allows.
const MAX_HEADER: usize = 512;

/// Where spans go.
#[derive(Clone, Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// To a collector's OTLP port over HTTP, such as `http://localhost:4318`. The sampler, the headers that a collector
    /// may want and the service's name are those of OpenTelemetry's own environment variables.
    ///
    /// # Errors
    /// The address is none.
    pub fn to(endpoint: &str) -> anyhow::Result<Self> {
        let expected = || {
            format!("--otlp-endpoint: expected http://HOST[:PORT] or https://, got {endpoint:?}")
        };
        let mut url = Url::parse(endpoint).with_context(expected)?;
        ensure!(
            ["http", "https"].contains(&url.scheme()) && url.has_host(),
            expected()
        );
        if !url.path().ends_with("/v1/traces") {
            let base = url.path().trim_end_matches('/').to_owned();
            url.set_path(&format!("{base}/v1/traces"));
        }
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(url.as_str())
            .build()
            .with_context(expected)?;
        let mut resource = Resource::builder()
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("galley");
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_max_attributes_per_span(MAX_ATTRIBUTES)
            .with_max_events_per_span(0)
            .with_max_links_per_span(0)
            .with_resource(resource.build())
            .build();
        Ok(Self {
            tracer: provider.tracer("galley"),
            provider,
        })
    }

    /// Begins a request's span, under its caller's if there is one. The request is to run within the context; the span
    /// ends when that is dropped.
    pub(crate) fn begin(
        &self,
        name: impl Into<Cow<'static, str>>,
        caller: &Context,
        attributes: Vec<KeyValue>,
    ) -> Context {
        let clock = Clock::now();
        let span = self
            .tracer
            .span_builder(name)
            .with_kind(SpanKind::Server)
            .with_start_time(clock.date)
            .with_attributes(attributes)
            .start_with_context(&self.tracer, caller);
        caller.with_span(span).with_value(Traced {
            tracer: self.tracer.clone(),
            clock,
        })
    }

    /// Sends what has not been sent yet, for as long as that may take. Blocks.
    pub fn shut_down(&self) {
        self.shut_down_within(LAST);
    }

    /// As [`Traces::shut_down`], within another time.
    pub fn shut_down_within(&self, limit: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(limit) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// The span that a caller's `traceparent` names, if it does.
pub(crate) fn caller(headers: &impl Extractor) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Bounded(headers))
}

/// Headers without those that are too long.
struct Bounded<'a, H>(&'a H);

impl<H: Extractor> Extractor for Bounded<'_, H> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).filter(|value| value.len() <= MAX_HEADER)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys()
    }
}

/// What a context has besides the span of its request.
struct Traced {
    tracer: SdkTracer,
    clock: Clock,
}

/// Dates of instants. Both are read once for each request, so that its spans fit into each other to the nanosecond.
#[derive(Clone, Copy)]
struct Clock {
    date: SystemTime,
    at: Instant,
}

impl Clock {
    fn now() -> Self {
        // In this order: whatever comes between, no stage is dated later than it was, and so none after its request's end.
        let date = SystemTime::now();
        let at = Instant::now();
        Self { date, at }
    }

    fn date_of(self, at: Instant) -> SystemTime {
        self.date + at.saturating_duration_since(self.at)
    }
}

/// Says something of the request that runs, if it is traced.
pub(crate) fn note(attribute: impl FnOnce() -> KeyValue) {
    Context::map_current(|context| {
        let span = context.span();
        if span.is_recording() {
            span.set_attribute(attribute());
        }
    });
}

/// Adds stages, each with its time, to the request that runs, if it is traced.
pub(crate) fn stages<const N: usize>(
    stages: [(&'static str, Range<Instant>); N],
    attribute: impl FnOnce() -> KeyValue,
) {
    Context::map_current(|context| {
        let span = context.span();
        let traced = context.get().filter(|_| span.is_recording());
        let Some(Traced { tracer, clock }) = traced else {
            return;
        };
        span.set_attribute(attribute());
        for (name, time) in stages {
            let stage = tracer
                .span_builder(name)
                .with_kind(SpanKind::Internal)
                .with_start_time(clock.date_of(time.start))
                .start_with_context(tracer, context);
            let stage = Context::new().with_span(stage);
            stage.span().end_with_timestamp(clock.date_of(time.end));
        }
    });
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn an_address_that_is_none_is_named() {
        for endpoint in ["", "localhost:4318", "grpc://collector:4317", "http://"] {
            let error = format!("{:#}", Traces::to(endpoint).unwrap_err());
            assert!(error.contains("--otlp-endpoint"), "{endpoint}: {error}");
        }
    }

    #[test]
    fn only_a_short_tracestate_is_passed_on() {
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for (length, kept) in [(MAX_HEADER, MAX_HEADER), (MAX_HEADER + 1, 0)] {
            let value = "v".repeat(200);
            let mut state = format!("a={value},b={value},c=");
            state.push_str(&"v".repeat(length - state.len()));
            let headers = HashMap::from([
                ("traceparent".to_owned(), traceparent.to_owned()),
                ("tracestate".to_owned(), state),
            ]);
            let caller = caller(&headers);
            let span = caller.span();
            assert!(span.span_context().is_valid());
            assert_eq!(span.span_context().trace_state().header().len(), kept);
        }
    }
}
