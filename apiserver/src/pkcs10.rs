//! Reads certificate signing requests of any signer as Kubernetes does: one PEM block whose signature verifies.
//!
//! What a request of Touchstone must be beyond this is the signer's to judge.

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use const_oid::{
    ObjectIdentifier,
    db::{rfc5912, rfc8410},
};
use der::{Decode, Encode};
use x509_cert::request::CertReq;

/// Why a request is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    NotPem,
    #[error("the certificate request is not DER: {0}")]
    NotDer(der::Error),
    #[error("the signature algorithm {0} with this key is not supported")]
    UnknownAlgorithm(ObjectIdentifier),
    #[error("the signature of the certificate request does not verify")]
    BadSignature,
}

/// Checks form and signature.
pub(crate) fn check(request_pem: &[u8]) -> Result<(), RequestError> {
    let blocks = pem::parse_many(request_pem).map_err(|_| RequestError::NotPem)?;
    let [block] = blocks.as_slice() else {
        return Err(RequestError::NotPem);
    };
    if block.tag() != "CERTIFICATE REQUEST" {
        return Err(RequestError::NotPem);
    }
    let request = CertReq::from_der(block.contents()).map_err(RequestError::NotDer)?;
    let signed = request.info.to_der().map_err(RequestError::NotDer)?;
    let oid = request.algorithm.oid;
    let key = &request.info.public_key;
    let curve = key
        .algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.decode_as::<ObjectIdentifier>().ok());
    let algorithm =
        algorithm(oid, key.algorithm.oid, curve).ok_or(RequestError::UnknownAlgorithm(oid))?;
    let key = UnparsedPublicKey::new(algorithm, key.subject_public_key.raw_bytes());
    key.verify(&signed, request.signature.raw_bytes())
        .map_err(|_| RequestError::BadSignature)
}

fn algorithm(
    signature_oid: ObjectIdentifier,
    key_oid: ObjectIdentifier,
    curve: Option<ObjectIdentifier>,
) -> Option<&'static dyn VerificationAlgorithm> {
    const P256: ObjectIdentifier = rfc5912::SECP_256_R_1;
    const P384: ObjectIdentifier = rfc5912::SECP_384_R_1;
    const P521: ObjectIdentifier = rfc5912::SECP_521_R_1;
    match key_oid {
        rfc8410::ID_ED_25519 if signature_oid == rfc8410::ID_ED_25519 => Some(&signature::ED25519),
        rfc5912::RSA_ENCRYPTION => match signature_oid {
            rfc5912::SHA_256_WITH_RSA_ENCRYPTION => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
            rfc5912::SHA_384_WITH_RSA_ENCRYPTION => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
            rfc5912::SHA_512_WITH_RSA_ENCRYPTION => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
            _ => None,
        },
        rfc5912::ID_EC_PUBLIC_KEY => match (curve?, signature_oid) {
            (P256, rfc5912::ECDSA_WITH_SHA_256) => Some(&signature::ECDSA_P256_SHA256_ASN1),
            (P256, rfc5912::ECDSA_WITH_SHA_384) => Some(&signature::ECDSA_P256_SHA384_ASN1),
            (P384, rfc5912::ECDSA_WITH_SHA_256) => Some(&signature::ECDSA_P384_SHA256_ASN1),
            (P384, rfc5912::ECDSA_WITH_SHA_384) => Some(&signature::ECDSA_P384_SHA384_ASN1),
            (P521, rfc5912::ECDSA_WITH_SHA_256) => Some(&signature::ECDSA_P521_SHA256_ASN1),
            (P521, rfc5912::ECDSA_WITH_SHA_384) => Some(&signature::ECDSA_P521_SHA384_ASN1),
            (P521, rfc5912::ECDSA_WITH_SHA_512) => Some(&signature::ECDSA_P521_SHA512_ASN1),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_input_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let pem = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", bytes.clone()));
            prop_assert!(check(pem.as_bytes()).is_err());
            prop_assert!(check(&bytes).is_err());
        }
    }
}
