//! `touchstone credential`: what kubectl runs to get at the proxy, and what starts the proxy when none runs.

use super::login;
use crate::{
    args::{CardArgs, Credential, Login, ManagementArgs, PinArgs, PinCache, SoftwareKind},
    config::Config,
    credential::Store,
    error::Error,
    file,
    output::Output,
    pin::{PinError, PinSource},
    proxy::{
        ProxyError,
        control::{self, CredentialWanted, Event, Line, LoopbackCredential, PinAnswer, Question},
        own_terminal,
        place::Place,
    },
    software::{SoftwareCredential, SoftwareError},
    talk::Person,
    terminal::TerminalError,
    touch::Notice as _,
};
use jiff::Timestamp;
use serde_json::json;
use std::{
    env,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};
use touchstone_common::{attestation::Slot, ttl::Ttl};

/// Longer than all that the proxy waits for, one after the other: PIN, touch, approval, touch.
const ANSWER_WITHIN: Duration = Duration::from_secs(300);
/// How many proxies are asked, one after the other, if each of them ends without a word.
const TRIES: u8 = 3;
/// A log that has grown past this is begun anew.
const MAX_LOG: u64 = 1 << 20;
/// What a proxy in the background says when it is ready.
const READY: &[u8] = b"ready\n";

/// `touchstone credential`.
pub(super) fn run(args: &Credential, output: Output) -> Result<(), Error> {
    // The name is checked before it leads to a folder.
    let cluster = Config::load()?.cluster(&args.cluster)?;
    let cluster = cluster.name().as_str();
    let store = Store::open()?;
    if let Some(kind) = args.software_key {
        let credential = software(args, kind, &store, cluster, output)?;
        let (certificate, not_after) = (&credential.chain, credential.certificate.not_after);
        return output.text(&exec_credential(certificate, &credential.key, not_after));
    }
    let terminal = own_terminal();
    let answers = terminal.is_some() || args.pin.pin_file.is_some();
    let question = Question::Credential(CredentialWanted {
        ttl_seconds: Some(args.wanted.ttl.as_secs()),
        groups: args.wanted.group.clone(),
        reason: args.wanted.reason.clone(),
        terminal,
        answers,
    });
    let (mut line, mut event) = ask(&store, cluster, &Start::of(args), &question)?;
    let credential = loop {
        match event {
            Event::Credential(credential) => break credential,
            Event::Pin { serial, tries_left } => {
                line.send(&pin(args, serial, tries_left))?;
            }
            Event::Progress { text } => output.progress(&text),
            Event::Warning { text } => output.warn(&text),
            Event::Touch => output.waiting(),
            other => return Err(line.unexpected(&other).into()),
        }
        event = line.hear()?;
    };
    let LoopbackCredential {
        certificate,
        key,
        not_after,
    } = &credential;
    output.text(&exec_credential(certificate, key, *not_after))
}

/// The one that the background process keeps, or a new one. Of many that find none at once, one asks for it.
fn software(
    args: &Credential,
    kind: SoftwareKind,
    store: &Store,
    cluster: &str,
    output: Output,
) -> Result<SoftwareCredential, Error> {
    let kept = || -> Result<_, Error> {
        let kept = control::held(store, cluster)?;
        Ok(kept.filter(|kept| kept.certificate.will_do(&args.wanted.group)))
    };
    if let Some(kept) = kept()? {
        return Ok(kept);
    }
    let _alone = login::software::alone(store, cluster)?;
    if let Some(kept) = kept()? {
        return Ok(kept);
    }
    if args.wanted.group.is_empty() {
        return Err(SoftwareError::None(cluster.to_owned()).into());
    }
    let login = Login {
        cluster: cluster.to_owned(),
        group: args.wanted.group.clone(),
        user: None,
        signer: None,
        ttl: args.wanted.ttl,
        reason: args.wanted.reason.clone().unwrap_or_default(),
        software_key: Some(kind),
        slot: args.wanted.slot,
        no_card_write: true,
        no_wait: false,
        resume: false,
        timeout: None,
        card: CardArgs { serial: None },
        pin: PinArgs { pin_file: None },
        management: ManagementArgs {
            management_key_file: None,
        },
    };
    let person = Person::new(output, PinSource::new(None));
    login::software::obtain(&login, kind, Arc::new(person))
}

/// Gives the background process of a cluster a key and certificate to keep.
pub(super) fn hold(
    store: &Store,
    login: &Login,
    credential: SoftwareCredential,
) -> Result<(), Error> {
    let start = Start {
        ttl: login.ttl,
        slot: login.slot,
        serial: login.card.serial,
        pin_cache: PinCache::Session,
        renew: false,
        allow_impersonation: false,
    };
    let question = Question::Hold(Box::new(credential));
    match ask(store, &login.cluster, &start, &question)? {
        (_, Event::Holding) => Ok(()),
        (line, other) => Err(line.unexpected(&other).into()),
    }
}

/// How a proxy in the background is started.
struct Start {
    ttl: Ttl,
    slot: Slot,
    serial: Option<u32>,
    pin_cache: PinCache,
    renew: bool,
    allow_impersonation: bool,
}

impl Start {
    fn of(args: &Credential) -> Self {
        Self {
            ttl: args.wanted.ttl,
            slot: args.wanted.slot,
            serial: args.card.serial,
            pin_cache: args.session.pin_cache,
            renew: args.session.renew,
            allow_impersonation: args.session.allow_impersonation,
        }
    }
}

/// Asks the proxy that runs, or a new one: its first word. One that ended just now is not the last word.
fn ask(
    store: &Store,
    cluster: &str,
    start: &Start,
    question: &Question,
) -> Result<(Line, Event), Error> {
    let mut tries = TRIES;
    loop {
        let mut line = open(store, cluster, start)?;
        if let Question::Credential(_) = question {
            line.wait_for_human(ANSWER_WITHIN)?;
        }
        tries -= 1;
        match line.answer_to(question) {
            Ok(event) => return Ok((line, event)),
            Err(ProxyError::Ended { .. }) if tries > 0 => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A line to the proxy that runs, or to a new one.
fn open(store: &Store, cluster: &str, start: &Start) -> Result<Line, Error> {
    match Line::open(store, cluster)? {
        Some(line) => Ok(line),
        None => started(start, store, cluster),
    }
}

/// The PIN from the file that was named, or from the terminal; else why not.
fn pin(args: &Credential, serial: u32, tries_left: Option<u8>) -> PinAnswer {
    let source = PinSource::new(args.pin.pin_file.clone());
    match source.pin(serial, tries_left) {
        Ok(pin) => PinAnswer::given(pin.expose()),
        Err(PinError::Terminal(TerminalError::Missing { .. })) => {
            PinAnswer::refused("there is no terminal to ask on".to_owned())
        }
        Err(error) => PinAnswer::refused(error.to_string()),
    }
}

/// What client-go reads (client.authentication.k8s.io/v1).
fn exec_credential(certificate: &str, key: &str, not_after: Timestamp) -> String {
    let version = match env::var("KUBERNETES_EXEC_INFO") {
        // client-go refuses an answer of another version than it asked in.
        Ok(info) if info.contains("client.authentication.k8s.io/v1beta1") => "v1beta1",
        Ok(_) | Err(_) => "v1",
    };
    let answer = json!({
        "kind": "ExecCredential",
        "apiVersion": format!("client.authentication.k8s.io/{version}"),
        "spec": { "interactive": false },
        "status": {
            "clientCertificateData": certificate,
            "clientKeyData": key,
            "expirationTimestamp": not_after,
        },
    });
    format!("{answer}\n")
}

/// Starts a proxy in the background, unless someone else does at this moment.
fn started(start: &Start, store: &Store, cluster: &str) -> Result<Line, Error> {
    store.prepare(cluster)?;
    let _alone = Place::new(store, cluster).start_alone()?;
    if let Some(line) = Line::open(store, cluster)? {
        return Ok(line);
    }
    let log_path = store.path(cluster, "proxy.log");
    let not_started = |why: String| ProxyError::NotStarted {
        why,
        log: log_path.clone(),
    };
    let broken = |error: io::Error| not_started(error.to_string());
    let log = open_log(&log_path).map_err(broken)?;
    let before = log.metadata().map_err(broken)?.len();
    let mut command = Command::new(env::current_exe().map_err(broken)?);
    command
        .args(["proxy", "--detached", "--cluster", cluster])
        .arg(format!("--ttl={}s", start.ttl.as_secs()))
        .arg(format!("--slot={}", start.slot))
        .arg(format!("--pin-cache={}", start.pin_cache));
    if let Some(serial) = start.serial {
        command.arg(format!("--serial={serial}"));
    }
    if start.renew {
        command.arg("--renew");
    }
    if start.allow_impersonation {
        command.arg("--allow-impersonation");
    }
    // A pipe that the proxy inherited would have its reader wait for as long as the proxy lives.
    close_fds::set_fds_cloexec(3, &[]);
    let mut child = command
        // Not where it would keep a folder from being unmounted.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(broken)?;
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(READY.len() as u64)
            .read_to_end(&mut said)
            .map_err(broken)?;
    }
    if said != READY {
        let _ = child.wait();
        return Err(not_started(last_words(&log_path, before)).into());
    }
    Line::open(store, cluster)?.ok_or_else(|| not_started("it ended at once".to_owned()).into())
}

/// For the user's eyes alone, and never through a link.
fn open_log(path: &Path) -> io::Result<File> {
    let large = fs::metadata(path).is_ok_and(|log| log.len() > MAX_LOG);
    if large {
        file::remove(path)?;
    }
    File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

/// What was written to the log since.
fn last_words(path: &PathBuf, since: u64) -> String {
    let mut text = String::new();
    let read = || -> io::Result<File> {
        let mut log = File::open(path)?;
        log.seek(SeekFrom::Start(since))?;
        Ok(log)
    };
    if let Ok(log) = read() {
        // What is no text says nothing.
        let _ = log.take(4096).read_to_string(&mut text);
    }
    let text = text.trim();
    match text.strip_prefix("error: ") {
        Some(text) => text.to_owned(),
        None if text.is_empty() => "it ended without a word".to_owned(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_client_go_reads_is_one_json_document() {
        let not_after = "2026-01-01T00:30:00Z".parse().unwrap();
        let printed: serde_json::Value =
            serde_json::from_str(&exec_credential("CERT", "KEY", not_after)).unwrap();
        assert_eq!(printed["kind"], "ExecCredential");
        assert_eq!(printed["status"]["clientCertificateData"], "CERT");
        assert_eq!(printed["status"]["clientKeyData"], "KEY");
        assert_eq!(
            printed["status"]["expirationTimestamp"],
            "2026-01-01T00:30:00Z"
        );
    }
}
