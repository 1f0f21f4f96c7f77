//! One certificate's time: its connections, and the streams that end with it.

use super::{
    body::Passed,
    clients::Client,
    keeper::Keeper,
    trouble::Trouble,
    upstream::{Alive, Upstream},
    voice,
};
use crate::{card::CardError, credential::Credential, talk::Talk, tls::Target};
use jiff::Timestamp;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use tokio_util::sync::CancellationToken;
use touchstone_common::key::PublicKey;
use x509_cert::der::{Decode as _, Encode as _};

/// What was carried, over all certificates of a proxy's life.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) requests: AtomicU64,
    pub(super) sent: Arc<AtomicU64>,
    pub(super) received: Arc<AtomicU64>,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) streams: Arc<AtomicUsize>,
    pub(super) signatures: Arc<AtomicU64>,
}

/// A request's body on its way up. It holds on to nothing.
pub(super) type Sent = Passed<()>;

/// One certificate, and all that is open in its name.
pub(super) struct Epoch {
    credential: Credential,
    upstream: Arc<Upstream<Sent>>,
    ended: CancellationToken,
    streams: Mutex<BTreeMap<u64, Option<PathBuf>>>,
    next: AtomicU64,
    counts: Arc<Counts>,
}

impl Epoch {
    /// Of a kept certificate. Nothing is opened yet.
    pub(super) fn new(
        credential: Credential,
        target: Arc<Target>,
        talk: Arc<dyn Talk>,
        counts: &Arc<Counts>,
    ) -> Result<Self, Trouble> {
        let key = public_key(&credential.chain_pem)
            .ok_or(CardError::Malformed("the kept certificate"))?;
        let signatures = Arc::clone(&counts.signatures);
        let keeper = Arc::new(Keeper::new(&credential, key, talk, signatures)?);
        let ended = CancellationToken::new();
        let upstream = Upstream::new(
            target,
            keeper,
            &credential.chain_pem,
            ended.clone(),
            Arc::clone(&counts.connections),
        )?;
        Ok(Self {
            credential,
            upstream: Arc::new(upstream),
            ended,
            streams: Mutex::default(),
            next: AtomicU64::new(0),
            counts: Arc::clone(counts),
        })
    }

    pub(super) fn credential(&self) -> &Credential {
        &self.credential
    }

    pub(super) fn upstream(&self) -> &Arc<Upstream<Sent>> {
        &self.upstream
    }

    /// Comes when nothing may go on in this certificate's name.
    pub(super) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Whether it still lives.
    pub(super) fn lives(&self) -> bool {
        !self.ended.is_cancelled() && Timestamp::now() <= self.credential.not_after
    }

    fn streams(&self) -> MutexGuard<'_, BTreeMap<u64, Option<PathBuf>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a stream of a client while it lives.
    pub(super) fn enter(self: &Arc<Self>, client: &Client) -> Stream {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.streams().insert(number, client.terminal.clone());
        Stream {
            epoch: Arc::clone(self),
            number,
            _counted: Alive::new(&self.counts.streams),
        }
    }

    /// Ends all that is open, and says so on the terminals of those who had something open.
    pub(super) fn end(&self, why: &str) {
        if self.ended.is_cancelled() {
            return;
        }
        let mut open: BTreeMap<Option<PathBuf>, usize> = BTreeMap::new();
        for terminal in self.streams().values() {
            *open.entry(terminal.clone()).or_default() += 1;
        }
        self.upstream.close();
        for (terminal, count) in open {
            let streams = match count {
                1 => "a stream was".to_owned(),
                n => format!("{n} streams were"),
            };
            voice::tell(
                terminal.as_deref(),
                &format!("touchstone: {why}; {streams} closed."),
            );
        }
    }
}

/// Something open in a certificate's name.
pub(super) struct Stream {
    epoch: Arc<Epoch>,
    number: u64,
    _counted: Alive,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.epoch.streams().remove(&self.number);
    }
}

/// The key of a chain's first certificate.
pub(super) fn public_key(chain_pem: &str) -> Option<PublicKey> {
    let blocks = pem::parse_many(chain_pem).ok()?;
    let leaf = x509_cert::Certificate::from_der(blocks.first()?.contents()).ok()?;
    let spki = leaf
        .tbs_certificate()
        .subject_public_key_info()
        .to_der()
        .ok()?;
    PublicKey::from_spki_der(&spki).ok()
}
