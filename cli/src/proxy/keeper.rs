//! The card as the proxy has it: opened for a signature, let go of soon after, since gpg and others want it too.

use super::trouble::Trouble;
use crate::{
    card::{
        CardError,
        signer::{self, CardKey, Scheme, SharedCard},
        yubikey,
    },
    credential::Credential,
    error::Error,
    talk::{self, Talk},
    tls::TlsKey,
    touch::Notice,
};
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use touchstone_common::{
    attestation::{PinPolicy, Slot},
    key::PublicKey,
};

/// How long the card is held after a signature: handshakes come in twos, of a login and the connection after it.
const HOLD: Duration = Duration::from_secs(5);

/// The key of one certificate in its card.
pub(super) struct Keeper {
    serial: u32,
    slot: Slot,
    public_key: PublicKey,
    held: Mutex<Option<Held>>,
    talk: Current,
    signatures: Arc<AtomicU64>,
}

/// Who is asked and told now: not who was when the card was opened.
#[derive(Clone)]
struct Current(Arc<Mutex<Arc<dyn Talk>>>);

impl Current {
    fn talk(&self) -> Arc<dyn Talk> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Notice for Current {
    fn waiting(&self) {
        self.talk().waiting();
    }

    fn over(&self) {
        self.talk().over();
    }
}

struct Held {
    card: SharedCard,
    signs: CardKey,
    used: Instant,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper")
            .field("serial", &self.serial)
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

impl Keeper {
    /// The key of a kept certificate; each of its signatures is counted.
    ///
    /// # Errors
    /// When the certificate does not say which key it is of.
    pub(super) fn new(
        credential: &Credential,
        public_key: PublicKey,
        talk: Arc<dyn Talk>,
        signatures: Arc<AtomicU64>,
    ) -> Result<Self, Trouble> {
        let slot = credential
            .slot
            .parse()
            .map_err(|_| CardError::Malformed("the slot of the kept certificate"))?;
        Ok(Self {
            serial: credential.yubikey,
            slot,
            public_key,
            held: Mutex::default(),
            talk: Current(Arc::new(Mutex::new(talk))),
            signatures,
        })
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on, this is who is asked and told.
    pub(super) fn talk_to(&self, talk: Arc<dyn Talk>) {
        *self.talk.0.lock().unwrap_or_else(PoisonError::into_inner) = talk;
    }

    /// Opens the card and gives it the PIN, so that a handshake has to wait for nothing but the touch.
    ///
    /// # Errors
    /// When there is no such card or key, or no PIN.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        self.opened(&mut self.held()).map(drop)
    }

    /// The card, held already or opened now. One that was pulled out, or was away while the machine slept, is opened anew.
    fn opened(&self, held: &mut Option<Held>) -> Result<CardKey, Error> {
        if let Some(found) = held {
            let answers = signer::lock(&found.card).pin_state().is_ok();
            if answers {
                found.used = Instant::now();
                return Ok(found.signs.clone());
            }
            *held = None;
        }
        let mut card = yubikey::open(Some(self.serial))?;
        let (key, public_key) = signer::usable_key(&mut card, self.slot)?;
        if public_key != self.public_key {
            return Err(CardError::OtherKey(self.slot.into()).into());
        }
        let pin = match key.pin_policy {
            Some(PinPolicy::Never) => None,
            _ => Some(talk::verified_pin(&mut card, &*self.talk.talk())?),
        };
        // Only such a key needs the PIN once more, right before it signs.
        let pin = pin.filter(|_| {
            matches!(
                key.pin_policy,
                Some(PinPolicy::Always | PinPolicy::MatchAlways)
            )
        });
        let card: SharedCard = Arc::new(Mutex::new(card));
        let notice = Arc::new(self.talk.clone());
        let signs = CardKey::new(Arc::clone(&card), self.slot, public_key, &key, pin, notice);
        *held = Some(Held {
            card,
            signs: signs.clone(),
            used: Instant::now(),
        });
        Ok(signs)
    }

    /// Lets go of a card that nobody needed for some seconds.
    pub(super) fn release_idle(&self) {
        let mut held = match self.held.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // It signs.
            Err(TryLockError::WouldBlock) => return,
        };
        if held.as_ref().is_some_and(|held| held.used.elapsed() > HOLD) {
            *held = None;
        }
    }

    /// Whether it holds the card at this moment.
    pub(super) fn holds_card(&self) -> bool {
        match self.held.try_lock() {
            Ok(held) => held.is_some(),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().is_some(),
            Err(TryLockError::WouldBlock) => true,
        }
    }
}

impl TlsKey for Keeper {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn sign_with(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, CardError> {
        let mut held = self.held();
        let was_held = held.is_some();
        let attempt = |held: &mut Option<Held>| {
            let key = self.opened(held).map_err(as_card_error)?;
            key.sign_with(scheme, message)
        };
        let mut signed = attempt(&mut held);
        // Another program may have selected its own applet, or given the card a PIN to forget, since it was opened.
        let stale = matches!(
            signed,
            Err(CardError::NotAllowed
                | CardError::Malformed(_)
                | CardError::Pcsc(_)
                | CardError::Removed)
        );
        if stale {
            *held = None;
            if was_held {
                signed = match attempt(&mut held) {
                    // It was pulled out: that says more than that it is not there.
                    Err(CardError::NoCard) => signed,
                    again => again,
                };
            }
        }
        if signed.is_ok() {
            self.signatures.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(held) = held.as_mut() {
            held.used = Instant::now();
        }
        signed
    }
}

/// Inside of a handshake only the card's own words pass.
fn as_card_error(error: Error) -> CardError {
    match error {
        Error::Card(error) => error,
        other => CardError::NoPin(other.to_string()),
    }
}
