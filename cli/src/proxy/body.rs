//! Bodies on their way: passed on piece by piece, counted, and cut off when the certificate ends.

use super::upstream::BoxError;
use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

/// A body of an answer.
pub(super) type Answer = UnsyncBoxBody<Bytes, BoxError>;

/// A body that is passed on as it comes. What it holds is dropped with it.
pub(super) struct Passed<H> {
    inner: Option<Incoming>,
    counted: Arc<AtomicU64>,
    ended: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _held: H,
}

impl<H> Passed<H> {
    /// Counts into `counted`, holds `held`, and fails when `ended` comes.
    pub(super) fn new(
        inner: Incoming,
        counted: Arc<AtomicU64>,
        ended: Option<WaitForCancellationFutureOwned>,
        held: H,
    ) -> Self {
        Self {
            inner: Some(inner),
            counted,
            ended: ended.map(Box::pin),
            _held: held,
        }
    }

    /// No bytes at all.
    pub(super) fn empty(held: H) -> Self {
        Self {
            inner: None,
            counted: Arc::default(),
            ended: None,
            _held: held,
        }
    }
}

impl<H: Unpin> Body for Passed<H> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(ended) = &mut this.ended
            && ended.as_mut().poll(cx).is_ready()
        {
            this.ended = None;
            return Poll::Ready(Some(Err("the certificate has ended".into())));
        }
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            this.counted.fetch_add(length, Ordering::Relaxed);
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// A refusal in the form of Kubernetes, which kubectl shows in its words.
pub(super) fn status(code: StatusCode, message: &str) -> Response<Answer> {
    let reason = match code {
        StatusCode::UNAUTHORIZED => "Unauthorized",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        _ => "BadRequest",
    };
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    });
    let body = Full::from(status.to_string()).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = code;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
