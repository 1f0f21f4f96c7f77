use super::*;
use crate::ca::{
    bootstrap,
    key::{SecretPem, Tokens},
    lifecycle::{Lifetime, Root, Schedule},
};
use jiff::Timestamp;
use touchstone_common::{
    certificate::Profile,
    key::{KeyAlgorithm, SoftwareKey},
};

fn binding() -> Binding {
    Binding {
        cluster: "prod".into(),
        uid: "5a1d".into(),
    }
}

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn root_less(key: &SoftwareKey, certificate: CaCertificate) -> Result<Record, RecordError> {
    let validity = certificate.validity();
    let lifetime = Lifetime {
        not_before: validity.not_before,
        not_after: validity.not_after,
    };
    let lifecycle = Lifecycle::adopt(Schedule::default(), Root::None, lifetime, now());
    let id = lifecycle.active().unwrap().id();
    let material = Material {
        certificate: Some(certificate),
        key: Some(KeySource::Inline {
            pem: SecretPem::of(key).unwrap(),
        }),
        request: None,
    };
    Record::new(
        binding(),
        lifecycle,
        Vec::new(),
        BTreeMap::from([(id, material)]),
    )
}

fn issuing(name: &str) -> (CaCertificate, SoftwareKey) {
    let profile = Profile::IssuingCa { common_name: name };
    bootstrap::self_signed(&profile, KeyAlgorithm::P256, now()).unwrap()
}

fn record() -> Record {
    let (certificate, key) = issuing("a");
    root_less(&key, certificate).unwrap()
}

fn read(json: &[u8]) -> Result<Record, RecordError> {
    Record::from_json(json, Some(&binding()))
}

#[tokio::test]
async fn what_was_written_is_read_and_its_key_signs() {
    let written = record();
    let again = read(&written.to_json().unwrap()).unwrap();
    assert_eq!(again.lifecycle(), written.lifecycle());
    assert_eq!(again.trust_bundle(), written.trust_bundle());
    let id = again.lifecycle().active().unwrap().id();
    let key = again.open_key(id, &Tokens::default()).await.unwrap();
    key.sign(b"message").unwrap();
}

#[test]
fn no_record_shows_its_keys_when_it_is_printed() {
    let record = record();
    let json = String::from_utf8(record.to_json().unwrap().to_vec()).unwrap();
    assert!(json.contains("PRIVATE KEY"));
    assert!(!format!("{record:?}").contains("PRIVATE KEY"));
}

#[test]
fn an_emptied_or_truncated_record_is_refused_with_a_remedy() {
    assert!(matches!(read(b""), Err(RecordError::Empty)));
    assert!(matches!(read(b" \n"), Err(RecordError::Empty)));
    let json = record().to_json().unwrap();
    for length in (1..json.len()).step_by(97) {
        let error = read(json.get(..length).unwrap()).unwrap_err();
        assert!(matches!(error, RecordError::Malformed(_)), "{error}");
        assert!(error.remedy().contains("backup"));
    }
}

#[test]
fn another_clusters_record_is_refused() {
    let json = record().to_json().unwrap();
    for other in [
        Binding {
            cluster: "test".into(),
            ..binding()
        },
        Binding {
            uid: "77".into(),
            ..binding()
        },
    ] {
        let error = Record::from_json(&json, Some(&other)).unwrap_err();
        assert!(matches!(error, RecordError::Foreign { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_key_of_another_ca_is_never_signed_with() {
    let (certificate, _) = issuing("a");
    let (_, other) = issuing("b");
    let mixed = root_less(&other, certificate).unwrap();
    let id = mixed.lifecycle().active().unwrap().id();
    assert!(matches!(
        mixed.open_key(id, &Tokens::default()).await,
        Err(RecordError::Mixed(_, "key"))
    ));
}

#[test]
fn a_certificate_that_no_root_of_the_record_signed_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let data = crate::data_dir::DataDir::open(temp.path()).unwrap();
    let authority = bootstrap::open(&data, now()).unwrap();
    let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let under_a_root = authority.issuing().certificate().clone();
    let error = root_less(&key, under_a_root).unwrap_err();
    assert!(matches!(error, RecordError::Unchained(_)), "{error}");
}

#[test]
fn dates_of_another_certificate_are_refused() {
    let json = record().to_json().unwrap();
    let text = String::from_utf8(json.to_vec()).unwrap();
    let id = record().lifecycle().active().unwrap().id();
    let until = record().lifecycle().ca(id).unwrap().lifetime().unwrap();
    let forged = text.replace(&until.not_after.to_string(), "2099-01-01T00:00:00Z");
    assert_ne!(forged, text);
    let error = read(forged.as_bytes()).unwrap_err();
    assert!(
        matches!(error, RecordError::Mixed(_, "certificate")),
        "{error}"
    );
}
