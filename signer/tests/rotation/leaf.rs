//! Certificates that somebody uses while CAs come and go.

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{Api, Client, Config, api::PostParams};
use touchstone_common::{
    certificate::{Prepared, Profile, SerialNumber, Validity},
    key::{KeyAlgorithm, SigningKey as _, SoftwareKey},
    name::{GroupName, UserName},
};
use touchstone_signer::ca::authority::Signing;

/// A leaf that somebody uses.
pub(crate) struct Leaf {
    pub(crate) pem: String,
    key: SoftwareKey,
    pub(crate) not_after: Timestamp,
    pub(crate) ca: String,
}

impl Leaf {
    /// Signs one.
    pub(crate) fn of(signing: &Signing<'_>, now: Timestamp) -> Self {
        let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
        let user = UserName::parse("alice").unwrap();
        let now = Timestamp::from_second(now.as_second()).unwrap();
        let not_after = now.checked_add(signing.longest_leaf.as_duration()).unwrap();
        let validity = Validity {
            not_before: now,
            not_after,
        };
        let profile = Profile::ClientLeaf {
            user: &user,
            groups: &[GroupName::parse("engineers").unwrap()],
        };
        let serial = SerialNumber::from_random([7; 16]);
        let issuer = Some(signing.ca.certificate());
        let prepared = Prepared::new(&profile, key.public_key(), validity, serial, issuer).unwrap();
        let der = signing.ca.sign(prepared).unwrap();
        Self {
            pem: signing.ca.chain(&der),
            key,
            not_after,
            ca: signing.ca.fingerprint().to_owned(),
        }
    }

    /// Has it authenticate at this API server.
    pub(crate) async fn authenticates(&self, endpoint: &Config) {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let key = self.key.to_pkcs8_pem().unwrap();
        let credential = serde_json::json!({
            "client-certificate-data": STANDARD.encode(&self.pem),
            "client-key-data": STANDARD.encode(key.as_bytes()),
        });
        let mut config = endpoint.clone();
        config.auth_info = serde_json::from_value(credential).unwrap();
        let review = Api::<SelfSubjectReview>::all(Client::try_from(config).unwrap())
            .create(&PostParams::default(), &SelfSubjectReview::default())
            .await
            .expect("a living leaf authenticates");
        let user = review.status.unwrap().user_info.unwrap().username.unwrap();
        assert_eq!(user, "alice");
    }
}
