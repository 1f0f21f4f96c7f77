//! The roots: Yubico's, pinned, and those that an operator configured.

use super::{AttestationError, read};
use crate::{
    certificate::Validity,
    key::{Accept, PublicKey},
    pem,
    x509::{self, Certificate},
};

/// Signs PIV attestations only (YubiKeys before 5.7.4).
const PIV_ROOT: &[u8] = include_bytes!("roots/yubico-piv-root-ca-263751.pem");
/// Signs attestations of every product (YubiKeys from 5.7.4 on).
const ATTESTATION_ROOT: &[u8] = include_bytes!("roots/yubico-attestation-root-1.pem");
/// What Yubico published below [`ATTESTATION_ROOT`], each after its issuer.
const INTERMEDIATES: [&[u8]; 5] = [
    include_bytes!("roots/yubico-attestation-intermediate-a-1.pem"),
    include_bytes!("roots/yubico-attestation-intermediate-b-1.pem"),
    include_bytes!("roots/yubico-piv-attestation-a-1.pem"),
    include_bytes!("roots/yubico-piv-attestation-b-1.pem"),
    include_bytes!("roots/yubico-piv-attestation-b2-1.pem"),
];

/// The roots that attestations are verified against.
///
/// Yubico's own intermediates are verified once, when this is made, and stand beside the roots from then on: an
/// attestation costs two signatures, the slot's and the f9's.
#[derive(Clone, Debug)]
pub struct Roots {
    pub(super) anchors: Vec<Anchor>,
}

/// A CA that is trusted for attestations.
#[derive(Clone, Debug)]
pub(super) struct Anchor {
    pub(super) subject: Vec<u8>,
    pub(super) public_key: PublicKey,
    /// Its dates and those of everything above it.
    pub(super) validity: Validity,
    /// How many CAs may stand between it and a slot.
    pub(super) path_length: u8,
    /// Whether everything under it is PIV.
    pub(super) piv: bool,
    pub(super) test: bool,
}

impl Roots {
    /// Yubico's pinned roots and intermediates, nothing else.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "the files are part of the program, and a test reads each of them"
    )]
    pub fn yubico() -> Self {
        let mut roots = Self {
            anchors: Vec::new(),
        };
        for (pem, piv) in [(PIV_ROOT, true), (ATTESTATION_ROOT, false)] {
            let der = pem::one_block(pem, "CERTIFICATE").expect("a pinned root");
            let root = Certificate::from_der(&der).expect("a pinned root");
            let public_key = root.public_key().expect("a pinned root");
            let (path_length, validity) = ca(&root).expect("a pinned root");
            // A pinned root is trusted as it stands: its signature on itself says nothing.
            roots.anchors.push(Anchor {
                subject: root.subject.to_vec(),
                public_key,
                validity,
                path_length,
                piv,
                test: false,
            });
        }
        for pem in INTERMEDIATES {
            let der = pem::one_block(pem, "CERTIFICATE").expect("a pinned intermediate");
            let certificate = Certificate::from_der(&der).expect("a pinned intermediate");
            let anchor = roots
                .below(&certificate)
                .expect("an intermediate that a pinned root signed");
            roots.anchors.push(anchor);
        }
        roots
    }

    /// Adds a root that the operator configured: the virtual YubiKey's.
    ///
    /// # Errors
    /// When the PEM is not exactly one self-signed CA certificate.
    pub fn with_test_root(mut self, pem: &[u8]) -> Result<Self, AttestationError> {
        let der = pem::one_block(pem, "CERTIFICATE")?;
        let root = read("attestation root", &der)?;
        let public_key = root.public_key().map_err(|_| AttestationError::Root)?;
        let (path_length, validity) = ca(&root).ok_or(AttestationError::Root)?;
        let self_signed =
            root.issuer == root.subject && root.verify(&public_key, Accept::Fitting).is_ok();
        if !self_signed {
            return Err(AttestationError::Root);
        }
        self.anchors.push(Anchor {
            subject: root.subject.to_vec(),
            public_key,
            validity,
            path_length,
            piv: true,
            test: true,
        });
        Ok(self)
    }

    /// The anchor that signed this certificate.
    pub(super) fn issuer(&self, certificate: &Certificate<'_>) -> Option<&Anchor> {
        self.anchors.iter().find(|anchor| {
            anchor.subject == certificate.issuer
                && certificate
                    .verify(&anchor.public_key, Accept::Attestations)
                    .is_ok()
        })
    }

    /// An intermediate CA that an anchor signed, as an anchor itself.
    fn below(&self, certificate: &Certificate<'_>) -> Option<Anchor> {
        let issuer = self.issuer(certificate)?;
        let (path_length, validity) = ca(certificate)?;
        Some(Anchor {
            subject: certificate.subject.to_vec(),
            public_key: certificate.public_key().ok()?,
            validity: validity.intersection(issuer.validity),
            path_length: path_length.min(issuer.path_length.checked_sub(1)?),
            piv: issuer.piv || is_piv_intermediate(certificate),
            test: issuer.test,
        })
    }
}

/// A CA's path length and dates; `None` when it is no CA that may sign certificates.
pub(super) fn ca(certificate: &Certificate<'_>) -> Option<(u8, Validity)> {
    let (is_ca, path_length) = certificate.basic_constraints().ok()??;
    let may_sign = certificate
        .key_usage()
        .ok()?
        .is_none_or(|usage| usage & x509::KEY_CERT_SIGN != 0);
    (is_ca && may_sign).then_some((path_length.unwrap_or(u8::MAX), certificate.validity))
}

/// Whether this is one of the intermediates under which Yubico signs PIV attestations alone: `Yubico PIV Attestation A 1`
/// and its siblings. (The f9 certificates of old YubiKeys are named `Yubico PIV Attestation`, without more.)
pub(super) fn is_piv_intermediate(certificate: &Certificate<'_>) -> bool {
    x509::attributes(certificate.subject).is_ok_and(|attributes| {
        matches!(attributes.as_slice(), [name] if name.oid == x509::COMMON_NAME
            && name.text().is_some_and(|text| text.starts_with("Yubico PIV Attestation ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piv(pem: &[u8]) -> bool {
        let der = pem::one_block(pem, "CERTIFICATE").unwrap();
        is_piv_intermediate(&Certificate::from_der(&der).unwrap())
    }

    #[test]
    fn yubicos_intermediates_hang_together_and_only_its_piv_branch_is_piv() {
        let roots = Roots::yubico();
        let found: Vec<(bool, u8, bool)> = roots
            .anchors
            .iter()
            .map(|anchor| (anchor.piv, anchor.path_length, anchor.test))
            .collect();
        assert_eq!(
            found,
            [
                (true, 1, false),
                (false, 3, false),
                (false, 2, false),
                (false, 2, false),
                (true, 1, false),
                (true, 1, false),
                (true, 1, false),
            ]
        );
    }

    #[test]
    fn a_piv_intermediate_is_told_by_its_whole_name() {
        assert_eq!(
            INTERMEDIATES.map(piv),
            [false, false, true, true, true],
            "named Yubico PIV Attestation and something"
        );
        assert!(!piv(ATTESTATION_ROOT) && !piv(PIV_ROOT));
        // An f9 certificate of old is named like them, without what follows.
        let f9 = include_bytes!("../../tests/it/data/attestation/yubikey_5ci_intermediate.der");
        assert!(!is_piv_intermediate(&Certificate::from_der(f9).unwrap()));
    }
}
