//! The policy in force: read from its file, and read again when the file changes.
//!
//! A broken file at the start is an error. A broken one later leaves the last good policy in force, loudly. A change is
//! found by content, so that a ConfigMap's symbolic links may swap beneath the path, and counts once two looks have found
//! the same: half of a policy can be a policy, and whoever writes it without a rename shows us halves.

#[cfg(test)]
mod tests;

use crate::review::Snapshot;
use aws_lc_rs::digest::{self, SHA256};
use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use touchstone_common::{
    attestation::{AttestationError, Roots},
    policy::{LoadError, MAX_POLICY_BYTES, Policy},
};

/// How often the file is looked at.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Why the policy or a root it is judged with cannot be used. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// The file was refused.
    #[error("load the policy")]
    Load(#[from] LoadError),
    /// The file cannot be read.
    #[error("read the policy file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An attestation root was refused.
    #[error("load the attestation root {}", path.display())]
    Root {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: AttestationError,
    },
    /// An attestation root cannot be read.
    #[error("read the attestation root {}", path.display())]
    RootRead {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is too large to be a policy.
    #[error("read the policy file {}: it has more than {MAX_POLICY_BYTES} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

impl PolicyFileError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Load(_) => "correct the policy; `touchstone-signer policy lint` checks it without a signer".into(),
            Self::Read { .. } => "name a readable policy file with --policy".into(),
            Self::Root { .. } => {
                "name a file with exactly one self-signed CA certificate in PEM with --attestation-root".into()
            }
            Self::RootRead { .. } => "name a readable file with --attestation-root".into(),
            Self::TooLarge { .. } => "name the policy file with --policy; a policy that is so large says more than it must".into(),
        }
    }
}

/// Yubico's roots and those the operator configured.
///
/// # Errors
/// When a configured one cannot be used.
pub fn attestation_roots(files: &[PathBuf]) -> Result<Roots, PolicyFileError> {
    files.iter().try_fold(Roots::yubico(), |roots, path| {
        let pem = fs::read(path).map_err(|source| PolicyFileError::RootRead {
            path: path.clone(),
            source,
        })?;
        roots
            .with_test_root(&pem)
            .map_err(|source| PolicyFileError::Root {
                path: path.clone(),
                source,
            })
    })
}

/// A policy file and the snapshot in force.
#[derive(Debug)]
pub struct PolicyFile {
    path: PathBuf,
    /// SHA-256 of the content last looked at; `None`: there was none.
    seen: Option<[u8; 32]>,
    /// Of the content that was last found twice, and so judged: a broken file is reported once.
    judged: Option<[u8; 32]>,
    snapshot: watch::Sender<Arc<Snapshot>>,
}

/// What became of the file since it was last looked at.
#[derive(Debug)]
pub enum Change {
    /// Nothing.
    None,
    /// A new policy is in force.
    Loaded(Arc<Snapshot>),
    /// It cannot be used; the last good one stays.
    Refused(PolicyFileError),
    /// It holds the policy in force again, after something that could not be used.
    Restored,
}

impl PolicyFile {
    /// Reads the policy.
    ///
    /// # Errors
    /// When it cannot be read or is refused.
    pub fn open(path: &Path, roots: Roots) -> Result<Self, PolicyFileError> {
        let content = read(path)?;
        let policy = Policy::parse(&path.display().to_string(), &content)?.with_generation(1);
        let seen = Some(policy.digest());
        let (snapshot, _) = watch::channel(Arc::new(Snapshot {
            policy,
            roots: Arc::new(roots),
        }));
        Ok(Self {
            path: path.to_owned(),
            seen,
            judged: seen,
            snapshot,
        })
    }

    /// The snapshot in force, now and later.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    /// Looks at the file once.
    pub fn check(&mut self) -> Change {
        let content = read(&self.path);
        let digest = content.as_ref().ok().map(|content| sha256(content));
        let is_still = self.seen == digest;
        self.seen = digest;
        if !is_still || self.judged == digest {
            return Change::None;
        }
        self.judged = digest;
        let content = match content {
            Ok(content) => content,
            Err(error) => return Change::Refused(error),
        };
        let last = self.snapshot.borrow().clone();
        if digest == Some(last.policy.digest()) {
            return Change::Restored;
        }
        match Policy::parse(&self.path.display().to_string(), &content) {
            Ok(policy) => {
                let generation = last.policy.generation().saturating_add(1);
                let snapshot = Arc::new(Snapshot {
                    policy: policy.with_generation(generation),
                    roots: Arc::clone(&last.roots),
                });
                self.snapshot.send_replace(Arc::clone(&snapshot));
                Change::Loaded(snapshot)
            }
            Err(error) => Change::Refused(error.into()),
        }
    }
}

fn sha256(content: &[u8]) -> [u8; 32] {
    // SHA-256 gives 32 bytes.
    digest::digest(&SHA256, content)
        .as_ref()
        .try_into()
        .unwrap_or_default()
}

/// The file's content, if it is not too large. What is no plain file, such as a pipe, is read too.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, PolicyFileError> {
    let read = || {
        let mut content = Vec::new();
        let most = u64::try_from(MAX_POLICY_BYTES).unwrap_or(u64::MAX);
        File::open(path)?
            .take(most.saturating_add(1))
            .read_to_end(&mut content)?;
        Ok(content)
    };
    let content = read().map_err(|source| PolicyFileError::Read {
        path: path.to_owned(),
        source,
    })?;
    if content.len() > MAX_POLICY_BYTES {
        return Err(PolicyFileError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(content)
}
