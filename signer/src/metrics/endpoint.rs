//! `/metrics`, `/healthz` and `/readyz` over plain HTTP, for whoever watches over the signer: nothing here is secret, and
//! nothing is changed.

use super::{Metrics, Ready};
use crate::clock::Clock;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore};

/// The format of [`Metrics::encode`].
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
/// Connections at once. Who asks waits its turn.
const AT_ONCE: usize = 16;
/// How long the head of a request may take.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection is kept.
const CONNECTION_WITHIN: Duration = Duration::from_secs(60);
/// After an error of the listener, such as no file descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers for ever.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
) -> Infallible {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        // Never closed.
        let place = Arc::clone(&room).acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection for metrics was not taken");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (metrics, clock) = (Arc::clone(&metrics), Arc::clone(&clock));
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let answer = answer(request.method(), request.uri().path(), &metrics, &*clock);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .serve_connection(TokioIo::new(stream), service);
            // A connection that fails is its client's affair.
            let _ = tokio::time::timeout(CONNECTION_WITHIN, connection).await;
            drop(place);
        });
    }
}

fn answer(
    method: &Method,
    path: &str,
    metrics: &Metrics,
    clock: &dyn Clock,
) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refusal = response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET\n".into());
        let allowed = HeaderValue::from_static("GET, HEAD");
        refusal.headers_mut().insert(header::ALLOW, allowed);
        return refusal;
    }
    match path {
        "/healthz" => response(StatusCode::OK, PLAIN, "ok\n".into()),
        "/metrics" => response(StatusCode::OK, OPEN_METRICS, metrics.encode()),
        "/readyz" => match metrics.ready(clock.now()) {
            Ok(Ready::Answering) => response(StatusCode::OK, PLAIN, "ok\n".into()),
            Ok(Ready::StandingBy) => response(StatusCode::OK, PLAIN, "ok: standing by\n".into()),
            Err(why) => response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{why}\n")),
        },
        _ => {
            let paths = "/healthz, /metrics, /readyz\n".to_owned();
            response(StatusCode::NOT_FOUND, PLAIN, paths)
        }
    }
}

fn response(status: StatusCode, format: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let format = HeaderValue::from_static(format);
    response.headers_mut().insert(header::CONTENT_TYPE, format);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    async fn served(metrics: &Arc<Metrics>) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Arc::clone(metrics), Arc::new(SystemClock)));
        address
    }

    async fn asked(address: std::net::SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_health_and_readiness_are_answered_and_nothing_else() {
        let metrics = Arc::new(Metrics::new());
        let address = served(&metrics).await;
        let all = asked(address, "GET /metrics").await;
        assert!(all.starts_with("HTTP/1.1 200 OK\r\n"), "{all}");
        assert!(all.contains(OPEN_METRICS), "{all}");
        assert!(all.ends_with("# EOF\n"), "{all}");
        let healthy = asked(address, "GET /healthz").await;
        assert!(healthy.starts_with("HTTP/1.1 200 "), "{healthy}");
        let ready = asked(address, "GET /readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
        assert!(ready.ends_with("the requests are not watched\n"), "{ready}");
        for (head, status) in [("GET /", "404"), ("POST /metrics", "405")] {
            let answer = asked(address, head).await;
            assert!(answer.contains(&format!(" {status} ")), "{head}: {answer}");
        }
    }

    #[tokio::test]
    async fn whoever_says_nothing_keeps_nobody_waiting() {
        let metrics = Arc::new(Metrics::new());
        let address = served(&metrics).await;
        let mut silent = Vec::new();
        for _ in 0..AT_ONCE - 1 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let healthy = asked(address, "GET /healthz").await;
        assert!(healthy.starts_with("HTTP/1.1 200 "), "{healthy}");
    }
}
