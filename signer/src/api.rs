//! Clients of the Kubernetes API: kube's own, over connections that send at once.
//!
//! kube leaves TCP's default, which holds the second part of a request back until the server has acknowledged the first, and
//! Linux delays that by 40 ms (RFC 1122 section 4.2.3.4). Go's clients send at once too.

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config, Error,
    client::{Body, ClientBuilder, ConfigExt as _, retry::RetryPolicy},
};
use tower::{BoxError, Service, ServiceBuilder, retry::RetryLayer};

/// A client that tries again, after a pause, what the server was too busy for.
///
/// # Errors
/// When the configuration cannot be used.
pub fn client(config: Config) -> Result<Client, Error> {
    let service = service(&config)?;
    Ok(trying_again(service, config.default_namespace))
}

/// A client by what sends each request once: it is asked anew for every try.
pub(crate) fn trying_again<S>(service: S, namespace: String) -> Client
where
    S: Service<Request<Body>, Response = Response<Incoming>, Error = BoxError, Future: Send>
        + Clone
        + Send
        + 'static,
{
    ClientBuilder::new(service, namespace)
        .with_layer(&RetryLayer::new(RetryPolicy::server_retry()))
        .build()
}

/// What sends requests, each once.
///
/// # Errors
/// When the configuration cannot be used.
pub(crate) fn service(
    config: &Config,
) -> Result<
    impl Service<Request<Body>, Response = Response<Incoming>, Error = BoxError, Future: Send>
    + Clone
    + Send
    + 'static,
    Error,
> {
    if let Some(proxy_url) = &config.proxy_url {
        return Err(Error::ProxyProtocolDisabled {
            proxy_url: Box::new(proxy_url.clone()),
            protocol_feature: "kube/http-proxy",
        });
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    Ok(ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(connector)))
}
