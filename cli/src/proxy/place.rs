//! Where a cluster's proxy is found by this user's other commands, and by nobody else's.
//!
//! A folder of the user's own, 0700: `$XDG_RUNTIME_DIR/touchstone`, or `.run` in the state folder where there is no runtime
//! folder, or where the state was put elsewhere: two states have two proxies. In it, for each cluster, a socket and a file
//! that the running proxy holds locked. A killed proxy's lock is free, so nothing that it leaves stops the next one.

use super::ProxyError;
use crate::{credential::Store, file};
use rustix::{
    fs::{FlockOperation, flock},
    process::geteuid,
};
use std::{
    env,
    fs::{self, File},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// The folder of the user's proxies, and one cluster's files in it.
#[derive(Clone, Debug)]
pub struct Place {
    folder: PathBuf,
    cluster: String,
}

impl Place {
    /// As the environment says. Nothing is made or looked at yet.
    #[must_use]
    pub fn new(store: &Store, cluster: &str) -> Self {
        let runtime = env::var_os("XDG_RUNTIME_DIR")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute() && !store.is_elsewhere());
        Self {
            folder: runtime.map_or_else(
                // No cluster's name begins with a dot.
                || store.root().join(".run"),
                |runtime| runtime.join("touchstone"),
            ),
            cluster: cluster.to_owned(),
        }
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The socket that the proxy answers on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.file("sock")
    }

    /// The kubeconfig of a proxy in the foreground, with the client key in it.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.file("kubeconfig")
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", self.cluster))
    }

    /// Makes the folder, and refuses one that another user could change.
    ///
    /// # Errors
    /// When it cannot be made, or is not the user's alone.
    pub fn prepare(&self) -> Result<(), ProxyError> {
        file::make_private_directory(&self.folder)
            .map_err(|source| self.refused(source.to_string()))?;
        self.check()
    }

    /// Refuses a folder that is a link, another user's, or open to others.
    fn check(&self) -> Result<(), ProxyError> {
        let folder = fs::symlink_metadata(&self.folder)
            .map_err(|source| self.refused(source.to_string()))?;
        let why = if !folder.is_dir() {
            "it is not a folder of its own"
        } else if folder.uid() != geteuid().as_raw() {
            "it belongs to another user"
        } else if folder.permissions().mode() & 0o077 != 0 {
            "others may look into it"
        } else {
            return Ok(());
        };
        Err(self.refused(why.to_owned()))
    }

    fn refused(&self, why: String) -> ProxyError {
        ProxyError::Place {
            path: self.folder.clone(),
            why,
        }
    }

    /// Whether there is a socket of this user's to talk to. A folder that is not there holds none.
    ///
    /// # Errors
    /// When folder or socket could be someone else's.
    pub fn has_socket(&self) -> Result<bool, ProxyError> {
        if !self.folder.exists() && fs::symlink_metadata(&self.folder).is_err() {
            return Ok(false);
        }
        self.check()?;
        let path = self.socket();
        let refused = |why: &str| {
            Err(ProxyError::Place {
                path: path.clone(),
                why: why.to_owned(),
            })
        };
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => refused(&error.to_string()),
            Ok(found) if !found.file_type().is_socket() => refused("it is not a socket"),
            Ok(found) if found.uid() != geteuid().as_raw() => refused("it belongs to another user"),
            Ok(_) => Ok(true),
        }
    }

    /// Takes the cluster's one place of a proxy, until the file is dropped or the process ends. `None`: it is taken.
    ///
    /// # Errors
    /// When there can be no such file.
    pub fn take(&self) -> Result<Option<File>, ProxyError> {
        let file = self.open("lock")?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(self.refused(error.to_string())),
        }
    }

    /// Waits until no one else starts this cluster's proxy.
    ///
    /// # Errors
    /// When there can be no such file.
    pub fn start_alone(&self) -> Result<File, ProxyError> {
        self.locked("start")
    }

    fn locked(&self, ending: &str) -> Result<File, ProxyError> {
        let file = self.open(ending)?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| self.refused(error.to_string()))?;
        Ok(file)
    }

    /// Waits until no one else asks for a certificate on a software key.
    ///
    /// # Errors
    /// When there can be no such file.
    pub fn log_in_alone(&self) -> Result<File, ProxyError> {
        self.locked("login")
    }

    /// A file for a lock. Never through a link.
    fn open(&self, ending: &str) -> Result<File, ProxyError> {
        self.prepare()?;
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(self.file(ending))
            .map_err(|source| self.refused(source.to_string()))
    }

    /// Removes what a proxy leaves when it ends, or when it was killed. The locks stay: they are files, not states.
    ///
    /// # Errors
    /// When something is there that cannot be removed.
    pub fn clear(&self) -> Result<(), ProxyError> {
        for path in [self.socket(), self.kubeconfig()] {
            file::remove(&path).map_err(|source| ProxyError::Place {
                path: path.clone(),
                why: source.to_string(),
            })?;
        }
        Ok(())
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::{fs::symlink, net::UnixListener};

    fn place() -> (tempfile::TempDir, Place) {
        let directory = tempfile::tempdir().unwrap();
        let place = Place {
            folder: directory.path().join("run"),
            cluster: "prod".to_owned(),
        };
        (directory, place)
    }

    #[test]
    fn where_nothing_is_there_is_no_proxy() {
        let (_directory, place) = place();
        assert!(!place.has_socket().unwrap());
        place.prepare().unwrap();
        assert!(!place.has_socket().unwrap());
    }

    #[test]
    fn a_folder_that_others_may_look_into_is_refused() {
        let (_directory, place) = place();
        place.prepare().unwrap();
        for mode in [0o750, 0o701, 0o770, 0o777] {
            fs::set_permissions(&place.folder, fs::Permissions::from_mode(mode)).unwrap();
            assert!(place.prepare().is_err(), "{mode:o}");
            assert!(place.has_socket().is_err(), "{mode:o}");
            assert!(place.take().is_err(), "{mode:o}");
        }
    }

    #[test]
    fn a_link_in_the_place_of_folder_socket_or_lock_is_refused() {
        let (directory, place) = place();
        let theirs = directory.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).unwrap();
        symlink(&theirs, &place.folder).unwrap();
        assert!(place.prepare().is_err());
        assert!(place.has_socket().is_err());
        fs::remove_file(&place.folder).unwrap();

        place.prepare().unwrap();
        let _listener = UnixListener::bind(theirs.join("sock")).unwrap();
        symlink(theirs.join("sock"), place.socket()).unwrap();
        assert!(place.has_socket().is_err());
        symlink(theirs.join("lock"), place.file("lock")).unwrap();
        assert!(place.take().is_err());
        assert!(!theirs.join("lock").exists());
    }

    #[test]
    fn the_place_is_taken_once_and_free_when_its_holder_is_gone() {
        let (_directory, place) = place();
        let held = place.take().unwrap().unwrap();
        assert!(place.take().unwrap().is_none());
        drop(held);
        assert!(place.take().unwrap().is_some());
    }
}
