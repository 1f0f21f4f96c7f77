//! `touchstone login`: from the PIN to a verified certificate.

mod asked;
mod report;
pub(super) mod software;

use super::{key, management_access, open};
use crate::{
    api::Connection,
    args::Login,
    card::{
        CardError, ManagementAccess,
        signer::{self, CardKey, SharedCard},
    },
    config::{Cluster, Config, Reach},
    credential::{Credential, CredentialError, Pending, ReadToken, Store},
    error::Error,
    interrupt,
    output::Output,
    pin::PinSource,
    submit::{self, SubmitError, Submitted},
    talk::{self, Person, Talk},
    touch::Notice,
};
use asked::{Asked, asked_before, credential, groups, pending, whole_second};
use jiff::{SignedDuration, Timestamp};
use report::{Waiting, report};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use tokio::runtime::Runtime;
use touchstone_common::{
    attestation::{PinPolicy, Slot},
    certificate::{Expected, verify_issued},
    claims::{Claims, Reason},
    csr::{self, Draft},
    grant::GrantId,
    name::{GroupName, MAX_GROUPS, UserName},
};

/// A request is fresh for five minutes (the signer's clock); beyond that there is no use in touching the key.
const MAX_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// What one login works with.
struct Session<'a> {
    args: &'a Login,
    cluster: Cluster,
    /// Whether it is asked without a credential.
    is_anonymous: bool,
    store: Store,
    runtime: Runtime,
    connection: Connection,
    talk: Arc<dyn Talk>,
}

/// How far a login came.
enum Outcome {
    LoggedIn(Credential, bool),
    Submitted(Submitted),
}

/// `touchstone login`.
pub(super) fn run(args: &Login, output: Output) -> Result<(), Error> {
    let pin = PinSource::new(args.pin.pin_file.clone());
    if let Some(kind) = args.software_key {
        // The name is checked before it leads to a folder.
        let cluster = Config::load()?.cluster(&args.cluster)?;
        let _alone = software::alone(&Store::open()?, cluster.name().as_str())?;
        return software::run(args, kind, Arc::new(Person::new(output, pin)), output);
    }
    let session = Session::new(args, Arc::new(Person::new(output, pin)))?;
    let outcome = if args.resume {
        session.resume()?
    } else {
        session.ask()?
    };
    match outcome {
        Outcome::LoggedIn(credential, written) => {
            report(&session.store, &credential, written, output)
        }
        Outcome::Submitted(submitted) => {
            output.progress(&format!(
                "Fetch the certificate later: touchstone login --cluster {} --resume",
                args.cluster
            ));
            let waiting = Waiting {
                cluster: &args.cluster,
                request: &submitted.name,
            };
            output.data(&waiting, |waiting| format!("{}\n", waiting.request))
        }
    }
}

/// A login for work that goes on with the certificate, which is kept as ever. A request for the same that waits already is
/// waited for, rather than made once more.
///
/// # Errors
/// As `touchstone login` ends.
pub fn obtain(args: &Login, talk: Arc<dyn Talk>) -> Result<Credential, Error> {
    const WAITS_FOR: SignedDuration = SignedDuration::from_hours(1);
    let session = Session::new(args, talk)?;
    let waits = session
        .store
        .pending(&args.cluster)?
        .is_some_and(|pending| {
            pending.groups == args.group
                && Timestamp::now().duration_since(pending.submitted) < WAITS_FOR
        });
    let outcome = if waits {
        session.resume()?
    } else {
        session.ask()?
    };
    match outcome {
        Outcome::LoggedIn(credential, _) => Ok(credential),
        Outcome::Submitted(submitted) => Err(SubmitError::Waiting {
            approved: false,
            name: submitted.name,
            cluster: args.cluster.clone(),
            waited: std::time::Duration::ZERO,
        }
        .into()),
    }
}

impl<'a> Session<'a> {
    fn new(args: &'a Login, talk: Arc<dyn Talk>) -> Result<Self, Error> {
        let cluster = Config::load()?
            .cluster(&args.cluster)?
            .with_signer(args.signer.as_deref())?;
        let store = Store::open()?;
        store.prepare(&args.cluster)?;
        let runtime = runtime()?;
        // A key that no YubiKey vouches for is nobody's at a front door: the cluster must know who asks.
        let door = cluster.front_door().filter(|_| args.software_key.is_none());
        let reach = door.unwrap_or(cluster.reach());
        let is_anonymous = matches!(reach, Reach::Server { .. });
        let connection = runtime.block_on(Connection::new(reach))?;
        Ok(Self {
            args,
            cluster,
            is_anonymous,
            store,
            runtime,
            connection,
            talk,
        })
    }

    /// A new request.
    fn ask(&self) -> Result<Outcome, Error> {
        let args = self.args;
        let (user, groups) = self.names()?;
        let reason = Reason::parse(&args.reason)?;

        // The server is asked while the card is: who waits for a PIN waits for nothing else.
        let server_time = self.runtime.spawn({
            let connection = self.connection.clone();
            async move { connection.server_time().await }
        });
        let card = open(args.card.serial)?;
        let (key, public_key, evidence, yubikey) = {
            let mut card = signer::lock(&card);
            let (key, public_key) = signer::usable_key(&mut *card, args.slot)?;
            let evidence = key::evidence(&mut *card, args.slot)?;
            (key, public_key, evidence, card.serial())
        };
        // Before the PIN: a wrong CA or clock costs neither try nor touch.
        let server_time = self
            .runtime
            .block_on(server_time)
            .map_err(|_| Error::TaskEnded("the server was being asked"))??;
        refuse_skew(server_time, Timestamp::now())?;
        let pin = match key.pin_policy {
            Some(PinPolicy::Never) => None,
            _ => Some(talk::verified_pin(&mut *signer::lock(&card), &*self.talk)?),
        };
        let [nonce, token] = [random()?, random()?];
        let asked = Asked {
            user,
            groups,
            ttl: args.ttl,
            grant: GrantId::of_nonce(&nonce),
            slot: args.slot,
            yubikey,
            public_key: public_key.clone(),
            reason: args.reason.clone(),
        };

        let draft = Draft {
            user: asked.user.clone(),
            groups: asked.groups.clone(),
            claims: Claims {
                cluster: self.cluster.name().clone(),
                ttl: args.ttl,
                reason,
                nonce,
                issued_at: whole_second(Timestamp::now()),
                read_token_sha256: self.is_anonymous.then(|| Sha256::digest(token).into()),
            },
            evidence: Some(evidence),
        };
        let has_pin = pin.is_some();
        let notice: Arc<dyn Notice> = self.talk.clone();
        let card_key = CardKey::new(Arc::clone(&card), args.slot, public_key, &key, pin, notice);
        let csr = draft.sign(&card_key)?;

        let submitted = self.runtime.block_on(submit::create(
            &self.connection,
            self.cluster.signer_name(),
            &asked.user,
            args.ttl,
            csr::to_pem(&csr),
            &|text| self.talk.progress(text),
        ))?;
        let token = self.is_anonymous.then(|| ReadToken::new(&token));
        let pending = pending(&asked, &submitted, token);
        self.store.note(&args.cluster, &pending)?;
        self.talk
            .progress(&format!("Request {} submitted.", submitted.name));
        if args.no_wait {
            return Ok(Outcome::Submitted(submitted));
        }
        let credential = self.fetch(&pending, &submitted, &asked)?;
        let written = self.write_to_card(&card, has_pin, &credential, args.slot);
        Ok(Outcome::LoggedIn(credential, written))
    }

    /// Who asks, and for which groups.
    fn names(&self) -> Result<(UserName, Vec<GroupName>), Error> {
        let user = user(self.args, &self.cluster, &self.store)?;
        let groups = groups(&self.args.group)?;
        if groups.len() > MAX_GROUPS {
            return Err(Error::Usage(format!(
                "{} groups are too many for one certificate: ask for {MAX_GROUPS} at most",
                groups.len()
            )));
        }
        Ok((user, groups))
    }

    /// `--resume`.
    fn resume(&self) -> Result<Outcome, Error> {
        let pending =
            self.store
                .pending(&self.args.cluster)?
                .ok_or_else(|| CredentialError::None {
                    what: "request that waits",
                    cluster: Some(self.args.cluster.clone()),
                })?;
        let asked = asked_before(&pending).ok_or(CardError::Malformed("the noted request"))?;
        self.talk
            .progress(&format!("Fetching request {}.", pending.name));
        let submitted = Submitted {
            name: pending.name.clone(),
            uid: pending.uid.clone(),
            // Empty: reads before it watches.
            version: String::new(),
        };
        let credential = self.fetch(&pending, &submitted, &asked)?;
        let written = !self.args.no_card_write
            && match open(Some(asked.yubikey)) {
                Ok(card) => self.write_to_card(&card, false, &credential, asked.slot),
                Err(error) => {
                    self.talk.warn(&format!(
                        "the certificate was not written to the YubiKey: {error}"
                    ));
                    false
                }
            };
        Ok(Outcome::LoggedIn(credential, written))
    }

    /// Waits for the answer, verifies it and keeps it. An answered request is forgotten; one that waits, or whose
    /// certificate found no room, is not.
    fn fetch(
        &self,
        pending: &Pending,
        submitted: &Submitted,
        asked: &Asked,
    ) -> Result<Credential, Error> {
        let cluster = &self.args.cluster;
        if let Some(token) = &pending.token {
            self.connection.read_with(token);
        }
        let progress = |text: &str| self.talk.progress(text);
        interrupt::last_words(Some(format!(
            "Request {} stays. Fetch its certificate with: touchstone login --cluster {cluster} --resume",
            pending.name
        )));
        let answer = self.runtime.block_on(submit::wait(
            &self.connection,
            cluster,
            submitted,
            self.args.timeout,
            &progress,
        ));
        let kept = answer.and_then(|chain| self.keep(&chain, pending, asked));
        let may_be_fetched_later = matches!(
            kept,
            Err(Error::Api(_)
                | Error::Credential(CredentialError::Io { .. })
                | Error::Submit(SubmitError::Waiting { .. }))
        );
        if !may_be_fetched_later {
            self.store.forget_pending(cluster, &pending.uid)?;
        }
        interrupt::last_words(None);
        kept
    }

    fn keep(&self, chain: &[u8], pending: &Pending, asked: &Asked) -> Result<Credential, Error> {
        let issued = verify_issued(
            chain,
            &Expected {
                public_key: &asked.public_key,
                user: &asked.user,
                groups: &asked.groups,
                grant: &asked.grant,
                ttl: asked.ttl,
                trust_bundle: self.cluster.trust_bundle(),
                now: Timestamp::now(),
            },
        )?;
        let credential = credential(&self.args.cluster, asked, &pending.name, issued);
        self.store.keep(&credential)?;
        Ok(credential)
    }

    /// Writes the leaf into the slot's certificate object. The login has succeeded already: a failure is a warning.
    fn write_to_card(
        &self,
        card: &SharedCard,
        has_pin: bool,
        credential: &Credential,
        slot: Slot,
    ) -> bool {
        if self.args.no_card_write {
            return false;
        }
        let write = || -> Result<(), Error> {
            let leaf = pem::parse(&credential.chain_pem)
                .map_err(|_| CardError::Malformed("the kept certificate"))?;
            let access = management_access(&self.args.management)?;
            let mut card = signer::lock(card);
            if !has_pin && matches!(access, ManagementAccess::PinProtected) {
                talk::verified_pin(&mut *card, &*self.talk)?;
            }
            card.authenticate(&access)?;
            let _whole = interrupt::shield();
            Ok(card.write_certificate(slot.into(), Some(leaf.contents()))?)
        };
        match write() {
            Ok(()) => true,
            Err(error) => {
                self.talk.warn(&format!(
                    "the certificate is kept, but was not written to the YubiKey: {error}. Leave it out with --no-card-write."
                ));
                false
            }
        }
    }
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
    // A damaged one says nothing, and this login replaces it.
    store
        .credential(&args.cluster)
        .unwrap_or_default()
        .and_then(|credential| UserName::parse(&credential.user).ok())
        .ok_or_else(|| {
            Error::Usage(format!(
                "who are you in {}? Add --user NAME here, or user: NAME to the cluster's entry in the configuration",
                args.cluster
            ))
        })
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

pub(super) fn random() -> Result<[u8; 32], Error> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes)
}

/// One worker: it asks the server while the card is busy.
pub(in crate::command) fn runtime() -> Result<Runtime, Error> {
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
