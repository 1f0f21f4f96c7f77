//! CA keys in tokens: hardware security modules and whatever else speaks PKCS#11.
//!
//! Which tokens there are, their modules and their PINs, the CA settings of this machine say, and nothing else: a module
//! is code that runs in the signer, so the CA's record, which comes from elsewhere, names tokens and keys and no file.
//! A key is made in the token and never leaves it; what it signs is verified before anyone sees it.

mod ca_key;
mod encoding;
mod error;
mod module;
mod object;
mod refused;
mod token;

pub use error::{Code, TokenError};

use super::{CaKey, CaKeyError, secret_file::SecretFile};
use crate::ca::lifecycle::CaId;
use ca_key::TokenCaKey;
use refused::Refused;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};
use token::Token;
use touchstone_common::key::KeyAlgorithm;

/// The most bytes of a token's label, and of its serial number (CK_TOKEN_INFO).
const MAX_LABEL: usize = 32;
const MAX_SERIAL: usize = 16;

/// A token, as the settings name it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenSettings {
    /// The PKCS#11 module that knows it: a shared library, by its whole path.
    pub module: PathBuf,
    /// Its label.
    pub token: String,
    /// Its serial number, where two have the label.
    #[serde(default)]
    pub serial: Option<String>,
    /// The PIN of its user.
    pub pin: SecretFile,
}

/// Every token that this signer may use.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    named: Vec<TokenSettings>,
    refused: Arc<Refused>,
}

/// A key in a token, as the CA's record names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenObject {
    /// The token's label.
    token: String,
    /// The token's serial number.
    serial: String,
    /// The key's CKA_ID: what it is found by.
    id: ObjectId,
    /// The key's CKA_LABEL: for people.
    label: String,
}

/// A CKA_ID of ours: sixteen random bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct ObjectId([u8; 16]);

impl TokenSettings {
    /// What is wrong with them, if anything.
    pub(in crate::ca) fn check(&self) -> Result<(), String> {
        if !self.module.is_absolute() {
            // What a bare name leads to depends on the environment.
            return Err(format!(
                "the PKCS#11 module {} is not named by its whole path",
                self.module.display()
            ));
        }
        let fits = |text: &str, most| (1..=most).contains(&text.len()) && text.trim() == text;
        if !fits(&self.token, MAX_LABEL) {
            return Err(format!("{:?} is no label of a token", self.token));
        }
        match &self.serial {
            Some(serial) if !fits(serial, MAX_SERIAL) => {
                Err(format!("{serial:?} is no serial number of a token"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn is_for(&self, object: &TokenObject) -> bool {
        let serial = self.serial.as_ref();
        self.token == object.token && serial.is_none_or(|serial| *serial == object.serial)
    }
}

impl Tokens {
    /// These, and no other.
    #[must_use]
    pub fn new(named: Vec<TokenSettings>) -> Self {
        Self {
            named,
            refused: Arc::default(),
        }
    }

    /// The same, with refused PINs remembered in a file: a signer that is started again and again spends no further try.
    #[must_use]
    pub fn remembering_in(self, folder: &Path) -> Self {
        Self {
            refused: Arc::new(Refused::in_folder(folder)),
            ..self
        }
    }

    /// Names a key that is about to be made in a token, which must be there, know its PIN, and make such keys: what can be
    /// known beforehand leaves no plan behind.
    pub(super) fn plan(
        &self,
        settings: &TokenSettings,
        id: CaId,
        mark: [u8; 16],
    ) -> Result<TokenObject, TokenError> {
        let object = TokenObject {
            token: settings.token.clone(),
            serial: token::serial(settings)?,
            id: ObjectId(mark),
            label: format!("touchstone {id}"),
        };
        self.token(&object)?.check()?;
        Ok(object)
    }

    /// Makes a planned key.
    pub(super) fn generate(
        &self,
        object: &TokenObject,
        algorithm: KeyAlgorithm,
    ) -> Result<(), TokenError> {
        object::generate(&self.token(object)?, object, algorithm)
    }

    /// Opens a key, to sign with it.
    pub(super) fn open(&self, object: &TokenObject) -> Result<Box<dyn CaKey>, CaKeyError> {
        Ok(Box::new(TokenCaKey::open(self.token(object)?, object)?))
    }

    /// Destroys a key; one that is not there is fine, but its token must be.
    pub(super) fn destroy(&self, object: &TokenObject) -> Result<(), TokenError> {
        object::destroy(&self.token(object)?, object)
    }

    fn token(&self, object: &TokenObject) -> Result<Token, TokenError> {
        let mut named = self.named.iter().filter(|named| named.is_for(object));
        // Those that name the serial number know better.
        let settings = named
            .clone()
            .find(|named| named.serial.is_some())
            .or_else(|| named.next())
            .ok_or_else(|| TokenError::TokenUnnamed {
                token: object.token.clone(),
                serial: object.serial.clone(),
            })?;
        Token::new(settings, &object.serial, Arc::clone(&self.refused))
    }
}

impl fmt::Display for TokenObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            token, serial, id, ..
        } = self;
        write!(f, "in the token {token} (serial {serial}), id {id}")
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl TryFrom<String> for ObjectId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut id = [0; 16];
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        match hex::decode_to_slice(&text, &mut id) {
            Ok(()) if is_lower => Ok(Self(id)),
            _ => Err("a CKA_ID has 32 lower-case hexadecimal digits".into()),
        }
    }
}

impl From<ObjectId> for String {
    fn from(id: ObjectId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> TokenSettings {
        TokenSettings {
            module: "/usr/lib/softhsm/libsofthsm2.so".into(),
            token: "hsm".into(),
            serial: None,
            pin: SecretFile {
                file: "/etc/touchstone/pin".into(),
            },
        }
    }

    #[test]
    fn a_module_is_named_by_its_whole_path() {
        settings().check().unwrap();
        for module in ["libsofthsm2.so", "./libsofthsm2.so", ""] {
            let named = TokenSettings {
                module: module.into(),
                ..settings()
            };
            assert!(named.check().unwrap_err().contains("whole path"));
        }
    }

    #[test]
    fn labels_and_serial_numbers_that_no_token_has_are_refused() {
        for token in ["", " hsm", "hsm ", "a-label-of-thirty-three-characters"] {
            let token = token.into();
            TokenSettings {
                token,
                ..settings()
            }
            .check()
            .unwrap_err();
        }
        for serial in ["", "12345678901234567"] {
            let serial = Some(serial.into());
            TokenSettings {
                serial,
                ..settings()
            }
            .check()
            .unwrap_err();
        }
    }

    #[test]
    fn a_token_that_the_settings_do_not_name_is_not_looked_for() {
        let object: TokenObject = serde_json::from_str(
            r#"{"token":"hsm","serial":"2","id":"00112233445566778899aabbccddeeff","label":"touchstone ca-1"}"#,
        )
        .unwrap();
        let other = TokenSettings {
            serial: Some("1".into()),
            ..settings()
        };
        for tokens in [Tokens::default(), Tokens::new(vec![other])] {
            let error = tokens.destroy(&object).unwrap_err();
            assert!(matches!(error, TokenError::TokenUnnamed { .. }), "{error}");
            assert!(error.remedy().contains("tokens"), "{}", error.remedy());
        }
    }

    #[test]
    fn a_record_names_a_key_and_neither_a_module_nor_a_pin() {
        let whole =
            r#"{"token":"hsm","serial":"1","id":"00112233445566778899aabbccddeeff","label":"l"}"#;
        let object: TokenObject = serde_json::from_str(whole).unwrap();
        assert_eq!(serde_json::to_string(&object).unwrap(), whole);
        for bad in [
            whole.replace("\"label\"", "\"module\":\"/tmp/evil.so\",\"label\""),
            whole.replace("\"label\"", "\"pin\":\"1234\",\"label\""),
            whole.replace("00112233", "0011223"),
            whole.replace("ccddeeff", "CCDDEEFF"),
            whole.replace("00112233445566778899aabbccddeeff", ""),
        ] {
            assert!(serde_json::from_str::<TokenObject>(&bad).is_err(), "{bad}");
        }
    }
}
