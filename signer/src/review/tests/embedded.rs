//! What the embedded API takes from someone it does not know.

use super::*;
use crate::{
    anonymous::{ByKey, Taken},
    clock::Clock,
    service::evidence_cache,
};
use k8s_openapi::{ByteString, api::certificates::v1::CertificateSigningRequestSpec};
use tokio::sync::watch;
use touchstone_apiserver::AnonymousCreate as _;

/// A clock that stands still.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        now()
    }
}

#[test]
fn a_copy_of_a_request_is_not_taken_for_as_long_as_it_is_fresh() {
    let bench = Bench::new();
    let (_policy, snapshot) = watch::channel(Arc::new(bench.snapshot.clone()));
    let by_key = ByKey {
        clock: Arc::new(Still),
        evidence: evidence_cache(),
        signer_names: vec!["touchstone.dev/client".into()],
        snapshot,
        taken: Taken::default(),
    };
    let send = |case: &Case| {
        let spec = CertificateSigningRequestSpec {
            request: ByteString(bench.pem(case).into_bytes()),
            signer_name: "touchstone.dev/client".into(),
            ..CertificateSigningRequestSpec::default()
        };
        by_key.admit(&spec)
    };
    let case = bench.case();
    let taken = (0..100).filter(|_| send(&case).is_ok()).count();
    assert_eq!(taken, 4);
    let refusal = send(&case).unwrap_err();
    assert!(refusal.message.contains("login"), "{refusal:?}");
    let mut another = bench.case();
    another.draft.claims.nonce = [8; 32];
    assert!(send(&another).is_ok());
}

#[test]
fn the_embedded_api_takes_a_request_that_its_own_key_vouches_for() {
    let bench = Bench::new();
    let admission = bench.admit(&bench.case()).unwrap();
    assert_eq!(admission.user.as_str(), "alice");
    assert_eq!(admission.key_serial, 12_345_678);
    assert_eq!(admission.read_token_sha256, [9; 32]);
}

#[test]
fn the_embedded_api_takes_nothing_else() {
    let bench = Bench::new();
    let other = YubiKey::new(GOOD);
    let refused = |change: &dyn Fn(&mut Case)| {
        let mut case = bench.case();
        change(&mut case);
        bench.admit(&case).unwrap_err().reason
    };
    assert_eq!(
        refused(&|c| c.draft.claims.read_token_sha256 = None),
        "NoReadToken"
    );
    assert_eq!(refused(&|c| c.draft.evidence = None), "KeyNotEnrolled");
    assert_eq!(
        refused(&|c| c.draft.evidence = Some(other.evidence.clone())),
        "InvalidEvidence"
    );
    assert_eq!(refused(&|c| c.now = shifted(301)), "NotFresh");
    assert_eq!(
        refused(&|c| c.draft.user = UserName::parse("bob").unwrap()),
        "KeyNotEnrolled"
    );
    assert_eq!(
        refused(&|c| c.draft.user = UserName::parse("eve").unwrap()),
        "UnknownUser"
    );
    assert_eq!(
        refused(&|c| c.draft.claims.cluster = ClusterName::parse("x").unwrap()),
        "WrongCluster"
    );
    assert_eq!(
        admit_anonymous(b"x", &bench.snapshot, &bench.cache, now())
            .unwrap()
            .unwrap_err()
            .reason,
        "InvalidRequest"
    );
}

#[test]
fn a_key_that_only_its_hash_enrols_needs_evidence_to_speak_for_itself() {
    let card_hash = |bench: &Bench| hex::encode(bench.case_key_sha256());
    let bench = Bench::new();
    let policy = POLICY.replace(
        "{ serial: 12345678 }",
        &format!("{{ spki: \"sha256:{}\" }}", card_hash(&bench)),
    );
    let policy = Policy::parse("p", policy.as_bytes()).unwrap();
    let bench = Bench {
        snapshot: Snapshot {
            policy,
            roots: Arc::clone(&bench.snapshot.roots),
        },
        ..bench
    };
    let mut case = bench.case();
    assert_eq!(bench.admit(&case).unwrap().key_serial, 12_345_678);
    case.draft.evidence = None;
    assert_eq!(bench.admit(&case).unwrap_err().reason, "NoEvidence");
    // A signed-in creator may ask with it, and the policy then wants the attestation.
    let denial = bench.denial(|c| c.draft.evidence = None);
    assert_eq!(denial.reason, "DeniedByPolicy");
    assert!(
        denial.message.contains("no attestation"),
        "{}",
        denial.message
    );
}
