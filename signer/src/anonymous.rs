//! Who may create a request on the embedded API, or at the front door, without a credential: whoever holds an enrolled
//! key in a YubiKey.

use crate::{
    clock::Clock,
    review::{self, Admission, EvidenceCache, Snapshot},
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use lru::LruCache;
use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;
use touchstone_apiserver::{AnonymousCreate, AttestedCreator, Refusal};
use touchstone_common::name::UserName;

/// The key under `spec.extra`, or the front door's annotation, that says which YubiKey spoke for the creator.
pub const KEY_SERIAL: &str = "touchstone.dev/key-serial";

/// Takes requests whose evidence verifies and whose key is enrolled.
#[derive(Debug)]
pub struct ByKey {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Evidence that was verified before.
    pub evidence: Arc<EvidenceCache>,
    /// The signer names that requests must be for one of.
    pub signer_names: Vec<String>,
    /// The policy in force.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// What was taken lately.
    pub taken: Taken,
}

/// How often one signed request is taken. A client whose connection broke may send it again; whoever came by a copy must
/// not fill the disk with it for as long as it is fresh. The signer answers the first and denies the others as replays.
const TIMES: u8 = 4;
/// How many requests are remembered. Each is fresh for minutes only, and each took a key to sign.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).expect("16384 is not zero");

/// Requests that were taken lately, by user and nonce, and how often.
#[derive(Debug)]
pub struct Taken(Mutex<LruCache<(UserName, [u8; 32]), u8>>);

impl Default for Taken {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }
}

impl Taken {
    /// Counts one more; whether it may be taken.
    fn count(&self, user: &UserName, nonce: [u8; 32]) -> bool {
        // One number is changed at a time: a panic elsewhere leaves the map sound.
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let times = taken.get_or_insert_mut((user.clone(), nonce), || 0);
        *times = times.saturating_add(1);
        *times <= TIMES
    }
}

impl ByKey {
    /// Judges a request, and counts it.
    ///
    /// # Errors
    /// The reason why it is not taken, as the client is to read it.
    pub fn admission(&self, spec: &CertificateSigningRequestSpec) -> Result<Admission, Refusal> {
        let refusal = |message| Refusal { message };
        if !self.signer_names.contains(&spec.signer_name) {
            return Err(refusal(format!(
                "only requests for the signer {} are taken without a credential, not for {}",
                self.signer_names.join(" or "),
                spec.signer_name
            )));
        }
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let now = self.clock.now();
        match review::admit_anonymous(&spec.request.0, &snapshot, &self.evidence, now) {
            Ok(Ok(admission)) if !self.taken.count(&admission.user, admission.nonce) => {
                Err(refusal(format!(
                    "this request was sent {TIMES} times already; run `touchstone login` again"
                )))
            }
            Ok(Ok(admission)) => Ok(admission),
            Ok(Err(denial)) => Err(refusal(denial.message)),
            Err(error) => Err(refusal(format!("the signer failed to {error}"))),
        }
    }
}

impl AnonymousCreate for ByKey {
    fn admit(&self, spec: &CertificateSigningRequestSpec) -> Result<AttestedCreator, Refusal> {
        let admission = self.admission(spec)?;
        Ok(AttestedCreator {
            username: admission.user.to_string(),
            groups: Vec::new(),
            extra: BTreeMap::from([(
                KEY_SERIAL.to_owned(),
                vec![admission.key_serial.to_string()],
            )]),
            read_token_sha256: admission.read_token_sha256,
        })
    }
}
