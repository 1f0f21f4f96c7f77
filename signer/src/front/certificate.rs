//! The front door's certificate and key: two files, read again when they change. What renews them (cert-manager, by a
//! mounted Secret) swaps both at once; whoever writes them one after the other shows a pair that does not fit for a moment,
//! which is looked at again.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};
use touchstone_apiserver::{ServeError, ServerTls};
use zeroize::Zeroizing;

/// The most bytes that are read of a file: a chain of a dozen certificates is smaller.
const MOST: usize = 64 * 1024;

/// Why the front door has no certificate to show. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum FrontTlsError {
    /// Others than its owner and group may read the key, or others than its owner change it.
    #[error("use the front door's key {}: its mode is {mode:04o}", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// They are not a certificate and its key.
    #[error("use the front door's certificate {}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<ServeError>,
    },
}

impl FrontTlsError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Exposed { path, .. } => format!(
                "chmod o-rwx,g-w {}; of a mounted Secret, set defaultMode: 0440 and the pod's fsGroup",
                path.display()
            ),
            Self::Read { .. } => {
                "name readable files with --front-cert and --front-key".into()
            }
            Self::Unusable { .. } => {
                "name a certificate chain, leaf first, with --front-cert and the leaf's private key with --front-key, both in PEM".into()
            }
        }
    }
}

/// What a look at the files found.
pub(super) enum Change {
    /// Nothing new.
    None,
    /// Something new.
    Read(ServerTls),
    /// They cannot be read any more.
    Unreadable(FrontTlsError),
}

/// The two files, and what was last found in them.
pub(super) struct CertificateFiles {
    certificate: PathBuf,
    key: PathBuf,
    seen: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

impl CertificateFiles {
    /// Reads them.
    pub(super) fn open(
        certificate: PathBuf,
        key: PathBuf,
    ) -> Result<(Self, ServerTls), FrontTlsError> {
        let mut files = Self {
            certificate,
            key,
            seen: None,
        };
        let pair = files.read()?;
        let tls = tls(&pair);
        files.seen = Some(pair);
        Ok((files, tls))
    }

    /// Looks whether they hold something else than the last time.
    pub(super) fn look(&mut self) -> Change {
        match self.read() {
            Ok(pair) if self.seen.as_ref() == Some(&pair) => Change::None,
            Ok(pair) => {
                let tls = tls(&pair);
                self.seen = Some(pair);
                Change::Read(tls)
            }
            // Told once: what could be read before is not there.
            Err(error) if self.seen.take().is_some() => Change::Unreadable(error),
            Err(_) => Change::None,
        }
    }

    /// What is wrong with what they hold.
    pub(super) fn unusable(&self, source: ServeError) -> FrontTlsError {
        FrontTlsError::Unusable {
            path: self.certificate.clone(),
            source: Box::new(source),
        }
    }

    fn read(&self) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), FrontTlsError> {
        let certificate = read(&self.certificate, false)?;
        Ok((certificate.to_vec(), read(&self.key, true)?))
    }
}

fn tls((certificate, key): &(Vec<u8>, Zeroizing<Vec<u8>>)) -> ServerTls {
    ServerTls {
        certificate_chain_pem: certificate.clone(),
        private_key_pem: key.clone(),
    }
}

fn read(path: &Path, is_secret: bool) -> Result<Zeroizing<Vec<u8>>, FrontTlsError> {
    let failed = |source| FrontTlsError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    // A mounted Secret is its group's to read: that is how a pod without root gets at it.
    if is_secret && mode & 0o027 != 0 {
        return Err(FrontTlsError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    // Room from the start, so that no copy is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MOST));
    file.take(MOST as u64)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};

    fn files(mode: u32) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let [certificate, key] = ["tls.crt", "tls.key"].map(|name| dir.path().join(name));
        fs::write(&certificate, "certificate").unwrap();
        fs::write(&key, "key").unwrap();
        fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        (dir, certificate, key)
    }

    #[test]
    fn a_key_that_others_may_read_or_its_group_may_change_is_refused() {
        for mode in [0o644, 0o604, 0o660, 0o601] {
            let (_dir, certificate, key) = files(mode);
            let error = CertificateFiles::open(certificate, key).err().unwrap();
            assert!(matches!(error, FrontTlsError::Exposed { .. }), "{error}");
        }
        for mode in [0o600, 0o400, 0o440, 0o640] {
            let (_dir, certificate, key) = files(mode);
            assert!(CertificateFiles::open(certificate, key).is_ok(), "{mode:o}");
        }
    }

    #[test]
    fn files_that_change_are_read_again_and_what_goes_wrong_is_told_once() {
        let (_dir, certificate, key) = files(0o600);
        let (mut look, _) = CertificateFiles::open(certificate.clone(), key.clone()).unwrap();
        assert!(matches!(look.look(), Change::None));
        fs::write(&certificate, "another").unwrap();
        let Change::Read(tls) = look.look() else {
            panic!("a changed file is read again");
        };
        assert_eq!(tls.certificate_chain_pem, b"another");
        fs::remove_file(&certificate).unwrap();
        assert!(matches!(look.look(), Change::Unreadable(_)));
        assert!(matches!(look.look(), Change::None));
        fs::write(&certificate, "another").unwrap();
        assert!(matches!(look.look(), Change::Read(_)));
    }
}
