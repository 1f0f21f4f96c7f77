//! Certificates that no one here made.

use crate::engineer::Ran;
use std::{path::Path, process::Command};

/// Has openssl make a key of P-256 and a certificate that it signs itself, for 30 days, with these extensions.
///
/// # Panics
/// When openssl does not.
pub fn self_signed(key: &Path, certificate: &Path, subject: &str, extensions: &[&str]) {
    let kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    of_kind(&kind, key, certificate, subject, extensions);
}

/// As [`self_signed`], with a key of RSA, 2048 bits.
///
/// # Panics
/// When openssl does not.
pub fn self_signed_rsa(key: &Path, certificate: &Path, subject: &str, extensions: &[&str]) {
    of_kind(
        &["-newkey", "rsa:2048"],
        key,
        certificate,
        subject,
        extensions,
    );
}

fn of_kind(kind: &[&str], key: &Path, certificate: &Path, subject: &str, extensions: &[&str]) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-nodes", "-days", "30", "-subj", subject]);
    openssl.args(kind);
    for extension in extensions {
        openssl.args(["-addext", extension]);
    }
    openssl.arg("-keyout").arg(key).arg("-out").arg(certificate);
    Ran::of(&mut openssl).succeeded();
}

/// Has openssl make a key of P-256 and a certificate signing request for it.
///
/// # Panics
/// When openssl does not.
pub fn request(key: &Path, request: &Path, subject: &str) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-new", "-nodes", "-subj", subject]);
    openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.arg("-keyout").arg(key).arg("-out").arg(request);
    Ran::of(&mut openssl).succeeded();
}
