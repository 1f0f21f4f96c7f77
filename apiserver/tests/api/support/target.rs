//! A server that listens, and connections of all who may want something of it.

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::{network::Connection, pki::Certified, server::TestServer};

/// Where requests are.
pub(crate) const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// Where one asks who one is.
pub(crate) const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// A server that listens, and its address and CA.
pub(crate) struct Target {
    pub(crate) server: TestServer,
    pub(crate) address: SocketAddr,
    pub(crate) ca: Certified,
}

impl Target {
    pub(crate) async fn new() -> Self {
        let server = TestServer::new();
        let (address, ca) = server.listen().await;
        Self {
            server,
            address,
            ca,
        }
    }

    pub(crate) async fn nobody(&self) -> Connection {
        Connection::open(self.address, &self.ca, None).await
    }

    pub(crate) async fn engineer(&self, subject: &str) -> Connection {
        let certified = self.server.pki.client(&self.server.engineers, subject);
        Connection::open(self.address, &self.ca, Some(&certified)).await
    }

    pub(crate) async fn admin(&self) -> Connection {
        let certified = self
            .server
            .pki
            .client(&self.server.administrators, "/CN=root");
        Connection::open(self.address, &self.ca, Some(&certified)).await
    }

    pub(crate) fn request(&self, signer: &str) -> Value {
        serde_json::to_value(self.server.request(signer)).unwrap()
    }
}
