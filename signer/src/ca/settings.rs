//! The file of CA settings: who signs issuing CAs, when each step of a quarter is due, and where keys are made.

use super::{
    key::{KeyPlace, TokenSettings, Tokens},
    lifecycle::{Schedule, ScheduleError, Settings},
};
use serde::Deserialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use touchstone_common::key::KeyAlgorithm;

/// The most bytes of the file.
const MAX_BYTES: u64 = 64 * 1024;

/// Settings that were read and checked.
#[derive(Clone, Debug)]
pub struct CaSettings {
    /// When each step is due.
    pub schedule: Schedule,
    /// Where keys are made.
    pub keys: KeyPlace,
    /// Tokens that keys are in, or were.
    pub tokens: Tokens,
    /// Of what kind they are.
    pub algorithm: KeyAlgorithm,
    /// API servers at which a CA must prove itself; none stands for the one that the signer talks to.
    pub endpoints: Vec<String>,
}

/// Why the file was refused. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum CaSettingsError {
    /// It cannot be read.
    #[error("read the CA settings {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not as it must be.
    #[error("read the CA settings {}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its place.
        message: String,
    },
    /// A quarter does not work out.
    #[error("use the CA settings {}: {source}", path.display())]
    Schedule {
        /// The file.
        path: PathBuf,
        /// What does not.
        source: ScheduleError,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wire {
    #[serde(rename = "apiVersion")]
    _api_version: ApiVersion,
    #[serde(rename = "kind")]
    _kind: Kind,
    #[serde(default)]
    schedule: Settings,
    #[serde(default)]
    keys: Option<KeyPlace>,
    #[serde(default)]
    tokens: Vec<TokenSettings>,
    #[serde(default)]
    algorithm: Algorithm,
    #[serde(default)]
    endpoints: Vec<String>,
}

#[derive(Deserialize)]
enum ApiVersion {
    #[serde(rename = "touchstone.dev/v1")]
    V1,
}

#[derive(Deserialize)]
enum Kind {
    CaSettings,
}

/// The algorithms of issuing keys: fast ones that every API server verifies.
#[derive(Clone, Copy, Default, Deserialize)]
enum Algorithm {
    #[default]
    #[serde(rename = "P-256")]
    P256,
    #[serde(rename = "P-384")]
    P384,
}

impl CaSettings {
    /// The usual ones, with keys made here.
    #[must_use]
    pub fn usual(keys: KeyPlace) -> Self {
        Self {
            schedule: Schedule::default(),
            tokens: Tokens::new(token_of(&keys).cloned().into_iter().collect()),
            keys,
            algorithm: KeyAlgorithm::P256,
            endpoints: Vec::new(),
        }
    }

    /// Reads a file; where it does not say, keys are made at `keys`.
    ///
    /// # Errors
    /// When it cannot be read, has a key that is not known, or a quarter does not work out.
    pub fn load(path: &Path, keys: KeyPlace) -> Result<Self, CaSettingsError> {
        let read = |source| CaSettingsError::Read {
            path: path.to_owned(),
            source,
        };
        let malformed = |message| CaSettingsError::Malformed {
            path: path.to_owned(),
            message,
        };
        if fs::metadata(path).map_err(read)?.len() > MAX_BYTES {
            return Err(malformed(format!("it has more than {MAX_BYTES} bytes")));
        }
        let text = fs::read_to_string(path).map_err(read)?;
        let wire: Wire =
            serde_saphyr::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        let schedule =
            Schedule::new(wire.schedule).map_err(|source| CaSettingsError::Schedule {
                path: path.to_owned(),
                source,
            })?;
        let keys = wire.keys.unwrap_or(keys);
        let tokens: Vec<TokenSettings> = token_of(&keys)
            .cloned()
            .into_iter()
            .chain(wire.tokens)
            .collect();
        for token in &tokens {
            token.check().map_err(malformed)?;
        }
        Ok(Self {
            schedule,
            keys,
            tokens: Tokens::new(tokens),
            algorithm: match wire.algorithm {
                Algorithm::P256 => KeyAlgorithm::P256,
                Algorithm::P384 => KeyAlgorithm::P384,
            },
            endpoints: wire.endpoints,
        })
    }
}

fn token_of(keys: &KeyPlace) -> Option<&TokenSettings> {
    match keys {
        KeyPlace::Pkcs11(token) => Some(token),
        KeyPlace::Secret | KeyPlace::File { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: touchstone.dev/v1\nkind: CaSettings\n";
    const TOKEN: &str = "{ module: /hsm.so, token: hsm, pin: { file: /pin } }";

    fn load(text: &str) -> Result<CaSettings, CaSettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.yaml");
        fs::write(&path, format!("{HEAD}{text}")).unwrap();
        CaSettings::load(&path, KeyPlace::Secret)
    }

    #[test]
    fn keys_are_made_where_the_file_says() {
        assert_eq!(load("").unwrap().keys, KeyPlace::Secret);
        assert_eq!(load("keys: secret\n").unwrap().keys, KeyPlace::Secret);
        let file = load("keys: { file: { folder: /keys } }\n").unwrap().keys;
        assert!(matches!(file, KeyPlace::File { .. }));
        let settings = load(&format!(
            "keys: {{ pkcs11: {TOKEN} }}\ntokens: [ {TOKEN} ]\n"
        ));
        assert!(matches!(settings.unwrap().keys, KeyPlace::Pkcs11(_)));
    }

    #[test]
    fn what_is_misspelt_or_leads_to_another_module_is_refused() {
        for keys in [
            "vault".to_owned(),
            "{ pkcs11: { module: /hsm.so, token: hsm } }".into(),
            format!(
                "{{ pkcs11: {} }}",
                TOKEN.replace("/pin", "/pin, value: 1234")
            ),
            format!("{{ pkcs11: {} }}", TOKEN.replace("{ file: /pin }", "1234")),
            format!(
                "{{ pkcs11: {} }}",
                TOKEN.replace("token: hsm", "token: hsm, slot: 0")
            ),
            format!("{{ pkcs11: {} }}", TOKEN.replace("/hsm.so", "hsm.so")),
            format!("{{ pkcs11: {} }}", TOKEN.replace("token: hsm", "token: ''")),
        ] {
            let error = load(&format!("keys: {keys}\n")).unwrap_err();
            assert!(matches!(error, CaSettingsError::Malformed { .. }), "{keys}");
        }
        load(&format!("tokens: [ {} ]\n", TOKEN.replace("/hsm", "hsm"))).unwrap_err();
    }
}
