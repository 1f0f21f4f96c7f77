use super::{
    published::{PublishedError, annotate, read},
    *,
};
use crate::{
    ca::bootstrap::{self, Founded},
    data_dir::DataDir,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

fn binding() -> Binding {
    Binding {
        cluster: "prod".into(),
        uid: "5a1d".into(),
    }
}

fn authority() -> Founded {
    let temp = tempfile::tempdir().unwrap();
    let data = DataDir::open(temp.path()).unwrap();
    bootstrap::open(&data, Timestamp::now()).unwrap()
}

fn root() -> CaCertificate {
    authority().root().clone()
}

#[test]
fn a_bundle_keeps_the_order_and_each_certificate_once() {
    let (a, b) = (root(), root());
    let bundle = Bundle::new(binding(), 7, vec![b.clone(), a.clone(), b.clone()]).unwrap();
    assert_eq!(bundle.to_pem(), b.to_pem() + &a.to_pem());
    let again = Bundle::from_pem(binding(), 7, bundle.to_pem().as_bytes()).unwrap();
    assert_eq!(again.sha256(), bundle.sha256());
}

#[test]
fn a_bundle_of_none_of_too_many_or_of_an_issuing_ca_under_a_root_is_refused() {
    assert_eq!(
        Bundle::new(binding(), 1, Vec::new()).unwrap_err(),
        BundleError::Empty
    );
    assert_eq!(
        Bundle::from_pem(binding(), 1, b"# nothing\n").unwrap_err(),
        BundleError::Empty
    );
    let many = (0..=MAX_CERTIFICATES).map(|_| root()).collect();
    assert_eq!(
        Bundle::new(binding(), 1, many).unwrap_err(),
        BundleError::TooMany(MAX_CERTIFICATES + 1)
    );
    let authority = authority();
    let issuing = authority.issuing().certificate().clone();
    let error = Bundle::new(binding(), 1, vec![authority.root().clone(), issuing]).unwrap_err();
    assert!(matches!(error, BundleError::NotRoot { .. }), "{error}");
}

#[test]
fn a_private_key_or_half_a_certificate_in_a_bundle_refuses_it_whole() {
    let pem = root().to_pem();
    let key = pem.replace("CERTIFICATE", "PRIVATE KEY");
    for bad in [
        pem.clone() + &key,
        pem.clone() + pem.get(..pem.len() / 2).unwrap(),
        pem.replacen("MII", "AAA", 1),
    ] {
        let error = Bundle::from_pem(binding(), 1, bad.as_bytes()).unwrap_err();
        assert!(matches!(error, BundleError::Certificate(_)), "{error}");
    }
}

#[test]
fn what_is_published_is_read_back_and_a_change_of_any_part_is_seen() {
    let bundle = Bundle::new(binding(), 7, vec![root(), root()]).unwrap();
    let mut metadata = ObjectMeta::default();
    annotate(&mut metadata, &bundle);
    let pem = bundle.to_pem();
    let found = read(&metadata, Some(&pem)).unwrap();
    assert_eq!(found.binding(), bundle.binding());
    assert_eq!(found.revision(), 7);
    assert_eq!(found.to_pem(), pem);

    let first = bundle.certificates().first().unwrap().to_pem();
    for changed in [String::new(), first, pem.clone() + "\n"] {
        assert_eq!(
            read(&metadata, Some(&changed)).unwrap_err(),
            PublishedError::Changed
        );
    }
    assert_eq!(read(&metadata, None).unwrap_err(), PublishedError::Missing);
    let names: Vec<String> = metadata.annotations.clone().unwrap().into_keys().collect();
    assert_eq!(names.len(), 4);
    for name in names {
        let mut without = metadata.clone();
        without.annotations.as_mut().unwrap().remove(&name);
        assert!(read(&without, Some(&pem)).is_err(), "{name}");
    }
    let mut negative = metadata.clone();
    let annotations = negative.annotations.as_mut().unwrap();
    annotations.insert("touchstone.dev/trust-revision".into(), "-1".into());
    let error = read(&negative, Some(&pem)).unwrap_err();
    assert!(matches!(error, PublishedError::Annotation(_)), "{error}");
}
