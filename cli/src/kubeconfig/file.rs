//! The kubeconfig's file: found, locked as kubectl locks it, and replaced in one step with a copy of the old one beside it.

use super::{EditError, Kubeconfig, ShapeError};
use crate::{file, interrupt};
use jiff::Timestamp;
use rustix::fs::OFlags;
use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// The largest file that is edited: more than any fleet's kubeconfig, less than what takes noticeable time.
const MAX_SIZE: u64 = 4 << 20;
/// How long another program may hold the lock. kubectl does for some milliseconds.
const LOCKED_AT_MOST: Duration = Duration::from_secs(10);

/// Why a kubeconfig was left as it is.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// Its text.
    #[error("{} {error}", .path.display())]
    Edit {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: EditError,
        /// The lines that say what the edit would have said.
        lines: Option<String>,
    },
    /// The file.
    #[error("cannot {verb} {}: {source}", .path.display())]
    Io {
        /// Read, write or lock.
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another program's lock, or one that it left.
    #[error("another program changes {} right now, or left its lock", .path.display())]
    Locked {
        /// The kubeconfig.
        path: PathBuf,
        /// Its lock.
        lock: PathBuf,
    },
    /// Neither `KUBECONFIG` nor `HOME` is set.
    #[error("neither KUBECONFIG nor HOME says where the kubeconfig is")]
    Nowhere,
    /// Not a file to edit.
    #[error("{} cannot be edited: {why}", .path.display())]
    Refused {
        /// Which.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
}

impl KubeconfigError {
    /// What the user can do.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Edit {
                error: EditError::Foreign { kind, name },
                ..
            } => match *kind {
                "context" => "choose another name with --context-name".to_owned(),
                kind => format!("rename or remove it (kubectl config delete-{kind} {name})"),
            },
            Self::Edit {
                lines: Some(lines), ..
            } => format!(
                "put them into a file of their own with --kubeconfig FILE and add it to KUBECONFIG, or into this one by hand:\n{lines}"
            ),
            Self::Edit { lines: None, .. } => {
                "correct the file by hand; it was left as it is".to_owned()
            }
            Self::Io { .. } => "name another file with --kubeconfig FILE".to_owned(),
            Self::Locked { lock, .. } => format!(
                "try again; if no program changes it, remove {}",
                lock.display()
            ),
            Self::Nowhere => "name the file with --kubeconfig FILE".to_owned(),
            Self::Refused { .. } => "name a file of your own with --kubeconfig FILE".to_owned(),
        })
    }
}

/// The files that kubectl reads, in its order: those of `KUBECONFIG`, or `~/.kube/config`.
///
/// # Errors
/// When the environment names none.
pub fn files() -> Result<Vec<PathBuf>, KubeconfigError> {
    let named: Vec<PathBuf> = env::var_os("KUBECONFIG")
        .map(|paths| env::split_paths(&paths).collect())
        .unwrap_or_default();
    let mut files: Vec<PathBuf> = Vec::new();
    for path in named {
        if !path.as_os_str().is_empty() && !files.contains(&path) {
            files.push(path);
        }
    }
    if files.is_empty() {
        let home = env::var_os("HOME").map(PathBuf::from);
        let home = home.filter(|home| home.is_absolute());
        files.push(home.ok_or(KubeconfigError::Nowhere)?.join(".kube/config"));
    }
    Ok(files)
}

/// The file that is changed: the one that knows the cluster already, else the first that is there, else the last. So does
/// kubectl (client-go, tools/clientcmd/config.go).
#[must_use]
pub fn chosen(files: &[PathBuf], cluster: &str) -> Option<PathBuf> {
    let knows = |path: &&PathBuf| matches!(read(path), Ok(Some(text)) if Kubeconfig::read(&text).is_ok_and(|file| file.knows(cluster)));
    files
        .iter()
        .find(knows)
        .or_else(|| files.iter().find(|path| path.exists()))
        .or_else(|| files.last())
        .cloned()
}

/// The text of a file; `None` where there is none.
///
/// # Errors
/// When it is no file of this user's, too large, or not text.
pub fn read(path: &Path) -> Result<Option<String>, KubeconfigError> {
    let refused = |why| KubeconfigError::Refused {
        path: path.to_owned(),
        why,
    };
    let failed = |source| KubeconfigError::Io {
        verb: "read",
        path: path.to_owned(),
        source,
    };
    // A pipe without a writer is opened at once this way, and then refused.
    let opened = fs::File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return if fs::symlink_metadata(path).is_ok() {
                Err(refused("it is a link that leads nowhere"))
            } else {
                Ok(None)
            };
        }
        Err(source) => return Err(failed(source)),
    };
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(refused("it is not a file"));
    }
    if about.uid() != rustix::process::geteuid().as_raw() {
        return Err(refused("it belongs to another user"));
    }
    if about.len() > MAX_SIZE {
        return Err(refused("it is larger than 4 MiB"));
    }
    let mut text = String::new();
    match io::Read::take(&file, MAX_SIZE).read_to_string(&mut text) {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(refused("it is not text in UTF-8"))
        }
        Err(source) => Err(failed(source)),
    }
}

/// What became of a file.
#[derive(Debug)]
pub struct Written {
    /// Its text before; empty where there was none.
    pub before: String,
    /// Its text now, or as it would be.
    pub after: String,
    /// The copy of the old one.
    pub backup: Option<PathBuf>,
}

impl Written {
    /// Whether anything is another than before.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.before != self.after
    }
}

/// Changes a file by `edit`, while no other program does, or only says what it would be like (`dry_run`).
///
/// # Errors
/// When it cannot be; it is then as it was.
pub fn change(
    path: &Path,
    dry_run: bool,
    edit: impl FnOnce(&mut Kubeconfig) -> Result<(), EditError>,
) -> Result<Written, KubeconfigError> {
    let _locks = if dry_run { Vec::new() } else { lock(path)? };
    let before = read(path)?;
    let shape = |error: ShapeError| KubeconfigError::Edit {
        path: path.to_owned(),
        error: error.into(),
        lines: None,
    };
    let mut kubeconfig = Kubeconfig::read(before.as_deref().unwrap_or_default()).map_err(shape)?;
    edit(&mut kubeconfig).map_err(|error| KubeconfigError::Edit {
        path: path.to_owned(),
        error,
        lines: None,
    })?;
    let mut written = Written {
        after: kubeconfig.text().to_owned(),
        before: before.clone().unwrap_or_default(),
        backup: None,
    };
    if dry_run || !written.changed() {
        return Ok(written);
    }
    let _whole = interrupt::shield();
    if let Some(before) = before {
        written.backup = Some(back_up(path, &before)?);
    }
    replace(path, &written.after).map_err(|source| KubeconfigError::Io {
        verb: "write",
        path: path.to_owned(),
        source,
    })?;
    Ok(written)
}

/// A copy beside the file, for its owner alone, under a name that no other has.
fn back_up(path: &Path, text: &str) -> Result<PathBuf, KubeconfigError> {
    let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let mut number = 1;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(match number {
            1 => format!(".touchstone-{now}.bak"),
            more => format!(".touchstone-{now}-{more}.bak"),
        });
        let backup = PathBuf::from(name);
        let made = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&backup)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            });
        match made {
            Ok(()) => return Ok(backup),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 100 => {
                number += 1;
            }
            Err(source) => {
                return Err(KubeconfigError::Io {
                    verb: "write",
                    path: backup,
                    source,
                });
            }
        }
    }
}

/// Puts a new file in the old one's place, with its mode. Where the path is a link, in the place of what it leads to.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let mode = match fs::metadata(&target) {
        Ok(about) => about.permissions().mode() & 0o777,
        Err(_) => 0o600,
    };
    let folder = folder_of(&target);
    let mut file = tempfile::Builder::new()
        .prefix(".touchstone-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(&target).map_err(|error| error.error)?;
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// A lock that goes when it is dropped.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _whole: interrupt::Shield,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Takes kubectl's lock: a file `….lock` that must not be there (client-go, tools/clientcmd/loader.go). For a link, that of
/// the file it leads to as well: others may name it so.
fn lock(path: &Path) -> Result<Vec<Lock>, KubeconfigError> {
    let failed = |source| KubeconfigError::Io {
        verb: "lock",
        path: path.to_owned(),
        source,
    };
    file::make_private_directory(folder_of(path)).map_err(failed)?;
    let mut paths = vec![path.to_owned()];
    if fs::symlink_metadata(path).is_ok_and(|about| about.is_symlink()) {
        paths.extend(fs::canonicalize(path));
    }
    paths.sort();
    let end = Instant::now() + LOCKED_AT_MOST;
    paths
        .iter()
        .map(|path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".lock");
            let name = PathBuf::from(name);
            loop {
                let whole = interrupt::shield();
                let made = fs::File::options()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&name);
                match made {
                    Ok(_) => {
                        return Ok(Lock {
                            path: name,
                            _whole: whole,
                        });
                    }
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        if Instant::now() > end {
                            return Err(KubeconfigError::Locked {
                                path: path.clone(),
                                lock: name,
                            });
                        }
                    }
                    Err(source) => return Err(failed(source)),
                }
                drop(whole);
                thread::sleep(Duration::from_millis(20));
            }
        })
        .collect()
}
