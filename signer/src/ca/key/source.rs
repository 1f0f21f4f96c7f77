//! Where a CA key is, as the CA's record keeps it.

use super::{CaKey, CaKeyError, SecretFile, SoftwareCaKey, TokenObject, Tokens, place};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};
use touchstone_common::key::{SoftwareKey, SoftwareKeyError};
use zeroize::Zeroizing;

/// The most bytes of a key file: a PKCS#8 key of any kind has far less.
const MAX_KEY_FILE: u64 = 64 * 1024;

/// Where a CA key is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum KeySource {
    /// In a file of the signer's machine, PKCS#8 in PEM, for its owner alone.
    File {
        /// The file.
        path: PathBuf,
        /// Where the passphrase is that it is under, if it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        passphrase: Option<SecretFile>,
    },
    /// In the record itself.
    Inline {
        /// The key.
        pem: SecretPem,
    },
    /// In a token, which it never leaves.
    Pkcs11(TokenObject),
}

/// A private key, PKCS#8 in PEM; wiped when it is dropped, and never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretPem(Zeroizing<String>);

impl SecretPem {
    /// Writes a key out, for the record that keeps it.
    ///
    /// # Errors
    /// When the crypto library cannot encode it.
    pub fn of(key: &SoftwareKey) -> Result<Self, SoftwareKeyError> {
        key.to_pkcs8_pem().map(Self)
    }
}

impl fmt::Debug for SecretPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                path,
                passphrase: None,
            } => write!(f, "in the file {}", path.display()),
            Self::File { path, .. } => {
                write!(f, "in the file {}, under a passphrase", path.display())
            }
            Self::Inline { .. } => f.write_str("in the CA's record"),
            Self::Pkcs11(object) => object.fmt(f),
        }
    }
}

impl KeySource {
    /// Opens the key, to sign with it. It may wait for a device.
    ///
    /// # Errors
    /// When it is not there, cannot be read, or others can read it too.
    pub fn open(&self, tokens: &Tokens) -> Result<Box<dyn CaKey>, CaKeyError> {
        match self {
            Self::File { path, passphrase } => {
                let pem = private_file(path)?;
                let passphrase = passphrase.as_ref().map(SecretFile::read).transpose()?;
                self.parse(&pem, passphrase.as_deref().map(Vec::as_slice))
            }
            Self::Inline { pem } => self.parse(pem.0.as_bytes(), None),
            Self::Pkcs11(object) => tokens.open(object),
        }
    }

    /// Destroys the key. What stands in the record goes with the record. It may wait for a device.
    ///
    /// # Errors
    /// When it may still be there.
    pub fn destroy(&self, tokens: &Tokens) -> Result<(), CaKeyError> {
        match self {
            Self::File { path, .. } => place::shred(path),
            Self::Inline { .. } => Ok(()),
            Self::Pkcs11(object) => Ok(tokens.destroy(object)?),
        }
    }

    fn parse(&self, pem: &[u8], passphrase: Option<&[u8]>) -> Result<Box<dyn CaKey>, CaKeyError> {
        let key =
            SoftwareKey::from_pem(pem, passphrase).map_err(|source| CaKeyError::Malformed {
                place: self.to_string(),
                source,
            })?;
        Ok(Box::new(SoftwareCaKey::from(key)))
    }
}

/// Reads a file that only its owner may read or write.
fn private_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, CaKeyError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => CaKeyError::Missing {
            path: path.to_owned(),
        },
        kind => CaKeyError::Read {
            path: path.to_owned(),
            kind,
        },
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(CaKeyError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    // Room from the start, so that no copy is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE as usize + 1));
    file.take(MAX_KEY_FILE)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use touchstone_common::key::{KeyAlgorithm, SigningKey as _};

    fn inline(key: &SoftwareKey) -> KeySource {
        KeySource::Inline {
            pem: SecretPem::of(key).unwrap(),
        }
    }

    fn file_of(key: &SoftwareKey, mode: u32) -> (tempfile::TempDir, KeySource) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        fs::write(&path, key.to_pkcs8_pem().unwrap().as_bytes()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let source = KeySource::File {
            path,
            passphrase: None,
        };
        (folder, source)
    }

    #[test]
    fn a_key_signs_wherever_it_is_kept() {
        let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
        let (_folder, file) = file_of(&key, 0o600);
        for source in [inline(&key), file] {
            let opened = source.open(&Tokens::default()).unwrap();
            assert_eq!(opened.public_key(), key.public_key());
            let signature = opened.sign(b"message").unwrap();
            key.public_key()
                .verify(
                    key.public_key().signature_algorithm(),
                    b"message",
                    &signature,
                )
                .unwrap();
        }
    }

    #[test]
    fn a_key_file_that_others_can_read_or_change_is_refused_with_the_command_that_helps() {
        let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
        for mode in [0o644, 0o640, 0o604, 0o620, 0o602, 0o610] {
            let (_folder, source) = file_of(&key, mode);
            let error = source.open(&Tokens::default()).unwrap_err();
            assert!(
                matches!(error, CaKeyError::Exposed { mode: found, .. } if found == mode),
                "{error}"
            );
            assert!(error.remedy().starts_with("chmod 600 /"), "{error}");
            assert!(!error.is_retriable());
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_kept_and_shows_no_key_to_a_log() {
        let source = inline(&SoftwareKey::generate(KeyAlgorithm::P384).unwrap());
        let json = serde_json::to_string(&source).unwrap();
        assert!(json.starts_with(r#"{"inline":{"pem":"-----BEGIN PRIVATE KEY-----\n"#));
        assert_eq!(serde_json::from_str::<KeySource>(&json).unwrap(), source);
        let shown = format!("{source:?} {source}");
        assert!(
            shown.contains("[redacted]") && !shown.contains("BEGIN"),
            "{shown}"
        );
    }

    #[test]
    fn a_record_of_an_unknown_kind_or_with_more_in_it_is_refused() {
        for json in [
            r#"{"vault":{"path":"x"}}"#,
            r#"{"file":{"path":"/k","passwd":"x"}}"#,
            r#"{"file":{}}"#,
            r#""file""#,
        ] {
            assert!(serde_json::from_str::<KeySource>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_cut_key_is_refused_without_a_word_of_its_text() {
        let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
        let pem = key.to_pkcs8_pem().unwrap();
        let cut = KeySource::Inline {
            pem: SecretPem(Zeroizing::new(pem.split_at(pem.len() / 2).0.to_owned())),
        };
        let error = cut.open(&Tokens::default()).unwrap_err();
        assert!(matches!(error, CaKeyError::Malformed { .. }));
        assert!(!error.to_string().contains("MIG"), "{error}");
    }
}
