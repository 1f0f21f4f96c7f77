//! Building a request: the same draft and key give the same to-be-signed bytes.

use super::Draft;
use crate::{asn1, key::SigningKey, name::GroupName, oid, x509};
use const_oid::ObjectIdentifier;
use der::Tag;

impl Draft {
    /// Signs the request; DER. Groups are sorted, one that stands there twice is written once.
    ///
    /// # Errors
    /// The key's own error when it cannot sign.
    pub fn sign<K: SigningKey + ?Sized>(&self, key: &K) -> Result<Vec<u8>, K::Error> {
        let mut attributes = vec![attribute(oid::CLAIMS, &self.claims.to_der())];
        if let Some(evidence) = &self.evidence {
            attributes.push(attribute(oid::EVIDENCE, &evidence.to_der()));
        }
        // RFC 2986 section 4.1: [0] IMPLICIT SET OF, so sorted as DER sorts a set.
        attributes.sort();
        let attributes: Vec<&[u8]> = attributes.iter().map(Vec::as_slice).collect();

        signed(&subject(self.user.as_str(), &self.groups), &attributes, key)
    }
}

/// A request (RFC 2986 section 4) for the subject, a name whole, with these attributes in this order; DER.
pub(crate) fn signed<K: SigningKey + ?Sized>(
    subject: &[u8],
    attributes: &[&[u8]],
    key: &K,
) -> Result<Vec<u8>, K::Error> {
    let public_key = key.public_key();
    let info = asn1::sequence(&[
        &asn1::unsigned(&[0]),
        subject,
        public_key.spki_der(),
        &asn1::tlv(asn1::context(0, true), attributes),
    ]);
    let signature = key.sign(&info)?;
    Ok(asn1::sequence(&[
        &info,
        &public_key.signature_algorithm().to_der(),
        &asn1::bit_string(&signature),
    ]))
}

/// CN, then each O in the order of its bytes.
pub(crate) fn subject(user: &str, groups: &[GroupName]) -> Vec<u8> {
    let mut groups: Vec<&str> = groups.iter().map(GroupName::as_str).collect();
    groups.sort_unstable();
    groups.dedup();
    let mut names = vec![name(x509::COMMON_NAME, user)];
    names.extend(groups.iter().map(|group| name(x509::ORGANIZATION, group)));
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    asn1::sequence(&names)
}

fn name(oid: ObjectIdentifier, text: &str) -> Vec<u8> {
    let pair = asn1::sequence(&[&asn1::oid(oid), &asn1::utf8_string(text)]);
    asn1::tlv(Tag::Set, &[&pair])
}

fn attribute(oid: ObjectIdentifier, value: &[u8]) -> Vec<u8> {
    asn1::sequence(&[&asn1::oid(oid), &asn1::tlv(Tag::Set, &[value])])
}
