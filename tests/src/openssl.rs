//! Certificates that no one here made.

use crate::engineer::Ran;
use std::{path::Path, process::Command};

/// Has openssl make a key of P-256 and a certificate that it signs itself, for 30 days, with these extensions.
///
/// # Panics
/// When openssl does not.
pub fn self_signed(key: &Path, certificate: &Path, subject: &str, extensions: &[&str]) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-nodes", "-days", "30", "-subj", subject]);
    openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    for extension in extensions {
        openssl.args(["-addext", extension]);
    }
    openssl.arg("-keyout").arg(key).arg("-out").arg(certificate);
    Ran::of(&mut openssl).succeeded();
}
