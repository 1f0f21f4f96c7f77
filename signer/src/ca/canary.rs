//! The canary: a CA shows that an API server believes it, before anyone depends on that.
//!
//! It signs a client certificate of a name without groups, for a key that is thrown away, and asks the API server who it
//! is. An answer with that name shows that the chain is trusted there and that the two clocks agree.

use super::{CaError, IssuingCa, bootstrap, key::CaKeyError};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{Api, Config, api::PostParams, config::AuthInfo};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use touchstone_common::{
    certificate::{CertificateError, Prepared, Profile, SerialNumber, SignError, Validity},
    key::{KeyAlgorithm, SigningKey, SoftwareKey},
    name::{NameError, UserName},
};

/// The name of every canary. Names with `system:` and `touchstone:` are refused by API servers of ours.
pub const USER: &str = "touchstone-canary";
/// How long a canary lives: a clock that is further off than that is found out.
const LIFETIME: SignedDuration = SignedDuration::from_mins(10);
const BACKDATE: SignedDuration = SignedDuration::from_secs(59);
/// How long an API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a CA is not proven. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// The API server does not answer as it should.
    #[error("have a canary certificate authenticate at {endpoint}")]
    Api {
        /// Which.
        endpoint: String,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// The certificate cannot be made.
    #[error("make a canary certificate")]
    Certificate(#[from] CertificateError),
    /// Its key cannot be made.
    #[error("make a canary key")]
    Key(#[from] CaError),
    /// The canary's name.
    #[error("make a canary certificate")]
    Name(#[source] NameError),
    /// The API server holds it for another.
    #[error("have a canary certificate authenticate at {endpoint}: it is {found:?} there")]
    Other {
        /// Which.
        endpoint: String,
        /// Who it is there.
        found: String,
    },
    /// The CA does not sign.
    #[error("sign a canary certificate")]
    Sign(#[from] SignError<CaKeyError>),
    /// The credential cannot be put together.
    #[error("use a canary certificate")]
    Credential(#[source] serde_json::Error),
}

impl From<CaKeyError> for CanaryError {
    fn from(error: CaKeyError) -> Self {
        Self::Sign(SignError::Key(error))
    }
}

impl CanaryError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Api { source, .. } if crate::controller::code(source) == Some(401) => {
                "check that the API server's --client-ca-file holds the trust bundle of the moment, and that its clock and \
                 this machine's agree"
                    .into()
            }
            Self::Api { .. } | Self::Other { .. } => {
                "check that the API server runs and that nothing stands between it and the signer that ends TLS".into()
            }
            Self::Sign(SignError::Key(error)) => error.remedy(),
            Self::Certificate(_)
            | Self::Credential(_)
            | Self::Key(_)
            | Self::Name(_)
            | Self::Sign(_) => "check that this machine's clock is right and that the CA has not ended".into(),
        }
    }
}

/// Signs a canary, which lives no longer than `longest`, and asks the API server of `endpoint` who it is. Whatever
/// credentials `endpoint` has are not used.
///
/// # Errors
/// When it is not known there as [`USER`].
pub async fn prove(
    ca: &Arc<IssuingCa>,
    endpoint: &Config,
    longest: SignedDuration,
    now: Timestamp,
) -> Result<(), CanaryError> {
    let lifetime = longest.min(LIFETIME);
    let (chain, key) = ca.signing(move |ca| make(ca, lifetime, now)).await?;
    let credential = json!({
        "client-certificate-data": STANDARD.encode(chain),
        "client-key-data": STANDARD.encode(key.to_pkcs8_pem().map_err(CaError::KeyGeneration)?.as_bytes()),
    });
    let mut config = Config::new(endpoint.cluster_url.clone());
    config.root_cert.clone_from(&endpoint.root_cert);
    config.tls_server_name.clone_from(&endpoint.tls_server_name);
    config.connect_timeout = Some(PATIENCE);
    config.read_timeout = Some(PATIENCE);
    config.auth_info =
        serde_json::from_value::<AuthInfo>(credential).map_err(CanaryError::Credential)?;
    let name = endpoint.cluster_url.to_string();
    let failed = |source| CanaryError::Api {
        endpoint: name.clone(),
        source: Box::new(source),
    };
    let client = crate::api::client(config).map_err(failed)?;
    let review = Api::<SelfSubjectReview>::all(client)
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await
        .map_err(failed)?;
    let found = review
        .status
        .and_then(|status| status.user_info)
        .and_then(|user| user.username)
        .unwrap_or_default();
    if found == USER {
        Ok(())
    } else {
        Err(CanaryError::Other {
            endpoint: name,
            found,
        })
    }
}

/// A canary's chain, PEM, and its key.
fn make(
    ca: &IssuingCa,
    lifetime: SignedDuration,
    now: Timestamp,
) -> Result<(String, SoftwareKey), CanaryError> {
    let key = bootstrap::generate(KeyAlgorithm::P256)?;
    let user = UserName::parse(USER).map_err(CanaryError::Name)?;
    let validity: Validity = bootstrap::validity(now, BACKDATE, lifetime)?;
    let serial = SerialNumber::from_random(bootstrap::random()?);
    let prepared = Prepared::new(
        &Profile::Canary { user: &user },
        key.public_key(),
        validity,
        serial,
        Some(ca.certificate()),
    )?;
    let leaf = ca.sign(prepared)?;
    Ok((ca.chain(&leaf), key))
}
