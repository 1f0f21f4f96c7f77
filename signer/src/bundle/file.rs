//! The file that API servers read: what stands in it, and how it is replaced.
//!
//! It says itself of which cluster and revision it is, in comments before the certificates, which every reader of PEM
//! skips: so that it and what is known of it change in one rename, and nothing has to be kept beside it.

use super::Bundle;
use crate::{ca::record::Binding, data_dir};
use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};
use touchstone_common::certificate::{self, CaCertificate};

/// The most bytes that are read.
pub(super) const MAX_BYTES: u64 = 1024 * 1024;
/// For how long another process may hold the folder.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// Everyone reads it, and there is no secret in it.
const MODE: u32 = 0o644;

const MARK: &str =
    "# Kept by `touchstone-signer bundle sync`: what is changed here by hand is undone.";
const CLUSTER: &str = "# touchstone-cluster: ";
const CLUSTER_UID: &str = "# touchstone-cluster-uid: ";
const REVISION: &str = "# touchstone-revision: ";
const PUBLISHED: &str = "# touchstone-published: ";

/// Certificates as the file has them.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// What a signer published.
    pub published: Option<Bundle>,
    /// What else is in it.
    pub others: Vec<CaCertificate>,
}

/// What stands where the file is to be.
#[derive(Clone, Debug)]
pub enum Existing {
    /// Certificates.
    Content(Content),
    /// What this program wrote, and something else cut off or changed.
    Damaged,
    /// Nothing, or an empty file.
    Missing,
    /// Something that is no bundle: a private key, a certificate of no CA, another file's text.
    Other,
}

/// Why a file cannot be used. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Another process works on it.
    #[error("use {}: another process holds its folder", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is something that a rename would not replace as meant.
    #[error("use {}: it is {what}", path.display())]
    Unusual {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It cannot be written.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl FileError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        let source = match self {
            Self::Locked { .. } => {
                return "stop the other `touchstone-signer bundle sync`, or wait for it".into();
            }
            Self::Unusual { .. } => {
                return "name the file itself with --out: one in a folder, not a link, that API servers see as part of that folder".into();
            }
            Self::Read { source, .. } | Self::Write { source, .. } => source,
        };
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "free space on its file system: the file stays as it was until then".into()
            }
            io::ErrorKind::NotFound => "make its folder first, or name another with --out".into(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                "run as a user who may write its folder; under systemd, name the folder in ReadWritePaths=".into()
            }
            _ => "name a file on a local disk with --out".into(),
        }
    }
}

impl Content {
    /// All certificates, in the order of the file.
    pub fn certificates(&self) -> impl Iterator<Item = &CaCertificate> {
        self.published
            .iter()
            .flat_map(Bundle::certificates)
            .chain(&self.others)
    }

    /// The file's text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{MARK}\n");
        if let Some(bundle) = &self.published {
            let binding = bundle.binding();
            for (name, value) in [
                (CLUSTER, &binding.cluster),
                (CLUSTER_UID, &binding.uid),
                (REVISION, &bundle.revision().to_string()),
                (PUBLISHED, &bundle.certificates().len().to_string()),
            ] {
                let _ = writeln!(text, "{name}{value}");
            }
        }
        for certificate in self.certificates() {
            let _ = writeln!(
                text,
                "\n# {:?}, until {}, SHA-256 {}",
                certificate.common_name(),
                certificate.validity().not_after,
                hex::encode(certificate.fingerprint())
            );
            text.push_str(&certificate.to_pem());
        }
        text
    }

    /// Reads a file's text; `None` when not all in it is certificates of CAs.
    fn from_text(text: &[u8]) -> Option<Self> {
        let mut certificates = certificate::from_pem_bundle(text)
            .ok()?
            .iter()
            .map(|der| CaCertificate::from_der(der).ok())
            .collect::<Option<Vec<_>>>()
            .filter(|certificates| !certificates.is_empty())?;
        // Certificates whose origin the comments do not tell are others: those are never taken out unasked.
        let others = header(text)
            .filter(|header| header.published <= certificates.len())
            .map(|header| (certificates.split_off(header.published), header));
        Some(match others {
            None => Self {
                published: None,
                others: certificates,
            },
            Some((others, header)) => {
                match Bundle::new(header.binding, header.revision, certificates.clone()) {
                    Ok(bundle) => Self {
                        published: Some(bundle),
                        others,
                    },
                    Err(_) => Self {
                        published: None,
                        others: certificates.into_iter().chain(others).collect(),
                    },
                }
            }
        })
    }
}

struct Header {
    binding: Binding,
    revision: u64,
    published: usize,
}

fn header(text: &[u8]) -> Option<Header> {
    let text = std::str::from_utf8(text).ok()?;
    let comments: Vec<&str> = text
        .lines()
        .take_while(|line| line.starts_with('#'))
        .collect();
    let value = |name: &str| comments.iter().find_map(|line| line.strip_prefix(name));
    Some(Header {
        binding: Binding {
            cluster: value(CLUSTER)?.to_owned(),
            uid: value(CLUSTER_UID)?.to_owned(),
        },
        revision: value(REVISION)?.parse().ok()?,
        published: value(PUBLISHED)?.parse().ok()?,
    })
}

/// What stands at `path`.
///
/// # Errors
/// When it cannot be read, or is a link or a folder.
pub fn read(path: &Path) -> Result<Existing, FileError> {
    let at = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    let unusual = |what| FileError::Unusual {
        path: path.to_owned(),
        what,
    };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Existing::Missing),
        Err(error) => return Err(at(error)),
    };
    if metadata.is_symlink() {
        return Err(unusual("a symbolic link"));
    }
    if !metadata.is_file() {
        return Err(unusual("no plain file"));
    }
    let text = bounded(path).map_err(at)?;
    Ok(match text {
        None => Existing::Other,
        Some(text) if text.iter().all(u8::is_ascii_whitespace) => Existing::Missing,
        Some(text) => match Content::from_text(&text) {
            Some(content) => Existing::Content(content),
            None if text.starts_with(MARK.as_bytes()) => Existing::Damaged,
            None => Existing::Other,
        },
    })
}

/// A file's bytes; nothing when there are more than [`MAX_BYTES`].
pub(super) fn bounded(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    File::open(path)?
        .take(MAX_BYTES.saturating_add(1))
        .read_to_end(&mut text)?;
    let fits = u64::try_from(text.len()).is_ok_and(|length| length <= MAX_BYTES);
    Ok(fits.then_some(text))
}

/// Holds the folder of a file, so that of two processes the second sees what the first wrote. No lock file is left: it is
/// the folder itself that is locked, and the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    _folder: File,
}

impl Held {
    /// Waits for the folder.
    ///
    /// # Errors
    /// When it cannot be opened, or another process does not let go of it.
    pub fn of(path: &Path) -> Result<Self, FileError> {
        let at = |source| FileError::Write {
            path: path.to_owned(),
            source,
        };
        let folder = File::open(folder(path)).map_err(at)?;
        let end = Instant::now() + LOCK_PATIENCE;
        loop {
            match folder.try_lock() {
                Ok(()) => {
                    return Ok(Self {
                        path: path.to_owned(),
                        _folder: folder,
                    });
                }
                Err(TryLockError::WouldBlock) if Instant::now() < end => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(FileError::Locked {
                        path: path.to_owned(),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(at(source)),
            }
        }
    }

    /// Replaces the file, so that a reader or a restart finds the old one or the new one, whole. Its owner stays.
    ///
    /// # Errors
    /// When it cannot be written; the old one then stays.
    pub fn write(&self, content: &Content) -> Result<(), FileError> {
        let path = &self.path;
        let new = new_path(path);
        let written = write_new(&new, path, content.to_text().as_bytes())
            .and_then(|()| fs::rename(&new, path))
            .and_then(|()| data_dir::sync_parent(path));
        written.map_err(|source| {
            // Where it was renamed already, there is none.
            let _ = fs::remove_file(&new);
            FileError::Write {
                path: path.clone(),
                source,
            }
        })
    }
}

/// Writes the file beside the old one, and waits until it is on disk.
fn write_new(new: &Path, old: &Path, text: &[u8]) -> io::Result<()> {
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // Of a process that was killed: whoever holds the folder is alone.
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(new)?;
    file.write_all(text)?;
    // Whatever the umask is; and while it is ours.
    file.set_permissions(Permissions::from_mode(MODE))?;
    if let Ok(owner) = fs::symlink_metadata(old) {
        let ours = file.metadata()?;
        if (owner.uid(), owner.gid()) != (ours.uid(), ours.gid()) {
            std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    file.sync_all()
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Hidden: whoever reads all files of a folder passes over it.
fn new_path(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests;
