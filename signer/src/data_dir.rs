//! The data directory: one process at a time, files only its owner reads, every write whole or not at all.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A directory that this process alone writes to, for as long as the value lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Holds the lock: the kernel drops it when the process ends, however it ends.
    _lock: File,
}

/// Why a data directory, or a file in it, cannot be used. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error("use the data directory {}: {} uses it", path.display(), holder(*pid))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who uses it, where the lock file says so.
        pid: Option<u32>,
    },
    /// It belongs to another user, who could swap the CA in it.
    #[error("use the data directory {}: it belongs to the user with number {owner}", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
    },
    /// It cannot be made or entered.
    #[error("open the data directory {}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file in it cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file in it cannot be written.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

impl DataDir {
    /// Makes the directory if it is missing (0700) and locks it.
    ///
    /// # Errors
    /// When another process holds it or it cannot be written.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let at = |source| DataDirError::Open {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(at)?;
        let path = fs::canonicalize(path).map_err(at)?;
        let owner = fs::metadata(&path).map_err(at)?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return Err(DataDirError::Foreign { path, owner });
        }
        // Whoever may write here may swap the CA key: nobody else gets in.
        fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(at)?;
        let lock = lock(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

fn lock(directory: &Path) -> Result<File, DataDirError> {
    let path = directory.join("lock");
    let at = |source| DataDirError::Write {
        path: path.clone(),
        source,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(at)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Only for the message: a holder that has not yet written its number is still the holder.
            let _ = file.read_to_string(&mut text);
            return Err(DataDirError::InUse {
                path: directory.to_owned(),
                pid: text.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(source)) => return Err(at(source)),
    }
    file.set_len(0).map_err(at)?;
    writeln!(file, "{}", std::process::id()).map_err(at)?;
    Ok(file)
}

/// Writes a file so that a reader, or a restart after a crash, finds the old content or the new, never a part. 0600.
///
/// # Errors
/// When it cannot be written; the old content then stays.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<(), DataDirError> {
    let at = |source| DataDirError::Write {
        path: path.to_owned(),
        source,
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let written = write_synced(&new, content).and_then(|()| fs::rename(&new, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&new);
        return Err(at(error));
    }
    sync_parent(path).map_err(at)
}

/// Writes a new file, 0600, and waits until it is on disk. What stood there before is not written to: it may be a link
/// that someone laid where the ready file goes, or be open elsewhere.
pub(crate) fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Waits until the directory entry of `path` is on disk.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Reads a file; `None` when there is none.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, DataDirError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DataDirError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

impl DataDirError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Foreign { .. } => {
                "run as the user who owns it, or name another directory with --data".into()
            }
            Self::InUse { pid, .. } => match pid {
                Some(pid) => format!(
                    "stop that process first (kill {pid}), or name another directory with --data"
                ),
                None => "stop that process first, or name another directory with --data".into(),
            },
            Self::Open { source, .. } | Self::Read { source, .. } | Self::Write { source, .. } => {
                io_remedy(source)
            }
        }
    }
}

fn io_remedy(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free space on its file system, then start again: nothing was lost".into()
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount its file system for writing, or name another directory with --data".into()
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "name a directory with --data: a file stands in its way".into()
        }
        io::ErrorKind::PermissionDenied => {
            "run as the user who owns it, or name another directory with --data".into()
        }
        _ => "name a directory on a local disk that this user can write, with --data".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_refused_and_told_who_has_it() {
        let temp = tempfile::tempdir().unwrap();
        let first = DataDir::open(temp.path()).unwrap();
        let error = DataDir::open(temp.path()).unwrap_err();
        let DataDirError::InUse { pid, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(*pid, Some(std::process::id()));
        assert!(error.to_string().contains(&std::process::id().to_string()));
        drop(first);
        DataDir::open(temp.path()).unwrap();
    }

    #[test]
    fn what_is_written_is_for_its_owner_alone_and_replaces_the_old() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("f");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_where_a_file_is_about_to_be_written_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let (path, victim) = (temp.path().join("ready.json"), temp.path().join("victim"));
        fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, temp.path().join("ready.json.new")).unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"kept");
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn a_directory_of_someone_else_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = if rustix::process::geteuid().is_root() {
            // Root could close it to all but its owner, who would then swap the CA.
            std::os::unix::fs::chown(temp.path(), Some(65_534), None).unwrap();
            temp.path()
        } else {
            Path::new("/")
        };
        let error = DataDir::open(path).unwrap_err();
        assert!(matches!(error, DataDirError::Foreign { .. }), "{error}");
        assert!(error.remedy().contains("--data"), "{}", error.remedy());
    }

    #[test]
    fn a_file_in_the_way_is_named_with_a_remedy() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("f");
        fs::write(&path, "").unwrap();
        let error = DataDir::open(&path).unwrap_err();
        assert!(matches!(error, DataDirError::Open { .. }), "{error}");
        assert!(error.remedy().contains("--data"), "{}", error.remedy());
    }

    #[test]
    fn an_open_directory_is_closed_to_others() {
        let temp = tempfile::tempdir().unwrap();
        fs::set_permissions(temp.path(), Permissions::from_mode(0o777)).unwrap();
        let _held = DataDir::open(temp.path()).unwrap();
        assert_eq!(
            fs::metadata(temp.path()).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }
}
