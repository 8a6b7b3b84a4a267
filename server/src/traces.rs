//! Traces of requests, sent to a collector over OTLP (`--otlp-endpoint`).
//!
//! Whoever serves a protocol begins a request's span, under its caller's if it names one, and runs the request within
//! the context that it gets (`Traces::begin`). The engine adds the stages to whatever span is current (`stages`),
//! so that nothing in between need know of traces, and nothing is done where there are none. Spans are sent by a thread
//! of their own; what it cannot keep up with is dropped, not waited for.

use std::{
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
            .with_resource(resource.build())
            .build();
        Ok(Self {
            tracer: provider.tracer("galley"),
            provider,
        })
    }

    /// Begins a request's span, under the one that the caller's `traceparent` names. The request is to run within the
    /// context; the span ends when that is dropped.
    pub(crate) fn begin(
        &self,
        name: String,
        headers: &impl Extractor,
        attributes: Vec<KeyValue>,
    ) -> Context {
        let caller = TraceContextPropagator::new().extract_with_context(&Context::new(), headers);
        let span = self
            .tracer
            .span_builder(name)
            .with_kind(SpanKind::Server)
            .with_attributes(attributes)
            .start_with_context(&self.tracer, &caller);
        caller.with_span(span).with_value(self.clone())
    }

    /// Sends what has not been sent yet, for as long as that may take. Blocks.
    pub fn shut_down(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
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
        let Some(Traces { tracer, .. }) = context.get().filter(|_| span.is_recording()) else {
            return;
        };
        span.set_attribute(attribute());
        // The stages were timed by a clock that knows no date.
        let (date, now) = (SystemTime::now(), Instant::now());
        let date_of = |at: Instant| date - now.saturating_duration_since(at);
        for (name, time) in stages {
            let stage = tracer
                .span_builder(name)
                .with_kind(SpanKind::Internal)
                .with_start_time(date_of(time.start))
                .start_with_context(tracer, context);
            let stage = Context::new().with_span(stage);
            stage.span().end_with_timestamp(date_of(time.end));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_is_named() {
        for endpoint in ["", "localhost:4318", "grpc://collector:4317", "http://"] {
            let error = format!("{:#}", Traces::to(endpoint).unwrap_err());
            assert!(error.contains("--otlp-endpoint"), "{endpoint}: {error}");
        }
    }
}
