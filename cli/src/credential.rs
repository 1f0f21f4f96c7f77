//! The certificate that is kept, and the request that still waits: small files, read by `status` without more.
//!
//! In `<state>/<cluster>/`: `credential.json` is what counts; `certificate.pem` is its chain for other programs;
//! `pending.json` is a request whose certificate was not fetched yet.

use crate::{
    config::{ConfigError, base_directory},
    file, interrupt,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    env, fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};
use touchstone_common::certificate;
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// Overrides where the state is.
pub const STATE_VARIABLE: &str = "TOUCHSTONE_STATE_DIR";

/// Why a kept certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// It has ended.
    #[error("the certificate for {cluster} ended at {ended}")]
    Ended {
        /// Which cluster.
        cluster: String,
        /// When.
        ended: Timestamp,
    },
    /// A file.
    #[error("cannot {verb} {}: {source}", .path.display())]
    Io {
        /// Read, write or remove.
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is not what Touchstone wrote.
    #[error("{} is not what touchstone wrote: {why}", .path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// There is none.
    #[error("there is no {what}{}", .cluster.as_deref().map_or_else(String::new, |name| format!(" for {name}")))]
    None {
        /// Certificate or request.
        what: &'static str,
        /// Which cluster, if one was named.
        cluster: Option<String>,
    },
}

impl CredentialError {
    /// What the user can do.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Ended { cluster, .. } => Some(login(cluster)),
            Self::None { cluster, .. } => Some(login(cluster.as_deref().unwrap_or("NAME"))),
            Self::Malformed { path, .. } => Some(format!(
                "log in again, or remove {}",
                path.parent().unwrap_or(path).display()
            )),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some(format!(
                    "see to it that the folder is yours alone, or name another with {STATE_VARIABLE}"
                ))
            }
            Self::Io { .. } => Some(format!(
                "check that the folder can be used and has room, or name another with {STATE_VARIABLE}"
            )),
        }
    }
}

fn login(cluster: &str) -> String {
    format!("touchstone login --cluster {cluster} --group GROUP --reason \"WHY\"")
}

/// A certificate that was verified and kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credential {
    /// The cluster.
    pub cluster: String,
    /// CN.
    pub user: String,
    /// O.
    pub groups: Vec<String>,
    /// First second.
    pub not_before: Timestamp,
    /// Last second.
    pub not_after: Timestamp,
    /// The certificate's serial number, hex.
    pub serial: String,
    /// SHA-256 of the leaf, hex: the audit log's `X509SHA256=`.
    pub fingerprint: String,
    /// The YubiKey.
    pub yubikey: u32,
    /// The slot.
    pub slot: String,
    /// Name of the request.
    pub request: String,
    /// Why it was asked for.
    #[serde(default)]
    pub reason: String,
    /// Leaf and what it chains through, PEM: kept in a file of its own.
    #[serde(skip)]
    pub chain_pem: String,
}

/// A request that was submitted.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pending {
    /// Its name.
    pub name: String,
    /// Its UID: an object made again under the same name is another one.
    pub uid: String,
    /// The token that reads it back.
    pub token: Option<ReadToken>,
    /// CN asked for.
    pub user: String,
    /// O asked for.
    pub groups: Vec<String>,
    /// Lifetime asked for, in seconds.
    pub ttl_seconds: u32,
    /// The grant that is to be.
    pub grant: String,
    /// The YubiKey.
    pub yubikey: u32,
    /// The slot.
    pub slot: String,
    /// The key, SPKI DER in hex.
    pub spki: String,
    /// When it was submitted.
    pub submitted: Timestamp,
    /// Why it was asked for.
    #[serde(default)]
    pub reason: String,
}

/// The one-time token that reads a request back: base64url without padding, of 32 bytes.
#[derive(Clone, Deserialize, Serialize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct ReadToken(String);

impl ReadToken {
    /// Of 32 random bytes.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// For the Authorization header alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ReadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Where certificates are kept.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    elsewhere: bool,
}

impl Store {
    /// As the environment says.
    ///
    /// # Errors
    /// When it says nothing.
    pub fn open() -> Result<Self, ConfigError> {
        Ok(match env::var_os(STATE_VARIABLE) {
            Some(path) if !path.is_empty() => Self::at(path.into()),
            _ => Self {
                root: base_directory("XDG_STATE_HOME", ".local/state")?.join("touchstone"),
                elsewhere: false,
            },
        })
    }

    /// In a folder of the caller's choice.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self {
            root,
            elsewhere: true,
        }
    }

    /// Whether it is another than the user's usual one.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.elsewhere
    }

    /// The folder of all clusters.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a file of a cluster is.
    #[must_use]
    pub fn path(&self, cluster: &str, file: &str) -> PathBuf {
        self.root.join(cluster).join(file)
    }

    /// Where the chain of a cluster's certificate is.
    #[must_use]
    pub fn certificate_path(&self, cluster: &str) -> PathBuf {
        self.path(cluster, "certificate.pem")
    }

    /// Every certificate that is kept, by cluster.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn credentials(&self) -> Result<Vec<Credential>, CredentialError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(CredentialError::Io {
                    verb: "read",
                    path: self.root.clone(),
                    source,
                });
            }
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
            .iter()
            .filter_map(|name| self.credential(name).transpose())
            .collect()
    }

    /// The certificate kept for a cluster.
    ///
    /// # Errors
    /// When it cannot be read, or its chain is not the one that was verified.
    pub fn credential(&self, cluster: &str) -> Result<Option<Credential>, CredentialError> {
        let Some(credential) = self.read::<Credential>(cluster, "credential.json")? else {
            return Ok(None);
        };
        if credential.cluster != cluster {
            return Err(CredentialError::Malformed {
                path: self.path(cluster, "credential.json"),
                why: format!("it is for cluster {:?}", credential.cluster),
            });
        }
        let path = self.certificate_path(cluster);
        let chain_pem = fs::read_to_string(&path).map_err(|source| CredentialError::Io {
            verb: "read",
            path: path.clone(),
            source,
        })?;
        let leaf = pem::parse_many(&chain_pem)
            .ok()
            .and_then(|blocks| Some(certificate::fingerprint(blocks.first()?.contents())));
        if leaf.map(hex::encode) != Some(credential.fingerprint.clone()) {
            return Err(CredentialError::Malformed {
                path,
                why: "it is not the certificate that was verified at login".to_owned(),
            });
        }
        Ok(Some(Credential {
            chain_pem,
            ..credential
        }))
    }

    /// The request that waits for a cluster.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn pending(&self, cluster: &str) -> Result<Option<Pending>, CredentialError> {
        self.read(cluster, "pending.json")
    }

    fn read<T: DeserializeOwned>(
        &self,
        cluster: &str,
        file: &str,
    ) -> Result<Option<T>, CredentialError> {
        // A name that no cluster has, and that would lead elsewhere.
        if cluster.contains('/') || cluster.starts_with('.') {
            return Ok(None);
        }
        let path = self.path(cluster, file);
        let bytes = match fs::read(&path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(source) => {
                return Err(CredentialError::Io {
                    verb: "read",
                    path,
                    source,
                });
            }
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| CredentialError::Malformed {
                path,
                why: error.to_string(),
            })
    }

    fn write<T: Serialize>(
        &self,
        cluster: &str,
        file: &str,
        value: &T,
    ) -> Result<(), CredentialError> {
        let path = self.path(cluster, file);
        serde_json::to_vec_pretty(value)
            .map_err(io::Error::from)
            .and_then(|json| file::replace(&path, &Zeroizing::new(json)))
            .map_err(|source| CredentialError::Io {
                verb: "write",
                path,
                source,
            })
    }

    /// Checks that something can be kept, before anyone is asked for a PIN.
    ///
    /// # Errors
    /// When the folder cannot be made or written to, or others may write to it.
    pub fn prepare(&self, cluster: &str) -> Result<(), CredentialError> {
        let path = self.root.join(cluster);
        file::make_private_directory(&path)
            // The folder of all may be a link of the user's own.
            .and_then(|()| file::refuse_shared(&self.root.canonicalize()?))
            .and_then(|()| file::refuse_shared(&path))
            .and_then(|()| has_room(&path))
            .map_err(|source| CredentialError::Io {
                verb: "write to",
                path,
                source,
            })
    }

    /// Keeps a certificate.
    ///
    /// # Errors
    /// When it cannot be written; what was kept before then still is.
    pub fn keep(&self, credential: &Credential) -> Result<(), CredentialError> {
        let _both = interrupt::shield();
        let _alone = self.lock(&credential.cluster)?;
        let path = self.certificate_path(&credential.cluster);
        file::replace(&path, credential.chain_pem.as_bytes()).map_err(|source| {
            CredentialError::Io {
                verb: "write",
                path,
                source,
            }
        })?;
        self.write(&credential.cluster, "credential.json", credential)
    }

    /// Waits until no other process writes to a cluster's folder: its files belong together.
    ///
    /// # Errors
    /// When there is no folder to lock.
    pub fn lock(&self, cluster: &str) -> Result<fs::File, CredentialError> {
        let path = self.root.join(cluster);
        let lock = || {
            file::make_private_directory(&path)?;
            let folder = fs::File::open(&path)?;
            folder.lock()?;
            Ok(folder)
        };
        lock().map_err(|source| CredentialError::Io {
            verb: "lock",
            path: path.clone(),
            source,
        })
    }

    /// Notes a request, so that its certificate can be fetched later.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&self, cluster: &str, pending: &Pending) -> Result<(), CredentialError> {
        self.write(cluster, "pending.json", pending)
    }

    /// Forgets the request of this UID, when it is the one that is noted: a login beside this one may have noted its own.
    ///
    /// # Errors
    /// When the file is there and cannot be removed.
    pub fn forget_pending(&self, cluster: &str, uid: &str) -> Result<(), CredentialError> {
        match self.pending(cluster) {
            Ok(Some(noted)) if noted.uid != uid => Ok(()),
            Ok(None) => Ok(()),
            Ok(Some(_)) | Err(_) => self.remove(cluster, "pending.json").map(drop),
        }
    }

    /// Forgets all of a cluster.
    ///
    /// # Errors
    /// When a file is there and cannot be removed.
    pub fn forget(&self, cluster: &str) -> Result<(), CredentialError> {
        for file in ["credential.json", "certificate.pem", "pending.json"] {
            self.remove(cluster, file)?;
        }
        // Not empty when someone else put something there: then it stays.
        let _ = fs::remove_dir(self.root.join(cluster));
        Ok(())
    }

    fn remove(&self, cluster: &str, file: &str) -> Result<bool, CredentialError> {
        let path = self.path(cluster, file);
        file::remove(&path).map_err(|source| CredentialError::Io {
            verb: "remove",
            path,
            source,
        })
    }
}

/// Writes as much as a login keeps, and more, to a file without a name.
fn has_room(folder: &Path) -> io::Result<()> {
    let mut file = tempfile::tempfile_in(folder)?;
    file.write_all(&[0; 32 * 1024])?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("state");
        (directory, Store::at(root))
    }

    fn credential(cluster: &str) -> Credential {
        Credential {
            cluster: cluster.to_owned(),
            user: "alice@example.com".to_owned(),
            groups: vec!["oncall".to_owned()],
            not_before: "2026-01-01T00:00:00Z".parse().unwrap(),
            not_after: "2026-01-01T00:30:00Z".parse().unwrap(),
            serial: "ab".to_owned(),
            fingerprint: hex::encode(certificate::fingerprint(b"leaf")),
            yubikey: 12_345_678,
            slot: "9a".to_owned(),
            request: "touchstone-alice-x".to_owned(),
            reason: "INC-1".to_owned(),
            chain_pem: pem::encode(&pem::Pem::new("CERTIFICATE", b"leaf".to_vec())),
        }
    }

    #[test]
    fn a_kept_certificate_is_listed_and_then_forgotten() {
        let (_directory, store) = store();
        assert!(store.credentials().unwrap().is_empty());
        store.keep(&credential("prod")).unwrap();
        store.keep(&credential("dev")).unwrap();
        assert_eq!(
            store.credentials().unwrap(),
            [credential("dev"), credential("prod")]
        );
        store.forget("prod").unwrap();
        assert_eq!(store.credentials().unwrap(), [credential("dev")]);
        assert!(!store.certificate_path("prod").exists());
    }

    #[test]
    fn a_read_token_is_never_printed() {
        assert_eq!(format!("{:?}", ReadToken::new(&[7; 32])), "[redacted]");
    }

    #[test]
    fn a_certificate_in_another_clusters_folder_is_refused() {
        let (_directory, store) = store();
        for name in ["prod", "../prod"] {
            // What a logout would forget by the name in it.
            store.keep(&credential("prod")).unwrap();
            let path = store.path("dev", "credential.json");
            let json = serde_json::to_vec(&credential(name)).unwrap();
            file::replace(&path, &json).unwrap();
            fs::copy(
                store.certificate_path("prod"),
                store.certificate_path("dev"),
            )
            .unwrap();
            let error = store.credential("dev").unwrap_err();
            assert!(error.to_string().contains("for cluster"), "{error}");
        }
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused_before_a_login() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_directory, store) = store();
        store.prepare("prod").unwrap();
        for path in [store.root.join("prod"), store.root.clone()] {
            for mode in [0o770, 0o707, 0o777] {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                let error = store.prepare("prod").unwrap_err();
                assert!(error.to_string().contains("others may write"), "{error}");
                assert!(error.remedy().unwrap().contains("yours alone"));
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            store.prepare("prod").unwrap();
        }
    }

    #[test]
    fn a_link_in_the_place_of_a_clusters_folder_is_refused_before_a_login() {
        let (directory, store) = store();
        store.prepare("prod").unwrap();
        std::os::unix::fs::symlink(directory.path(), store.root.join("dev")).unwrap();
        let error = store.prepare("dev").unwrap_err();
        assert!(
            error.to_string().contains("not a folder of its own"),
            "{error}"
        );
    }

    #[test]
    fn a_chain_that_someone_else_wrote_is_refused() {
        let (_directory, store) = store();
        store.keep(&credential("prod")).unwrap();
        let planted = pem::encode(&pem::Pem::new("CERTIFICATE", b"other".to_vec()));
        fs::write(store.certificate_path("prod"), planted).unwrap();
        let error = store.credential("prod").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("not the certificate that was verified"),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_file_is_named() {
        let (_directory, store) = store();
        store.keep(&credential("prod")).unwrap();
        fs::write(store.path("prod", "credential.json"), b"{").unwrap();
        let error = store.credential("prod").unwrap_err();
        assert!(error.to_string().contains("credential.json"), "{error}");
    }
}
