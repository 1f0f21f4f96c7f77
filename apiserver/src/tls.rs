//! TLS: the server's certificate, and clients that may show one.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::{
        NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};

use crate::config::ServerTls;

/// Why the server's certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("read the server's certificate chain")]
    Certificate(#[source] rustls_pki_types::pem::Error),
    #[error("read the server's private key")]
    PrivateKey(#[source] rustls_pki_types::pem::Error),
    #[error("use the server's certificate and key")]
    Unusable(#[source] Error),
}

/// What is spoken.
const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The one crypto library.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The configuration of the listener.
pub(crate) fn server_config(
    provider: Arc<CryptoProvider>,
    tls: &ServerTls,
) -> Result<ServerConfig, TlsError> {
    let (chain, key) = read(tls)?;
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(VERSIONS)
        .map_err(TlsError::Unusable)?
        .with_client_cert_verifier(Arc::new(ShownCertificate { provider }))
        .with_single_cert(chain, key)
        .map_err(TlsError::Unusable)?;
    Ok(spoken(config))
}

/// The configuration of a front door: nobody has a certificate there, and its own one changes.
pub(crate) fn front_config(own: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, TlsError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(TlsError::Unusable)?
        .with_no_client_auth()
        .with_cert_resolver(own);
    Ok(spoken(config))
}

/// A certificate chain with the key that fits it.
pub(crate) fn certified_key(tls: &ServerTls) -> Result<CertifiedKey, TlsError> {
    let (chain, key) = read(tls)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(TlsError::Unusable)
}

fn read(
    tls: &ServerTls,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = CertificateDer::pem_slice_iter(&tls.certificate_chain_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(TlsError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&tls.private_key_pem).map_err(TlsError::PrivateKey)?;
    Ok((chain, key))
}

fn spoken(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Every connection proves its key anew: nothing of an ended certificate is carried over.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// Takes any certificate whose key the client holds, as kube-apiserver does. Whose it is, and whether it still is, is
/// decided for each request: only so does a bad one get an answer that says so, and an ended one end a living connection.
#[derive(Debug)]
struct ShownCertificate {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for ShownCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
