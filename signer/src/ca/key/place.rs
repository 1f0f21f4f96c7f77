//! Where new CA keys are made.

use super::{CaKeyError, KeySource, SecretFile, SecretPem, TokenSettings, Tokens};
use crate::{
    ca::{bootstrap, lifecycle::CaId},
    data_dir,
};
use serde::Deserialize;
use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};
use touchstone_common::key::{KeyAlgorithm, SoftwareKey};
use zeroize::Zeroizing;

/// Where new CA keys are made, as the settings have it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum KeyPlace {
    /// In the CA's record, a Secret.
    Secret,
    /// Each in a file of its own, in this folder.
    File {
        /// The folder; made when missing, for its owner alone.
        folder: PathBuf,
        /// What they are under, if anything. The root of a trial is, too.
        #[serde(default)]
        passphrase: Option<SecretFile>,
    },
    /// In a token, which they never leave.
    Pkcs11(TokenSettings),
}

/// A key that is about to be made.
#[derive(Clone, Debug)]
pub enum KeyPlan {
    /// In the record.
    Inline,
    /// Elsewhere: where, so that it can be found if whoever makes it dies.
    Elsewhere(KeySource),
}

impl KeyPlace {
    /// Plans the key of a CA. Each plan is for a place of its own: two signers that make a key for the same CA do not get
    /// into each other's way.
    ///
    /// # Errors
    /// When the system gives no random bytes, or the token is not there.
    pub fn plan(&self, id: CaId, tokens: &Tokens) -> Result<KeyPlan, CaKeyError> {
        match self {
            Self::Secret => Ok(KeyPlan::Inline),
            Self::File { folder, passphrase } => {
                // One that will not do is found out before anything stands in the record.
                passphrase.as_ref().map(new_passphrase).transpose()?;
                let passphrase = passphrase.clone();
                let mark = bootstrap::random::<4>().map_err(|_| CaKeyError::Random)?;
                let path = folder.join(format!("{id}-{}.pem", hex::encode(mark)));
                Ok(KeyPlan::Elsewhere(KeySource::File { path, passphrase }))
            }
            Self::Pkcs11(token) => {
                let mark = bootstrap::random().map_err(|_| CaKeyError::Random)?;
                let object = tokens.plan(token, id, mark)?;
                Ok(KeyPlan::Elsewhere(KeySource::Pkcs11(object)))
            }
        }
    }
}

impl KeyPlan {
    /// Makes the key. It is on disk or in its token before this returns, unless it is to stand in the record.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn generate(
        &self,
        algorithm: KeyAlgorithm,
        tokens: &Tokens,
    ) -> Result<KeySource, CaKeyError> {
        let key = || SoftwareKey::generate(algorithm).map_err(CaKeyError::Sign);
        match self {
            Self::Inline | Self::Elsewhere(KeySource::Inline { .. }) => {
                let pem = SecretPem::of(&key()?).map_err(CaKeyError::Sign)?;
                Ok(KeySource::Inline { pem })
            }
            Self::Elsewhere(source @ KeySource::File { path, passphrase }) => {
                let pem = written(&key()?, passphrase.as_ref())?;
                write(path, pem.as_bytes())?;
                Ok(source.clone())
            }
            Self::Elsewhere(source @ KeySource::Pkcs11(object)) => {
                tokens.generate(object, algorithm)?;
                Ok(source.clone())
            }
        }
    }
}

/// A key as its file has it: under a passphrase where there is one.
pub(in crate::ca) fn written(
    key: &SoftwareKey,
    passphrase: Option<&SecretFile>,
) -> Result<Zeroizing<String>, CaKeyError> {
    match passphrase {
        Some(file) => key
            .to_encrypted_pem(&new_passphrase(file)?)
            .map(Zeroizing::new),
        None => key.to_pkcs8_pem(),
    }
    .map_err(CaKeyError::Sign)
}

/// A passphrase that is long enough to put a key under.
fn new_passphrase(file: &SecretFile) -> Result<Zeroizing<Vec<u8>>, CaKeyError> {
    let passphrase = file.read()?;
    if passphrase.len() < SoftwareKey::MIN_PASSPHRASE {
        return Err(CaKeyError::ShortPassphrase {
            path: file.file.clone(),
        });
    }
    Ok(passphrase)
}

fn write(path: &Path, pem: &[u8]) -> Result<(), CaKeyError> {
    let failed = |error: io::Error| CaKeyError::Write {
        path: path.to_owned(),
        kind: error.kind(),
    };
    if let Some(folder) = path.parent() {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(folder).map_err(failed)?;
    }
    data_dir::write_synced(path, pem).map_err(failed)?;
    data_dir::sync_parent(path).map_err(failed)
}

/// Overwrites and removes a key's file; one that is gone already is fine. What a file system or a disk keeps of earlier
/// content is beyond a program's reach.
pub(super) fn shred(path: &Path) -> Result<(), CaKeyError> {
    let failed = |error: io::Error| CaKeyError::Write {
        path: path.to_owned(),
        kind: error.kind(),
    };
    let length = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => 0,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if length > 0 {
        let zeros = vec![0; usize::try_from(length).unwrap_or_default()];
        OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(&zeros).and_then(|()| file.sync_all()))
            .map_err(failed)?;
    }
    fs::remove_file(path).map_err(failed)?;
    data_dir::sync_parent(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn id() -> CaId {
        "ca-2".parse().unwrap()
    }

    #[test]
    fn a_key_in_a_file_is_for_its_owner_alone_and_gone_once_it_is_destroyed() {
        let temp = tempfile::tempdir().unwrap();
        let place = KeyPlace::File {
            folder: temp.path().join("keys"),
            passphrase: None,
        };
        let source = place
            .plan(id(), &Tokens::default())
            .unwrap()
            .generate(KeyAlgorithm::P256, &Tokens::default())
            .unwrap();
        let KeySource::File { path, .. } = &source else {
            panic!("{source}")
        };
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        source.open(&Tokens::default()).unwrap();
        source.destroy(&Tokens::default()).unwrap();
        assert!(!path.exists());
        source.destroy(&Tokens::default()).unwrap();
    }

    #[test]
    fn two_keys_for_one_ca_are_two_files() {
        let temp = tempfile::tempdir().unwrap();
        let place = KeyPlace::File {
            folder: temp.path().to_owned(),
            passphrase: None,
        };
        let make = || {
            place
                .plan(id(), &Tokens::default())
                .unwrap()
                .generate(KeyAlgorithm::P384, &Tokens::default())
                .unwrap()
        };
        let (one, other) = (make(), make());
        one.destroy(&Tokens::default()).unwrap();
        other.open(&Tokens::default()).unwrap();
    }

    #[test]
    fn a_key_under_a_passphrase_opens_with_it_alone_and_a_missing_one_plans_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("passphrase");
        let place = KeyPlace::File {
            folder: temp.path().join("keys"),
            passphrase: Some(SecretFile { file: file.clone() }),
        };
        let tokens = Tokens::default();
        let error = place.plan(id(), &tokens).unwrap_err();
        assert!(matches!(error, CaKeyError::Passphrase(_)), "{error}");

        data_dir::write_synced(&file, b"short").unwrap();
        let error = place.plan(id(), &tokens).unwrap_err();
        assert!(error.remedy().contains("eight"), "{}", error.remedy());

        data_dir::write_synced(
            &file,
            b"correct horse battery staple
",
        )
        .unwrap();
        let plan = place.plan(id(), &tokens).unwrap();
        let source = plan.generate(KeyAlgorithm::P256, &tokens).unwrap();
        let KeySource::File { path, .. } = &source else {
            panic!("{source}")
        };
        let text = fs::read_to_string(path).unwrap();
        assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
        source.open(&tokens).unwrap();
        let json = serde_json::to_string(&source).unwrap();
        assert!(!json.contains("horse"), "{json}");
        assert_eq!(serde_json::from_str::<KeySource>(&json).unwrap(), source);

        data_dir::write_synced(&file, b"wrong horse battery staple").unwrap();
        let error = source.open(&tokens).unwrap_err();
        assert!(error.remedy().contains("own passphrase"), "{error}");
        assert!(!error.is_retriable() && !error.to_string().contains("horse"));
        let plain = KeySource::File {
            path: path.clone(),
            passphrase: None,
        };
        let error = plain.open(&tokens).unwrap_err();
        assert!(error.remedy().contains("CA settings"), "{error}");
        source.destroy(&tokens).unwrap();
    }

    #[test]
    fn a_key_that_stands_in_the_record_leaves_no_file() {
        let plan = KeyPlace::Secret.plan(id(), &Tokens::default()).unwrap();
        let source = plan.generate(KeyAlgorithm::P256, &Tokens::default());
        assert!(matches!(source, Ok(KeySource::Inline { .. })));
    }
}
