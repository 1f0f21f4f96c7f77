//! A YubiKey in so far as a request shows it: a key, and certificates that attest it under a root of one's own.

use std::convert::Infallible;
use touchstone_common::{
    attestation::Roots,
    evidence::Evidence,
    key::{KeyAlgorithm, PublicKey, SigningKey, SoftwareKey},
};

/// What a slot's certificate says.
#[derive(Clone, Copy)]
pub(super) struct Attests {
    pub(super) serial: u32,
    pub(super) firmware: [u8; 3],
    /// PIN policy and touch policy, by Yubico's numbers.
    pub(super) policies: [u8; 2],
    /// Dates of the slot's certificate, as UTCTime.
    pub(super) dates: [&'static str; 2],
}

/// PIN once, touch always, firmware 5.7.1.
pub(super) const GOOD: Attests = Attests {
    serial: 12_345_678,
    firmware: [5, 7, 1],
    policies: [2, 2],
    dates: ["250101000000Z", "350101000000Z"],
};

pub(super) struct YubiKey {
    key: SoftwareKey,
    pub(super) evidence: Evidence,
    root_pem: String,
}

impl YubiKey {
    pub(super) fn new(attests: Attests) -> Self {
        let [key, f9, root] = [(); 3].map(|()| SoftwareKey::generate(KeyAlgorithm::P256).unwrap());
        let long = ["200101000000Z", "490101000000Z"];
        let ca = extension("551d13", &sequence(&[&[0x01, 0x01, 0xff]]));
        let root_name = "Test PIV root";
        let f9_name = "Test PIV Attestation";
        let root_der = certificate(root_name, root_name, long, &root, &root, &[&ca]);
        let f9_der = certificate(root_name, f9_name, long, &f9, &root, &[&ca]);
        let serial = attests.serial.to_be_bytes();
        let mut serial = &serial[..];
        // DER's shortest form of a positive number; below 2^31 in these tests.
        while serial[0] == 0 && serial[1] < 0x80 {
            serial = &serial[1..];
        }
        let extensions = [
            extension("2b0601040182c40a0303", &attests.firmware),
            extension("2b0601040182c40a0307", &tlv(0x02, serial)),
            extension("2b0601040182c40a0308", &attests.policies),
        ];
        let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
        let slot_name = "YubiKey PIV Attestation 9a";
        let slot = certificate(f9_name, slot_name, attests.dates, &key, &f9, &extensions);
        Self {
            key,
            evidence: Evidence {
                slot_certificate: slot,
                intermediates: vec![f9_der],
            },
            root_pem: touchstone_common::certificate::to_pem(&root_der),
        }
    }

    pub(super) fn roots(&self) -> Roots {
        self.add_root(Roots::yubico())
    }

    pub(super) fn add_root(&self, roots: Roots) -> Roots {
        roots.with_test_root(self.root_pem.as_bytes()).unwrap()
    }
}

impl SigningKey for YubiKey {
    type Error = Infallible;

    fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Infallible> {
        Ok(self.key.sign(message).unwrap())
    }
}

fn certificate(
    issuer: &str,
    subject: &str,
    dates: [&str; 2],
    key: &SoftwareKey,
    signer: &SoftwareKey,
    extensions: &[&[u8]],
) -> Vec<u8> {
    // ecdsa-with-SHA256
    let algorithm = sequence(&[&tlv(0x06, &hex("2a8648ce3d040302"))]);
    let [not_before, not_after] = dates.map(|date| tlv(0x17, date.as_bytes()));
    let tbs = sequence(&[
        &tlv(0xa0, &tlv(0x02, &[2])),
        &tlv(0x02, &[0x01]),
        &algorithm,
        &name(issuer),
        &sequence(&[&not_before, &not_after]),
        &name(subject),
        key.public_key().spki_der(),
        &tlv(0xa3, &sequence(extensions)),
    ]);
    let signature = [vec![0], signer.sign(&tbs).unwrap()].concat();
    sequence(&[&tbs, &algorithm, &tlv(0x03, &signature)])
}

fn name(common_name: &str) -> Vec<u8> {
    let attribute = sequence(&[
        &tlv(0x06, &hex("550403")),
        &tlv(0x0c, common_name.as_bytes()),
    ]);
    sequence(&[&tlv(0x31, &attribute)])
}

fn extension(oid: &str, value: &[u8]) -> Vec<u8> {
    sequence(&[&tlv(0x06, &hex(oid)), &tlv(0x04, value)])
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap();
    let [high, low] = length.to_be_bytes();
    let header = match length {
        0..0x80 => vec![tag, low],
        0x80..0x100 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [header, value.to_vec()].concat()
}

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}
