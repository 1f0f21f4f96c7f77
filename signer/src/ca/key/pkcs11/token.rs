//! Finding a token and logging in to it.

use super::{
    TokenSettings,
    error::{Code, TokenError},
    module::Module,
    refused::Refused,
};
use cryptoki::{
    context::Pkcs11,
    error::{Error, RvError},
    mechanism::MechanismType,
    session::{Session, SessionState, UserType},
    slot::{Slot, TokenInfo},
    types::RawAuthPin,
};
use std::sync::Arc;
use zeroize::Zeroizing;

/// A token that a key is in, there or not.
#[derive(Debug)]
pub(super) struct Token {
    settings: TokenSettings,
    serial: String,
    module: Arc<Module>,
    refused: Arc<Refused>,
}

/// What a session may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    ReadWrite,
}

/// A session whose user is logged in. It ends with this value.
#[derive(Debug)]
pub(super) struct Connection {
    module: Arc<Module>,
    label: String,
    /// Taken when it ends.
    session: Option<Session>,
}

/// The serial number of the one token that settings name.
pub(super) fn serial(settings: &TokenSettings) -> Result<String, TokenError> {
    let module = Module::load(&settings.module)?;
    let look = || {
        let context = module.context();
        find(&context, &settings.token, settings.serial.as_deref())
    };
    let found = look();
    let found = match found {
        Err(error) if is_lost(&error) && module.restart() => look(),
        found => found,
    };
    found.map(|(_, info)| info.serial_number().to_owned())
}

impl Token {
    pub(super) fn new(
        settings: &TokenSettings,
        serial: &str,
        refused: Arc<Refused>,
    ) -> Result<Self, TokenError> {
        Ok(Self {
            module: Module::load(&settings.module)?,
            settings: settings.clone(),
            serial: serial.to_owned(),
            refused,
        })
    }

    pub(super) fn label(&self) -> &str {
        &self.settings.token
    }

    /// Whether it takes the PIN, and makes keys that sign as CAs do.
    pub(super) fn check(&self) -> Result<(), TokenError> {
        let _connection = self.connect(Access::ReadWrite)?;
        let context = self.module.context();
        let (slot, _) = find(&context, self.label(), Some(&self.serial))?;
        for (mechanism, doing) in [
            (MechanismType::ECC_KEY_PAIR_GEN, "find CKM_EC_KEY_PAIR_GEN"),
            (MechanismType::ECDSA, "find CKM_ECDSA"),
        ] {
            context
                .get_mechanism_info(slot, mechanism)
                .map_err(TokenError::failed(self.label(), doing))?;
        }
        Ok(())
    }

    /// Finds the token and logs in, after the module was begun anew where it does not find its tokens any more.
    pub(super) fn connect(&self, access: Access) -> Result<Connection, TokenError> {
        match self.try_connect(access) {
            Err(error) if is_lost(&error) && self.module.restart() => self.try_connect(access),
            connected => connected,
        }
    }

    fn try_connect(&self, access: Access) -> Result<Connection, TokenError> {
        let label = self.label();
        let (session, info) = {
            let context = self.module.context();
            let (slot, info) = find(&context, label, Some(&self.serial))?;
            let session = match access {
                Access::Read => context.open_ro_session(slot),
                Access::ReadWrite => context.open_rw_session(slot),
            };
            let session = session.map_err(TokenError::failed(label, "open a session"))?;
            (session, info)
        };
        // Closed like every other one where the login fails.
        let connection = Connection {
            module: Arc::clone(&self.module),
            label: label.to_owned(),
            session: Some(session),
        };
        connection.run(|session| self.log_in(session, &info))?;
        Ok(connection)
    }

    fn log_in(&self, session: &Session, info: &TokenInfo) -> Result<(), TokenError> {
        let token = || self.label().to_owned();
        if !info.login_required() {
            return Ok(());
        }
        let mut trying = self.refused.begin();
        // PKCS#11 logs in a program, not a session: no try is spent where another session did.
        let state = session
            .get_session_info()
            .map_err(TokenError::failed(self.label(), "look at a session"))?
            .session_state();
        if matches!(state, SessionState::RoUser | SessionState::RwUser) {
            return Ok(());
        }
        refuse_hopeless(info)?;
        let (pin, stamp) = self.settings.pin.read_stamped()?;
        let file = || self.settings.pin.file.clone();
        if trying.was_refused(&self.serial, &stamp) {
            return Err(TokenError::PinRefusedBefore {
                token: token(),
                file: file(),
            });
        }
        if info.user_pin_count_low() {
            tracing::warn!(
                token = self.label(),
                "a wrong PIN was given to the token since the last right one"
            );
        }
        match login(session, pin) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                trying.accepted(&self.serial);
                Ok(())
            }
            Err(error) => {
                let error = self.refusal(error);
                if matches!(error, TokenError::PinRefused { .. }) {
                    trying.refused(&self.serial, stamp);
                }
                Err(error)
            }
        }
    }

    fn refusal(&self, error: Error) -> TokenError {
        let token = self.label().to_owned();
        match Code::from(error) {
            Code::Value(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange) => {
                TokenError::PinRefused {
                    token,
                    file: self.settings.pin.file.clone(),
                }
            }
            Code::Value(RvError::PinExpired) => TokenError::PinExpired { token },
            Code::Value(RvError::PinLocked) => TokenError::PinLocked { token },
            Code::Value(RvError::UserPinNotInitialized) => TokenError::PinMissing { token },
            code => TokenError::Failed {
                token,
                doing: "log in",
                code,
            },
        }
    }
}

fn login(session: &Session, mut pin: Zeroizing<Vec<u8>>) -> Result<(), Error> {
    // It wipes it, too.
    let pin = RawAuthPin::new(Box::new(std::mem::take(&mut *pin)));
    session.login_with_raw(UserType::User, &pin)
}

/// Logins that cannot work, or would cost the last try.
fn refuse_hopeless(info: &TokenInfo) -> Result<(), TokenError> {
    let token = info.label().to_owned();
    if info.user_pin_locked() {
        return Err(TokenError::PinLocked { token });
    }
    if info.user_pin_final_try() {
        return Err(TokenError::PinFinalTry { token });
    }
    if !info.user_pin_initialized() {
        return Err(TokenError::PinMissing { token });
    }
    if info.user_pin_to_be_changed() {
        return Err(TokenError::PinExpired { token });
    }
    Ok(())
}

/// The one token of this label, and of this serial number where it is known.
fn find(
    context: &Pkcs11,
    label: &str,
    serial: Option<&str>,
) -> Result<(Slot, TokenInfo), TokenError> {
    let slots = context
        .get_slots_with_token()
        .map_err(TokenError::failed(label, "look for tokens"))?;
    let mut found: Vec<(Slot, TokenInfo)> = slots
        .into_iter()
        // One that was pulled out meanwhile, or is broken, is no reason not to find another.
        .filter_map(|slot| Some((slot, context.get_token_info(slot).ok()?)))
        .filter(|(_, info)| info.token_initialized() && info.label() == label)
        .filter(|(_, info)| serial.is_none_or(|serial| info.serial_number() == serial))
        .collect();
    match (found.len(), found.pop()) {
        (1, Some(one)) => Ok(one),
        (_, None) => Err(TokenError::TokenMissing {
            token: label.to_owned(),
            serial: serial.map(ToOwned::to_owned),
        }),
        (count, Some(_)) => Err(TokenError::TokensAlike {
            token: label.to_owned(),
            serial: serial.map(ToOwned::to_owned),
            count,
        }),
    }
}

/// Whether the token, or the way to it, is not there any more.
pub(super) fn is_lost(error: &TokenError) -> bool {
    match error {
        TokenError::Failed { code, .. } => code.is_passing(),
        TokenError::TokenMissing { .. } => true,
        _ => false,
    }
}

impl Connection {
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// Works in the session; nobody ends the module meanwhile.
    pub(super) fn run<T>(
        &self,
        work: impl FnOnce(&Session) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let _context = self.module.context();
        match &self.session {
            Some(session) => work(session),
            None => Err(TokenError::Failed {
                token: self.label.clone(),
                doing: "use a session",
                code: Code::Value(RvError::SessionClosed),
            }),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _context = self.module.context();
        drop(self.session.take());
    }
}
