//! A CA's files: `certificate.pem` and `key.pem` in a folder of their own.

use super::{
    CaError,
    key::{self, KeySource, SecretFile},
};
use crate::data_dir::{self, DataDirError};
use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};
use touchstone_common::{
    certificate::CaCertificate,
    key::{SigningKey, SoftwareKey},
};
use zeroize::Zeroizing;

const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
/// Where the key is, if it is not in [`KEY`].
const KEY_NOTE: &str = "key.json";

/// Reads a CA from its folder. Both halves must be there, and fit.
///
/// # Errors
/// When one is missing, cannot be read, or is of another pair.
pub fn load(folder: &Path) -> Result<(CaCertificate, SoftwareKey), CaError> {
    let key_path = folder.join(KEY);
    let certificate = load_certificate(folder)?;
    let pem = data_dir::read_optional(&key_path)?
        .map(Zeroizing::new)
        .ok_or_else(|| CaError::Missing {
            path: key_path.clone(),
        })?;
    let key = SoftwareKey::from_pkcs8_pem(&pem).map_err(|source| CaError::Key {
        path: key_path.clone(),
        source,
    })?;
    if certificate.public_key() != key.public_key() {
        return Err(mismatch(folder));
    }
    Ok((certificate, key))
}

pub(super) fn mismatch(folder: &Path) -> CaError {
    let [key, note] = [KEY, KEY_NOTE].map(|name| folder.join(name));
    CaError::Mismatch {
        certificate: folder.join(CERTIFICATE),
        key: if key.exists() { key } else { note },
    }
}

/// Where a folder's key is, where that is noted: not in the folder, or under a passphrase.
pub(super) fn noted_key(folder: &Path) -> Result<Option<KeySource>, CaError> {
    let path = folder.join(KEY_NOTE);
    let note = data_dir::read_optional(&path)?;
    let source = note
        .map(|json| serde_json::from_slice(&json))
        .transpose()
        .map_err(|source| CaError::KeyNote { path, source })?;
    Ok(source.map(|source| match source {
        KeySource::File { path, passphrase } => KeySource::File {
            // A file of the folder itself.
            path: folder.join(path),
            passphrase,
        },
        elsewhere => elsewhere,
    }))
}

/// Writes a CA into a new folder, its key under a passphrase if there is one, and waits for the disk.
pub(super) fn store_under(
    folder: &Path,
    certificate: &CaCertificate,
    key: &SoftwareKey,
    passphrase: Option<&SecretFile>,
) -> Result<(), CaError> {
    if passphrase.is_none() {
        return store(folder, certificate, key);
    }
    let pem = key::written(key, passphrase)?;
    let source = KeySource::File {
        path: KEY.into(),
        passphrase: passphrase.cloned(),
    };
    note_key(folder, &source)?;
    write(folder.join(KEY), pem.as_bytes())?;
    store_certificate(folder, certificate)
}

/// Notes, in a new folder, where its key is about to be made, and waits for the disk.
pub(super) fn note_key(folder: &Path, key: &KeySource) -> Result<(), CaError> {
    make_folder(folder)?;
    let path = folder.join(KEY_NOTE);
    let json = serde_json::to_vec(key).map_err(|source| CaError::KeyNote {
        path: path.clone(),
        source,
    })?;
    write(path, &json)?;
    sync_folder(folder)?;
    folder.parent().map_or(Ok(()), sync_folder)
}

/// Where a folder's key is.
pub(super) fn key_path(folder: &Path) -> PathBuf {
    folder.join(KEY)
}

/// Reads a CA's certificate from its folder.
///
/// # Errors
/// When it is missing or cannot be read.
pub fn load_certificate(folder: &Path) -> Result<CaCertificate, CaError> {
    let path = folder.join(CERTIFICATE);
    let pem =
        data_dir::read_optional(&path)?.ok_or_else(|| CaError::Missing { path: path.clone() })?;
    CaCertificate::from_pem(&pem).map_err(|source| CaError::Certificate { path, source })
}

/// Writes a CA into a new folder and waits for the disk.
///
/// # Errors
/// When it cannot be written.
pub fn store(folder: &Path, certificate: &CaCertificate, key: &SoftwareKey) -> Result<(), CaError> {
    make_folder(folder)?;
    let pem = key.to_pkcs8_pem().map_err(CaError::KeyGeneration)?;
    write(folder.join(KEY), pem.as_bytes())?;
    store_certificate(folder, certificate)
}

/// Writes the certificate of a folder whose key is there or noted, and waits for the disk.
pub(super) fn store_certificate(folder: &Path, certificate: &CaCertificate) -> Result<(), CaError> {
    write(folder.join(CERTIFICATE), certificate.to_pem().as_bytes())?;
    sync_folder(folder)
}

fn write(path: PathBuf, content: &[u8]) -> Result<(), CaError> {
    data_dir::write_synced(&path, content)
        .map_err(|source| CaError::DataDir(DataDirError::Write { path, source }))
}

/// Makes a folder that only its owner enters.
pub(super) fn make_folder(folder: &Path) -> Result<(), CaError> {
    DirBuilder::new()
        .mode(0o700)
        .create(folder)
        .map_err(|source| {
            CaError::DataDir(DataDirError::Write {
                path: folder.to_owned(),
                source,
            })
        })
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), CaError> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(|source| {
            CaError::DataDir(DataDirError::Write {
                path: folder.to_owned(),
                source,
            })
        })
}

/// What a folder is called until it is whole.
pub(super) fn unfinished(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    folder.with_file_name(name)
}

/// Fills a folder that is there whole or not at all: `fill` gets a folder of another name, which is renamed when it is
/// on disk. What a crash left of an earlier try is thrown away; nothing depends on it yet.
pub(super) fn make_whole(
    folder: &Path,
    fill: impl FnOnce(&Path) -> Result<(), CaError>,
) -> Result<(), CaError> {
    let new = unfinished(folder);
    let at = |path: &Path, source| {
        CaError::DataDir(DataDirError::Write {
            path: path.to_owned(),
            source,
        })
    };
    if new.exists() {
        fs::remove_dir_all(&new).map_err(|source| at(&new, source))?;
    }
    make_folder(&new)?;
    fill(&new)?;
    sync_folder(&new)?;
    fs::rename(&new, folder)
        .and_then(|()| data_dir::sync_parent(folder))
        .map_err(|source| at(folder, source))
}
