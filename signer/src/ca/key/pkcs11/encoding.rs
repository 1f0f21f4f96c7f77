//! How PKCS#11 writes public keys and signatures of elliptic curves, and how X.509 does.

use der::{
    Decode as _, Encode as _, Sequence,
    asn1::{AnyRef, BitStringRef, ObjectIdentifier, OctetStringRef, UintRef},
};
use touchstone_common::key::{KeyAlgorithm, PublicKey};
use x509_cert::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const UNCOMPRESSED: u8 = 4;

/// ECDSA-Sig-Value (RFC 5480, appendix A).
#[derive(Sequence)]
struct Signature<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

/// The curve of a kind of key, and the bytes of a number on it.
fn curve(algorithm: KeyAlgorithm) -> Option<(ObjectIdentifier, usize)> {
    match algorithm {
        KeyAlgorithm::P256 => Some((P256, 32)),
        KeyAlgorithm::P384 => Some((P384, 48)),
        KeyAlgorithm::Ed25519 | KeyAlgorithm::Rsa { .. } => None,
    }
}

/// CKA_EC_PARAMS of a kind of key; nothing where it is not on a curve that CAs use.
pub(super) fn parameters(algorithm: KeyAlgorithm) -> Option<Vec<u8>> {
    curve(algorithm)?.0.to_der().ok()
}

/// The public key of CKA_EC_PARAMS and CKA_EC_POINT (PKCS#11 3.0, section 2.3.3): a named curve, and the DER OCTET STRING
/// of a point that is not compressed. What is wrong with it otherwise, completing "it …".
pub(super) fn public_key(parameters: &[u8], point: &[u8]) -> Result<PublicKey, String> {
    let curves = [KeyAlgorithm::P256, KeyAlgorithm::P384].map(curve);
    let named = ObjectIdentifier::from_der(parameters)
        .map_err(|_| "is on a curve without a name; P-256 and P-384 are accepted".to_owned())?;
    let (named, length) = curves
        .into_iter()
        .flatten()
        .find(|(curve, _)| *curve == named)
        .ok_or_else(|| format!("is on the curve {named}; P-256 and P-384 are accepted"))?;
    let bytes = <&OctetStringRef>::from_der(point)
        .map_err(|_| "has a public point that is not an OCTET STRING".to_owned())?
        .as_bytes();
    if bytes.len() != 1 + 2 * length || bytes.first() != Some(&UNCOMPRESSED) {
        return Err("has a public point of another length or form than its curve's".into());
    }
    let not_der = |_| "has a public key that cannot be written".to_owned();
    let spki = SubjectPublicKeyInfoRef {
        algorithm: AlgorithmIdentifierRef {
            oid: EC_PUBLIC_KEY,
            parameters: Some(AnyRef::from(&named)),
        },
        subject_public_key: BitStringRef::from_bytes(bytes).map_err(not_der)?,
    };
    PublicKey::from_spki_der(&spki.to_der().map_err(not_der)?)
        .map_err(|error| format!("has a public key that {error}"))
}

/// The DER of a signature that CKM_ECDSA made: r and s, each as long as the curve's order. Nothing where it is something
/// else.
pub(super) fn signature(algorithm: KeyAlgorithm, raw: &[u8]) -> Option<Vec<u8>> {
    let (_, length) = curve(algorithm)?;
    let (r, s) = raw.split_at_checked(length)?;
    if s.len() != length || [r, s].iter().any(|part| part.iter().all(|byte| *byte == 0)) {
        return None;
    }
    let number = |bytes| UintRef::new(bytes).ok();
    let signature = Signature {
        r: number(r)?,
        s: number(s)?,
    };
    signature.to_der().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchstone_common::key::{SigningKey as _, SoftwareKey};

    /// A key as a token shows it.
    fn shown(algorithm: KeyAlgorithm) -> (SoftwareKey, Vec<u8>, Vec<u8>) {
        let key = SoftwareKey::generate(algorithm).unwrap();
        let spki = SubjectPublicKeyInfoRef::try_from(key.public_key().spki_der()).unwrap();
        let point = spki.subject_public_key.raw_bytes();
        let point = OctetStringRef::new(point).unwrap().to_der().unwrap();
        (key, parameters(algorithm).unwrap(), point)
    }

    #[test]
    fn a_tokens_public_key_is_the_one_of_its_point() {
        for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::P384] {
            let (key, parameters, point) = shown(algorithm);
            let read = public_key(&parameters, &point).unwrap();
            assert_eq!(&read, key.public_key());
        }
    }

    #[test]
    fn points_in_any_other_form_are_refused() {
        let (_, parameters, point) = shown(KeyAlgorithm::P256);
        let bare = point.get(2..).unwrap();
        let mut compressed = vec![4, 33, 2 + (bare.last().unwrap() & 1)];
        compressed.extend_from_slice(bare.get(1..33).unwrap());
        let mut off_the_curve = point.clone();
        *off_the_curve.last_mut().unwrap() ^= 1;
        let mut hybrid = point.clone();
        *hybrid.get_mut(2).unwrap() = 6;
        let trailing = [&point[..], &[0]].concat();
        let long_form = [&[4, 0x81, 65], bare].concat();
        let (_, _, of_p384) = shown(KeyAlgorithm::P384);
        let infinity = vec![4, 1, 0];
        for bad in [
            bare.to_vec(),
            compressed,
            off_the_curve,
            hybrid,
            trailing,
            long_form,
            of_p384,
            infinity,
            Vec::new(),
        ] {
            public_key(&parameters, &bad).unwrap_err();
        }
    }

    #[test]
    fn curves_of_no_name_or_of_another_are_refused() {
        let (_, _, point) = shown(KeyAlgorithm::P256);
        let secp256k1 = ObjectIdentifier::new_unwrap("1.3.132.0.10")
            .to_der()
            .unwrap();
        let error = public_key(&secp256k1, &point).unwrap_err();
        assert!(error.contains("1.3.132.0.10"), "{error}");
        for bad in [&b""[..], &[5, 0], &[0x30, 0], b"prime256v1"] {
            public_key(bad, &point).unwrap_err();
        }
    }

    #[test]
    fn a_raw_signature_becomes_the_shortest_der() {
        let mut raw = [0; 64];
        raw[31] = 1;
        raw[32] = 0x80;
        let der = signature(KeyAlgorithm::P256, &raw).unwrap();
        let mut expected = vec![0x30, 38, 2, 1, 1, 2, 33, 0, 0x80];
        expected.resize(40, 0);
        assert_eq!(der, expected);
    }

    #[test]
    fn what_is_no_raw_signature_is_not_made_one() {
        let whole = [1; 64];
        let mut no_r = whole;
        no_r[..32].fill(0);
        let mut no_s = whole;
        no_s[32..].fill(0);
        for bad in [&whole[..63], &[1; 65], &[1; 96], &[], &no_r, &no_s] {
            assert_eq!(signature(KeyAlgorithm::P256, bad), None);
        }
        assert!(signature(KeyAlgorithm::P384, &[1; 96]).is_some());
        assert_eq!(signature(KeyAlgorithm::P384, &whole), None);
        assert_eq!(signature(KeyAlgorithm::Ed25519, &whole), None);
    }
}
