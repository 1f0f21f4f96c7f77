//! A collector of traces: it keeps what it is sent, byte by byte, or takes connections and says nothing.

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, body::Bytes, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{Span, status::StatusCode},
};
use prost::Message as _;
use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Collector {
    pub(crate) url: String,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    /// Keeps what it is sent.
    pub(crate) async fn start() -> Self {
        let (listener, mut collector) = Self::listening().await;
        let bodies = Arc::clone(&collector.bodies);
        collector.task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let bodies = Arc::clone(&bodies);
                let service = service_fn(move |request| taken(request, Arc::clone(&bodies)));
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        collector
    }

    /// Takes connections and answers nothing.
    pub(crate) async fn silent() -> Self {
        let (listener, mut collector) = Self::listening().await;
        let connections = Arc::clone(&collector.connections);
        collector.task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.lock().unwrap().push(stream);
            }
        });
        collector
    }

    /// The address of one that is not there.
    pub(crate) async fn away() -> String {
        Self::listening().await.1.url.clone()
    }

    async fn listening() -> (TcpListener, Self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let collector = Self {
            url,
            bodies: Arc::default(),
            connections: Arc::default(),
            task: tokio::spawn(async {}),
        };
        (listener, collector)
    }

    /// How many connections a silent one has.
    pub(crate) fn connections(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    /// All bytes that came.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bodies.lock().unwrap().concat()
    }

    /// All spans that came, with who sent them.
    pub(crate) fn spans(&self) -> Vec<(Resource, Span)> {
        let mut found = Vec::new();
        for body in self.bodies.lock().unwrap().iter() {
            let batch = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
            for of_one in batch.resource_spans {
                let resource = of_one.resource.unwrap_or_default();
                let spans = of_one.scope_spans.into_iter().flat_map(|it| it.spans);
                found.extend(spans.map(|span| (resource.clone(), span)));
            }
        }
        found
    }

    /// The trace with this root, once the root is there and `is_it` knows it.
    pub(crate) async fn trace(&self, is_it: impl Fn(&Span) -> bool) -> Vec<Span> {
        let end = Instant::now() + PATIENCE;
        loop {
            let spans: Vec<_> = self.spans().into_iter().map(|(_, span)| span).collect();
            let root = spans
                .iter()
                .find(|it| it.parent_span_id.is_empty() && is_it(it));
            if let Some(root) = root {
                let of_it = |span: &&Span| span.trace_id == root.trace_id;
                return spans.iter().filter(of_it).cloned().collect();
            }
            assert!(Instant::now() < end, "no such trace: {spans:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn taken(
    request: Request<Incoming>,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.method(), Method::POST);
    assert_eq!(request.uri().path(), "/v1/traces");
    let format = request.headers().get(header::CONTENT_TYPE).unwrap();
    assert_eq!(format, "application/x-protobuf");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    bodies.lock().unwrap().push(body.to_vec());
    Ok(Response::new(Full::default()))
}

/// What an attribute says, as text.
pub(crate) fn says(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|it| it.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{key}: {other:?}"),
    }
}

pub(crate) fn has_failed(span: &Span) -> bool {
    span.status
        .as_ref()
        .is_some_and(|status| status.code() == StatusCode::Error)
}
