//! The server's certificate, and the CA of its clients.

use rustls::{
    RootCertStore, ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};
use touchstone_common::{
    certificate::{self, CaCertificate, ClientIdentity, Prepared, Profile, SerialNumber, Validity},
    key::{KeyAlgorithm, PublicKey, SigningKey, SoftwareKey},
    name::{GroupName, UserName},
};

/// What makes certificates for clients.
#[derive(Debug)]
pub struct ClientCa {
    key: SoftwareKey,
    certificate: CaCertificate,
}

/// Who a client is, by its certificate.
#[derive(Clone, Debug, Default)]
pub(super) struct Who {
    pub(super) user: String,
    pub(super) groups: Vec<String>,
}

impl ClientCa {
    /// A new one, for a day.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let key = SoftwareKey::generate(KeyAlgorithm::P256).expect("make a key");
        let profile = Profile::IssuingCa {
            common_name: "clients of the suites",
        };
        let der = signed(&profile, key.public_key(), days(1), None, &key);
        Self {
            key,
            certificate: CaCertificate::from_der(&der).expect("read the CA"),
        }
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.certificate.to_pem()
    }

    /// A chain for a key, PEM, leaf first, and the fingerprint of its leaf in hex.
    ///
    /// # Panics
    /// When the names are none.
    #[must_use]
    pub fn issue(
        &self,
        key: &PublicKey,
        user: &str,
        groups: &[&str],
        validity: Validity,
    ) -> (String, String) {
        let groups: Vec<GroupName> = groups
            .iter()
            .map(|group| GroupName::parse(group).expect("a group's name"))
            .collect();
        let profile = Profile::ClientLeaf {
            user: &UserName::parse(user).expect("a user's name"),
            groups: &groups,
        };
        let leaf = signed(&profile, key, validity, Some(&self.certificate), &self.key);
        let fingerprint = hex::encode(certificate::fingerprint(&leaf));
        let leaf = pem::encode_config(
            &pem::Pem::new("CERTIFICATE", leaf),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        );
        (leaf + &self.pem(), fingerprint)
    }
}

impl Default for ClientCa {
    fn default() -> Self {
        Self::new()
    }
}

/// A server's identity on 127.0.0.1.
#[derive(Debug)]
pub struct Loopback {
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// Its private key, PKCS#8 in DER.
    pub private_key: Vec<u8>,
    /// The CA to verify it with, PEM.
    pub ca_pem: String,
}

impl Loopback {
    /// A new one, for a day.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let [ca_key, key] =
            [(); 2].map(|()| SoftwareKey::generate(KeyAlgorithm::P256).expect("make a key"));
        let ca = Profile::ServerCa {
            common_name: "server of the suites",
        };
        let ca = signed(&ca, ca_key.public_key(), days(1), None, &ca_key);
        let ca = CaCertificate::from_der(&ca).expect("read the CA");
        let profile = Profile::Server {
            dns_names: &[],
            ip_addresses: &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        };
        Self {
            certificate: signed(&profile, key.public_key(), days(1), Some(&ca), &ca_key),
            private_key: key.to_pkcs8_der().expect("the private key").to_vec(),
            ca_pem: ca.to_pem(),
        }
    }

    /// For a TLS server.
    pub(crate) fn for_tls(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivatePkcs8KeyDer::from(self.private_key.clone());
        (
            vec![CertificateDer::from(self.certificate.clone())],
            PrivateKeyDer::from(key),
        )
    }
}

impl Default for Loopback {
    fn default() -> Self {
        Self::new()
    }
}

/// TLS of a server on 127.0.0.1 that asks for certificates of `clients`, and the CA to verify it with.
pub(super) fn server(clients: &ClientCa, tickets: bool) -> (Arc<ServerConfig>, String) {
    let identity = Loopback::new();
    let mut roots = RootCertStore::empty();
    let trusted = pem::parse(clients.pem()).expect("PEM").into_contents();
    roots.add(trusted.into()).expect("trust the clients' CA");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .expect("a verifier");
    let (chain, private) = identity.for_tls();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, private)
        .expect("a server identity");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if tickets {
        // As Go's server: one for each handshake.
        config.send_tls13_tickets = 1;
    } else {
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
    (Arc::new(config), identity.ca_pem)
}

/// Who a certificate is for. It was verified when the connection was made.
pub(super) fn read_client(certificate: &CertificateDer<'_>) -> Who {
    match ClientIdentity::from_der(certificate) {
        Ok(identity) => Who {
            user: identity.user.as_str().to_owned(),
            groups: identity
                .groups
                .iter()
                .map(|group| group.as_str().to_owned())
                .collect(),
        },
        Err(_) => Who::default(),
    }
}

fn days(days: i64) -> Validity {
    let now = jiff::Timestamp::now();
    let span = jiff::SignedDuration::from_hours(24 * days);
    Validity {
        not_before: now - span,
        not_after: now + span,
    }
}

fn signed(
    profile: &Profile<'_>,
    key: &PublicKey,
    validity: Validity,
    issuer: Option<&CaCertificate>,
    signer: &SoftwareKey,
) -> Vec<u8> {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).expect("random numbers");
    let serial = SerialNumber::from_random(serial);
    Prepared::new(profile, key, validity, serial, issuer)
        .expect("prepare a certificate")
        .sign(signer)
        .expect("sign a certificate")
}
