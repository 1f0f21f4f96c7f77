//! Where new CA keys are made.

use super::{CaKeyError, KeySource, SecretPem, TokenSettings, Tokens};
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
            Self::File { folder } => {
                let mark = bootstrap::random::<4>().map_err(|_| CaKeyError::Random)?;
                let path = folder.join(format!("{id}-{}.pem", hex::encode(mark)));
                Ok(KeyPlan::Elsewhere(KeySource::File { path }))
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
        let pem = |key| SecretPem::of(&key).map_err(CaKeyError::Sign);
        match self {
            Self::Inline | Self::Elsewhere(KeySource::Inline { .. }) => {
                Ok(KeySource::Inline { pem: pem(key()?)? })
            }
            Self::Elsewhere(source @ KeySource::File { path }) => {
                write(path, pem(key()?)?.as_bytes())?;
                Ok(source.clone())
            }
            Self::Elsewhere(source @ KeySource::Pkcs11(object)) => {
                tokens.generate(object, algorithm)?;
                Ok(source.clone())
            }
        }
    }
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
        };
        let source = place
            .plan(id(), &Tokens::default())
            .unwrap()
            .generate(KeyAlgorithm::P256, &Tokens::default())
            .unwrap();
        let KeySource::File { path } = &source else {
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
    fn a_key_that_stands_in_the_record_leaves_no_file() {
        let plan = KeyPlace::Secret.plan(id(), &Tokens::default()).unwrap();
        let source = plan.generate(KeyAlgorithm::P256, &Tokens::default());
        assert!(matches!(source, Ok(KeySource::Inline { .. })));
    }
}
