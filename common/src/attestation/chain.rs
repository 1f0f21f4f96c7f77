//! The path from a slot's certificate to a root: slot ← f9 ← (intermediates) ← anchor.

use super::{
    AttestationError, extensions, read,
    roots::{Roots, ca, is_piv_intermediate},
};
use crate::{
    certificate::Validity,
    key::{Accept, PublicKey},
    oid,
    x509::{self, Certificate},
};

/// Where a path ended.
pub(super) struct End {
    /// The dates that all its certificates share.
    pub(super) valid: Validity,
    pub(super) test_root: bool,
}

/// Verifies every link. `above` holds the f9 certificate first, then any intermediates that are not pinned, in order.
pub(super) fn verify(
    slot: &Certificate<'_>,
    above: &[Vec<u8>],
    roots: &Roots,
) -> Result<End, AttestationError> {
    const SLOT: &str = "slot's certificate";
    const F9: &str = "f9 certificate";
    const INTERMEDIATE: &str = "intermediate certificate";

    let [f9, intermediates @ ..] = above else {
        return Err(AttestationError::Missing(F9));
    };
    check_critical(SLOT, slot)?;
    let f9 = read(F9, f9)?;
    check_f9(F9, &f9)?;
    link(SLOT, slot, &f9, &public_key(F9, &f9)?)?;

    let mut valid = slot.validity.intersection(f9.validity);
    let mut piv = false;
    let mut current = (F9, f9);
    // The f9 is the one CA below; each intermediate adds one.
    let mut below: u8 = 1;
    for der in intermediates {
        if roots.issuer(&current.1).is_some() {
            // An intermediate that is pinned, sent along all the same: the path has ended.
            break;
        }
        let intermediate = read(INTERMEDIATE, der)?;
        check_critical(INTERMEDIATE, &intermediate)?;
        let (path_length, validity) =
            ca(&intermediate).ok_or(AttestationError::NotCa(INTERMEDIATE))?;
        if path_length < below || extensions::attests_a_slot(&intermediate) {
            return Err(AttestationError::NotCa(INTERMEDIATE));
        }
        link(
            current.0,
            &current.1,
            &intermediate,
            &public_key(INTERMEDIATE, &intermediate)?,
        )?;
        valid = valid.intersection(validity);
        piv |= is_piv_intermediate(&intermediate);
        below = below.saturating_add(1);
        current = (INTERMEDIATE, intermediate);
    }

    let anchor = roots
        .issuer(&current.1)
        .ok_or(AttestationError::UnknownRoot)?;
    if anchor.path_length < below {
        return Err(AttestationError::NotCa("attestation root"));
    }
    if !(piv || anchor.piv) {
        return Err(AttestationError::NotPiv);
    }
    Ok(End {
        valid: valid.intersection(anchor.validity),
        test_root: anchor.test,
    })
}

/// The f9 certificate signs slots. Some old ones have no BasicConstraints, so it is told from a slot's certificate, whose
/// key signs whatever its owner likes, by what only those say.
fn check_f9(name: &'static str, f9: &Certificate<'_>) -> Result<(), AttestationError> {
    check_critical(name, f9)?;
    let is_ca = f9.extension(x509::BASIC_CONSTRAINTS).is_none() || ca(f9).is_some();
    if !is_ca || extensions::attests_a_slot(f9) {
        return Err(AttestationError::NotCa(name));
    }
    Ok(())
}

fn link(
    name: &'static str,
    certificate: &Certificate<'_>,
    issuer: &Certificate<'_>,
    issuer_key: &PublicKey,
) -> Result<(), AttestationError> {
    if certificate.issuer != issuer.subject {
        return Err(AttestationError::Issuer(name));
    }
    certificate
        .verify(issuer_key, Accept::Attestations)
        .map_err(|error| AttestationError::BadSignature {
            certificate: name,
            error,
        })
}

fn public_key(
    name: &'static str,
    certificate: &Certificate<'_>,
) -> Result<PublicKey, AttestationError> {
    certificate
        .public_key()
        .map_err(|error| AttestationError::Certificate {
            certificate: name,
            error: error.into(),
        })
}

/// RFC 5280 section 4.2: a critical extension that is not understood refuses the certificate.
fn check_critical(
    name: &'static str,
    certificate: &Certificate<'_>,
) -> Result<(), AttestationError> {
    match certificate.extensions.iter().find(|extension| {
        extension.critical
            && !matches!(
                extension.oid,
                x509::BASIC_CONSTRAINTS
                    | x509::KEY_USAGE
                    | x509::SUBJECT_KEY_ID
                    | x509::AUTHORITY_KEY_ID
                    | oid::YUBICO_FIRMWARE
                    | oid::YUBICO_SERIAL
                    | oid::YUBICO_POLICIES
                    | oid::YUBICO_FORM_FACTOR
            )
    }) {
        Some(extension) => Err(AttestationError::CriticalExtension {
            certificate: name,
            oid: extension.oid,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attestation::roots::Anchor,
        certificate::{CaCertificate, Prepared, Profile, SerialNumber},
        key::{KeyAlgorithm, SigningKey as _, SoftwareKey},
        name::{GroupName, UserName},
    };
    use jiff::Timestamp;

    #[test]
    fn a_branch_of_yubicos_root_that_is_not_piv_proves_nothing() {
        let key = |_| SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
        let [root_key, f9_key, slot_key] = [(), (), ()].map(key);
        let validity = Validity {
            not_before: Timestamp::UNIX_EPOCH,
            not_after: Timestamp::MAX,
        };
        let serial = SerialNumber::from_random([1; 16]);
        let make = |profile: &Profile<'_>, public: &SoftwareKey, issuer, signer: &SoftwareKey| {
            Prepared::new(profile, public.public_key(), validity, serial, issuer)
                .unwrap()
                .sign(signer)
                .unwrap()
        };
        let root = Profile::Root {
            common_name: "Yubico Attestation Root 1",
        };
        let root = make(&root, &root_key, None, &root_key);
        let root = CaCertificate::from_der(&root).unwrap();
        let f9 = Profile::IssuingCa {
            common_name: "YubiKey PIV Attestation",
        };
        let f9 = make(&f9, &f9_key, Some(&root), &root_key);
        // Of the slot's certificate only its place in the chain matters here.
        let slot = Profile::ClientLeaf {
            user: &UserName::parse("slot").unwrap(),
            groups: &[GroupName::parse("slot").unwrap()],
        };
        let issuer = CaCertificate::from_der(&f9).unwrap();
        let slot = make(&slot, &slot_key, Some(&issuer), &f9_key);
        let anchor = |piv| {
            let root = Certificate::from_der(root.der()).unwrap();
            Roots {
                anchors: vec![Anchor {
                    subject: root.subject.to_vec(),
                    public_key: root.public_key().unwrap(),
                    validity,
                    path_length: 3,
                    piv,
                    test: false,
                }],
            }
        };
        let f9 = [f9];
        let slot = Certificate::from_der(&slot).unwrap();
        assert!(verify(&slot, &f9, &anchor(true)).is_ok());
        assert!(matches!(
            verify(&slot, &f9, &anchor(false)),
            Err(AttestationError::NotPiv)
        ));
    }
}
