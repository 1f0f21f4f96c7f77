//! The life of a proxy: it takes its place, listens, gets a certificate, and ends without leaving anything.

use super::{
    Proxy, ProxyError,
    clients::Clients,
    control::CredentialWanted,
    desk,
    epoch::Counts,
    listener,
    local::LocalEndpoint,
    pins::Pins,
    place::Place,
    request::Rules,
    trouble::Trouble,
    vault::Vault,
    voice::{self, Voice},
    wall_clock,
};
use crate::{
    command::status::in_local_time,
    config::Config,
    credential::{CredentialError, Store},
    error::{Error, Exit},
    file,
    output::{Output, pairs},
    pin::PinSource,
    talk::{Person, Talk},
    terminal,
    tls::Target,
};
use jiff::{SignedDuration, Timestamp};
use rustix::process::DumpableBehavior;
use serde::Serialize;
use std::{
    fs::File,
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use touchstone_common::{attestation::Slot, ttl::Ttl};

/// How long before a certificate's end the next one is asked for.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_mins(2);
/// A proxy in the background that has had no certificate for this long is of no use.
const IDLE: Duration = Duration::from_secs(300);
/// What is open has this long to end.
const END_WITHIN: Duration = Duration::from_secs(3);
/// What the starter of a proxy in the background reads when it is ready.
pub(super) const READY: &[u8] = b"ready\n";

/// What a proxy is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster.
    pub cluster: String,
    /// The port to listen on, from now on.
    pub port: Option<u16>,
    /// The lifetime of certificates that it asks for.
    pub ttl: Ttl,
    /// The slot of the key, until there is a certificate that says.
    pub slot: Slot,
    /// The YubiKey's serial number, likewise.
    pub serial: Option<u32>,
    /// Whether the certificate is renewed before it ends.
    pub renew: bool,
    /// Whether `Impersonate-*` headers pass.
    pub impersonation: bool,
    /// Whether the PIN is kept while the certificate lives.
    pub keep_pin: bool,
    /// Where the PIN is read from instead of asked for.
    pub pin_file: Option<PathBuf>,
    /// Whether it runs behind `touchstone credential`, without a terminal.
    pub detached: bool,
    /// Groups to ask for when there is no certificate.
    pub groups: Vec<String>,
    /// The reason.
    pub reason: Option<String>,
}

/// What a proxy in the foreground says of itself, as `--output json` has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Running<'a> {
    cluster: &'a str,
    user: &'a str,
    groups: &'a [String],
    not_after: Timestamp,
    listens: &'a str,
    kubeconfig: String,
}

/// Why a proxy ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nobody needs it any more, or it was asked to.
    Done,
    /// A signal.
    Signal(Exit),
    /// The certificate's.
    Certificate(Timestamp),
}

/// Runs a proxy until its end.
///
/// # Errors
/// When it cannot listen, has no certificate, or loses it.
pub fn run(settings: Settings, output: Output) -> Result<(), Error> {
    // Nobody looks into this process: it has the PIN, and the keys of its clients. Where that cannot be had, it is no
    // worse off than any other.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if settings.detached {
        // Its own session: the terminal's signals are for kubectl. Fails only for one that leads a session already.
        let _ = rustix::process::setsid();
    }
    let cluster = Config::load()?.cluster(&settings.cluster)?;
    let store = Store::open()?;
    let place = Place::new(&store, &settings.cluster);
    let taken = place.take()?.ok_or_else(|| ProxyError::AlreadyRuns {
        cluster: settings.cluster.clone(),
    })?;
    place.clear()?;
    let endpoint =
        LocalEndpoint::at(&store, &settings.cluster, settings.port).map_err(ProxyError::from)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::Output)?;
    let ran = runtime.block_on(async {
        let target = Arc::new(Target::new(cluster.reach()).await?);
        live(settings, store, &place, endpoint, target, output).await
    });
    // A question on the terminal may still stand; what waits for it is left behind.
    terminal::restore_echo();
    let cleared = place.clear();
    runtime.shutdown_timeout(Duration::from_millis(200));
    drop(taken);
    match ran? {
        End::Done => Ok(cleared?),
        End::Signal(exit) => Err(Error::Ended(exit)),
        End::Certificate(ended) => Err(CredentialError::Ended {
            cluster: place.cluster().to_owned(),
            ended,
        }
        .into()),
    }
}

async fn live(
    settings: Settings,
    store: Store,
    place: &Place,
    endpoint: LocalEndpoint,
    target: Arc<Target>,
    output: Output,
) -> Result<End, Error> {
    let address = endpoint.address();
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| ProxyError::Listen {
            address,
            source,
            cluster: settings.cluster.clone(),
        })?;
    let desk = desk::open(place)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let person = (!settings.detached).then(|| {
        let pin = PinSource::new(settings.pin_file.clone());
        Person::new(output, pin)
    });
    let ca_pem = endpoint.ca_pem().to_owned();
    let proxy = Arc::new(Proxy {
        listens: endpoint.server_url(),
        rules: Rules::new(address, settings.impersonation),
        clients: Arc::new(Clients::new(Arc::clone(&provider))),
        pins: Arc::new(if settings.keep_pin {
            Pins::kept()
        } else {
            Pins::never_kept()
        }),
        vault: Vault::default(),
        person,
        counts: Arc::new(Counts::default()),
        epoch: std::sync::RwLock::default(),
        past: tokio::sync::Mutex::default(),
        since: whole_second(Timestamp::now()),
        ending: CancellationToken::new(),
        ended: CancellationToken::new(),
        settings,
        store,
        target,
    });
    let tls = listener::tls(&proxy, endpoint, provider)?;
    tokio::spawn(listener::serve(Arc::clone(&proxy), listener, tls));
    tokio::spawn(desk::serve(Arc::clone(&proxy), desk));
    let mut signals = Signals::new()?;

    let course = async {
        if proxy.settings.detached {
            detach()?;
            Ok(behind(&proxy).await)
        } else {
            before(&proxy, place, &ca_pem, output).await
        }
    };
    let end = tokio::select! {
        end = course => end,
        () = proxy.ending().cancelled() => Ok(End::Done),
        exit = signals.next() => Ok(End::Signal(exit)),
    };
    finish(&proxy, end.as_ref().ok()).await;
    end
}

/// In the background: until nobody has had a certificate for a while.
async fn behind(proxy: &Arc<Proxy>) -> End {
    let mut useful = Instant::now();
    let renewed = AtomicBool::new(false);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Some(epoch) = proxy.epoch() {
            useful = Instant::now();
            if proxy.settings.renew {
                renew(proxy, epoch.credential().not_after, &renewed).await;
            }
        } else if proxy.vault.certificate().is_some() {
            useful = Instant::now();
        } else if useful.elapsed() > IDLE && proxy.past.try_lock().is_ok() {
            return End::Done;
        }
    }
}

/// In the foreground: gets a certificate, says so, and stays while there is one.
async fn before(
    proxy: &Arc<Proxy>,
    place: &Place,
    ca_pem: &str,
    output: Output,
) -> Result<End, Error> {
    let wanted = CredentialWanted {
        groups: proxy.settings.groups.clone(),
        reason: proxy.settings.reason.clone(),
        answers: true,
        ..CredentialWanted::default()
    };
    let mut shown: Option<Timestamp> = None;
    let renewed = AtomicBool::new(false);
    let epoch = proxy.ready(&wanted, own_voice(proxy)).await;
    epoch.map_err(untold)?;
    loop {
        // The last one's end, if there is none any more.
        let Some(epoch) = proxy.epoch() else {
            return Ok(shown.map_or(End::Done, End::Certificate));
        };
        let credential = epoch.credential();
        if shown != Some(credential.not_after) {
            write_kubeconfig(proxy, place, ca_pem, credential.not_after)?;
            let running = Running {
                cluster: proxy.cluster(),
                user: &credential.user,
                groups: &credential.groups,
                not_after: credential.not_after,
                listens: &proxy.listens,
                kubeconfig: place.kubeconfig().display().to_string(),
            };
            output.data(&running, |one| {
                pairs(&[
                    ("proxy for", one.cluster.to_owned()),
                    ("as", one.user.to_owned()),
                    ("groups", one.groups.join(", ")),
                    ("until", in_local_time(one.not_after)),
                    ("listens on", one.listens.to_owned()),
                    ("use it", format!("export KUBECONFIG={}", one.kubeconfig)),
                ])
            })?;
            shown = Some(credential.not_after);
        }
        if proxy.settings.renew {
            renew(proxy, credential.not_after, &renewed).await;
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = epoch.ended().cancelled() => {}
        }
    }
}

fn own_voice(proxy: &Proxy) -> Arc<dyn Talk> {
    Arc::new(match proxy.person() {
        Some(person) => Voice::person(proxy.pins(), person),
        None => Voice::terminal(proxy.pins(), proxy.clients.any_terminal()),
    })
}

/// Asks for the next certificate two minutes before this one's end; once more, a minute later, should that fail.
async fn renew(proxy: &Arc<Proxy>, not_after: Timestamp, tried: &AtomicBool) {
    let left = not_after.duration_since(Timestamp::now());
    let first = left <= RENEW_BEFORE && !tried.load(Ordering::Relaxed);
    if left > RENEW_BEFORE {
        tried.store(false, Ordering::Relaxed);
    }
    if !first {
        return;
    }
    tried.store(true, Ordering::Relaxed);
    let voice = own_voice(proxy);
    voice.progress(&format!(
        "touchstone: the certificate for {} ends at {}; asking for the next one.",
        proxy.cluster(),
        in_local_time(not_after)
    ));
    for attempt in 0..2 {
        match proxy.renewed(Arc::clone(&voice)).await {
            Ok(()) => {
                voice.progress("touchstone: renewed.");
                return;
            }
            Err(trouble) => voice.warn(&format!("not renewed: {}", trouble.in_full())),
        }
        if attempt == 0 {
            let half = SignedDuration::from_secs(RENEW_BEFORE.as_secs() / 2);
            wall_clock(not_after - half).await;
        }
    }
}

/// Closes what is open, with a word to those who had it open, and forgets what must not stay.
async fn finish(proxy: &Arc<Proxy>, end: Option<&End>) {
    proxy.ending().cancel();
    let current = proxy.epoch();
    if let Some(epoch) = current {
        let why = match end {
            Some(End::Signal(_)) => "was ended by a signal",
            _ => "was ended",
        };
        epoch.end(&format!("the proxy for {} {why}", proxy.cluster()));
    }
    let until = Instant::now() + END_WITHIN;
    while proxy.counts().streams.load(Ordering::Acquire) > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What ended last is flushed by its connection's task.
    tokio::time::sleep(Duration::from_millis(50)).await;
    proxy.clients().forget_all();
    proxy.pins().wipe();
    proxy.vault.wipe();
    proxy.ended().cancel();
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// Tells whoever started it, and lets go of their pipe.
fn detach() -> Result<(), Error> {
    let told = || -> std::io::Result<()> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(READY)?;
        stdout.flush()?;
        let null = File::options().write(true).open("/dev/null")?;
        Ok(rustix::stdio::dup2_stdout(null)?)
    };
    told().map_err(Error::Output)
}

/// A kubeconfig for clients without the exec plugin. The key in it is of no use but to this process.
fn write_kubeconfig(
    proxy: &Proxy,
    place: &Place,
    ca_pem: &str,
    not_after: Timestamp,
) -> Result<(), Error> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let credential = proxy
        .clients()
        .admit(voice::own_terminal(), not_after)
        .map_err(untold)?;
    let name = format!("touchstone-{}", proxy.cluster());
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{ "name": name, "cluster": {
            "server": proxy.listens, "certificate-authority-data": STANDARD.encode(ca_pem),
        } }],
        "users": [{ "name": name, "user": {
            "client-certificate-data": STANDARD.encode(&credential.certificate),
            "client-key-data": STANDARD.encode(&credential.key),
        } }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
    });
    let path = place.kubeconfig();
    file::replace(&path, kubeconfig.to_string().as_bytes()).map_err(|source| Error::File {
        verb: "write",
        path,
        source,
    })
}

/// As an error again, with its words, its remedy and its exit code.
fn untold(trouble: Trouble) -> Error {
    ProxyError::Failed {
        message: trouble.message,
        remedy: trouble.remedy,
        exit: trouble.exit,
    }
    .into()
}

/// SIGINT, SIGTERM and SIGHUP.
struct Signals([(tokio::signal::unix::Signal, Exit); 3]);

impl Signals {
    fn new() -> Result<Self, Error> {
        let on = |kind| signal(kind).map_err(Error::Output);
        Ok(Self([
            (on(SignalKind::interrupt())?, Exit::Interrupted),
            (on(SignalKind::terminate())?, Exit::Terminated),
            (on(SignalKind::hangup())?, Exit::Terminated),
        ]))
    }

    async fn next(&mut self) -> Exit {
        let [(one, first), (two, second), (three, third)] = &mut self.0;
        tokio::select! {
            _ = one.recv() => *first,
            _ = two.recv() => *second,
            _ = three.recv() => *third,
        }
    }
}

fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
