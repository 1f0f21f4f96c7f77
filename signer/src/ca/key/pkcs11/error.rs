//! What goes wrong with tokens.

use super::super::secret_file::SecretFileError;
use cryptoki::error::{Error, RvError};
use std::{fmt, path::PathBuf};

/// Why a token, or a key in it, cannot be used. Each message completes "failed to …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token's signature does not verify.
    #[error("sign in the token {token}: what it signed does not verify with the key's public half")]
    BadSignature {
        /// The token's label.
        token: String,
    },
    /// The token refuses, or is not there any more.
    #[error("{doing} in the token {token}: it says {code}")]
    Failed {
        /// The token's label.
        token: String,
        /// What was asked for.
        doing: &'static str,
        /// What it said.
        code: Code,
    },
    /// There is no such key.
    #[error("find the key {id} in the token {token}: it is not there")]
    KeyMissing {
        /// The token's label.
        token: String,
        /// The key's CKA_ID.
        id: String,
    },
    /// More than one key has the id.
    #[error("find the key {id} in the token {token}: {count} keys have that id")]
    KeysAlike {
        /// The token's label.
        token: String,
        /// The keys' CKA_ID.
        id: String,
        /// How many.
        count: usize,
    },
    /// The key is not as keys of CAs are.
    #[error("use the key {id} in the token {token}: it {why}")]
    KeyUnfit {
        /// The token's label.
        token: String,
        /// The key's CKA_ID.
        id: String,
        /// What is wrong with it.
        why: String,
    },
    /// The module can be changed by others.
    #[error("load the PKCS#11 module {}: its mode is {mode:o}, so that others can change it", path.display())]
    ModuleExposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no PKCS#11 module, or one that cannot be used here.
    #[error("load the PKCS#11 module {}: {message}", path.display())]
    ModuleUnusable {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// There is no module.
    #[error("load the PKCS#11 module {}: it is not there", path.display())]
    ModuleMissing {
        /// The file.
        path: PathBuf,
    },
    /// The PIN must be changed first.
    #[error(
        "log in to the token {token}: its PIN has expired or was never changed from the first one"
    )]
    PinExpired {
        /// The token's label.
        token: String,
    },
    /// One more wrong PIN locks it.
    #[error("log in to the token {token}: one try is left until it locks itself")]
    PinFinalTry {
        /// The token's label.
        token: String,
    },
    /// Nobody set a PIN.
    #[error("log in to the token {token}: it has no PIN yet")]
    PinMissing {
        /// The token's label.
        token: String,
    },
    /// It is locked.
    #[error("log in to the token {token}: its PIN is locked after too many wrong ones")]
    PinLocked {
        /// The token's label.
        token: String,
    },
    /// The PIN is wrong.
    #[error("log in to the token {token}: the PIN in {} is wrong", file.display())]
    PinRefused {
        /// The token's label.
        token: String,
        /// Where the PIN is from.
        file: PathBuf,
    },
    /// The PIN was wrong before, and its file has not changed.
    #[error("log in to the token {token}: the PIN in {} was wrong, and is not tried again", file.display())]
    PinRefusedBefore {
        /// The token's label.
        token: String,
        /// Where the PIN is from.
        file: PathBuf,
    },
    /// The PIN's file.
    #[error(transparent)]
    Pin(#[from] SecretFileError),
    /// The token did not answer in time.
    #[error("wait for the token: it has not answered in {seconds} s")]
    Silent {
        /// How long was waited.
        seconds: u64,
    },
    /// The token is not there.
    #[error("find the token {token}{}: it is not there", of_serial(serial.as_deref()))]
    TokenMissing {
        /// The token's label.
        token: String,
        /// Its serial number, where that is known.
        serial: Option<String>,
    },
    /// The settings do not say how to reach the token.
    #[error("find the token {token} (serial {serial}): the CA settings do not name it")]
    TokenUnnamed {
        /// The token's label.
        token: String,
        /// Its serial number.
        serial: String,
    },
    /// More than one token has the label.
    #[error("find the token {token}{}: {count} tokens are called that", of_serial(serial.as_deref()))]
    TokensAlike {
        /// The tokens' label.
        token: String,
        /// The serial number that was asked for, too.
        serial: Option<String>,
        /// How many.
        count: usize,
    },
}

/// What a token said: a return value of PKCS#11, or that the module does not do as PKCS#11 asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code {
    /// A return value.
    Value(RvError),
    /// Something else is wrong.
    Odd(String),
}

fn of_serial(serial: Option<&str>) -> String {
    serial.map_or_else(String::new, |serial| format!(" (serial {serial})"))
}

impl From<Error> for Code {
    fn from(error: Error) -> Self {
        match error {
            Error::Pkcs11(value, _) => Self::Value(value),
            other => Self::Odd(other.to_string()),
        }
    }
}

impl Code {
    /// Whether it may be gone by itself: the token was pulled out, or a network or another program stands in the way. A
    /// session is worth nothing afterwards.
    pub(super) fn is_passing(&self) -> bool {
        use RvError as R;
        matches!(
            self,
            Self::Value(
                R::CryptokiNotInitialized
                    | R::DeviceError
                    | R::DeviceMemory
                    | R::DeviceRemoved
                    | R::FunctionFailed
                    | R::GeneralError
                    | R::HostMemory
                    | R::KeyHandleInvalid
                    | R::ObjectHandleInvalid
                    | R::OperationActive
                    | R::SessionClosed
                    | R::SessionCount
                    | R::SessionHandleInvalid
                    | R::SlotIdInvalid
                    | R::TokenNotPresent
                    | R::TokenNotRecognized
                    | R::UserNotLoggedIn
            )
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Odd(text) => f.write_str(text),
            Self::Value(RvError::UnknownErrorCode(value) | RvError::VendorDefined(value)) => {
                write!(f, "{value:#010x}")
            }
            // The standard's own names, which the token's manual has.
            Self::Value(value) => {
                f.write_str("CKR")?;
                for letter in format!("{value:?}").chars() {
                    if letter.is_ascii_uppercase() {
                        f.write_str("_")?;
                    }
                    write!(f, "{}", letter.to_ascii_uppercase())?;
                }
                Ok(())
            }
        }
    }
}

impl TokenError {
    /// Names what was asked of a token.
    pub(super) fn failed(token: &str, doing: &'static str) -> impl Fn(Error) -> Self {
        move |error| Self::Failed {
            token: token.to_owned(),
            doing,
            code: error.into(),
        }
    }

    /// Whether the token may do it later, with nothing changed here.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Failed { code, .. } => code.is_passing(),
            Self::Silent { .. } | Self::TokenMissing { .. } => true,
            Self::BadSignature { .. }
            | Self::KeyMissing { .. }
            | Self::KeyUnfit { .. }
            | Self::KeysAlike { .. }
            | Self::ModuleExposed { .. }
            | Self::ModuleMissing { .. }
            | Self::ModuleUnusable { .. }
            | Self::Pin(_)
            | Self::PinExpired { .. }
            | Self::PinFinalTry { .. }
            | Self::PinLocked { .. }
            | Self::PinMissing { .. }
            | Self::PinRefused { .. }
            | Self::PinRefusedBefore { .. }
            | Self::TokenUnnamed { .. }
            | Self::TokensAlike { .. } => false,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::BadSignature { .. } => {
                "take the token out of service: it is broken, or its public key is not of the private one. Nothing it signed went out".into()
            }
            Self::Failed { .. } => {
                "look at the token's own log and at its connection; pkcs11-tool --module MODULE --list-token-slots shows what it offers".into()
            }
            Self::KeyMissing { .. } => {
                "restore the key in the token from its own backup. If it is lost: touchstone-signer ca distrust, and another CA is made".into()
            }
            Self::KeysAlike { token, .. } => format!(
                "find out who put the others into the token, and remove them: pkcs11-tool --module MODULE --token-label {token:?} --login --list-objects"
            ),
            Self::KeyUnfit { .. } => {
                "use a token that makes keys which sign, and never leave it; touchstone-signer makes them itself, none is brought".into()
            }
            Self::ModuleExposed { path, .. } => format!("chmod go-w {}", path.display()),
            Self::ModuleMissing { .. } | Self::ModuleUnusable { .. } => {
                "name the token's PKCS#11 module with `module` in the CA settings, for this machine's processor and C library".into()
            }
            Self::Pin(error) => error.remedy(),
            Self::PinExpired { token } => format!(
                "change the PIN (pkcs11-tool --module MODULE --token-label {token:?} --login --change-pin), then write it into the PIN file"
            ),
            Self::PinFinalTry { token } => format!(
                "log in once by hand with the right PIN, which gives the tries back: pkcs11-tool --module MODULE --token-label {token:?} --login --list-objects"
            ),
            Self::PinLocked { .. } => {
                "have the token's security officer set the PIN anew, then write it into the PIN file".into()
            }
            Self::PinMissing { token } => format!(
                "have the token's security officer set one: pkcs11-tool --module MODULE --token-label {token:?} --login --login-type so --init-pin"
            ),
            Self::PinRefused { .. } | Self::PinRefusedBefore { .. } => {
                "write the right PIN into the file. It is tried once, and again when the file has changed: a token locks itself after a few wrong ones".into()
            }
            Self::Silent { .. } => "check that the token, and the network to it, work".into(),
            Self::TokenMissing { .. } => {
                "plug it in or connect it: pkcs11-tool --module MODULE --list-token-slots shows which are there. One that was made anew has another serial number and no keys".into()
            }
            Self::TokenUnnamed { .. } => {
                "name it under `tokens` in the CA settings, with its module and PIN file, until the CAs whose keys are in it are removed".into()
            }
            Self::TokensAlike { .. } => {
                "name the right one's `serial` in the CA settings: pkcs11-tool --module MODULE --list-token-slots".into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(value: RvError) -> TokenError {
        TokenError::Failed {
            token: "hsm".into(),
            doing: "sign",
            code: Code::Value(value),
        }
    }

    #[test]
    fn a_token_that_is_away_is_asked_again_and_one_that_refuses_is_not() {
        use RvError as R;
        for value in [
            R::DeviceRemoved,
            R::SessionHandleInvalid,
            R::TokenNotPresent,
        ] {
            assert!(failed(value).is_retriable(), "{value:?}");
        }
        for value in [
            R::PinIncorrect,
            R::MechanismInvalid,
            R::KeyFunctionNotPermitted,
        ] {
            assert!(!failed(value).is_retriable(), "{value:?}");
        }
        let file = PathBuf::from("/pin");
        let token = String::from("hsm");
        assert!(!TokenError::PinRefused { token, file }.is_retriable());
    }

    #[test]
    fn a_return_value_has_the_name_that_the_standard_gives_it() {
        assert_eq!(
            failed(RvError::DeviceRemoved).to_string(),
            "sign in the token hsm: it says CKR_DEVICE_REMOVED"
        );
        assert_eq!(
            failed(RvError::VendorDefined(0x8000_0012)).to_string(),
            "sign in the token hsm: it says 0x80000012"
        );
    }
}
