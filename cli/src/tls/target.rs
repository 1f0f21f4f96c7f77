//! An API server to connect to: where it is, and how it proves that it is the right one.

use super::Identity;
use crate::{
    api::{self, ApiError},
    config::Reach,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use std::{io, sync::Arc};
use tokio::net::TcpStream;

/// An API server.
#[derive(Debug)]
pub struct Target {
    server: String,
    host: String,
    port: u16,
    authority: String,
    path: String,
    name: ServerName<'static>,
    roots: Arc<RootCertStore>,
}

impl Target {
    /// The server of a cluster.
    ///
    /// # Errors
    /// When the CA or the kubeconfig cannot be used.
    pub async fn new(reach: &Reach) -> Result<Self, ApiError> {
        let configuration = api::configuration(reach).await?;
        let server = api::server_of(&configuration);
        if let Some(proxy) = &configuration.proxy_url {
            return Err(ApiError::Config(format!(
                "the cluster is behind the proxy {proxy}, and touchstone cannot go through one"
            )));
        }
        let mut roots = RootCertStore::empty();
        for der in configuration.root_cert.into_iter().flatten() {
            roots
                .add(CertificateDer::from(der))
                .map_err(|error| ApiError::Config(format!("the server's CA: {error}")))?;
        }
        if roots.is_empty() {
            return Err(ApiError::Config(
                "no CA is configured for the server".to_owned(),
            ));
        }
        let url = configuration.cluster_url;
        let host = url
            .host()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
            .to_owned();
        let name = configuration
            .tls_server_name
            .unwrap_or_else(|| host.clone());
        let name = ServerName::try_from(name)
            .map_err(|_| ApiError::Config(format!("{server} has no name to verify")))?;
        Ok(Self {
            port: url.port_u16().unwrap_or(443),
            authority: url
                .authority()
                .map(|authority| authority.as_str().to_owned())
                .unwrap_or_default(),
            path: url.path().trim_end_matches('/').to_owned(),
            server,
            host,
            name,
            roots: Arc::new(roots),
        })
    }

    /// Its URL.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Host and port, as they stand in the URL.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// What every path begins with; empty for most servers.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The name that its certificate must have.
    #[must_use]
    pub fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// TLS that takes no other server than this one, and shows it the identity.
    ///
    /// # Errors
    /// When the crypto library lacks what TLS needs.
    pub fn client_config(&self, identity: &Arc<Identity>) -> Result<ClientConfig, ApiError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ApiError::Config(error.to_string()))?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_cert_resolver(Arc::<Identity>::clone(identity));
        Ok(config)
    }

    /// A TCP connection that sends at once.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let connect = TcpStream::connect((self.host.as_str(), self.port));
        let stream = tokio::time::timeout(api::ANSWER_WITHIN, connect).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
