//! A P-256 key in a virtual YubiKey that is driven without a reader: for suites and benchmarks that need many requests of
//! attested keys, not a card service.

use crate::yubikey::{Applet, Firmware, State, keys::PrivateKey, sensor::Fixed, slot::Slot, tlv};
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use sha2::{Digest, Sha256};
use std::sync::{Mutex, PoisonError};
use touchstone_common::{
    claims::{Claims, Reason},
    csr::{self, Draft},
    evidence::Evidence,
    key::{PublicKey, SigningKey},
    name::{ClusterName, GroupName, UserName},
    ttl::Ttl,
};

const FACTORY_PIN: &[u8] = b"123456\xff\xff";
const FACTORY_MANAGEMENT_KEY: [u8; 24] = [
    1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8,
];
const SLOT: u8 = 0x9a;
const P256: u8 = 0x11;
const PIN_ONCE: u8 = 2;
const TOUCH_ALWAYS: u8 = 2;

/// The card and its key.
#[derive(Debug)]
pub struct CardKey {
    applet: Mutex<Applet<Fixed>>,
    public_key: PublicKey,
    evidence: Evidence,
    root: String,
}

/// The card said something else than 9000.
#[derive(Debug, thiserror::Error)]
#[error("the card answered {0:02x}{1:02x}")]
pub struct Refused(u8, u8);

impl CardKey {
    /// A new card of this serial number with a key in slot 9a: PIN once, touch always, touched at once.
    ///
    /// # Panics
    /// When the card refuses: it is new, so it must not.
    #[must_use]
    pub fn generate(serial: u32) -> Self {
        let state = State::factory(serial, Firmware([5, 7, 1]));
        let root = state.attestation_root();
        let mut applet = Applet::new(state, Fixed::default());
        let mut say = |ins, p1, p2, data: &[u8]| {
            exchange(&mut applet, ins, p1, p2, data).expect("a new card obeys")
        };

        say(0xa4, 0x04, 0x00, &[0xa0, 0x00, 0x00, 0x03, 0x08]);
        say(0x20, 0x00, 0x80, FACTORY_PIN);
        let challenge = say(0x87, 0x0a, 0x9b, &[0x7c, 0x02, 0x81, 0x00]);
        let (_, challenge) = challenge
            .split_last_chunk::<16>()
            .expect("a challenge of one block");
        let mut block = (*challenge).into();
        aes::Aes192::new(&FACTORY_MANAGEMENT_KEY.into()).encrypt_block(&mut block);
        say(
            0x87,
            0x0a,
            0x9b,
            &tlv::write(0x7c, &tlv::write(0x82, &block)),
        );
        let policies = [0x80, 1, P256, 0xaa, 1, PIN_ONCE, 0xab, 1, TOUCH_ALWAYS];
        let generated = say(0x47, 0x00, SLOT, &tlv::write(0xac, &policies));
        let (template, _) = tlv::read(&generated).expect("a public key template");
        let point = tlv::find(&tlv::read_all(template.value).expect("its fields"), 0x86)
            .expect("a point")
            .to_vec();
        let slot_certificate = say(0xf9, SLOT, 0x00, &[]);
        let object = say(0xcb, 0x3f, 0xff, &[0x5c, 0x03, 0x5f, 0xff, 0x01]);
        let (object, _) = tlv::read(&object).expect("the f9 object");
        let f9 = tlv::find(&tlv::read_all(object.value).expect("its fields"), 0x70)
            .expect("a certificate")
            .to_vec();

        Self {
            applet: Mutex::new(applet),
            public_key: PublicKey::from_spki_der(&p256_spki(&point)).expect("a point of P-256"),
            evidence: Evidence {
                slot_certificate,
                intermediates: vec![f9],
            },
            root,
        }
    }

    /// What attests the key.
    #[must_use]
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// The attestation root's certificate, PEM.
    #[must_use]
    pub fn attestation_root(&self) -> &str {
        &self.root
    }

    /// The private key, PKCS#8 in PEM: what no YubiKey gives, for clients that know no cards.
    ///
    /// # Panics
    /// When the card holds another key than [`CardKey::generate`] made.
    #[must_use]
    pub fn private_key(&self) -> String {
        use p256::pkcs8::EncodePrivateKey as _;
        let applet = self.applet.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = Slot::new(SLOT).expect("a slot");
        let Some(PrivateKey::P256(key)) = applet.state().private_key(slot) else {
            panic!("no key of P-256 in slot 9a");
        };
        let der = key.to_pkcs8_der().expect("a key can be encoded");
        pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_bytes()))
    }

    /// A request signed by the card, PEM: for thirty minutes, with a new nonce, made at `now`.
    ///
    /// # Panics
    /// When a name is not allowed or the card refuses.
    #[must_use]
    pub fn request(
        &self,
        cluster: &str,
        user: &str,
        group: &str,
        read_token: [u8; 32],
        now: jiff::Timestamp,
    ) -> String {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).expect("randomness");
        let draft = Draft {
            user: UserName::parse(user).expect("a user name"),
            groups: vec![GroupName::parse(group).expect("a group name")],
            claims: Claims {
                cluster: ClusterName::parse(cluster).expect("a cluster name"),
                ttl: Ttl::from_secs(1800).expect("thirty minutes"),
                reason: Reason::parse("INC-4211 checkout latency").expect("a reason"),
                nonce,
                issued_at: jiff::Timestamp::from_second(now.as_second()).expect("a whole second"),
                read_token_sha256: Some(Sha256::digest(read_token).into()),
            },
            evidence: Some(self.evidence.clone()),
        };
        csr::to_pem(&draft.sign(self).expect("the card signs"))
    }
}

impl SigningKey for CardKey {
    type Error = Refused;

    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Refused> {
        let digest = Sha256::digest(message);
        let template = tlv::write(
            0x7c,
            &[&[0x82, 0x00], tlv::write(0x81, &digest).as_slice()].concat(),
        );
        let mut applet = self.applet.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = exchange(&mut applet, 0x87, P256, SLOT, &template)?;
        let signature = tlv::read(&answer)
            .and_then(|(template, _)| tlv::read(template.value))
            .map(|(signature, _)| signature.value.to_vec());
        signature.ok_or(Refused(0x90, 0x00))
    }
}

/// One command with an extended length, so that no answer comes in pieces.
fn exchange(
    applet: &mut Applet<Fixed>,
    ins: u8,
    p1: u8,
    p2: u8,
    data: &[u8],
) -> Result<Vec<u8>, Refused> {
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut command = vec![0x00, ins, p1, p2, 0x00];
    if !data.is_empty() {
        command.extend(length);
        command.extend(data);
    }
    command.extend([0x00, 0x00]);
    let mut answer = applet.execute(&command);
    let status = answer.split_off(answer.len().saturating_sub(2));
    match status.as_slice() {
        [0x90, 0x00] => Ok(answer),
        [high, low] => Err(Refused(*high, *low)),
        _ => Err(Refused(0, 0)),
    }
}

/// SubjectPublicKeyInfo of a point on P-256 (RFC 5480).
fn p256_spki(point: &[u8]) -> Vec<u8> {
    const HEADER: &[u8] = &[
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
        0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    [HEADER, point].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchstone_common::{attestation, csr::Request};

    #[test]
    fn a_request_of_the_card_reads_back_and_its_evidence_verifies() {
        let now = jiff::Timestamp::now();
        let key = CardKey::generate(12_345_678);
        let pem = key.request(
            "demo",
            "alice@example.com",
            "jit:oncall:payments",
            [7; 32],
            now,
        );
        let request = Request::from_pem(pem.as_bytes()).expect("the request reads back");
        let roots = attestation::Roots::yubico()
            .with_test_root(key.attestation_root().as_bytes())
            .expect("a root");
        let evidence = request.evidence().expect("evidence");
        let attested =
            attestation::verify(evidence, request.public_key(), &roots, now).expect("it verifies");
        assert_eq!(attested.serial, 12_345_678);
        assert!(attested.test_root);
    }
}
