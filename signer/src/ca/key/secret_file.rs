//! A secret in a file of its own: a token's PIN, the passphrase of key files.

use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The most bytes of a secret.
const MAX_BYTES: usize = 1024;

/// Where a secret is. What is in it is read when it is needed, and wiped after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretFile {
    /// The file; its first line is the secret.
    pub file: PathBuf,
}

/// Why a secret cannot be used. Each message completes "failed to …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretFileError {
    /// There is nothing in it.
    #[error("read the secret in {}: its first line is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Others may read or change it.
    #[error("use the secret in {}: its mode is {mode:o}, so that others can read or change it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is more in it than a secret has.
    #[error("read the secret in {}: its first line has more than {MAX_BYTES} bytes", path.display())]
    Long {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("read the secret in {}: {kind}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        kind: io::ErrorKind,
    },
}

/// Tells one content of a file from another without telling anything about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Stamp(String);

impl SecretFile {
    /// Reads it.
    ///
    /// # Errors
    /// When it is not there, is empty, or others can read it too.
    pub fn read(&self) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
        self.read_stamped().map(|(secret, _)| secret)
    }

    pub(super) fn read_stamped(&self) -> Result<(Zeroizing<Vec<u8>>, Stamp), SecretFileError> {
        let path = &self.file;
        let failed = |error: io::Error| SecretFileError::Read {
            path: path.clone(),
            kind: error.kind(),
        };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        refuse_exposed(path, &metadata)?;
        // Room from the start, so that no copy is left behind by growing.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 3));
        file.take(MAX_BYTES as u64 + 2)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let line = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Err(SecretFileError::Empty { path: path.clone() });
        }
        if line.len() > MAX_BYTES {
            return Err(SecretFileError::Long { path: path.clone() });
        }
        Ok((Zeroizing::new(line.to_vec()), Stamp::of(&metadata)))
    }
}

/// A Secret volume of a pod that is not root has files of root's that its group may read, and offers nothing stricter.
fn refuse_exposed(path: &Path, metadata: &Metadata) -> Result<(), SecretFileError> {
    let mode = metadata.mode() & 0o7777;
    let is_given_by_root = metadata.uid() == 0 && !geteuid().is_root();
    let others = if is_given_by_root { 0o037 } else { 0o077 };
    if mode & others == 0 {
        return Ok(());
    }
    Err(SecretFileError::Exposed {
        path: path.to_owned(),
        mode,
    })
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self(format!(
            "{}:{}:{}:{}.{}:{}.{}",
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec()
        ))
    }
}

impl SecretFileError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Empty { path } | Self::Long { path } => {
                format!(
                    "write the secret, and nothing else, into {}",
                    path.display()
                )
            }
            Self::Exposed { path, .. } => format!("chmod 600 {}", path.display()),
            Self::Read { .. } => {
                "check that the file is there and that the signer's user may read it".into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt as _,
    };

    fn of(content: &[u8], mode: u32) -> (tempfile::TempDir, SecretFile) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pin");
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        (folder, SecretFile { file })
    }

    #[test]
    fn the_first_line_is_the_secret() {
        for content in ["1234", "1234\n", "1234\r\n", "1234\nnotes\n"] {
            let (_folder, secret) = of(content.as_bytes(), 0o600);
            assert_eq!(&**secret.read().unwrap(), b"1234", "{content:?}");
        }
        let (_folder, secret) = of(&[b'1'; MAX_BYTES], 0o400);
        assert_eq!(secret.read().unwrap().len(), MAX_BYTES);
    }

    #[test]
    fn a_secret_that_others_can_read_or_change_is_refused_with_the_command_that_helps() {
        for mode in [0o644, 0o640, 0o604, 0o620, 0o602, 0o610] {
            let (_folder, secret) = of(b"1234", mode);
            let error = secret.read().unwrap_err();
            assert!(matches!(error, SecretFileError::Exposed { mode: found, .. } if found == mode));
            assert!(error.remedy().starts_with("chmod 600 /"), "{error}");
        }
    }

    #[test]
    fn no_secret_and_too_much_of_one_are_refused() {
        for content in [&b""[..], b"\n1234\n", b"\r\n", &[b'1'; MAX_BYTES + 1]] {
            let (_folder, secret) = of(content, 0o600);
            secret.read().unwrap_err();
        }
        let file = "/nowhere/pin".into();
        let error = SecretFile { file }.read().unwrap_err();
        assert!(error.to_string().contains("/nowhere/pin"), "{error}");
    }

    #[test]
    fn a_file_that_was_written_again_has_another_stamp() {
        let (_folder, secret) = of(b"1234", 0o600);
        let (_, before) = secret.read_stamped().unwrap();
        assert_eq!(secret.read_stamped().unwrap().1, before);
        fs::write(secret.file.with_extension("new"), b"4321").unwrap();
        let mode = Permissions::from_mode(0o600);
        fs::set_permissions(secret.file.with_extension("new"), mode).unwrap();
        fs::rename(secret.file.with_extension("new"), &secret.file).unwrap();
        assert_ne!(secret.read_stamped().unwrap().1, before);
    }
}
