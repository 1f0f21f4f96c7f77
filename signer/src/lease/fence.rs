//! A client that writes nothing for who does not lead.

use super::{Leadership, NotLeading};
use crate::api;
use futures::future::{Either, MapErr, TryFutureExt as _};
use http::{Method, Request};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, retry::RetryPolicy},
};
use std::{
    future::{Ready, ready},
    task::{Context, Poll},
};
use tower::{BoxError, Layer, Service, ServiceBuilder, buffer::BufferLayer, retry::RetryLayer};

/// How many requests may be on their way to the connection: as many as kube's own client takes.
const REQUESTS: usize = 1024;

/// A client whose every write, each try of it, is refused unless the lease is held at that moment. It reads as any other.
///
/// # Errors
/// When the configuration cannot be used.
pub fn fenced(config: &Config, leadership: Leadership) -> Result<Client, kube::Error> {
    // Each try is asked anew, a second one after a pause too.
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::server_retry()))
        .layer(BufferLayer::new(REQUESTS))
        .layer(Fence(leadership))
        .service(api::service(config)?);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

#[derive(Clone)]
struct Fence(Leadership);

impl<S> Layer<S> for Fence {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Fenced<S> {
        Fenced {
            leadership: self.0.clone(),
            inner,
        }
    }
}

#[derive(Clone)]
struct Fenced<S> {
    leadership: Leadership,
    inner: S,
}

impl<S> Service<Request<Body>> for Fenced<S>
where
    S: Service<Request<Body>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future =
        Either<Ready<Result<S::Response, BoxError>>, MapErr<S::Future, fn(S::Error) -> BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let allowed = match *request.method() {
            Method::GET | Method::HEAD | Method::OPTIONS => Ok(()),
            _ => self.leadership.check(),
        };
        match allowed {
            Ok(()) => Either::Right(self.inner.call(request).map_err(Into::into)),
            Err(refused @ NotLeading) => Either::Left(ready(Err(refused.into()))),
        }
    }
}
