//! `touchstone login`: from the PIN to a verified certificate.

use super::{key, management_access, open, status, verified_pin};
use crate::{
    api::Connection,
    args::Login,
    card::{
        CardError, ManagementAccess,
        signer::{self, CardKey, SharedCard},
    },
    config::{Cluster, Config},
    credential::{Credential, CredentialError, Pending, ReadToken, Store},
    error::Error,
    interrupt,
    output::{Output, pairs},
    submit::{self, Submitted},
};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use tokio::runtime::Runtime;
use touchstone_common::{
    attestation::{PinPolicy, Slot},
    certificate::{Expected, Issued, verify_issued},
    claims::{Claims, Reason},
    csr::{self, Draft},
    key::PublicKey,
    name::{GroupName, UserName},
    ttl::Ttl,
};

/// A request is fresh for five minutes (the signer's clock); beyond that there is no use in touching the key.
const MAX_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// What is asked, and of which key: enough to check what comes back.
struct Asked {
    user: UserName,
    groups: Vec<GroupName>,
    ttl: Ttl,
    slot: Slot,
    yubikey: u32,
    public_key: PublicKey,
}

/// A certificate, as `--output json` has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LoggedIn<'a> {
    cluster: &'a str,
    user: &'a str,
    groups: &'a [String],
    not_before: Timestamp,
    not_after: Timestamp,
    serial: &'a str,
    fingerprint: &'a str,
    yubikey: u32,
    slot: &'a str,
    request: &'a str,
    certificate_path: String,
    written_to_card: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Waiting<'a> {
    cluster: &'a str,
    request: &'a str,
}

/// `touchstone login`.
pub(super) fn run(args: &Login, output: Output) -> Result<(), Error> {
    let cluster = Config::load()?.cluster(&args.cluster)?;
    let store = Store::open()?;
    store.prepare(&args.cluster)?;
    let runtime = runtime()?;
    let connection = runtime.block_on(Connection::new(cluster.reach()))?;

    if args.resume {
        return resume(args, &cluster, &store, &runtime, &connection, output);
    }
    let user = user(args, &cluster, &store)?;
    let groups = groups(&args.group)?;
    let reason = Reason::parse(&args.reason)?;

    // The server is asked while the card is: who waits for a PIN waits for nothing else.
    let server_time = runtime.spawn({
        let connection = connection.clone();
        async move { connection.server_time().await }
    });
    let card = open(args.card.serial)?;
    let (key, public_key, evidence, yubikey) = {
        let mut card = signer::lock(&card);
        let (key, _) = signer::usable_key(&mut *card, args.slot)?;
        let (public_key, evidence) = key::evidence(&mut *card, args.slot)?;
        (key, public_key, evidence, card.serial())
    };
    // Before the PIN: a wrong CA or clock costs neither try nor touch.
    let server_time = runtime
        .block_on(server_time)
        .map_err(|_| Error::Output(std::io::Error::other("a task ended early")))??;
    refuse_skew(server_time, Timestamp::now())?;
    let pin = match key.pin_policy {
        Some(PinPolicy::Never) => None,
        _ => Some(verified_pin(&mut *signer::lock(&card), &args.pin)?),
    };
    let asked = Asked {
        user,
        groups,
        ttl: args.ttl,
        slot: args.slot,
        yubikey,
        public_key: public_key.clone(),
    };

    let [nonce, token] = [random()?, random()?];
    let anonymous = matches!(cluster.reach(), crate::config::Reach::Server { .. });
    let draft = Draft {
        user: asked.user.clone(),
        groups: asked.groups.clone(),
        claims: Claims {
            cluster: cluster.name().clone(),
            ttl: args.ttl,
            reason,
            nonce,
            issued_at: whole_second(Timestamp::now()),
            read_token_sha256: anonymous.then(|| Sha256::digest(token).into()),
        },
        evidence: Some(evidence),
    };
    let has_pin = pin.is_some();
    let card_key = CardKey::new(
        Arc::clone(&card),
        args.slot,
        public_key,
        &key,
        pin,
        Arc::new(output),
    );
    let csr = draft.sign(&card_key)?;

    let submitted = runtime.block_on(submit::create(
        &connection,
        cluster.signer_name(),
        &asked.user,
        args.ttl,
        csr::to_pem(&csr),
    ))?;
    let pending = pending(
        &asked,
        &submitted,
        anonymous.then(|| ReadToken::new(&token)),
    );
    store.note(&args.cluster, &pending)?;
    output.progress(&format!("Request {} submitted.", submitted.name));
    if args.no_wait {
        output.progress(&format!(
            "Fetch the certificate later: touchstone login --cluster {} --resume",
            args.cluster
        ));
        let waiting = Waiting {
            cluster: &args.cluster,
            request: &submitted.name,
        };
        return output.data(&waiting, |waiting| format!("{}\n", waiting.request));
    }
    let credential = fetch(
        args,
        &cluster,
        &store,
        &runtime,
        &connection,
        &pending,
        &asked,
        output,
    )?;
    let written = write_to_card(args, &card, has_pin, &credential, args.slot, output);
    report(&credential, &store, written, output)
}

/// `touchstone login --resume`.
fn resume(
    args: &Login,
    cluster: &Cluster,
    store: &Store,
    runtime: &Runtime,
    connection: &Connection,
    output: Output,
) -> Result<(), Error> {
    let pending = store
        .pending(&args.cluster)?
        .ok_or_else(|| CredentialError::None {
            what: "request that waits",
            cluster: Some(args.cluster.clone()),
        })?;
    let asked =
        asked_before(&pending).ok_or(Error::Card(CardError::Malformed("the noted request")))?;
    output.progress(&format!("Fetching request {}.", pending.name));
    let credential = fetch(
        args, cluster, store, runtime, connection, &pending, &asked, output,
    )?;
    let written = !args.no_card_write
        && match open(Some(asked.yubikey)) {
            Ok(card) => write_to_card(args, &card, false, &credential, asked.slot, output),
            Err(error) => {
                output.warn(&format!(
                    "the certificate was not written to the YubiKey: {error}"
                ));
                false
            }
        };
    report(&credential, store, written, output)
}

fn asked_before(pending: &Pending) -> Option<Asked> {
    Some(Asked {
        user: UserName::parse(&pending.user).ok()?,
        groups: groups(&pending.groups).ok()?,
        ttl: Ttl::from_secs(pending.ttl_seconds.into()).ok()?,
        slot: pending.slot.parse::<Slot>().ok()?,
        yubikey: pending.yubikey,
        public_key: hex::decode(&pending.spki)
            .ok()
            .and_then(|spki| PublicKey::from_spki_der(&spki).ok())?,
    })
}

fn pending(asked: &Asked, submitted: &Submitted, token: Option<ReadToken>) -> Pending {
    Pending {
        name: submitted.name.clone(),
        uid: submitted.uid.clone(),
        token,
        user: asked.user.as_str().to_owned(),
        groups: names(&asked.groups),
        ttl_seconds: asked.ttl.as_secs(),
        yubikey: asked.yubikey,
        slot: asked.slot.to_string(),
        spki: hex::encode(asked.public_key.spki_der()),
        submitted: whole_second(Timestamp::now()),
    }
}

/// Waits for the answer, verifies it and keeps it. An answered request is forgotten, one that waits is not.
#[expect(
    clippy::too_many_arguments,
    reason = "what a login is made of, once for a new request and once for a resumed one"
)]
fn fetch(
    args: &Login,
    cluster: &Cluster,
    store: &Store,
    runtime: &Runtime,
    connection: &Connection,
    pending: &Pending,
    asked: &Asked,
    output: Output,
) -> Result<Credential, Error> {
    if let Some(token) = &pending.token {
        connection.read_with(token);
    }
    let submitted = Submitted {
        name: pending.name.clone(),
        uid: pending.uid.clone(),
        // Empty: reads before it watches.
        version: String::new(),
    };
    let progress = |text: &str| output.progress(text);
    let answer = runtime.block_on(submit::wait(
        connection,
        &args.cluster,
        &submitted,
        args.timeout,
        &progress,
    ));
    let answered = !matches!(
        answer,
        Err(Error::Api(_) | Error::Submit(submit::SubmitError::Waiting { .. }))
    );
    if answered {
        store.forget_pending(&args.cluster)?;
    }
    let chain = answer?;
    let issued = verify_issued(
        &chain,
        &Expected {
            public_key: &asked.public_key,
            user: &asked.user,
            groups: &asked.groups,
            ttl: asked.ttl,
            trust_bundle: cluster.trust_bundle(),
            now: Timestamp::now(),
        },
    )?;
    let credential = credential(&args.cluster, asked, &pending.name, issued);
    store.keep(&credential)?;
    Ok(credential)
}

fn credential(cluster: &str, asked: &Asked, request: &str, issued: Issued) -> Credential {
    Credential {
        cluster: cluster.to_owned(),
        user: asked.user.as_str().to_owned(),
        groups: names(&asked.groups),
        not_before: issued.validity.not_before,
        not_after: issued.validity.not_after,
        serial: issued.serial,
        fingerprint: hex::encode(issued.fingerprint),
        yubikey: asked.yubikey,
        slot: asked.slot.to_string(),
        request: request.to_owned(),
        chain_pem: issued.chain_pem,
    }
}

/// Writes the leaf into the slot's certificate object. The login has succeeded already: a failure is a warning.
fn write_to_card(
    args: &Login,
    card: &SharedCard,
    has_pin: bool,
    credential: &Credential,
    slot: Slot,
    output: Output,
) -> bool {
    if args.no_card_write {
        return false;
    }
    let write = || -> Result<(), Error> {
        let leaf = pem::parse(&credential.chain_pem)
            .map_err(|_| CardError::Malformed("the kept certificate"))?;
        let access = management_access(&args.management)?;
        let mut card = signer::lock(card);
        if !has_pin && matches!(access, ManagementAccess::PinProtected) {
            verified_pin(&mut *card, &args.pin)?;
        }
        card.authenticate(&access)?;
        let _whole = interrupt::shield();
        Ok(card.write_certificate(slot.into(), Some(leaf.contents()))?)
    };
    match write() {
        Ok(()) => true,
        Err(error) => {
            output.warn(&format!(
                "the certificate is kept, but was not written to the YubiKey: {error}. Leave it out with --no-card-write."
            ));
            false
        }
    }
}

fn report(
    credential: &Credential,
    store: &Store,
    written_to_card: bool,
    output: Output,
) -> Result<(), Error> {
    let logged_in = LoggedIn {
        cluster: &credential.cluster,
        user: &credential.user,
        groups: &credential.groups,
        not_before: credential.not_before,
        not_after: credential.not_after,
        serial: &credential.serial,
        fingerprint: &credential.fingerprint,
        yubikey: credential.yubikey,
        slot: &credential.slot,
        request: &credential.request,
        certificate_path: store
            .certificate_path(&credential.cluster)
            .display()
            .to_string(),
        written_to_card,
    };
    output.data(&logged_in, |one| {
        let left = one.not_after.duration_since(Timestamp::now()).as_secs();
        pairs(&[
            ("logged in to", one.cluster.to_owned()),
            ("as", one.user.to_owned()),
            ("groups", one.groups.join(", ")),
            (
                "until",
                format!(
                    "{} ({} left)",
                    status::in_local_time(one.not_after),
                    status::span(left.max(0))
                ),
            ),
            ("certificate", one.certificate_path.clone()),
        ])
    })
}

/// The name that was given, or configured, or used last.
fn user(args: &Login, cluster: &Cluster, store: &Store) -> Result<UserName, Error> {
    if let Some(text) = &args.user {
        return UserName::parse(text).map_err(|source| Error::Name {
            what: "user name",
            text: text.clone(),
            source,
        });
    }
    if let Some(user) = cluster.user() {
        return Ok(user.clone());
    }
    store
        .credential(&args.cluster)?
        .and_then(|credential| UserName::parse(&credential.user).ok())
        .ok_or_else(|| {
            Error::Usage(format!(
                "who are you in {0}? Give --user, or put it into the configuration: touchstone config set-cluster {0} --user …",
                args.cluster
            ))
        })
}

fn groups(texts: &[String]) -> Result<Vec<GroupName>, Error> {
    texts
        .iter()
        .map(|text| {
            GroupName::parse(text).map_err(|source| Error::Name {
                what: "group",
                text: text.clone(),
                source,
            })
        })
        .collect()
}

fn names(groups: &[GroupName]) -> Vec<String> {
    groups
        .iter()
        .map(|group| group.as_str().to_owned())
        .collect()
}

/// A server that tells no time is taken at its word when it judges.
fn refuse_skew(server: Option<Timestamp>, here: Timestamp) -> Result<(), Error> {
    let Some(server) = server else {
        return Ok(());
    };
    let ahead = here.duration_since(server);
    if ahead.abs() <= MAX_SKEW {
        return Ok(());
    }
    Err(Error::ClockSkew {
        minutes: ahead.abs().as_mins(),
        direction: if ahead.is_positive() {
            "ahead of"
        } else {
            "behind"
        },
    })
}

fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn random() -> Result<[u8; 32], Error> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes)
}

/// One worker: it asks the server while the card is busy.
pub(super) fn runtime() -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(Error::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_more_than_five_minutes_apart_are_refused_in_both_directions() {
        let here: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        for (seconds, refused) in [
            (0, false),
            (300, false),
            (301, true),
            (-300, false),
            (-301, true),
        ] {
            let server = here + SignedDuration::from_secs(seconds);
            assert_eq!(
                refuse_skew(Some(server), here).is_err(),
                refused,
                "{seconds}"
            );
        }
        let error = refuse_skew(Some(here - SignedDuration::from_mins(61)), here).unwrap_err();
        assert_eq!(
            error.to_string(),
            "this machine's clock is 61 minutes ahead of the server's"
        );
    }
}
