//! What must be so whatever happened: no certificate without an intent before it, at most one for a request, every refusal
//! explained, nothing signed outside the policy.

use crate::world::{certificate, refusal};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt as _;
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, HashSet};
use touchstone_common::csr::KUBE_APISERVER_CLIENT;
use touchstone_signer::{
    audit::Event,
    grant::{Grant, Phase},
};
use touchstone_tests::policy::GRANTED;

/// Checks all of it.
pub(crate) fn check(requests: &[CertificateSigningRequest], grants: &[Grant], log: &[Event]) {
    let mut intended: HashMap<&str, HashSet<&str>> = HashMap::new();
    let mut issued: HashMap<&str, HashSet<&str>> = HashMap::new();
    let mut strangers = HashSet::new();
    let mut refused = HashSet::new();
    for event in log {
        match event {
            Event::Intent(intent) => {
                assert_eq!(intent.groups, [GRANTED], "outside the policy: {intent:?}");
                assert_eq!(intent.rules, ["payments on call"], "{intent:?}");
                let of_it = intended.entry(&intent.request.csr_uid).or_default();
                of_it.insert(&intent.tbs_sha256);
            }
            Event::Issued {
                request,
                fingerprint,
                ..
            } => {
                let uid = request.csr_uid.as_str();
                assert!(intended.contains_key(uid), "no intent before {event:?}");
                issued.entry(uid).or_default().insert(fingerprint);
            }
            Event::ForeignCertificate { sha256, .. } => {
                strangers.insert(sha256.as_str());
            }
            Event::Denied { request, .. } | Event::Failed { request, .. } => {
                refused.insert(request.csr_uid.as_str());
            }
            _ => {}
        }
    }
    for (uid, fingerprints) in &issued {
        assert_eq!(fingerprints.len(), 1, "{uid} was issued {fingerprints:?}");
    }
    for request in requests {
        let uid = request.uid().expect("a UID");
        if let Some(chain) = certificate(request) {
            if strangers.contains(hex::encode(Sha256::digest(chain)).as_str()) {
                continue;
            }
            if request.spec.signer_name == KUBE_APISERVER_CLIENT {
                // What it is was not known beforehand: what it is not would be a stranger.
                assert!(intended.contains_key(uid.as_str()), "{uid}");
                continue;
            }
            let leaf = pem::parse(chain).expect("PEM").into_contents();
            let tbs = hex::encode(Sha256::digest(to_be_signed(&leaf)));
            let of_it = intended.get(uid.as_str());
            assert!(
                of_it.is_some_and(|of_it| of_it.contains(tbs.as_str())),
                "a certificate without an intent in {}",
                request.name_any()
            );
        } else if let Some(condition) = refusal(request) {
            let message = condition.message.unwrap_or_default();
            assert!(
                !message.is_empty(),
                "{} is not explained",
                request.name_any()
            );
        }
    }
    for grant in grants {
        let uid = grant.spec.request.uid.as_str();
        assert_eq!(grant.spec.groups, [GRANTED], "outside the policy");
        let status = grant.status.as_ref();
        match grant.phase() {
            Phase::Issued => {
                let fingerprint = status.and_then(|it| it.fingerprint.as_deref());
                let of_it = issued.get(uid).into_iter().flatten().copied().next();
                assert_eq!(fingerprint, of_it, "{} says another", grant.name_any());
            }
            Phase::Failed => {
                let message = status.and_then(|it| it.message.as_deref());
                assert!(message.is_some_and(|it| !it.is_empty()), "{grant:?}");
                assert!(refused.contains(uid), "{} is in no log", grant.name_any());
            }
            Phase::Intent => {}
        }
    }
}

/// The first element of a certificate, DER, which is what is signed.
fn to_be_signed(certificate: &[u8]) -> &[u8] {
    let (content, _) = element(certificate);
    let (inner, header) = element(content);
    &content[..header + inner.len()]
}

/// An element's content, and how long its header is.
fn element(der: &[u8]) -> (&[u8], usize) {
    let (length, header) = match der[1] {
        short @ ..0x80 => (usize::from(short), 2),
        long => {
            let bytes = usize::from(long & 0x7f);
            let length = der[2..2 + bytes]
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
            (length, 2 + bytes)
        }
    };
    (&der[header..header + length], header)
}
