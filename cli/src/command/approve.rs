//! `touchstone approve` and `touchstone deny`: shows what is asked and what it would open, then signs.

use super::{
    approver::{Approver, Signing},
    key,
};
use crate::{
    approval::{
        self, ApprovalError, Waiting,
        blast::{self, Blast},
    },
    args::{Approve, Deny, Verdict},
    config::Reach,
    error::Error,
    output::{Output, one_line, pairs},
    submit,
    terminal::Terminal,
};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use touchstone_common::{
    approval::{Decision, MAX_VALIDITY, SignError, Statement, annotation_key},
    attestation::Attested,
    claims::Reason,
    csr::Request,
    name::{GroupName, UserName},
};

/// How long a statement is good for on a request that does not say how long it waits.
const VALID_FOR: SignedDuration = SignedDuration::from_hours(1);

/// What was signed, as `--output json` has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Said<'a> {
    cluster: &'a str,
    request: &'a str,
    decision: Decision,
    approver: &'a str,
    comment: &'a str,
    user: &'a str,
    groups: Vec<&'a str>,
    ttl: String,
    reason: &'a str,
    key: Option<Key>,
    blast_radius: &'a Blast,
    expires_at: Timestamp,
    annotation: &'a str,
}

/// The requester's key.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    yubikey: u32,
    slot: String,
    firmware: String,
    pin_policy: String,
    touch_policy: String,
    test_root: bool,
}

/// `touchstone approve`.
pub(super) fn approve(args: &Approve, output: Output) -> Result<(), Error> {
    say(&args.verdict, &args.comment, Decision::Approve, output)
}

/// `touchstone deny`.
pub(super) fn deny(args: &Deny, output: Output) -> Result<(), Error> {
    say(&args.verdict, &args.comment, Decision::Deny, output)
}

fn say(args: &Verdict, comment: &str, decision: Decision, output: Output) -> Result<(), Error> {
    let name = args.name.as_str();
    if !submit::is_object_name(name) {
        return Err(Error::Usage(format!(
            "{:?} is not a request's name: touchstone requests shows them",
            one_line(name)
        )));
    }
    let comment = Reason::parse(comment)?;
    let approver = Approver::open(&args.approver, output)?;
    let who = approver.name()?.clone();
    let signing = approver.pass(SignedDuration::from_mins(10))?;
    let connection = approver.connection();
    let waiting = approver.wait_for(approval::get(connection, name))?;
    let cluster = approver.cluster();
    let request = waiting.check(cluster.name(), cluster.signer_name())?;
    if request.user() == &who {
        return Err(ApprovalError::Own(name.to_owned()).into());
    }
    let now = Timestamp::now();
    let roots = super::roots(&[], cluster.attestation_roots())?;
    let attested = approval::attested(request, &roots, now)?;
    let blast = match cluster.reach() {
        Reach::Server { .. } => Blast::elsewhere(),
        Reach::Kubeconfig { .. } => approver.wait_for(async {
            Ok(blast::of(connection, request.user(), request.groups()).await)
        })?,
    };

    let shown = sheet(&waiting, request, attested.as_ref(), &blast, now);
    if args.yes {
        output.progress(shown.trim_end());
    } else {
        let mut terminal = Terminal::open("--yes")?;
        terminal.say(&shown)?;
        let question = match decision {
            Decision::Approve => "Approve this with your YubiKey?",
            Decision::Deny => "Deny this with your YubiKey?",
        };
        if !terminal.confirm(question)? {
            return Err(ApprovalError::Declined.into());
        }
    }

    let signing = signing.map_or_else(|| approver.signing(), Ok)?;
    let now = Timestamp::now();
    let expires_at = expiry(waiting.until, now);
    let csr_sha256 = request.sha256();
    let statement = Statement::new(
        &waiting.asked(request, &csr_sha256),
        who.clone(),
        decision,
        comment.clone(),
        [now, expires_at],
        super::login::random()?,
    );
    let text = signed(&statement, &signing)?;
    let annotation = annotation_key(&who);
    approver.wait_for(approval::annotate(connection, &waiting, &annotation, &text))?;
    report(
        &Said {
            cluster: cluster.name().as_str(),
            request: name,
            decision,
            approver: who.as_str(),
            comment: comment.as_str(),
            user: request.user().as_str(),
            groups: request.groups().iter().map(GroupName::as_str).collect(),
            ttl: request.claims().ttl.to_string(),
            reason: request.claims().reason.as_str(),
            key: attested.as_ref().map(Key::of),
            blast_radius: &blast,
            expires_at: statement.expires_at,
            annotation: &annotation,
        },
        output,
    )
}

fn signed(statement: &Statement, signing: &Signing) -> Result<String, Error> {
    statement
        .sign(&*signing.key, Some(&signing.evidence))
        .map_err(|error| match error {
            SignError::Key(error) => error.into(),
            SignError::Signature => crate::card::CardError::Malformed("the signature").into(),
        })
}

/// As long as the request waits, by what it says; and so long that a clock that is a little off does not matter.
fn expiry(until: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let left = until.map_or(VALID_FOR, |until| until.duration_since(now));
    let left = left.clamp(SignedDuration::from_mins(10), MAX_VALIDITY);
    now.saturating_add(left).unwrap_or(now)
}

impl Key {
    fn of(attested: &Attested) -> Self {
        Self {
            yubikey: attested.serial,
            slot: attested.slot.to_string(),
            firmware: attested.firmware.to_string(),
            pin_policy: attested.pin_policy.to_string(),
            touch_policy: attested.touch_policy.to_string(),
            test_root: attested.test_root,
        }
    }
}

/// What an approver has to see before they sign.
fn sheet(
    waiting: &Waiting,
    request: &Request,
    attested: Option<&Attested>,
    blast: &Blast,
    now: Timestamp,
) -> String {
    let claims = request.claims();
    let groups: Vec<_> = request.groups().iter().map(GroupName::as_str).collect();
    let key = match attested {
        None => format!("no attestation; {}", key::spki_text(request.public_key())),
        Some(key) => format!(
            "YubiKey {}, slot {}, firmware {}, PIN {}, touch {}{}",
            key.serial,
            key.slot,
            key.firmware,
            key.pin_policy,
            key.touch_policy,
            if key.test_root {
                ", vouched for by a configured root, not Yubico's"
            } else {
                ""
            }
        ),
    };
    let created = waiting.created.map_or_else(String::new, |created| {
        let age = now.duration_since(created).as_secs().max(0);
        format!("{} ago", super::status::span(age))
    });
    let mut rows = vec![
        ("request", waiting.name.clone()),
        ("user", user_and_creator(request.user(), &waiting.creator)),
        ("groups", groups.join(", ")),
        ("lifetime", format!("{} from issuing, or less", claims.ttl)),
        ("cluster", claims.cluster.to_string()),
        ("reason", format!("{:?}", claims.reason.as_str())),
        ("signed by", key),
        ("asked", created),
        (
            "waits for",
            waiting
                .waits_for
                .clone()
                .unwrap_or_else(|| "the signer has not said".to_owned()),
        ),
    ];
    rows.extend(blast.lines().into_iter().enumerate().map(|(number, line)| {
        let name = if number == 0 { "would open" } else { "and" };
        (name, line)
    }));
    pairs(&rows)
}

fn user_and_creator(user: &UserName, creator: &str) -> String {
    if creator == user.as_str() {
        creator.to_owned()
    } else {
        format!("{user} (created by {creator:?})")
    }
}

fn report(said: &Said<'_>, output: Output) -> Result<(), Error> {
    output.data(said, |said| {
        let what = match said.decision {
            Decision::Approve => "approved",
            Decision::Deny => "denied",
        };
        pairs(&[
            (what, said.request.to_owned()),
            ("as", said.approver.to_owned()),
            (
                "counts until",
                super::status::in_local_time(said.expires_at),
            ),
        ])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_good_for_as_long_as_the_request_waits_and_no_longer_than_any_may() {
        let now: Timestamp = "2026-07-01T10:00:00Z".parse().unwrap();
        let after = |minutes| now + SignedDuration::from_mins(minutes);
        assert_eq!(expiry(None, now), after(60));
        assert_eq!(expiry(Some(after(30)), now), after(30));
        // Whoever writes annotations does not choose it.
        assert_eq!(expiry(Some(after(-5)), now), after(10));
        assert_eq!(expiry(Some(Timestamp::MAX), now), after(24 * 60));
    }
}
