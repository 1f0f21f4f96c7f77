//! A client that writes nothing for who does not lead.

use super::{Leadership, NotLeading};
use crate::api;
use futures::future::Either;
use http::{Method, Request};
use kube::{Client, Config, client::Body};
use std::{
    future::{Ready, ready},
    task::{Context, Poll},
};
use tower::{BoxError, Service};

/// A client whose every write, each try of it, is refused unless the lease is held at that moment. It reads as any other.
///
/// # Errors
/// When the configuration cannot be used.
pub fn fenced(config: &Config, leadership: Leadership) -> Result<Client, kube::Error> {
    let fenced = Fenced {
        leadership,
        inner: api::service(config)?,
    };
    Ok(api::trying_again(fenced, config.default_namespace.clone()))
}

#[derive(Clone)]
struct Fenced<S> {
    leadership: Leadership,
    inner: S,
}

impl<S> Service<Request<Body>> for Fenced<S>
where
    S: Service<Request<Body>, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<Ready<Result<S::Response, BoxError>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let allowed = match *request.method() {
            Method::GET | Method::HEAD | Method::OPTIONS => Ok(()),
            _ => self.leadership.check(),
        };
        match allowed {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(refused @ NotLeading) => Either::Left(ready(Err(refused.into()))),
        }
    }
}
