//! Who may talk to the listener: those whom this process itself gave a certificate, and nobody else.
//!
//! The certificates are self-signed, one for each terminal, and known by their fingerprints: there is no CA whose key on
//! disk could make another.

use super::{control::LoopbackCredential, trouble::Trouble};
use crate::proxy::local::LocalError;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName as RustlsName, Error,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// A client of the listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// The terminal that it was started from, where there is one.
    pub(super) terminal: Option<PathBuf>,
    /// The end of its certificate.
    pub(super) not_after: Timestamp,
}

/// Every client that may come.
pub(super) struct Clients {
    known: Mutex<HashMap<[u8; 32], (Client, LoopbackCredential)>>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

impl Clients {
    pub(super) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self {
            known: Mutex::default(),
            provider,
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<[u8; 32], (Client, LoopbackCredential)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A certificate for clients of a terminal until `not_after`: the one they have, or a new one.
    pub(super) fn admit(
        &self,
        terminal: Option<PathBuf>,
        not_after: Timestamp,
    ) -> Result<LoopbackCredential, Trouble> {
        let client = Client {
            terminal,
            not_after,
        };
        let mut known = self.known();
        let now = Timestamp::now();
        known.retain(|_, (client, _)| client.not_after >= now);
        if let Some((_, credential)) = known.values().find(|(known, _)| *known == client) {
            return Ok(credential.clone());
        }
        let (der, credential) = make(not_after)
            .map_err(LocalError::from)
            .map_err(super::ProxyError::from)?;
        known.insert(fingerprint(&der), (client, credential.clone()));
        Ok(credential)
    }

    /// Whose certificate this is, while it lives.
    pub(super) fn client(&self, certificate: &CertificateDer<'_>) -> Option<Client> {
        let known = self.known();
        let (client, _) = known.get(&fingerprint(certificate))?;
        (Timestamp::now() <= client.not_after).then(|| client.clone())
    }

    /// The terminal of someone who may come, to speak to when nobody asks.
    pub(super) fn any_terminal(&self) -> Option<PathBuf> {
        let known = self.known();
        known
            .values()
            .find_map(|(client, _)| client.terminal.clone())
    }

    /// From here on nobody may come.
    pub(super) fn forget_all(&self) {
        self.known().clear();
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

fn make(
    not_after: Timestamp,
) -> Result<(CertificateDer<'static>, LoopbackCredential), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "touchstone loopback client");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = SystemTime::from(Timestamp::now() - SignedDuration::from_mins(5)).into();
    params.not_after = SystemTime::from(not_after).into();
    let certificate = params.self_signed(&key)?;
    let credential = LoopbackCredential {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        not_after,
    };
    Ok((certificate.der().clone(), credential))
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[RustlsName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.client(end_entity) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients() -> Clients {
        Clients::new(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
    }

    fn der(credential: &LoopbackCredential) -> CertificateDer<'static> {
        pem::parse(&credential.certificate)
            .unwrap()
            .into_contents()
            .into()
    }

    #[test]
    fn a_terminal_has_one_certificate_and_another_has_another() {
        let clients = clients();
        let end = Timestamp::now() + SignedDuration::from_mins(30);
        let [one, two] = ["/dev/pts/1", "/dev/pts/2"].map(|path| Some(PathBuf::from(path)));
        let first = clients.admit(one.clone(), end).unwrap();
        assert_eq!(clients.admit(one.clone(), end).unwrap().key, first.key);
        let second = clients.admit(two, end).unwrap();
        assert_ne!(second.key, first.key);
        assert_eq!(clients.client(&der(&first)).unwrap().terminal, one);
    }

    #[test]
    fn an_ended_a_foreign_and_a_forgotten_certificate_are_nobodys() {
        let clients = clients();
        let past = Timestamp::now() - SignedDuration::from_secs(1);
        let ended = clients.admit(None, past).unwrap();
        assert_eq!(clients.client(&der(&ended)), None);
        let end = Timestamp::now() + SignedDuration::from_mins(30);
        let (foreign, _) = make(end).unwrap();
        assert_eq!(clients.client(&foreign), None);
        let good = clients.admit(None, end).unwrap();
        assert!(clients.client(&der(&good)).is_some());
        clients.forget_all();
        assert_eq!(clients.client(&der(&good)), None);
    }
}
