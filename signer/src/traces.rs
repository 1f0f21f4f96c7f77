//! Traces, where someone asks for them: what a request waits for, step by step, sent to an OpenTelemetry collector.
//!
//! A span has the UID of its request and the name of its grant, what came of it and by which reason; nothing that a person
//! wrote or is called by. The name of a request is left out, too: `touchstone login` makes it of the user's. An error marks
//! its span and says no more there, since the API server's words name people; the log has them.
//!
//! Nothing here holds up the signer. Spans wait in a queue, and what does not fit is dropped; a thread of its own sends
//! them; what goes wrong there is told in the log and nowhere else.

mod collector;
mod endpoint;

pub use endpoint::{Endpoint, EndpointError};
pub use touchstone_apiserver::TRACES;

use collector::Collector;
use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::SdkTracerProvider,
};
use std::{io, path::PathBuf, time::Duration};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

/// How long the last spans may take to be sent when the signer has stopped.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

/// Why no traces are sent. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The file with the certificates to trust.
    #[error("read the certificates {}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate in it.
    #[error("use a certificate in {}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// An environment variable.
    #[error("use {variable}")]
    Endpoint {
        /// Which.
        variable: &'static str,
        /// What is wrong with it.
        source: EndpointError,
    },
    /// The exporter.
    #[error("make the exporter of traces")]
    Exporter(#[from] ExporterBuildError),
    /// The collector's certificate could not be verified.
    #[error("find the certificates that this machine trusts")]
    Roots(#[source] io::Error),
    /// The system does not give what the exporter needs.
    #[error("start the exporter of traces")]
    Start(#[source] io::Error),
}

impl TracesError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Certificates { .. } | Self::Certificate { .. } | Self::Roots(_) => {
                "name a readable file with the collector's CA, PEM, in OTEL_EXPORTER_OTLP_CERTIFICATE"
            }
            Self::Endpoint { .. } => "name the collector as http://ADDRESS:PORT, or unset it",
            Self::Exporter(_) => "check the variables that begin with OTEL_EXPORTER_OTLP_",
            Self::Start(_) => "give the process room for one more thread",
        }
    }
}

/// What takes spans and sends them.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Prepares to send spans to this collector, or to the one that the environment names; `None` where neither is there, or
    /// the environment forbids it. `instance` tells this process from every other.
    ///
    /// # Errors
    /// When what is named cannot be used.
    pub fn open(endpoint: Option<Endpoint>, instance: &str) -> Result<Option<Self>, TracesError> {
        let is = |name, value| variable(name).is_some_and(|it| it.eq_ignore_ascii_case(value));
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Ok(None);
        }
        let named = match endpoint {
            Some(endpoint) => Some(endpoint),
            None => Endpoint::of_environment(variable)?,
        };
        let Some(endpoint) = named else {
            return Ok(None);
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector::new(&endpoint)?)
            .with_endpoint(endpoint.to_string())
            .with_protocol(Protocol::HttpBinary)
            .build()?;
        let provider = SdkTracerProvider::builder()
            // They would have the words of errors.
            .with_max_events_per_span(0)
            .with_resource(resource(instance))
            .with_batch_exporter(exporter)
            .build();
        Ok(Some(Self { provider }))
    }

    /// What takes the spans of the process.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(env!("CARGO_PKG_NAME")))
            .with_context_activation(false)
            .with_error_events_to_exceptions(false)
            .with_error_events_to_status(false)
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(
                filter_fn(|metadata| metadata.target() == TRACES)
                    .with_max_level_hint(LevelFilter::INFO),
            )
    }

    /// Sends what is left, if it goes quickly.
    pub fn finish(self) {
        // What did not go is lost, and was told of by who tried to send it.
        let _ = self.provider.shutdown_with_timeout(FINISH_WITHIN);
    }
}

/// Who sends: as the environment says, and otherwise as the program is called.
fn resource(instance: &str) -> Resource {
    let builder = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance.to_owned()),
        ])
        .with_detectors(&[
            Box::new(TelemetryResourceDetector),
            Box::new(EnvResourceDetector::new()),
        ]);
    match variable("OTEL_SERVICE_NAME") {
        Some(name) => builder.with_service_name(name).build(),
        None => builder.build(),
    }
}

/// An environment variable; one that is empty is none (OpenTelemetry specification, environment variables).
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A variable of the exporter: the one for traces, or the one for all signals.
fn exporter_variable(name: &str) -> Option<String> {
    variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"))
        .or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
    };
    use tracing_subscriber::layer::SubscriberExt as _;

    #[tracing::instrument(target = TRACES, skip_all, err)]
    fn fails() -> Result<(), String> {
        tracing::error!(user = "alice@example.com", "alice may not");
        Err("write: User \"alice@example.com\" may not".into())
    }

    /// What one batch of spans is on its way.
    fn sent(work: impl FnOnce()) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let collector = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = Vec::new();
            let mut buffer = [0; 4096];
            // What is sent comes at once, and then nothing until there is an answer.
            stream
                .set_read_timeout(Some(Duration::from_millis(500)))
                .unwrap();
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                bytes.extend_from_slice(&buffer[..read]);
            }
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
            bytes
        });
        let traces = Traces::open(Some(url.parse().unwrap()), "one")
            .unwrap()
            .unwrap();
        let subscriber = tracing_subscriber::registry().with(traces.layer());
        tracing::subscriber::with_default(subscriber, work);
        traces.finish();
        collector.join().unwrap()
    }

    #[test]
    fn an_error_marks_its_span_and_its_words_are_not_sent() {
        let sent = sent(|| fails().unwrap_err().clear());
        let text = String::from_utf8_lossy(&sent);
        assert!(
            !text.contains("alice") && !text.contains("may not"),
            "{text}"
        );
        // Field 15 of a Span is its Status; field 3 of that the code, 2 an error (opentelemetry/proto/trace/v1/trace.proto).
        let error = [15 << 3 | 2, 2, 3 << 3, 2];
        assert!(sent.windows(4).any(|bytes| bytes == error), "{sent:?}");
    }
}
