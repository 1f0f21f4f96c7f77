//! The proxy on the engineer's machine: kubectl cannot sign with a YubiKey, so it talks to a listener on loopback, which
//! talks to the API server over TLS that the YubiKey signs.
//!
//! [`local`] is what a kubeconfig knows of a cluster's proxy before one runs: address and CA. [`control`] is how other
//! commands find the one that runs, [`place`] where. Inside, an epoch is one certificate's time: its connections to the
//! API server (`upstream`), its key in the card (`keeper`), and the streams that end with it. A request comes in at the
//! `listener`, is checked (`request`), and is passed on (`forward`, `upgrade`).

mod body;
mod clients;
pub mod control;
mod desk;
mod epoch;
mod error;
mod forward;
mod keeper;
mod listener;
pub mod local;
pub mod locked;
mod pins;
pub mod place;
mod request;
mod run;
mod trouble;
mod upgrade;
mod upstream;
mod vault;
mod voice;

pub use error::ProxyError;
pub use run::{Settings, run};

/// Which terminal this process is at, such as `/dev/pts/3`.
#[must_use]
pub fn own_terminal() -> Option<std::path::PathBuf> {
    voice::own_terminal()
}

use crate::{
    args::{CardArgs, Login, ManagementArgs, PinArgs},
    command::login,
    credential::{Credential, CredentialError, Store},
    error::Error,
    talk::{Person, Talk},
    tls::Target,
};
use clients::Clients;
use control::{CredentialWanted, ProxyStatus};
use epoch::{Counts, Epoch};
use jiff::{SignedDuration, Timestamp};
use pins::Pins;
use request::Rules;
use std::{
    sync::{Arc, PoisonError, RwLock, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use touchstone_common::{attestation::Slot, grant::is_own_group, ttl::Ttl};
use trouble::Trouble;
use vault::Vault;

/// After a question that nobody answered, programs without a terminal are not allowed to ask again for this long.
const COOL_DOWN: Duration = Duration::from_secs(60);
/// How long after its end a login is repeated in its own words. A day later, its reason is no reason any more.
const REPEAT_WITHIN: SignedDuration = SignedDuration::from_hours(8);
/// A certificate with less than this left is as good as ended.
const LAST_SECONDS: SignedDuration = SignedDuration::from_secs(5);
/// How long a request waits for its approval while kubectl waits for the answer.
const DECISION_WITHIN: Duration = Duration::from_secs(120);

/// A running proxy.
pub(crate) struct Proxy {
    settings: Settings,
    store: Store,
    target: Arc<Target>,
    listens: String,
    rules: Rules,
    clients: Arc<Clients>,
    pins: Arc<Pins>,
    vault: Vault,
    person: Option<Person>,
    counts: Arc<Counts>,
    epoch: RwLock<Option<Arc<Epoch>>>,
    /// Whoever makes the proxy ready holds it, and leaves what became of it.
    past: tokio::sync::Mutex<Option<(Instant, Trouble)>>,
    since: Timestamp,
    ending: CancellationToken,
    ended: CancellationToken,
}

/// What was asked for, of the groups that came: a grant's own is never asked for.
fn asked_for(groups: &[String]) -> Vec<String> {
    let asked = groups.iter().filter(|group| !is_own_group(group));
    asked.cloned().collect()
}

impl Proxy {
    fn cluster(&self) -> &str {
        &self.settings.cluster
    }

    fn rules(&self) -> &Rules {
        &self.rules
    }

    fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    fn pins(&self) -> Arc<Pins> {
        Arc::clone(&self.pins)
    }

    /// The person at the proxy's own terminal, when it runs in the foreground.
    fn person(&self) -> Option<Person> {
        self.person.clone()
    }

    fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Comes when nothing new is begun any more.
    fn ending(&self) -> &CancellationToken {
        &self.ending
    }

    /// Comes when all is closed and cleared away.
    fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    fn stop(&self) {
        self.ending.cancel();
    }

    /// The certificate's time that is now, if it is one.
    fn epoch(&self) -> Option<Arc<Epoch>> {
        let epoch = self.epoch.read().unwrap_or_else(PoisonError::into_inner);
        epoch.clone().filter(|epoch| epoch.lives())
    }

    /// A valid certificate and a connection made with it. One at a time: whoever waited meanwhile shares what became of it.
    async fn ready(
        self: &Arc<Self>,
        wanted: &CredentialWanted,
        talk: Arc<dyn Talk>,
    ) -> Result<Arc<Epoch>, Trouble> {
        let came = Instant::now();
        let mut past = self.past.lock().await;
        if let Some((when, trouble)) = &*past {
            if *when > came {
                return Err(trouble.clone());
            }
            let left = COOL_DOWN.saturating_sub(when.elapsed());
            let is_open = self.epoch().is_some_and(|epoch| epoch.upstream().is_open());
            if !wanted.answers && !left.is_zero() && !is_open {
                return Err(Trouble::new(
                    trouble.exit,
                    format!(
                        "{}; nobody is asked again for {} s",
                        trouble.message,
                        left.as_secs().max(1)
                    ),
                    Some(format!(
                        "run this in a terminal: touchstone credential --cluster {}",
                        self.cluster()
                    )),
                ));
            }
        }
        let made = self.made_ready(wanted, talk).await;
        *past = match &made {
            Err(trouble) if trouble.is_refusal() => Some((Instant::now(), trouble.clone())),
            Ok(_) | Err(_) => None,
        };
        made
    }

    async fn made_ready(
        self: &Arc<Self>,
        wanted: &CredentialWanted,
        talk: Arc<dyn Talk>,
    ) -> Result<Arc<Epoch>, Trouble> {
        let kept = self.store.credential(self.cluster()).map_err(Error::from)?;
        let has_what_is_wanted = |kept: &Credential| {
            kept.not_after.duration_since(Timestamp::now()) > LAST_SECONDS
                && wanted
                    .groups
                    .iter()
                    .all(|group| kept.groups.contains(group))
        };
        let epoch = match kept {
            Some(kept) if has_what_is_wanted(&kept) => match self.epoch() {
                Some(epoch) if epoch.credential().fingerprint == kept.fingerprint => epoch,
                _ => self.begin(kept, &talk)?,
            },
            kept => {
                let credential = self.log_in(wanted, kept, Arc::clone(&talk)).await?;
                self.begin(credential, &talk)?
            }
        };
        epoch.upstream().reach(&talk).await?;
        Ok(epoch)
    }

    /// The next certificate, in the words of the last, and a connection made with it.
    async fn renewed(self: &Arc<Self>, talk: Arc<dyn Talk>) -> Result<(), Trouble> {
        let _alone = self.past.lock().await;
        let last = self.store.credential(self.cluster()).map_err(Error::from)?;
        let wanted = CredentialWanted::default();
        let credential = self.log_in(&wanted, last, Arc::clone(&talk)).await?;
        let epoch = self.begin(credential, &talk)?;
        epoch.upstream().reach(&talk).await
    }

    /// A new certificate, for what is wanted or for what the last one was for.
    async fn log_in(
        &self,
        wanted: &CredentialWanted,
        last: Option<Credential>,
        talk: Arc<dyn Talk>,
    ) -> Result<Credential, Trouble> {
        let login = self.login_for(wanted, last.as_ref())?;
        let groups = login.group.join(", ");
        let reason = match login.reason.as_str() {
            "" => String::new(),
            reason => format!(", because {reason:?}"),
        };
        talk.progress(&format!(
            "Asking for {} in {}, for {groups}{reason}. Your touch confirms it.",
            login.ttl,
            self.cluster()
        ));
        let obtained = tokio::task::spawn_blocking(move || login::obtain(&login, talk));
        Ok(obtained
            .await
            .map_err(|_| Error::TaskEnded("a certificate was asked for"))??)
    }

    fn login_for(
        &self,
        wanted: &CredentialWanted,
        last: Option<&Credential>,
    ) -> Result<Login, Error> {
        let cluster = self.cluster().to_owned();
        let repeatable =
            last.filter(|last| Timestamp::now().duration_since(last.not_after) < REPEAT_WITHIN);
        let (group, reason) = match (wanted.groups.as_slice(), repeatable) {
            ([], None) => {
                return Err(match last {
                    Some(last) => CredentialError::Ended {
                        cluster,
                        ended: last.not_after,
                    },
                    None => CredentialError::None {
                        what: "certificate",
                        cluster: Some(cluster),
                    },
                }
                .into());
            }
            ([], Some(last)) => (
                asked_for(&last.groups),
                wanted.reason.clone().unwrap_or_else(|| last.reason.clone()),
            ),
            (groups, _) => (groups.to_vec(), wanted.reason.clone().unwrap_or_default()),
        };
        let ttl = wanted
            .ttl_seconds
            .and_then(|seconds| Ttl::from_secs(seconds.into()).ok())
            .unwrap_or(self.settings.ttl);
        let slot: Slot = last
            .and_then(|last| last.slot.parse().ok())
            .unwrap_or(self.settings.slot);
        Ok(Login {
            cluster,
            group,
            user: None,
            signer: None,
            ttl,
            reason,
            software_key: None,
            slot,
            no_card_write: true,
            no_wait: false,
            resume: false,
            timeout: Some(DECISION_WITHIN),
            card: CardArgs {
                serial: last.map(|last| last.yubikey).or(self.settings.serial),
            },
            pin: PinArgs { pin_file: None },
            management: ManagementArgs {
                management_key_file: None,
            },
        })
    }

    /// From here on, this is the certificate. What the one before has open goes on until that ends.
    fn begin(
        self: &Arc<Self>,
        credential: Credential,
        talk: &Arc<dyn Talk>,
    ) -> Result<Arc<Epoch>, Trouble> {
        let target = Arc::clone(&self.target);
        let epoch = Epoch::new(credential, target, Arc::clone(talk), &self.counts)?;
        let epoch = Arc::new(epoch);
        *self.epoch.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&epoch));
        tokio::spawn(Arc::clone(self).watch(Arc::clone(&epoch)));
        Ok(epoch)
    }

    /// Lets go of an idle card, and ends all when the certificate does.
    async fn watch(self: Arc<Self>, epoch: Arc<Epoch>) {
        let idle = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let keeper = Arc::clone(epoch.upstream().keeper());
                // Letting go talks to pcscd.
                let _ = tokio::task::spawn_blocking(move || keeper.release_idle()).await;
            }
        };
        let not_after = epoch.credential().not_after;
        tokio::select! {
            () = idle => {}
            () = wall_clock(not_after) => {}
            () = epoch.ended().cancelled() => {}
        }
        let was_current = {
            let current = self.epoch.read().unwrap_or_else(PoisonError::into_inner);
            current
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, &epoch))
        };
        if was_current {
            self.pins.wipe();
        }
        epoch.end(&format!(
            "the certificate for {} ended at {}",
            self.cluster(),
            crate::command::status::in_local_time(not_after)
        ));
    }

    fn status(&self) -> ProxyStatus {
        let epoch = self.epoch();
        let credential = epoch.as_ref().map(|epoch| epoch.credential());
        let wide = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        ProxyStatus {
            pid: std::process::id(),
            since: self.since,
            listens: self.listens.clone(),
            renews: self.settings.renew,
            user: credential.map(|credential| credential.user.clone()),
            groups: credential.map_or_else(Vec::new, |credential| credential.groups.clone()),
            not_after: credential.map(|credential| credential.not_after),
            requests: self.counts.requests.load(Ordering::Relaxed),
            bytes_sent: self.counts.sent.load(Ordering::Relaxed),
            bytes_received: self.counts.received.load(Ordering::Relaxed),
            open_streams: wide(self.counts.streams.load(Ordering::Relaxed)),
            connections: wide(self.counts.connections.load(Ordering::Relaxed)),
            signatures: self.counts.signatures.load(Ordering::Relaxed),
            software_key: self.vault.certificate(),
            holds_card: epoch.is_some_and(|epoch| epoch.upstream().keeper().holds_card()),
        }
    }
}

/// Waits for a moment by the clock on the wall: a machine may sleep in between, and its other clocks stand still then.
async fn wall_clock(moment: Timestamp) {
    const LOOK: Duration = Duration::from_secs(5);
    while let Ok(left) = Duration::try_from(moment.duration_since(Timestamp::now()))
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(LOOK)).await;
    }
}
