//! The policy in force: read from its file, and read again when the file changes.
//!
//! A broken file at the start is an error. A broken one later leaves the last good policy in force, loudly. A change is
//! found by content, so that a ConfigMap's symbolic links may swap beneath the path.

use crate::review::Snapshot;
use std::{
    fs, io,
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
pub const INTERVAL: Duration = Duration::from_secs(2);

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
    /// The file is far too large to be a policy.
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
            Self::TooLarge { .. } => "name the policy file with --policy".into(),
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
    /// The content last looked at, good or bad: a broken file is reported once.
    seen: Vec<u8>,
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
}

impl PolicyFile {
    /// Reads the policy.
    ///
    /// # Errors
    /// When it cannot be read or is refused.
    pub fn open(path: &Path, roots: Roots) -> Result<Self, PolicyFileError> {
        let seen = read(path)?;
        let policy = Policy::parse(&path.display().to_string(), &seen)?.with_generation(1);
        let (snapshot, _) = watch::channel(Arc::new(Snapshot {
            policy,
            roots: Arc::new(roots),
        }));
        Ok(Self {
            path: path.to_owned(),
            seen,
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
        let content = match read(&self.path) {
            Ok(content) => content,
            Err(error) => {
                // A file that is gone has no content: it is reported once, and again when it comes back broken.
                let news = !self.seen.is_empty();
                self.seen.clear();
                return if news {
                    Change::Refused(error)
                } else {
                    Change::None
                };
            }
        };
        if content == self.seen {
            return Change::None;
        }
        self.seen = content;
        let last = self.snapshot.borrow().clone();
        match Policy::parse(&self.path.display().to_string(), &self.seen) {
            Ok(policy) if policy.digest() == last.policy.digest() => Change::None,
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

/// The file's content, if it is not far too large.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, PolicyFileError> {
    let at = |source| PolicyFileError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(at)?;
    if metadata.len() > MAX_POLICY_BYTES as u64 {
        return Err(PolicyFileError::TooLarge {
            path: path.to_owned(),
        });
    }
    fs::read(path).map_err(at)
}
