//! What an operator asks of the CA: each a move of the record, or a refusal that says why.

use super::{place::Open, status};
use crate::{
    ca::{
        fingerprint,
        lifecycle::{Asked, CaId, Event, Lifecycle, Lifetime, State},
        record::Record,
        rotation::LOOK_EVERY,
        store::Read,
    },
    command::{Output, print, print_json},
    controller::every_grant,
    error::Error,
    grant::Grant,
};
use futures::{TryStreamExt as _, future};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use std::{
    fs,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::Path,
    time::Duration,
};
use touchstone_common::{
    ceremony::{ExpectedIssuing, IssuingRequest, verify_issuing},
    certificate::CaCertificate,
};

/// How often a write that lost to another one is made again.
const TRIES: usize = 8;

/// Makes a move of the record, anew where somebody else was faster.
async fn write(
    open: &Open,
    dry_run: bool,
    change: impl Fn(&Record) -> Result<Record, Error>,
) -> Result<Record, Error> {
    let mut tries = 0;
    loop {
        let read: Read = open.read().await?;
        let record = change(&read.record)?;
        if dry_run {
            return Ok(record);
        }
        match open.store.replace(&read, &record).await {
            Ok(written) => return Ok(written.record),
            Err(crate::ca::store::StoreError::Conflict) if tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

fn moved(record: &Record, event: Event, now: Timestamp) -> Result<Record, Error> {
    let lifecycle = applied(record, event, now)?;
    Ok(record.clone().with_lifecycle(lifecycle)?)
}

fn applied(record: &Record, event: Event, now: Timestamp) -> Result<Lifecycle, Error> {
    let mut lifecycle = record.lifecycle().clone();
    lifecycle.apply(event, now)?;
    Ok(lifecycle)
}

pub(super) async fn rotate(
    open: &Open,
    step: bool,
    dry_run: bool,
    now: Timestamp,
) -> Result<(), Error> {
    let asked = if step { Asked::Step } else { Asked::Through };
    let event = Event::Asked(asked);
    let record = write(open, dry_run, |record| moved(record, event, now)).await?;
    let head = if dry_run {
        "This would happen, by a signer that runs:"
    } else {
        "Asked. A signer that runs goes on:"
    };
    print(&format!(
        "{head}\n{}",
        status::agenda(record.lifecycle(), now)
    ))
}

pub(super) async fn roll_back(open: &Open, dry_run: bool, now: Timestamp) -> Result<(), Error> {
    let before = open.read().await?.record;
    let after = write(open, dry_run, |record| {
        moved(record, Event::RolledBack, now)
    })
    .await?;
    let head = if dry_run { "Would go" } else { "Went" };
    let known = before
        .lifecycle()
        .journal()
        .last()
        .map_or(0, |it| it.number);
    let moves = after.lifecycle().journal().iter();
    let lines: String = moves
        .filter(|it| it.number > known)
        .map(|it| format!("  {} is {}\n", it.ca, it.to))
        .collect();
    print(&format!(
        "{head} back:\n{lines}Nothing moves by itself from here on: touchstone-signer ca rotate\n"
    ))
}

pub(super) async fn request(open: &Open) -> Result<(), Error> {
    let record = open.read().await?.record;
    let waiting = record
        .lifecycle()
        .newcomer()
        .filter(|ca| ca.state() == State::AwaitingRoot);
    let request = waiting
        .and_then(|ca| record.material(ca.id()))
        .and_then(|material| material.request.as_deref())
        .ok_or(Error::NothingAwaitsRoot)?;
    print(request)
}

pub(super) async fn export_bundle(open: &Open) -> Result<(), Error> {
    print(&open.read().await?.record.trust_bundle())
}

pub(super) async fn import(
    open: &Open,
    certificate: &Path,
    root: Option<&Path>,
    dry_run: bool,
    now: Timestamp,
) -> Result<(), Error> {
    let pem = read(certificate)?;
    let root = match root {
        Some(path) => {
            let pem = read(path)?;
            let root = CaCertificate::from_pem(&pem).map_err(|source| Error::CertificateFile {
                path: path.to_owned(),
                source,
            })?;
            Some(root)
        }
        None => None,
    };
    let record = write(open, dry_run, |record| {
        imported(record, certificate, &pem, root.as_ref(), now)
    })
    .await?;
    let Some(ca) = record.lifecycle().newcomer() else {
        return Ok(());
    };
    let head = if dry_run { "Would be taken" } else { "Taken" };
    print(&format!(
        "{head}: {} is {}, valid until {}.\n{}",
        ca.id(),
        ca.state(),
        ca.lifetime()
            .map(|it| it.not_after.to_string())
            .unwrap_or_default(),
        status::agenda(record.lifecycle(), now)
    ))
}

fn imported(
    record: &Record,
    path: &Path,
    pem: &[u8],
    root: Option<&CaCertificate>,
    now: Timestamp,
) -> Result<Record, Error> {
    let newcomer = record
        .lifecycle()
        .newcomer()
        .ok_or(Error::NothingAwaitsRoot)?;
    let id = newcomer.id();
    let material = record.material(id).cloned().unwrap_or_default();
    let request = material
        .request
        .as_deref()
        .ok_or(Error::NothingAwaitsRoot)?;
    let request = IssuingRequest::from_pem(request.as_bytes()).map_err(Error::RecordRequest)?;
    let refused = |source| Error::ImportRefused {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let candidates: Vec<&CaCertificate> = record.roots().iter().chain(root).collect();
    let mut last = None;
    for candidate in candidates {
        let expected = ExpectedIssuing {
            name: request.name(),
            public_key: request.public_key(),
            root: candidate,
        };
        match verify_issuing(pem, &expected) {
            Ok(certificate) => {
                let validity = certificate.validity();
                let lifetime = Lifetime {
                    not_before: validity.not_before,
                    not_after: validity.not_after,
                };
                if !lifetime.contains(now) {
                    return Err(Error::ImportNotValid {
                        not_before: lifetime.not_before,
                        not_after: lifetime.not_after,
                    });
                }
                let mut material = material;
                material.certificate = Some(certificate);
                let lifecycle = applied(record, Event::Imported(id, lifetime), now)?;
                let record = record.clone().with_root(candidate.clone());
                return Ok(record.with_material(lifecycle, id, material)?);
            }
            // What the record's own roots say is of less interest than what the named one says.
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or(Error::NoRoot, refused))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::CertificateRead {
        path: path.to_owned(),
        source,
    })
}

/// `ca distrust`.
pub(super) struct Distrust {
    pub(super) ca: CaId,
    pub(super) dry_run: bool,
    pub(super) yes: bool,
    pub(super) output: Output,
}

impl Distrust {
    pub(super) async fn run(self, open: &Open, now: Timestamp) -> Result<(), Error> {
        let record = open.read().await?.record;
        // Refused before anyone is asked.
        moved(&record, Event::Distrusted(self.ca), now)?;
        let certificate = record
            .material(self.ca)
            .and_then(|material| material.certificate.as_ref());
        let mark = certificate.map(|certificate| fingerprint(certificate.der()));
        let root = certificate.and_then(|certificate| {
            let is_issuer =
                |root: &&CaCertificate| root.verify_signature_of(certificate.der()).is_ok();
            record.roots().iter().find(is_issuer)
        });
        let mut living = living(open, mark.as_deref(), now).await?;
        if !self.dry_run && !self.yes && !self.confirm(&living)? {
            return Err(Error::NotConfirmed);
        }
        if !self.dry_run {
            let event = Event::Distrusted(self.ca);
            write(open, false, |record| moved(record, event, now)).await?;
            living = self
                .after_the_last(open, mark.as_deref(), living, now)
                .await?;
        }
        self.report(&living, root)
    }

    /// Marks what lives. A signer that did not read the record yet goes on for a moment: what it signed meanwhile counts, too.
    async fn after_the_last(
        &self,
        open: &Open,
        mark: Option<&str>,
        known: Vec<Grant>,
        now: Timestamp,
    ) -> Result<Vec<Grant>, Error> {
        // What is known is marked first, whatever happens to this process while it waits.
        for grant in &known {
            mark_grant(&open.grants, grant, now).await?;
        }
        if !open.is_in_use() {
            return Ok(known);
        }
        let wait = LOOK_EVERY + Duration::from_secs(1);
        let told = writeln!(
            io::stderr(),
            "{} is distrusted. Waiting {} seconds, until every signer has read it",
            self.ca,
            wait.as_secs()
        );
        told.map_err(Error::Output)?;
        tokio::time::sleep(wait).await;
        let living = living(open, mark, now).await?;
        let is_new = |grant: &&Grant| {
            known
                .iter()
                .all(|known| known.name_any() != grant.name_any())
        };
        for grant in living.iter().filter(is_new) {
            mark_grant(&open.grants, grant, now).await?;
        }
        Ok(living)
    }

    fn confirm(&self, living: &[Grant]) -> Result<bool, Error> {
        if !io::stdin().is_terminal() {
            return Err(Error::NotConfirmed);
        }
        let mut err = io::stderr().lock();
        let prompt = write!(
            err,
            "{} signs no more from now on, and {} living certificates of it are marked. This cannot be taken back.\nType {} to go on: ",
            self.ca,
            living.len(),
            self.ca
        );
        prompt.and_then(|()| err.flush()).map_err(Error::Output)?;
        let mut line = String::new();
        io::stdin()
            .lock()
            .read_line(&mut line)
            .map_err(Error::Output)?;
        Ok(line.trim() == self.ca.to_string())
    }

    fn report(&self, living: &[Grant], root: Option<&CaCertificate>) -> Result<(), Error> {
        if self.output == Output::Json {
            let grants: Vec<_> = living
                .iter()
                .map(|grant| {
                    json!({
                        "grant": grant.name_any(),
                        "user": grant.spec.user,
                        "groups": grant.spec.groups,
                        "notAfter": grant.not_after(),
                    })
                })
                .collect();
            return print_json(&json!({
                "ca": self.ca.to_string(),
                "distrusted": !self.dry_run,
                "rootStillTrusted": root.map(CaCertificate::common_name),
                "grants": grants,
            }));
        }
        let mut text = if self.dry_run {
            format!(
                "{} would be distrusted. Living certificates of it:\n",
                self.ca
            )
        } else {
            format!("{} is distrusted. Living certificates of it:\n", self.ca)
        };
        if living.is_empty() {
            text.push_str("  none\n");
        }
        for grant in living {
            text.push_str(&format!(
                "  {}  {}  {}  until {}\n",
                grant.name_any(),
                grant.spec.user,
                grant.spec.groups.join(", "),
                grant
                    .not_after()
                    .map(|it| it.to_string())
                    .unwrap_or_default()
            ));
        }
        if let Some(root) = root {
            text.push_str(&format!(
                "\nWARNING: API servers go on trusting it: they trust the root {:?}, which signed it, and certificates cannot be revoked.\n\
                 Whoever has the leaked key can make certificates of any name and group, until its own certificate ends. To end that now:\n  \
                 1. make another root: touchstone ca root init\n  \
                 2. sign the next issuing CA with it, and: touchstone-signer ca import --root NEW-ROOT.pem CERTIFICATE.pem\n  \
                 3. take {:?} out of --client-ca-file on every API server\n",
                root.common_name(),
                root.common_name(),
            ));
        }
        print(&text)
    }
}

/// The grants of living certificates of the CA with this fingerprint.
async fn living(open: &Open, mark: Option<&str>, now: Timestamp) -> Result<Vec<Grant>, Error> {
    let Some(mark) = mark else {
        return Ok(Vec::new());
    };
    every_grant(&open.grants)
        .try_filter(|grant| future::ready(grant.is_living_of(mark, now)))
        .try_collect()
        .await
        .map_err(|source| Error::Api {
            doing: "list the grants",
            source: Box::new(source),
        })
}

async fn mark_grant(grants: &Api<Grant>, grant: &Grant, now: Timestamp) -> Result<(), Error> {
    let message = format!("its CA was distrusted at {now}: the certificate is not to be accepted");
    let patch = json!({ "status": { "message": message } });
    grants
        .patch_status(
            &grant.name_any(),
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await
        .map(|_| ())
        .map_err(|source| Error::Api {
            doing: "mark a grant",
            source: Box::new(source),
        })
}
