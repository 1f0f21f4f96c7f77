//! `touchstone ca verify`: what a ceremony's record proves.

use super::{CeremonyError, document, mismatch};
use crate::{
    args::CaVerify,
    command::roots,
    error::Error,
    output::{Output, one_line, pairs},
};
use jiff::Timestamp;
use serde::Serialize;
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
    let record: Record = serde_json::from_slice(&document(&args.record, "record")?)
        .map_err(|error| mismatch(format!("{} is no record: {error}", args.record.display())))?;
    let roots = roots(&args.roots.attestation_root, &[])?;
    let (made, attested) = record.verify(&roots).map_err(CeremonyError::Record)?;

    let certificate = |path| -> Result<[u8; 32], Error> {
        Ok(CaCertificate::from_pem(&document(path, "certificate")?)
            .map_err(|error| mismatch(format!("{}: {error}", path.display())))?
            .fingerprint())
    };
    let differs = |what: &str| mismatch(format!("the {what} is not the one of the record"));
    if let Some(path) = &args.certificate
        && certificate(path)? != made.fingerprint()
    {
        return Err(differs("certificate"));
    }
    if let Some(path) = &args.root {
        let of_record = record.root.as_ref().unwrap_or(&record.certificate);
        if certificate(path)? != CaCertificate::from_pem(of_record.as_bytes())?.fingerprint() {
            return Err(differs("root"));
        }
    }
    if let Some(path) = &args.plan
        && document(path, "ceremony file")? != record.ceremony.as_bytes()
    {
        return Err(differs("ceremony file"));
    }
    if let Some(path) = &args.request {
        let request = IssuingRequest::from_pem(&document(path, "request")?)
            .map_err(CeremonyError::Request)?;
        if record.statement.request_sha256 != Some(hex::encode(request.sha256())) {
            return Err(differs("request"));
        }
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
