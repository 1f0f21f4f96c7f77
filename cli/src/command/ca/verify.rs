//! `touchstone ca verify`: what a ceremony's record proves.

use super::{CeremonyError, document};
use crate::{
    args::CaVerify,
    command::roots,
    error::Error,
    output::{Output, one_line, pairs},
};
use jiff::Timestamp;
use serde::Serialize;
use std::path::Path;
use touchstone_common::{
    ceremony::{IssuingRequest, Record, SignedWith},
    certificate::CaCertificate,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    subject: String,
    not_before: Timestamp,
    not_after: Timestamp,
    sha256: String,
    root_sha256: Option<String>,
    at: Timestamp,
    signed_with: SignedWith,
    /// Whether a root that was named vouches for the YubiKey, and not Yubico's.
    test_root: bool,
}

/// `touchstone ca verify`.
pub(in crate::command) fn run(args: &CaVerify, output: Output) -> Result<(), Error> {
    let record: Record =
        serde_json::from_slice(&document(&args.record, "record")?).map_err(|source| {
            CeremonyError::Malformed {
                path: args.record.clone(),
                source,
            }
        })?;
    let roots = roots(&args.roots.attestation_root, &[])?;
    let (made, attested) = record.verify(&roots).map_err(CeremonyError::Record)?;

    // What cannot be read as one is not the one of the record either.
    let is_certificate = |path: &Path, fingerprint| -> Result<bool, Error> {
        let pem = document(path, "certificate")?;
        let found = CaCertificate::from_pem(&pem).map(|found| found.fingerprint());
        Ok(found == Ok(fingerprint))
    };
    let same = |path: &Path, what, is_same| match is_same {
        true => Ok(()),
        false => Err(CeremonyError::Other {
            path: path.to_owned(),
            what,
        }),
    };
    if let Some(path) = &args.certificate {
        same(
            path,
            "certificate",
            is_certificate(path, made.fingerprint())?,
        )?;
    }
    if let Some(path) = &args.root {
        let of_record = record.root.as_ref().unwrap_or(&record.certificate);
        let root = CaCertificate::from_pem(of_record.as_bytes())?;
        same(path, "root", is_certificate(path, root.fingerprint())?)?;
    }
    if let Some(path) = &args.plan {
        let plan = document(path, "ceremony file")?;
        same(path, "ceremony file", plan == record.ceremony.as_bytes())?;
    }
    if let Some(path) = &args.request {
        let pem = document(path, "request")?;
        let sha256 = IssuingRequest::from_pem(&pem).map(|found| hex::encode(found.sha256()));
        let is_same = sha256.is_ok_and(|found| record.statement.request_sha256 == Some(found));
        same(path, "request", is_same)?;
    }
    let said = &record.statement;
    if said.signed_with == SignedWith::InsecureSoftwareKey {
        output.warn("the root's key was a file: nothing shows how many copies there are.");
    }
    let verified = Verified {
        subject: made.common_name().to_owned(),
        not_before: made.validity().not_before,
        not_after: made.validity().not_after,
        sha256: hex::encode(made.fingerprint()),
        root_sha256: said.root_sha256.clone(),
        at: said.at,
        signed_with: said.signed_with.clone(),
        test_root: attested.is_some_and(|attested| attested.test_root),
    };
    output.data(&verified, |verified| {
        let mut rows = vec![
            ("verified", one_line(&verified.subject)),
            ("sha256", verified.sha256.clone()),
            (
                "valid",
                format!("{} to {}", verified.not_before, verified.not_after),
            ),
            ("made", verified.at.to_string()),
            (
                "signed with",
                match verified.signed_with {
                    SignedWith::InsecureSoftwareKey => "a key in a file".to_owned(),
                    SignedWith::YubiKey { serial, slot } => {
                        format!("slot {slot} of YubiKey {serial}")
                    }
                },
            ),
        ];
        if let Some(root) = &verified.root_sha256 {
            rows.push(("root", format!("SHA-256 {root}")));
        }
        rows.extend(
            said.present
                .iter()
                .map(|p| ("present", format!("{} ({})", p.name, p.role))),
        );
        pairs(&rows)
    })
}
