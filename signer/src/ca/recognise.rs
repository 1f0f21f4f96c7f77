//! Telling whether a certificate is this CA's.

use super::fingerprint;
use crate::audit::chain::sha256;
use der::{Decode, Reader, SliceReader, Tag, asn1::BitStringRef};
use jiff::Timestamp;
use touchstone_common::{certificate::CaCertificate, key::PublicKey};
use x509_cert::TbsCertificate;

/// A certificate that a CA of ours signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recognised {
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub fingerprint: String,
    /// SHA-256 of its to-be-signed bytes, lower-case hexadecimal.
    pub tbs_sha256: String,
    /// Serial number, lower-case hexadecimal.
    pub serial_number: String,
    /// Its last second.
    pub not_after: Timestamp,
}

/// The first certificate of a PEM chain, if `issuer` signed it.
#[must_use]
pub fn leaf_of(chain: &[u8], issuer: &CaCertificate) -> Option<Recognised> {
    let leaf = pem::parse(chain)
        .ok()
        .filter(|block| block.tag() == "CERTIFICATE")?;
    recognise(leaf.contents(), issuer)
}

/// This certificate, if `issuer` signed it.
#[must_use]
pub fn recognise(der: &[u8], issuer: &CaCertificate) -> Option<Recognised> {
    let tbs = signed_part(der, issuer.public_key())?;
    let parsed = TbsCertificate::from_der(tbs).ok()?;
    let not_after = parsed.validity().not_after.to_unix_duration().as_secs();
    Some(Recognised {
        fingerprint: fingerprint(der),
        tbs_sha256: hex::encode(sha256(tbs)),
        serial_number: hex::encode(parsed.serial_number().as_bytes()),
        not_after: Timestamp::from_second(i64::try_from(not_after).ok()?).ok()?,
    })
}

/// The to-be-signed bytes (RFC 5280, section 4.1), if `key` signed them.
fn signed_part<'a>(der: &'a [u8], key: &PublicKey) -> Option<&'a [u8]> {
    let mut outer = SliceReader::new(der).ok()?;
    let header = der::Header::decode(&mut outer).ok()?;
    if header.tag() != Tag::Sequence || outer.remaining_len() != header.length() {
        return None;
    }
    let tbs = outer.tlv_bytes().ok()?;
    let _algorithm = outer.tlv_bytes().ok()?;
    let signature = BitStringRef::from_der(outer.tlv_bytes().ok()?).ok()?;
    if !outer.is_finished() {
        return None;
    }
    key.verify(key.signature_algorithm(), tbs, signature.as_bytes()?)
        .ok()?;
    Some(tbs)
}
