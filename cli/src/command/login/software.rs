//! `touchstone login --software-key`: a key in memory, for clusters whose policy takes any key.
//!
//! The key is made here, asks once, and then is in locked memory alone: this process's while it waits, and the cluster's
//! background process's from then on. Who asks is said by the credential of the kubeconfig that reaches the cluster.

use super::{
    Session,
    asked::{names, whole_second},
    random, refuse_skew,
};
use crate::{
    args::{Login, SoftwareKind},
    command::{credential, status},
    credential::Store,
    error::Error,
    interrupt,
    output::{Output, pairs},
    proxy::{locked::Locked, place::Place},
    software::{SoftwareCertificate, SoftwareCredential, SoftwareError},
    submit::{self, SubmitError},
    talk::Talk,
};
use jiff::Timestamp;
use serde::Serialize;
use std::sync::Arc;
use touchstone_common::{
    certificate::{Expected, verify_issued},
    claims::{Claims, Reason},
    csr::{self, Draft},
    grant::GrantId,
    key::{KeyAlgorithm, SigningKey as _, SoftwareKey},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LoggedIn<'a> {
    cluster: &'a str,
    #[serde(flatten)]
    certificate: &'a SoftwareCertificate,
}

/// `touchstone login --software-key`.
pub(super) fn run(
    args: &Login,
    kind: SoftwareKind,
    talk: Arc<dyn Talk>,
    output: Output,
) -> Result<(), Error> {
    let credential = obtain(args, kind, talk)?;
    let logged_in = LoggedIn {
        cluster: &args.cluster,
        certificate: &credential.certificate,
    };
    output.data(&logged_in, |one| {
        let certificate = one.certificate;
        let left = certificate.not_after.duration_since(Timestamp::now());
        pairs(&[
            ("logged in to", one.cluster.to_owned()),
            ("as", certificate.user.clone()),
            ("groups", certificate.groups.join(", ")),
            (
                "until",
                format!(
                    "{} ({} left)",
                    status::in_local_time(certificate.not_after),
                    status::span(left.as_secs().max(0))
                ),
            ),
            ("key", format!("{}, in memory only", certificate.algorithm)),
            (
                "use it",
                format!(
                    "touchstone kubectl --cluster {} --software-key -- ARGS",
                    one.cluster
                ),
            ),
        ])
    })
}

/// Makes a key, gets it a certificate, and gives both to the background process to keep.
///
/// # Errors
/// As `touchstone login` ends.
pub(in crate::command) fn obtain(
    args: &Login,
    kind: SoftwareKind,
    talk: Arc<dyn Talk>,
) -> Result<SoftwareCredential, Error> {
    let session = Session::new(args, talk)?;
    let credential = session.ask_with_software_key(kind)?;
    credential::hold(&session.store, args, credential.clone())?;
    Ok(credential)
}

/// Waits until no other command asks for one in the same cluster.
pub(in crate::command) fn alone(store: &Store, cluster: &str) -> Result<std::fs::File, Error> {
    store.prepare(cluster)?;
    Ok(Place::new(store, cluster).log_in_alone()?)
}

impl Session<'_> {
    fn ask_with_software_key(&self, kind: SoftwareKind) -> Result<SoftwareCredential, Error> {
        let args = self.args;
        if self.is_anonymous {
            return Err(SoftwareError::NobodyAsks(args.cluster.clone()).into());
        }
        let (user, groups) = self.names()?;
        let reason = Reason::parse(&args.reason)?;
        let server_time = self.runtime.block_on(self.connection.server_time())?;
        refuse_skew(server_time, Timestamp::now())?;

        let key = SoftwareKey::generate(match kind {
            SoftwareKind::Ed25519 => KeyAlgorithm::Ed25519,
            SoftwareKind::P256 => KeyAlgorithm::P256,
        })
        .map_err(SoftwareError::Key)?;
        let public_key = key.public_key().clone();
        let draft = Draft {
            user: user.clone(),
            groups: groups.clone(),
            claims: Claims {
                cluster: self.cluster.name().clone(),
                ttl: args.ttl,
                reason,
                nonce: random()?,
                issued_at: whole_second(Timestamp::now()),
                read_token_sha256: None,
            },
            evidence: None,
        };
        let csr = draft.sign(&key).map_err(SoftwareError::Key)?;
        // It may wait for approvals for hours from here on.
        let pem = key.to_pkcs8_pem().map_err(SoftwareError::Key)?;
        let locked = Locked::new(pem.as_bytes()).ok_or(SoftwareError::NotLocked)?;
        drop((key, pem));

        let submitted = self.runtime.block_on(submit::create(
            &self.connection,
            self.cluster.signer_name(),
            &user,
            args.ttl,
            csr::to_pem(&csr),
            &|text| self.talk.progress(text),
        ))?;
        let name = &submitted.name;
        self.talk.progress(&format!("Request {name} submitted."));
        interrupt::last_words(Some(format!(
            "Its key is gone, so request {name} is of no use any more. Log in again."
        )));
        let progress = |text: &str| self.talk.progress(text);
        let answer = self.runtime.block_on(submit::wait(
            &self.connection,
            &args.cluster,
            &submitted,
            args.timeout,
            &progress,
        ));
        interrupt::last_words(None);
        let chain = answer.map_err(|error| match error {
            Error::Submit(SubmitError::Waiting { name, waited, .. }) => {
                SoftwareError::Waiting { name, waited }.into()
            }
            other => other,
        })?;
        let issued = verify_issued(
            &chain,
            &Expected {
                public_key: &public_key,
                user: &user,
                groups: &groups,
                grant: &GrantId::of_nonce(&draft.claims.nonce),
                ttl: args.ttl,
                trust_bundle: self.cluster.trust_bundle(),
                now: Timestamp::now(),
            },
        )?;
        Ok(SoftwareCredential {
            certificate: SoftwareCertificate {
                user: user.as_str().to_owned(),
                groups: names(&issued.groups),
                not_before: issued.validity.not_before,
                not_after: issued.validity.not_after,
                serial_number: issued.serial,
                fingerprint: hex::encode(issued.fingerprint),
                algorithm: public_key.algorithm().to_string(),
                request: submitted.name,
            },
            chain: issued.chain_pem,
            key: String::from_utf8_lossy(locked.expose()).into_owned(),
        })
    }
}
