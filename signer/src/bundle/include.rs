//! CAs that API servers are to believe beside the published ones, such as the cluster's own: files that others keep.

use super::file::{MAX_BYTES, bounded};
use std::{io, path::PathBuf};
use touchstone_common::certificate::{self, CaCertificate, CertificateError};

/// Why a file cannot be included. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
#[error("include {}", path.display())]
pub struct IncludeError {
    path: PathBuf,
    #[source]
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("there is no certificate in it")]
    Empty,
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("it has more than {MAX_BYTES} bytes")]
    TooLarge,
}

impl IncludeError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        "name a readable file of CA certificates with --include, PEM and nothing else; what the file with the bundle holds already stays in it meanwhile".into()
    }
}

/// The certificates of all files.
///
/// # Errors
/// When one cannot be read, or has anything but CA certificates in it.
pub fn read(files: &[PathBuf]) -> Result<Vec<CaCertificate>, IncludeError> {
    let mut all = Vec::new();
    for path in files {
        let certificates = read_one(path).map_err(|cause| IncludeError {
            path: path.clone(),
            cause,
        })?;
        all.extend(certificates);
    }
    Ok(all)
}

fn read_one(path: &std::path::Path) -> Result<Vec<CaCertificate>, Cause> {
    let text = bounded(path)?.ok_or(Cause::TooLarge)?;
    let certificates = certificate::from_pem_bundle(&text)?
        .iter()
        .map(|der| CaCertificate::from_der(der))
        .collect::<Result<Vec<_>, _>>()?;
    if certificates.is_empty() {
        return Err(Cause::Empty);
    }
    Ok(certificates)
}
