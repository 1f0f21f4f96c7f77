//! The cluster's client CA: what kube-apiserver believes of certificates that kube-controller-manager signs. It is read from
//! where kube-apiserver itself publishes its `--client-ca-file`, and held against what stands in a request's status.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};
use touchstone_common::{
    certificate::{
        CaCertificate, CertificateError, ClientIdentity, Expected, Issued, from_pem_bundle,
        verify_issued,
    },
    csr::Request,
    grant::GrantId,
    ttl::Ttl,
};

/// Where kube-apiserver publishes it
/// (<https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/>).
const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";
const KEY: &str = "client-ca-file";
/// How much longer than granted a certificate may be from its first second to its last: kube-controller-manager dates the
/// first five minutes back, and clocks differ.
const BACKDATED: SignedDuration = SignedDuration::from_mins(6);

/// The client CAs of one cluster.
pub struct ClientCa {
    maps: Api<ConfigMap>,
    /// As last read, PEM.
    known: Mutex<Arc<[u8]>>,
}

/// Why the client CAs cannot be used. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum ClientCaError {
    /// The API server does not give them.
    #[error("read the cluster's client CAs, the ConfigMap {NAME} in {NAMESPACE}")]
    Kubernetes(#[source] Box<kube::Error>),
    /// There are none.
    #[error(
        "read the cluster's client CAs: the ConfigMap {NAME} in {NAMESPACE} has none that can be used"
    )]
    None,
}

/// Why a certificate in a request's status is not what was granted.
#[derive(Debug, thiserror::Error)]
pub enum NotGranted {
    /// A certificate that is not what the request asks for.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// One that lives too long.
    #[error("the certificate lives {lives:#}, and {granted} were granted")]
    Lives {
        /// From its first second to its last.
        lives: SignedDuration,
        /// What was granted.
        granted: Ttl,
    },
}

impl ClientCa {
    /// Reads them for the first time.
    ///
    /// # Errors
    /// When they cannot be read, or none can be used.
    pub async fn open(client: Client) -> Result<Self, ClientCaError> {
        let maps = Api::namespaced(client, NAMESPACE);
        let known = Mutex::new(read(&maps).await?);
        Ok(Self { maps, known })
    }

    fn known(&self) -> Arc<[u8]> {
        // Replaced as a whole: a panic elsewhere leaves it sound.
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&known)
    }

    /// Whether a certificate chain (PEM) is what `request` asks for and was granted for `ttl`: its key, its names, its
    /// purpose, its dates, and a client CA behind it. Client CAs that changed meanwhile are read again.
    ///
    /// # Errors
    /// Outside, that the client CAs cannot be read; inside, what is wrong with the certificate.
    pub async fn verify(
        &self,
        chain: &[u8],
        request: &Request,
        ttl: Ttl,
        now: Timestamp,
    ) -> Result<Result<Issued, NotGranted>, ClientCaError> {
        match verify(chain, request, ttl, &self.known(), now) {
            Err(NotGranted::Certificate(CertificateError::UnknownIssuer)) => {}
            verified => return Ok(verified),
        }
        let latest = read(&self.maps).await?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&latest);
        Ok(verify(chain, request, ttl, &latest, now))
    }
}

async fn read(maps: &Api<ConfigMap>) -> Result<Arc<[u8]>, ClientCaError> {
    let map = maps
        .get_opt(NAME)
        .await
        .map_err(|source| ClientCaError::Kubernetes(Box::new(source)))?;
    let pem = map.and_then(|map| map.data?.remove(KEY));
    let pem = pem.ok_or(ClientCaError::None)?.into_bytes();
    let usable = |der: &Vec<u8>| CaCertificate::from_der(der).is_ok();
    match from_pem_bundle(&pem) {
        Ok(cas) if cas.iter().any(usable) => Ok(pem.into()),
        Ok(_) | Err(_) => Err(ClientCaError::None),
    }
}

fn verify(
    chain: &[u8],
    request: &Request,
    ttl: Ttl,
    client_cas: &[u8],
    now: Timestamp,
) -> Result<Issued, NotGranted> {
    let certificates = from_pem_bundle(chain)?;
    let leaf = certificates
        .first()
        .ok_or(CertificateError::ChainLength(0))?;
    let validity = ClientIdentity::from_der(leaf)?.validity;
    let lives = validity.not_after.duration_since(validity.not_before);
    let most = SignedDuration::from_secs(i64::from(ttl.as_secs())).saturating_add(BACKDATED);
    if lives > most {
        return Err(NotGranted::Lives {
            lives,
            granted: ttl,
        });
    }
    // It may be looked at when it has ended: a signer that was away takes it into its records all the same.
    let last = validity
        .not_after
        .saturating_sub(SignedDuration::from_secs(1));
    let issued = verify_issued(
        chain,
        &Expected {
            public_key: request.public_key(),
            user: request.user(),
            groups: request.groups(),
            grant: &GrantId::of_nonce(&request.claims().nonce),
            ttl,
            trust_bundle: client_cas,
            now: last.map_or(now, |last| now.min(last)),
        },
    )?;
    // The grant's own group, which may stand beside those asked for, is Touchstone's CA's to give.
    if issued.groups != request.groups() {
        return Err(CertificateError::WrongGroups.into());
    }
    Ok(issued)
}

impl fmt::Debug for ClientCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCa").finish_non_exhaustive()
    }
}
