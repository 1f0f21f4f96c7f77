//! Keys and signatures as an attacker would have them.

use super::{
    signature::{ECDSA_SHA256, ECDSA_SHA384, RSA_SHA256},
    spki::{EC_PUBLIC_KEY, ED25519, P256, RSA},
    *,
};
use crate::asn1::{Fields, bit_string, oid, sequence, unsigned};
use der::Tag;

fn key(algorithm: KeyAlgorithm) -> SoftwareKey {
    SoftwareKey::generate(algorithm).unwrap()
}

fn spki(algorithm: &[&[u8]], bits: &[u8]) -> Vec<u8> {
    sequence(&[&sequence(algorithm), &bit_string(bits)])
}

fn ec(curve: ObjectIdentifier, bits: &[u8]) -> Result<PublicKey, KeyError> {
    PublicKey::from_spki_der(&spki(&[&oid(EC_PUBLIC_KEY), &oid(curve)], bits))
}

fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<PublicKey, KeyError> {
    let key = sequence(&[&unsigned(modulus), &unsigned(exponent)]);
    PublicKey::from_spki_der(&spki(&[&oid(RSA), &[5, 0]], &key))
}

/// An odd number of this many bits; whether it is a product of two primes is nothing a reader can know.
fn modulus(bits: usize) -> Vec<u8> {
    let mut modulus = vec![0xa5; bits.div_ceil(8)];
    if !bits.is_multiple_of(8) {
        modulus[0] = 1 << (bits % 8 - 1);
    }
    modulus
}

fn point(algorithm: KeyAlgorithm) -> Vec<u8> {
    key(algorithm).public_key().bits().to_vec()
}

#[test]
fn a_signature_verifies_with_its_own_key_message_and_algorithm_only() {
    for algorithm in [
        KeyAlgorithm::P256,
        KeyAlgorithm::P384,
        KeyAlgorithm::Ed25519,
    ] {
        let key = key(algorithm);
        let public = key.public_key();
        let signature = key.sign(b"message").unwrap();
        let fitting = public.signature_algorithm();
        assert_eq!(public.verify(fitting, b"message", &signature), Ok(()));
        assert_eq!(
            public.verify(fitting, b"Message", &signature),
            Err(KeyError::BadSignature)
        );
        assert_eq!(
            SoftwareKey::generate(algorithm)
                .unwrap()
                .public_key()
                .verify(fitting, b"message", &signature),
            Err(KeyError::BadSignature)
        );
        for other in [
            SignatureAlgorithm::EcdsaSha256,
            SignatureAlgorithm::EcdsaSha384,
            SignatureAlgorithm::Ed25519,
            SignatureAlgorithm::RsaSha256,
        ] {
            if other != fitting {
                assert_eq!(
                    public.verify(other, b"message", &signature),
                    Err(KeyError::Unfit {
                        signature: other,
                        key: algorithm
                    })
                );
            }
        }
    }
}

#[test]
fn a_key_is_read_back_from_its_own_encoding() {
    for algorithm in [
        KeyAlgorithm::P256,
        KeyAlgorithm::P384,
        KeyAlgorithm::Ed25519,
    ] {
        let key = key(algorithm);
        let public = PublicKey::from_spki_der(key.public_key().spki_der()).unwrap();
        assert_eq!(&public, key.public_key());
        assert_eq!(public.algorithm(), algorithm);
        let again = SoftwareKey::from_pkcs8_pem(key.to_pkcs8_pem().unwrap().as_bytes()).unwrap();
        assert_eq!(again.public_key(), &public);
        assert!(!format!("{key:?}").contains(&hex::encode(&key.to_pkcs8_der().unwrap()[40..48])));
        assert!(format!("{key:?}").contains("[redacted]"));
    }
}

#[test]
fn a_point_is_uncompressed_whole_and_on_its_curve() {
    let good = point(KeyAlgorithm::P256);
    assert!(ec(P256, &good).is_ok());
    let mut off = good.clone();
    off[64] ^= 1;
    let mut compressed = vec![2 + (good[64] & 1)];
    compressed.extend_from_slice(&good[1..33]);
    let mut hybrid = good.clone();
    hybrid[0] = 6 + (good[64] & 1);
    for bad in [
        off,
        compressed,
        hybrid,
        vec![0],
        vec![],
        good[..64].to_vec(),
        [good.as_slice(), &[0]].concat(),
        point(KeyAlgorithm::P384),
        [&[4_u8][..], &[0; 64]].concat(),
        [&[4_u8][..], &[0xff; 64]].concat(),
    ] {
        assert_eq!(ec(P256, &bad), Err(KeyError::Invalid("P-256")));
    }
}

#[test]
fn other_curves_and_written_out_parameters_are_refused() {
    let secp521r1 = ObjectIdentifier::new_unwrap("1.3.132.0.35");
    let secp256k1 = ObjectIdentifier::new_unwrap("1.3.132.0.10");
    assert_eq!(ec(secp521r1, &[4; 133]), Err(KeyError::Curve(secp521r1)));
    assert_eq!(ec(secp256k1, &[4; 65]), Err(KeyError::Curve(secp256k1)));
    let good = point(KeyAlgorithm::P256);
    let written_out = sequence(&[&unsigned(&[1])]);
    for parameters in [&[][..], &[5, 0], &written_out] {
        let spki = spki(&[&oid(EC_PUBLIC_KEY), parameters], &good);
        assert_eq!(PublicKey::from_spki_der(&spki), Err(KeyError::Parameters));
    }
}

#[test]
fn ed25519_takes_no_parameters_and_no_point_of_small_order() {
    let good = point(KeyAlgorithm::Ed25519);
    let with_null = spki(&[&oid(ED25519), &[5, 0]], &good);
    assert_eq!(
        PublicKey::from_spki_der(&with_null),
        Err(KeyError::Parameters)
    );
    let read = |bits: &[u8]| PublicKey::from_spki_der(&spki(&[&oid(ED25519)], bits));
    assert!(read(&good).is_ok());
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut negative_identity = identity;
    negative_identity[31] = 0x80;
    let mut minus_one = [0xff; 32];
    minus_one[0] = 0xec;
    minus_one[31] = 0x7f;
    let mut order_8 = [0; 32];
    hex::decode_to_slice(
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        &mut order_8,
    )
    .unwrap();
    for bad in [[0; 32], identity, negative_identity, minus_one, order_8] {
        assert_eq!(read(&bad), Err(KeyError::Invalid("Ed25519")), "{bad:02x?}");
    }
    assert_eq!(read(&good[..31]), Err(KeyError::Invalid("Ed25519")));
}

#[test]
fn rsa_has_2048_to_8192_bits_and_the_one_exponent() {
    let e = [1, 0, 1];
    assert_eq!(
        rsa(&modulus(2048), &e).unwrap().algorithm(),
        KeyAlgorithm::Rsa { bits: 2048 }
    );
    assert_eq!(
        rsa(&modulus(3072), &e).unwrap().algorithm(),
        KeyAlgorithm::Rsa { bits: 3072 }
    );
    for bits in [512, 1024, 2047, 8193, 16384] {
        assert_eq!(
            rsa(&modulus(bits), &e),
            Err(KeyError::RsaBits(u32::try_from(bits).unwrap())),
            "{bits}"
        );
    }
    for exponent in [&[1_u8][..], &[3], &[17], &[1, 0, 0], &[1, 0, 0, 0, 1], &[0]] {
        assert_eq!(rsa(&modulus(2048), exponent), Err(KeyError::Exponent));
    }
    let mut even = modulus(2048);
    even[255] = 0xa4;
    assert_eq!(rsa(&even, &e), Err(KeyError::Invalid("RSA")));
    let negative = sequence(&[
        &crate::asn1::tlv(Tag::Integer, &[&modulus(2048)]),
        &unsigned(&e),
    ]);
    assert!(matches!(
        PublicKey::from_spki_der(&spki(&[&oid(RSA), &[5, 0]], &negative)),
        Err(KeyError::Der(_))
    ));
    let bare = sequence(&[&unsigned(&modulus(2048)), &unsigned(&e)]);
    assert_eq!(
        PublicKey::from_spki_der(&spki(&[&oid(RSA)], &bare)),
        Err(KeyError::Parameters)
    );
}

#[test]
fn other_kinds_of_key_are_named_in_the_refusal() {
    let dsa = ObjectIdentifier::new_unwrap("1.2.840.10040.4.1");
    assert_eq!(
        PublicKey::from_spki_der(&spki(&[&oid(dsa)], &[0])),
        Err(KeyError::Algorithm(dsa))
    );
}

#[test]
fn the_parameters_of_a_signature_algorithm_are_exact() {
    let read = |parts: &[&[u8]], accept| {
        let contents = parts.concat();
        SignatureAlgorithm::read(Fields::new(&contents).unwrap(), accept)
    };
    let null: &[u8] = &[5, 0];
    for (id, algorithm) in [
        (ECDSA_SHA256, SignatureAlgorithm::EcdsaSha256),
        (ECDSA_SHA384, SignatureAlgorithm::EcdsaSha384),
        (ED25519, SignatureAlgorithm::Ed25519),
    ] {
        for accept in [Accept::Attestations, Accept::Fitting] {
            assert_eq!(read(&[&oid(id)], accept), Ok(algorithm));
            assert_eq!(read(&[&oid(id), null], accept), Err(KeyError::Parameters));
        }
    }
    let rsa = oid(RSA_SHA256);
    assert_eq!(
        read(&[&rsa, null], Accept::Fitting),
        Ok(SignatureAlgorithm::RsaSha256)
    );
    assert_eq!(
        read(&[&rsa], Accept::Attestations),
        Ok(SignatureAlgorithm::RsaSha256)
    );
    assert_eq!(read(&[&rsa], Accept::Fitting), Err(KeyError::Parameters));
    assert!(read(&[&rsa, null, null], Accept::Fitting).is_err());
    let sha1 = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.5");
    assert_eq!(
        read(&[&oid(sha1), null], Accept::Attestations),
        Err(KeyError::SignatureAlgorithm(sha1))
    );
}
