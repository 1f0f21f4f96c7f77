//! Files that are whole or not there: written beside, synced, renamed. Mode 0600, folders 0700.
//!
//! The rename itself is not waited for: after a power cut the old file may be back, as whole as the new one.

use crate::interrupt;
use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::Path,
};

/// Makes a folder and those above it, each 0700 when it is new.
///
/// # Errors
/// When one cannot be made.
pub fn make_private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Refuses a folder that someone else could change behind our back: a link, another user's, or one that others may write
/// to. Where the sticky bit keeps what is in it to its owners, as in `/tmp`, others may.
///
/// # Errors
/// When it is such a folder, or none.
pub fn refuse_shared(path: &Path) -> io::Result<()> {
    let folder = fs::symlink_metadata(path)?;
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if !folder.is_dir() {
        return refused("it is not a folder of its own");
    }
    if ![0, rustix::process::geteuid().as_raw()].contains(&folder.uid()) {
        return refused("it belongs to another user");
    }
    let mode = folder.permissions().mode();
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return refused("others may write to it");
    }
    Ok(())
}

/// Replaces (or makes) a file in one step. Only a file: not a device, nor what a shell calls `/dev/stdout`.
///
/// # Errors
/// When it cannot be written; the old one then stands as it was.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "something that is not a file is there",
        ));
    }
    let _whole = interrupt::shield();
    let file = written_beside(path, bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Makes a file in one step, where nothing is: not even a link that leads nowhere.
///
/// # Errors
/// When something is there, or it cannot be written.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let _whole = interrupt::shield();
    written_beside(path, bytes)?
        .persist_noclobber(path)
        .map_err(|error| error.error)?;
    Ok(())
}

/// The bytes on disk, in a file beside `path` that goes away unless it is given that name.
fn written_beside(path: &Path, bytes: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    make_private_directory(directory)?;
    let mut file = tempfile::Builder::new()
        .prefix(".touchstone-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Removes a file. Whether it was there.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_readable_by_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/secret");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_device_is_never_replaced_by_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn a_link_is_replaced_and_what_it_led_to_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let [target, path] = ["target", "link"].map(|name| directory.path().join(name));
        fs::write(&target, b"theirs").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        replace(&path, b"ours").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"theirs");
        assert_eq!(fs::read(&path).unwrap(), b"ours");
    }

    #[test]
    fn a_file_that_cannot_be_replaced_is_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("folder");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"x").unwrap();
        assert!(replace(&path, b"new").is_err());
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"x");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
