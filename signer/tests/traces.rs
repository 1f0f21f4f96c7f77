//! Traces, as a collector gets them: what they tell of a request, whom they do not name, and that the signer needs no
//! collector.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that panics has failed"
)]

#[path = "traces/collector.rs"]
mod collector;
#[path = "traces/place.rs"]
mod place;

use collector::{Collector, has_failed, says};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt as _;
use opentelemetry_proto::tonic::trace::v1::Span;
use place::{GROUP, Place, REASON, USER};
use std::time::Duration;

/// Well above what it takes to stop, and below the ten seconds that a collector has for its answer.
const SOON: Duration = Duration::from_secs(5);
const WARNING: &str = "traces do not reach the collector";

/// The trace of a request's way.
async fn trace_of(collector: &Collector, request: &CertificateSigningRequest) -> Vec<Span> {
    let uid = request.uid();
    let is_of_it = |span: &Span| says(&span.attributes, "touchstone.request.uid") == uid;
    collector.trace(is_of_it).await
}

fn root(trace: &[Span]) -> &Span {
    trace
        .iter()
        .find(|it| it.parent_span_id.is_empty())
        .unwrap()
}

/// The names of the spans below the root, in the order in which they began.
fn below_root(trace: &[Span]) -> Vec<&str> {
    let root = root(trace);
    let mut children: Vec<_> = trace
        .iter()
        .filter(|it| it.parent_span_id == root.span_id)
        .collect();
    assert_eq!(children.len() + 1, trace.len(), "{trace:#?}");
    children.sort_by_key(|span| span.start_time_unix_nano);
    for span in &children {
        assert!(!has_failed(span), "{span:?}");
        assert!(span.start_time_unix_nano >= root.start_time_unix_nano);
        assert!(span.end_time_unix_nano <= root.end_time_unix_nano);
    }
    children
        .into_iter()
        .map(|span| span.name.as_str())
        .collect()
}

/// No word that a person wrote or is called by is in what was sent, and nothing of a request or a certificate.
fn names_nobody(collector: &Collector, requests: &[&CertificateSigningRequest]) {
    let sent = String::from_utf8_lossy(&collector.bytes()).to_lowercase();
    let mut forbidden = vec![
        USER.to_owned(),
        GROUP.to_owned(),
        REASON.to_owned(),
        "alice".into(),
        "oncall".into(),
        "billing".into(),
        "inc-4211".into(),
        "touchstone-admin".into(),
        "payments on call".into(),
        "-----begin".into(),
    ];
    forbidden.extend(requests.iter().map(|request| request.name_any()));
    for word in forbidden {
        assert!(
            !sent.contains(&word.to_lowercase()),
            "{word} was sent:\n{sent}"
        );
    }
    assert!(sent.contains("reconcile"));
}

#[tokio::test]
async fn a_request_is_one_trace_of_every_step_and_names_nobody() {
    let collector = Collector::start().await;
    let mut place = Place::new();
    let mut command = place.command();
    command.args(["--otlp-endpoint", &collector.url]);
    place.start(&mut command).await;

    let issued = place.ask(GROUP).await;
    let trace = trace_of(&collector, &issued).await;
    assert_eq!(
        below_root(&trace),
        [
            "review",
            "claim grant",
            "append to audit log",
            "write approval",
            "sign",
            "write status",
            "append to audit log",
            "write grant status",
            "publish event",
        ]
    );
    let of_root = |key| says(&root(&trace).attributes, key);
    assert_eq!(root(&trace).name, "reconcile");
    assert_eq!(of_root("touchstone.verdict").unwrap(), "approve");
    assert_eq!(of_root("touchstone.outcome").unwrap(), "done");
    let grant = of_root("touchstone.grant").unwrap();
    assert!(place.log().contains(&grant), "{grant}");
    let review = trace.iter().find(|it| it.name == "review").unwrap();
    assert_eq!(says(&review.attributes, "touchstone.rules").unwrap(), "1");

    let denied = place.ask("jit:oncall:billing").await;
    let trace = trace_of(&collector, &denied).await;
    assert_eq!(
        below_root(&trace),
        [
            "review",
            "append to audit log",
            "write approval",
            "publish event"
        ]
    );
    let of_root = |key| says(&root(&trace).attributes, key);
    assert_eq!(of_root("touchstone.verdict").unwrap(), "deny");
    assert_eq!(of_root("touchstone.reason").unwrap(), "DeniedByPolicy");
    // Being denied is an answer, no failure.
    assert!(!has_failed(root(&trace)));

    // What is still there is sent at the end.
    let (status, _) = place.stop().await;
    assert!(status.success(), "{}", place.log());
    names_nobody(&collector, &[&issued, &denied]);
    let (resource, _) = &collector.spans()[0];
    let of_resource = |key| says(&resource.attributes, key).unwrap();
    assert_eq!(of_resource("service.name"), "touchstone-signer");
    assert_eq!(of_resource("service.version"), env!("CARGO_PKG_VERSION"));
    assert!(!of_resource("service.instance.id").is_empty());
    // Nothing was sent of the sending itself, nor of the echo of what was written.
    let roots = collector.spans();
    let roots = roots.iter().filter(|(_, it)| it.parent_span_id.is_empty());
    let reconciled = roots.filter(|(_, it)| it.name == "reconcile").count();
    assert_eq!(reconciled, 2, "{:#?}", collector.spans());
    assert!(!place.log().contains(WARNING), "{}", place.log());
}

/// A quarter of seconds.
const CA_SETTINGS: &str = "
apiVersion: touchstone.dev/v1
kind: CaSettings
schedule:
  root: own
  lifetime: 60s
  activateEvery: 8s
  prepareAfter: 2s
  publishBefore: 2s
  keepAfterLastLeaf: 2s
  longestLeaf: 4s
";

#[tokio::test]
async fn each_step_of_a_rotation_is_a_trace() {
    let collector = Collector::start().await;
    let mut place = Place::new();
    let settings = place.path("ca.yaml");
    std::fs::write(&settings, CA_SETTINGS).unwrap();
    let mut command = place.command();
    command.args(["--otlp-endpoint", &collector.url, "--ca-settings"]);
    place.start(command.arg(settings)).await;
    for (step, expected) in [
        ("prepare the next CA", &["write CA record"][..]),
        ("publish ca-2", &["write CA record"]),
        ("activate ca-2", &["prove", "write CA record"]),
    ] {
        let is_it =
            |span: &Span| says(&span.attributes, "touchstone.step").as_deref() == Some(step);
        let trace = collector.trace(is_it).await;
        assert_eq!(root(&trace).name, "rotate CA");
        let below = trace
            .iter()
            .filter(|it| it.parent_span_id == root(&trace).span_id);
        let below: Vec<_> = below.map(|span| span.name.as_str()).collect();
        for name in expected {
            assert!(below.contains(name), "{step}: {below:?}");
        }
        assert!(!trace.iter().any(has_failed), "{trace:#?}");
    }
}

#[tokio::test]
async fn the_log_is_the_same_with_traces_and_without() {
    let collector = Collector::start().await;
    let mut logs = Vec::new();
    for traced in [false, true] {
        let mut place = Place::new();
        let mut command = place.command();
        command.args(["--log-format", "json"]);
        if traced {
            command.args(["--otlp-endpoint", &collector.url]);
        }
        place.start(&mut command).await;
        place.ask(GROUP).await;
        place.stop().await;
        let log = place.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let mut told: Vec<_> = lines
            .map(|line: serde_json::Value| {
                let fields: Vec<_> = line["fields"]
                    .as_object()
                    .unwrap()
                    .keys()
                    .cloned()
                    .collect();
                let keys: Vec<_> = line.as_object().unwrap().keys().cloned().collect();
                (
                    line["fields"]["message"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned(),
                    fields,
                    keys,
                )
            })
            .filter(|(message, ..)| !message.starts_with("metrics"))
            .collect();
        told.sort();
        assert!(
            told.iter().any(|(message, ..)| message == "issued"),
            "{log}"
        );
        assert!(!log.contains("\"span"), "{log}");
        logs.push(told);
    }
    assert_eq!(logs[0], logs[1]);
    assert!(!collector.spans().is_empty());
}

#[tokio::test]
async fn the_standard_variables_name_the_collector_the_service_and_the_sampler() {
    let collector = Collector::start().await;
    let mut place = Place::new();
    let mut command = place.command();
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
        .env("OTEL_SERVICE_NAME", "issuer")
        .env(
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=staging",
        );
    place.start(&mut command).await;
    let issued = place.ask(GROUP).await;
    trace_of(&collector, &issued).await;
    place.stop().await;
    let (resource, _) = &collector.spans()[0];
    let says = |key| says(&resource.attributes, key).unwrap();
    assert_eq!(says("service.name"), "issuer");
    assert_eq!(says("deployment.environment.name"), "staging");

    for (name, value) in [
        ("OTEL_TRACES_SAMPLER", "always_off"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_SDK_DISABLED", "true"),
    ] {
        let before = collector.spans().len();
        let mut place = Place::new();
        let mut command = place.command();
        command
            .args(["--otlp-endpoint", &collector.url])
            .env(name, value);
        place.start(&mut command).await;
        place.ask(GROUP).await;
        place.stop().await;
        assert_eq!(collector.spans().len(), before, "{name}");
    }
}

#[tokio::test]
async fn without_a_collector_everything_goes_on_and_one_warning_says_so() {
    let away = Collector::away().await;
    let mut place = Place::new();
    let mut command = place.command();
    command.args(["--otlp-endpoint", &away]);
    place.start(&mut command).await;
    for _ in 0..5 {
        let issued = place.ask(GROUP).await;
        assert!(issued.status.unwrap().certificate.is_some());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let (status, took) = place.stop().await;
    let log = place.log();
    assert!(status.success(), "{log}");
    assert!(took < SOON, "{took:?}: {log}");
    assert_eq!(log.matches(WARNING).count(), 1, "{log}");
    assert!(log.contains(away.trim_start_matches("http://")), "{log}");
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_up_nothing() {
    let collector = Collector::silent().await;
    let mut place = Place::new();
    let mut command = place.command();
    command
        .args(["--otlp-endpoint", &collector.url])
        // So few that most are dropped.
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "8")
        .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4");
    place.start(&mut command).await;
    for _ in 0..5 {
        let issued = place.ask(GROUP).await;
        assert!(issued.status.unwrap().certificate.is_some());
    }
    while collector.connections() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (status, took) = place.stop().await;
    let log = place.log();
    assert!(status.success(), "{log}");
    assert!(took < SOON, "{took:?}: {log}");
    assert!(log.matches(WARNING).count() <= 1, "{log}");
}

#[tokio::test]
async fn a_collector_that_does_not_answer_in_time_is_told_of_once() {
    let collector = Collector::silent().await;
    let mut place = Place::new();
    let mut command = place.command();
    command
        .args(["--otlp-endpoint", &collector.url])
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", "100");
    place.start(&mut command).await;
    while collector.connections() < 3 {
        place.ask(GROUP).await;
    }
    place.stop().await;
    let log = place.log();
    assert_eq!(log.matches(WARNING).count(), 1, "{log}");
    assert!(log.contains("it did not answer in time"), "{log}");
}

#[tokio::test]
async fn a_wrong_address_is_an_error_on_the_command_line_and_a_warning_in_the_environment() {
    let place = Place::new();
    for url in ["collector:4317", "http://me:secret@127.0.0.1:4318", ""] {
        let mut command = place.command();
        let output = command.args(["--otlp-endpoint", url]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--otlp-endpoint"), "{said}");
    }
    let mut place = Place::new();
    let mut command = place.command();
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317");
    place.start(&mut command).await;
    assert!(place.ask(GROUP).await.status.unwrap().certificate.is_some());
    assert!(place.stop().await.0.success());
    let log = place.log();
    assert!(log.contains("no traces are sent"), "{log}");
    assert!(log.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{log}");
}
