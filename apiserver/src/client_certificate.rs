//! Client certificates: the chain is verified against the CAs of the moment, and again as time goes on, for as long as
//! its connection lives.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use const_oid::db::rfc4519;
use der::{
    Decode,
    asn1::{PrintableStringRef, Utf8StringRef},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::UserInfo;
use rustls::{
    CertificateError, RootCertStore,
    crypto::CryptoProvider,
    server::{VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_cert::{
    Certificate,
    ext::pkix::{BasicConstraints, KeyUsage},
};

use crate::{
    authorization,
    config::{CaKind, ClientCa},
    status::ApiError,
};

/// For how long a verified chain is not verified again; its dates are looked at on each request all the same.
const VERIFIED_FOR: SignedDuration = SignedDuration::from_secs(10);

/// Why client CAs were not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientCaError {
    #[error("read a client CA: not PEM")]
    NotPem(#[source] pem::PemError),
    #[error("read a client CA: no CERTIFICATE block in it")]
    Empty,
    #[error("use a client CA")]
    Malformed(#[source] rustls::Error),
    #[error("use a client CA: {subject:?} is no CA that may sign certificates")]
    NotACa { subject: String },
    #[error("use the client CAs")]
    Verifier(#[source] VerifierBuilderError),
}

/// The CAs whose leaves come in.
pub(crate) struct ClientCas {
    now: RwLock<Arc<Generation>>,
    provider: Arc<CryptoProvider>,
}

struct Generation {
    number: u64,
    verifiers: Vec<(CaKind, Arc<dyn ClientCertVerifier>)>,
}

impl ClientCas {
    pub(crate) fn new(
        provider: Arc<CryptoProvider>,
        cas: &[ClientCa],
    ) -> Result<Self, ClientCaError> {
        let first = Generation::new(&provider, cas, 1)?;
        Ok(Self {
            now: RwLock::new(Arc::new(first)),
            provider,
        })
    }

    /// Replaces them; connections that are open are judged anew on their next request.
    pub(crate) fn replace(&self, cas: &[ClientCa]) -> Result<(), ClientCaError> {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        *now = Arc::new(Generation::new(&self.provider, cas, now.number + 1)?);
        Ok(())
    }

    fn current(&self) -> Arc<Generation> {
        self.now
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Generation {
    fn new(
        provider: &Arc<CryptoProvider>,
        cas: &[ClientCa],
        number: u64,
    ) -> Result<Self, ClientCaError> {
        let mut verifiers = Vec::new();
        for ca in cas {
            let mut roots = RootCertStore::empty();
            for block in pem::parse_many(&ca.certificates_pem).map_err(ClientCaError::NotPem)? {
                if block.tag() == "CERTIFICATE" {
                    let der = CertificateDer::from(block.into_contents());
                    check_ca(&der)?;
                    roots.add(der).map_err(ClientCaError::Malformed)?;
                }
            }
            if roots.is_empty() {
                return Err(ClientCaError::Empty);
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                    .build()
                    .map_err(ClientCaError::Verifier)?;
            verifiers.push((ca.kind, verifier));
        }
        // A certificate that two CAs vouch for gets the lesser meaning.
        verifiers.sort_by_key(|(kind, _)| match kind {
            CaKind::Engineers => 0,
            CaKind::Administrators => 1,
        });
        Ok(Self { number, verifiers })
    }

    fn verify(&self, chain: &[CertificateDer<'static>], now: Timestamp) -> Option<Holder> {
        let (leaf, intermediates) = chain.split_first()?;
        let seconds = u64::try_from(now.as_second()).ok()?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let (kind, _) = self
            .verifiers
            .iter()
            .find(|(_, verifier)| verifier.verify_client_cert(leaf, intermediates, at).is_ok())?;
        match Holder::read(leaf, *kind) {
            Ok(holder) => Some(holder),
            Err(reason) => {
                tracing::warn!(
                    reason,
                    "refused a client certificate that a client CA signed"
                );
                None
            }
        }
    }
}

/// Refuses what is no CA's: as a trust anchor it would be believed whatever it says of itself.
fn check_ca(der: &[u8]) -> Result<(), ClientCaError> {
    let malformed = |_| ClientCaError::Malformed(CertificateError::BadEncoding.into());
    let certificate = Certificate::from_der(der).map_err(malformed)?;
    let tbs = certificate.tbs_certificate();
    let constraints = tbs.get_extension::<BasicConstraints>().map_err(malformed)?;
    let usage = tbs.get_extension::<KeyUsage>().map_err(malformed)?;
    // RFC 5280 section 4.2.1.3 restricts a key only where the extension is there; many cluster CAs have none.
    let may_sign = usage.is_none_or(|(_, usage)| usage.key_cert_sign());
    if constraints.is_some_and(|(_, constraints)| constraints.ca) && may_sign {
        return Ok(());
    }
    Err(ClientCaError::NotACa {
        subject: tbs.subject().to_string(),
    })
}

/// Whom a verified certificate stands for.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) user: UserInfo,
    begins: Timestamp,
    pub(crate) ends: Timestamp,
}

impl Holder {
    /// Reads the subject: exactly one CN, and for engineers nothing reserved.
    fn read(leaf: &[u8], kind: CaKind) -> Result<Self, &'static str> {
        let certificate = Certificate::from_der(leaf).map_err(|_| "not strict DER")?;
        let tbs = certificate.tbs_certificate();
        let mut users = Vec::new();
        let mut groups = Vec::new();
        for rdn in tbs.subject().iter_rdn() {
            let (Some(attribute), 1) = (rdn.iter().next(), rdn.len()) else {
                return Err("a part of the subject has several values");
            };
            // Kubernetes, in Go, also decodes BMP and Teletex strings; here a name has one reading.
            let value = PrintableStringRef::try_from(&attribute.value)
                .map(|text| text.as_str().to_owned())
                .or_else(|_| {
                    Utf8StringRef::try_from(&attribute.value).map(|text| text.as_str().to_owned())
                })
                .map_err(|_| "a name is neither UTF8String nor PrintableString")?;
            match attribute.oid {
                rfc4519::CN => users.push(value),
                rfc4519::O => groups.push(value),
                _ if kind == CaKind::Engineers => return Err("the subject has more than CN and O"),
                _ => {}
            }
        }
        let [user] = users.as_slice() else {
            return Err("the subject has not exactly one CN");
        };
        if user.is_empty() || authorization::is_reserved(user) {
            return Err("the user's name is reserved");
        }
        match kind {
            CaKind::Engineers => {
                if groups.iter().any(|group| {
                    group.is_empty()
                        || authorization::is_reserved(group) && !authorization::is_of_a_grant(group)
                }) {
                    return Err("a group's name is reserved");
                }
            }
            CaKind::Administrators => groups = vec![authorization::ADMINISTRATORS.to_owned()],
        }
        let seconds = |time: x509_cert::time::Time| {
            i64::try_from(time.to_unix_duration().as_secs())
                .ok()
                .and_then(|seconds| Timestamp::from_second(seconds).ok())
                .ok_or("a date can't be read")
        };
        Ok(Self {
            user: UserInfo {
                username: Some(user.clone()),
                groups: Some(groups),
                ..UserInfo::default()
            },
            begins: seconds(tbs.validity().not_before)?,
            ends: seconds(tbs.validity().not_after)?,
        })
    }

    fn is_valid_at(&self, now: Timestamp) -> bool {
        self.begins <= now && now <= self.ends
    }
}

/// The other end of a TLS connection.
pub(crate) struct Peer {
    cas: Arc<ClientCas>,
    chain: Vec<CertificateDer<'static>>,
    last: Mutex<Option<Verified>>,
}

struct Verified {
    generation: u64,
    at: Timestamp,
    holder: Holder,
}

impl Peer {
    /// With the certificates it showed, leaf first; none is fine.
    pub(crate) fn new(cas: Arc<ClientCas>, chain: Vec<CertificateDer<'static>>) -> Self {
        Self {
            cas,
            chain,
            last: Mutex::new(None),
        }
    }

    /// Whom the certificate stands for now; `None` when there is none.
    ///
    /// # Errors
    /// `Unauthorized` when there is one and it is not good: ended, of another CA, with a reserved name.
    pub(crate) fn holder(&self, now: Timestamp) -> Result<Option<Holder>, ApiError> {
        if self.chain.is_empty() {
            return Ok(None);
        }
        let current = self.cas.current();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = last.as_ref().filter(|verified| {
            let age = now.duration_since(verified.at);
            verified.generation == current.number && !age.is_negative() && age < VERIFIED_FOR
        });
        let holder = match fresh {
            Some(verified) => Some(verified.holder.clone()),
            None => {
                let holder = current.verify(&self.chain, now);
                *last = holder.clone().map(|holder| Verified {
                    generation: current.number,
                    at: now,
                    holder,
                });
                holder
            }
        };
        holder
            .filter(|holder| holder.is_valid_at(now))
            .map(Some)
            .ok_or_else(ApiError::unauthorized)
    }
}

impl Peer {
    /// Whether it showed a certificate that is good now.
    pub(crate) fn is_holder(&self, now: Timestamp) -> bool {
        self.holder(now).is_ok_and(|holder| holder.is_some())
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("certificates", &self.chain.len())
            .finish_non_exhaustive()
    }
}
