//! `touchstone ca`: the two ceremonies of the root, [`root`] and [`sign`], and [`verify`] for their records.

pub mod error;
mod passphrase;
pub mod root;
pub mod sign;
pub mod verify;

use super::key;
use crate::{
    args::CeremonyArgs,
    card::{
        Card, CardError,
        signer::{self, CardKey, SharedCard},
    },
    error::Error,
    file,
    output::{Output, one_line, pairs},
    pin::Pin,
    terminal::Terminal,
};
use error::CeremonyError;
use jiff::Timestamp;
use serde::Serialize;
use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use touchstone_common::{
    attestation::{self, Roots, TouchPolicy},
    ceremony::{IssuingRequest, Makes, Plan, Record, SignedWith, Statement},
    certificate::{self, CaCertificate, Prepared, Profile, SignError, Validity},
    key::{PublicKey, SigningKey},
};
use zeroize::Zeroizing;

/// The most bytes of a document. None comes near.
const MAX_DOCUMENT: u64 = 1 << 20;

/// The most bytes of a key: PKCS#8 in PEM has far less.
const MAX_KEY: u64 = 64 * 1024;

/// A ceremony whose documents were read and fit together.
struct Ceremony {
    plan: Plan,
    source: String,
    /// The dates that it would have if it were signed at once.
    validity: Validity,
    /// For an issuing CA: what asks, and the root that answers.
    issuing: Option<(IssuingRequest, CaCertificate)>,
}

/// Where the files go.
struct Places {
    certificate: PathBuf,
    record: PathBuf,
    attestation: PathBuf,
}

/// What was made, or would be, as `--output json` has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    makes: &'static str,
    subject: String,
    not_before: Timestamp,
    not_after: Timestamp,
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    certificate: PathBuf,
    record: PathBuf,
}

/// `touchstone ca schema`: deploy/ceremony.schema.json is this.
pub(super) fn schema(output: Output) -> Result<(), Error> {
    output.text(&schema_text())
}

fn schema_text() -> String {
    format!("{:#}\n", touchstone_common::ceremony::schema())
}

/// Reads no more than a document can have: not all of a device or a disk image.
fn document(path: &Path, what: &'static str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes))
        .map_err(|source| Error::File {
            verb: "read",
            path: path.to_owned(),
            source,
        })?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(CeremonyError::Large {
            path: path.to_owned(),
            what,
        }
        .into());
    }
    Ok(bytes)
}

/// Reads a key that only its owner may read or write.
fn private_document(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let failed = |source| Error::File {
        verb: "read",
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(CeremonyError::Exposed {
            path: path.to_owned(),
            mode,
        }
        .into());
    }
    // Room from the start, so that no copy is left behind by growing.
    let mut pem = Zeroizing::new(Vec::with_capacity(MAX_KEY as usize + 1));
    file.take(MAX_KEY).read_to_end(&mut pem).map_err(failed)?;
    Ok(pem)
}

fn mismatch(text: impl Into<String>) -> Error {
    CeremonyError::Mismatch(text.into()).into()
}

impl Places {
    /// Refuses what is there already: also a link that leads nowhere.
    fn free(args: &CeremonyArgs) -> Result<Self, Error> {
        let places = Self {
            certificate: args.out.clone(),
            record: args
                .record
                .clone()
                .unwrap_or_else(|| args.out.with_extension("record.json")),
            attestation: args.out.with_extension("attestation.pem"),
        };
        for path in [&places.certificate, &places.record, &places.attestation] {
            if fs::symlink_metadata(path).is_ok() {
                return Err(CeremonyError::Exists(path.clone()).into());
            }
        }
        if places.certificate == places.record || places.attestation == places.record {
            return Err(Error::Usage(
                "--out and --record are the same file".to_owned(),
            ));
        }
        Ok(places)
    }

    /// All files or none. The certificate comes last: where it is, its record is.
    fn write(&self, record: &Record) -> Result<(), Error> {
        let json = serde_json::to_string_pretty(record)
            .map(|json| json + "\n")
            .map_err(|error| Error::Output(error.into()))?;
        let mut files = vec![(&self.record, json.as_str())];
        if let Some(attestation) = &record.attestation {
            files.push((&self.attestation, attestation));
        }
        files.push((&self.certificate, &record.certificate));
        let mut written: Vec<&Path> = Vec::new();
        for (path, text) in files {
            if let Err(source) = file::create(path, text.as_bytes()) {
                for path in written {
                    // They are ours, made a moment ago.
                    let _ = file::remove(path);
                }
                return Err(Error::File {
                    verb: "write",
                    path: path.clone(),
                    source,
                });
            }
            written.push(path);
        }
        Ok(())
    }
}

impl Ceremony {
    fn read(
        args: &CeremonyArgs,
        issuing: Option<(IssuingRequest, CaCertificate)>,
    ) -> Result<Self, Error> {
        let name = args.plan.display().to_string();
        let source = document(&args.plan, "ceremony file")?;
        let plan = Plan::parse(&name, &source).map_err(CeremonyError::Plan)?;
        let source =
            String::from_utf8(source).map_err(|_| mismatch("the ceremony file is not UTF-8"))?;
        match (plan.makes(), &issuing) {
            (Makes::Root { .. }, None) => {}
            (Makes::IssuingCa { root, key }, Some((request, certificate))) => {
                fits(&plan, request, certificate, root, key)?;
            }
            (Makes::Root { .. }, Some(_)) => {
                return Err(mismatch(
                    "the ceremony file is of a root's ceremony (touchstone ca root init)",
                ));
            }
            (Makes::IssuingCa { .. }, None) => {
                return Err(mismatch(
                    "the ceremony file is of an issuing CA's ceremony (touchstone ca sign)",
                ));
            }
        }
        let root = issuing.as_ref().map(|(_, root)| root);
        let validity = validity(&plan, root, Timestamp::now())?;
        Ok(Self {
            plan,
            source,
            validity,
            issuing,
        })
    }

    /// What will be signed, in words.
    fn words(&self, key: &PublicKey, signer: &str) -> String {
        let mut rows = vec![
            (
                "makes",
                match self.plan.makes() {
                    Makes::Root { .. } => "a root: it may sign issuing CAs",
                    Makes::IssuingCa { .. } => {
                        "an issuing CA: it may sign client certificates, no further CAs"
                    }
                }
                .to_owned(),
            ),
            ("named", self.plan.name().to_string()),
            (
                "valid",
                format!(
                    "{} days from the signature on; signed now, from {} to {}",
                    self.plan.days(),
                    self.validity.not_before,
                    self.validity.not_after
                ),
            ),
            (
                "its key",
                format!("{}, {}", key.algorithm(), key::spki_text(key)),
            ),
        ];
        if let Some((request, root)) = &self.issuing {
            rows.push((
                "request",
                format!("SHA-256 {}", hex::encode(request.sha256())),
            ));
            rows.push((
                "root",
                format!(
                    "{}, SHA-256 {}",
                    one_line(root.common_name()),
                    hex::encode(root.fingerprint())
                ),
            ));
        }
        rows.push(("signed with", signer.to_owned()));
        rows.push((
            "plan",
            format!("SHA-256 {}", hex::encode(self.plan.sha256())),
        ));
        for person in self.plan.present() {
            rows.push(("present", format!("{} ({})", person.name, person.role)));
        }
        pairs(&rows)
    }

    /// Signs, and verifies the whole. The time that is stated is this moment's: whoever was asked before took their time, and
    /// only the touch comes after.
    fn sign<K: SigningKey>(
        &self,
        key: &K,
        signed_with: SignedWith,
        attestation: Option<String>,
        roots: &Roots,
        failed: impl FnOnce(K::Error) -> Error,
    ) -> Result<Record, Error> {
        let at = Timestamp::now();
        let root = self.issuing.as_ref().map(|(_, root)| root);
        let validity = validity(&self.plan, root, at)?;
        let statement = Statement {
            at,
            tool: concat!("touchstone ", env!("CARGO_PKG_VERSION")).to_owned(),
            present: self.plan.present().to_vec(),
            signed_with,
            ceremony_sha256: hex::encode(self.plan.sha256()),
            request_sha256: self.issuing.as_ref().map(|(r, _)| hex::encode(r.sha256())),
            root_sha256: self
                .issuing
                .as_ref()
                .map(|(_, root)| hex::encode(root.fingerprint())),
            attestation_sha256: attestation
                .as_ref()
                .map(|pem| hex::encode(certificate::fingerprint(pem.as_bytes()))),
        };
        let nonce = super::login::random()?;
        let name = self.plan.name().as_str();
        let (profile, public_key, issuer) = match &self.issuing {
            None => (Profile::Root { common_name: name }, key.public_key(), None),
            Some((request, root)) => (
                Profile::IssuingCa { common_name: name },
                request.public_key(),
                Some(root),
            ),
        };
        let prepared = Prepared::new(
            &profile,
            public_key,
            validity,
            statement.serial(&nonce),
            issuer,
        )
        .map_err(|error| mismatch(error.to_string()))?;
        let der = prepared.sign(key).map_err(|error| match error {
            SignError::Key(error) => failed(error),
            SignError::WrongKey => mismatch("the key is not the root's"),
        })?;
        let record = Record {
            statement,
            nonce: hex::encode(nonce),
            ceremony: self.source.clone(),
            request: self.issuing.as_ref().map(|(request, _)| request.to_pem()),
            root: self.issuing.as_ref().map(|(_, root)| root.to_pem()),
            attestation,
            certificate: certificate::to_pem(&der),
        };
        record.verify(roots).map_err(CeremonyError::Record)?;
        Ok(record)
    }

    fn report(
        &self,
        places: &Places,
        record: Option<&Record>,
        output: Output,
    ) -> Result<(), Error> {
        let made = record
            .map(|record| CaCertificate::from_pem(record.certificate.as_bytes()))
            .transpose()?;
        let validity = made.as_ref().map_or(self.validity, CaCertificate::validity);
        let report = Report {
            makes: match self.plan.makes() {
                Makes::Root { .. } => "root",
                Makes::IssuingCa { .. } => "issuing-ca",
            },
            subject: self.plan.name().to_string(),
            not_before: validity.not_before,
            not_after: validity.not_after,
            dry_run: record.is_none(),
            serial: made.as_ref().map(|made| made.serial().to_owned()),
            sha256: made.as_ref().map(|made| hex::encode(made.fingerprint())),
            certificate: places.certificate.clone(),
            record: places.record.clone(),
        };
        output.data(&report, |report| match &report.sha256 {
            None => "Dry run: nothing was signed or written.\n".to_owned(),
            Some(sha256) => pairs(&[
                ("certificate", report.certificate.display().to_string()),
                ("sha256", sha256.clone()),
                ("record", report.record.display().to_string()),
            ]),
        })
    }
}

/// Shows what will be signed, and has its name typed.
fn confirm(args: &CeremonyArgs, words: &str, name: &str, output: Output) -> Result<(), Error> {
    if args.yes || args.dry_run {
        output.progress(words.trim_end());
        return Ok(());
    }
    let mut terminal = Terminal::open("--yes")?;
    terminal.say(words)?;
    if !terminal.confirm_by("Type the name to sign this", name)? {
        return Err(CeremonyError::Declined.into());
    }
    Ok(())
}

/// That the request and the root are the ones of the plan, before anyone is asked for a touch.
fn fits(
    plan: &Plan,
    request: &IssuingRequest,
    root: &CaCertificate,
    root_sha256: [u8; 32],
    key_sha256: Option<[u8; 32]>,
) -> Result<(), Error> {
    if request.name() != plan.name() {
        return Err(mismatch(format!(
            "the request is for {:?}, the ceremony file for {:?}",
            request.name().as_str(),
            plan.name().as_str()
        )));
    }
    let spki = request.public_key().spki_sha256();
    if key_sha256.is_some_and(|planned| planned != spki) {
        return Err(mismatch(format!(
            "the request's key is sha256:{}, not the one of the ceremony file",
            hex::encode(spki)
        )));
    }
    if root.fingerprint() != root_sha256 {
        return Err(mismatch(format!(
            "the root is sha256:{}, not the one of the ceremony file",
            hex::encode(root.fingerprint())
        )));
    }
    Ok(())
}

/// The dates of what is signed at this moment: within those of its root, where there is one.
fn validity(plan: &Plan, root: Option<&CaCertificate>, at: Timestamp) -> Result<Validity, Error> {
    let dates = root.map(CaCertificate::validity);
    if let Some(root) = dates.filter(|root| !root.contains(at)) {
        return Err(mismatch(format!(
            "the root is valid from {} to {}, and now is {at}",
            root.not_before, root.not_after
        )));
    }
    let validity = plan
        .validity(at, dates.map(|root| root.not_before))
        .ok_or_else(|| mismatch("it would be valid past the calendar's end"))?;
    if let Some(root) = dates.filter(|root| validity.not_after > root.not_after) {
        return Err(mismatch(format!(
            "it would be valid until {}, but the root ends {}",
            validity.not_after, root.not_after
        )));
    }
    Ok(validity)
}

/// The proof that the root's key was made in this card and never signs without a touch; PEM.
fn proven(
    card: &mut dyn Card,
    args: &CeremonyArgs,
    key: &PublicKey,
    roots: &Roots,
) -> Result<String, Error> {
    let evidence = key::evidence(card, args.slot)?;
    let attested = attestation::verify(&evidence, key, roots, Timestamp::now())?;
    if attested.touch_policy != TouchPolicy::Always {
        return Err(CeremonyError::Record(touchstone_common::ceremony::RecordError::Touch).into());
    }
    Ok(std::iter::once(&evidence.slot_certificate)
        .chain(&evidence.intermediates)
        .map(|der| certificate::to_pem(der))
        .collect())
}

/// The slot's key, ready to sign.
fn card_key(
    card: &SharedCard,
    args: &CeremonyArgs,
    pin: Pin,
    output: Output,
) -> Result<CardKey, CardError> {
    let (slot_key, public_key) = signer::usable_key(&mut *signer::lock(card), args.slot)?;
    Ok(CardKey::new(
        Arc::clone(card),
        args.slot,
        public_key,
        &slot_key,
        Some(pin),
        Arc::new(output),
    ))
}

fn warn_of_software(output: Output) {
    output.warn("the root's key is a file. Whoever copies it owns every cluster that trusts this root: for trials only.");
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checked_in_schema_is_the_one_of_the_code() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../deploy/ceremony.schema.json"
        );
        let checked_in = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            checked_in == super::schema_text(),
            "run: touchstone ca schema > deploy/ceremony.schema.json"
        );
    }
}
