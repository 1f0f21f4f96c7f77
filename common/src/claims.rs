//! What the engineer claims, in a CSR attribute under the card's signature.

use crate::{
    asn1,
    name::{self, ClusterName, NameError},
    text::as_string,
    ttl::{Ttl, TtlError},
    x509,
};
use der::{Tag, asn1::GeneralizedTime};
use jiff::Timestamp;
use std::{fmt, str::FromStr};

const READ_TOKEN: Tag = asn1::context(0, false);

/// Version, cluster, ttl, reason, nonce and time of a request.
///
/// ```text
/// Claims ::= SEQUENCE {
///   version        INTEGER (1),
///   cluster        UTF8String (SIZE (1..64)),
///   ttlSeconds     INTEGER (600..86400),
///   reason         UTF8String (SIZE (0..512)),
///   nonce          OCTET STRING (SIZE (32)),
///   issuedAt       GeneralizedTime,
///   readTokenHash  [0] IMPLICIT OCTET STRING (SIZE (32)) OPTIONAL }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The cluster the certificate is for.
    pub cluster: ClusterName,
    /// The lifetime asked for.
    pub ttl: Ttl,
    /// Why, in the engineer's words.
    pub reason: Reason,
    /// Random, new for each request.
    pub nonce: [u8; 32],
    /// When the request was signed, by the engineer's clock; whole seconds.
    pub issued_at: Timestamp,
    /// SHA-256 of the 32 bytes of the one-time token with which the creator reads the request back.
    pub read_token_sha256: Option<[u8; 32]>,
}

/// A reason: at most 512 characters, no controls, bidi or zero-width characters, no edge spaces, NFC. May be empty.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Reason(String);

/// The most characters a reason may have.
pub const MAX_REASON_CHARS: usize = 512;

/// Why claims were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// The cluster's name.
    #[error("the claimed cluster {0}")]
    Cluster(NameError),
    /// Not what the ASN.1 of [`Claims`] says.
    #[error("the claims are not the DER that is expected: {0}")]
    Der(String),
    /// The reason's text.
    #[error("the reason {0}")]
    Reason(NameError),
    /// The lifetime.
    #[error("the claimed lifetime: {0}")]
    Ttl(TtlError),
    /// A later version.
    #[error("the claims have version {0}; version 1 is read")]
    Version(u64),
}

impl From<der::Error> for ClaimsError {
    fn from(error: der::Error) -> Self {
        Self::Der(error.to_string())
    }
}

impl Claims {
    /// Reads claims strictly.
    ///
    /// # Errors
    /// When they are not exactly the DER of the ASN.1 above, or a value breaks its type's rules.
    pub fn from_der(der: &[u8]) -> Result<Self, ClaimsError> {
        let mut fields = asn1::only(der, Tag::Sequence)?;
        let version: u64 = fields.read()?;
        if version != 1 {
            return Err(ClaimsError::Version(version));
        }
        let cluster = utf8(fields.value(Tag::Utf8String)?)?;
        let ttl: u64 = fields.read()?;
        let reason = utf8(fields.value(Tag::Utf8String)?)?;
        let nonce = digest(fields.value(Tag::OctetString)?)?;
        let issued_at: GeneralizedTime = fields.read()?;
        let read_token_sha256 = if fields.is_empty() {
            None
        } else {
            Some(digest(fields.value(READ_TOKEN)?)?)
        };
        fields.finish()?;
        Ok(Self {
            cluster: ClusterName::parse(cluster).map_err(ClaimsError::Cluster)?,
            ttl: Ttl::from_secs(ttl).map_err(ClaimsError::Ttl)?,
            reason: Reason::parse(reason)?,
            nonce,
            issued_at: x509::timestamp(issued_at.to_unix_duration()),
            read_token_sha256,
        })
    }

    /// Writes them; the one DER encoding there is.
    ///
    /// The time loses its fraction of a second. A time before 1970 is written as 1970: no reader takes it for fresh.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        let token = self
            .read_token_sha256
            .map(|hash| asn1::tlv(READ_TOKEN, &[&hash]))
            .unwrap_or_default();
        asn1::sequence(&[
            &asn1::unsigned(&[1]),
            &asn1::utf8_string(self.cluster.as_str()),
            &asn1::unsigned(&self.ttl.as_secs().to_be_bytes()),
            &asn1::utf8_string(self.reason.as_str()),
            &asn1::tlv(Tag::OctetString, &[&self.nonce]),
            &x509::generalized_time(self.issued_at),
            &token,
        ])
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, ClaimsError> {
    std::str::from_utf8(bytes).map_err(|_| Tag::Utf8String.value_error().to_error().into())
}

fn digest(bytes: &[u8]) -> Result<[u8; 32], ClaimsError> {
    bytes
        .try_into()
        .map_err(|_| Tag::OctetString.length_error().to_error().into())
}

impl Reason {
    /// Reads a reason strictly.
    ///
    /// # Errors
    /// When it is too long or has characters that a terminal or a log could show as something else.
    pub fn parse(text: &str) -> Result<Self, ClaimsError> {
        name::check_text(text, MAX_REASON_CHARS).map_err(ClaimsError::Reason)?;
        Ok(Self(text.to_owned()))
    }

    /// The reason as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Reason {
    type Err = ClaimsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_string!(Reason, {
    "description": "Why, in the engineer's words.",
    "maxLength": 512
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asn1::Fields;

    fn claims() -> Claims {
        Claims {
            cluster: ClusterName::parse("prod").unwrap(),
            ttl: Ttl::MIN,
            reason: Reason::parse("INC-4211 Zoë's checkout").unwrap(),
            nonce: [9; 32],
            issued_at: "2026-05-06T07:08:09Z".parse().unwrap(),
            read_token_sha256: Some([8; 32]),
        }
    }

    /// The encoding with one field replaced.
    fn with_field(index: usize, field: &[u8]) -> Result<Claims, ClaimsError> {
        let der = claims().to_der();
        let mut fields = asn1::only(&der, Tag::Sequence).unwrap();
        let mut parts = Vec::new();
        while !fields.is_empty() {
            let any = fields.any().unwrap();
            parts.push(asn1::tlv(any.header().tag(), &[any.value()]));
        }
        parts[index] = field.to_vec();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        Claims::from_der(&asn1::sequence(&parts))
    }

    #[test]
    fn claims_are_read_as_they_were_written() {
        for read_token_sha256 in [None, Some([1; 32])] {
            for ttl in [Ttl::MIN, Ttl::MAX, Ttl::from_secs(32_768).unwrap()] {
                let claims = Claims {
                    read_token_sha256,
                    ttl,
                    ..claims()
                };
                assert_eq!(Claims::from_der(&claims.to_der()), Ok(claims));
            }
        }
    }

    #[test]
    fn a_time_is_written_in_whole_seconds_and_never_before_1970() {
        let at = |time: &str| {
            let claims = Claims {
                issued_at: time.parse().unwrap(),
                ..claims()
            };
            Claims::from_der(&claims.to_der())
                .unwrap()
                .issued_at
                .to_string()
        };
        assert_eq!(at("2026-05-06T07:08:09.999Z"), "2026-05-06T07:08:09Z");
        assert_eq!(at("1955-11-05T06:15:00Z"), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn each_field_is_exactly_what_the_asn1_says() {
        assert!(with_field(0, &asn1::unsigned(&[1])).is_ok());
        assert_eq!(
            with_field(0, &asn1::unsigned(&[2])),
            Err(ClaimsError::Version(2))
        );
        let too_short_a_nonce = asn1::tlv(Tag::OctetString, &[&[9; 31]]);
        let local_time = asn1::tlv(Tag::GeneralizedTime, &[b"20260506070809"]);
        let fraction = asn1::tlv(Tag::GeneralizedTime, &[b"20260506070809.5Z"]);
        let offset = asn1::tlv(Tag::GeneralizedTime, &[b"20260506070809+0100"]);
        let padded_ttl = asn1::tlv(Tag::Integer, &[&[0, 2, 88]]);
        let negative_ttl = asn1::tlv(Tag::Integer, &[&[0xff]]);
        let printable = asn1::tlv(Tag::PrintableString, &[b"prod"]);
        let not_utf8 = asn1::tlv(Tag::Utf8String, &[&[0xff]]);
        for (index, field) in [
            (1, printable.as_slice()),
            (1, &not_utf8),
            (1, &asn1::utf8_string("")),
            (1, &asn1::utf8_string("../prod")),
            (2, &padded_ttl),
            (2, &negative_ttl),
            (2, &asn1::unsigned(&599_u16.to_be_bytes())),
            (2, &asn1::unsigned(&86_401_u32.to_be_bytes())),
            (3, &asn1::utf8_string("INC-1 \u{202e}")),
            (3, &asn1::utf8_string(&"x".repeat(513))),
            (4, &too_short_a_nonce),
            (5, &local_time),
            (5, &fraction),
            (5, &offset),
            (6, &too_short_a_nonce),
            (6, &asn1::tlv(READ_TOKEN, &[&[9; 33]])),
            (6, &[]),
        ] {
            let read = with_field(index, field);
            let absent = field.is_empty();
            assert_eq!(read.is_ok(), absent, "field {index}: {field:?}");
        }
    }

    #[test]
    fn a_field_too_many_is_refused() {
        let der = claims().to_der();
        let inner = asn1::only(&der, Tag::Sequence).unwrap();
        inner.finish().unwrap_err();
        let contents = Fields::new(&der).unwrap().value(Tag::Sequence).unwrap();
        let longer = asn1::sequence(&[contents, &asn1::unsigned(&[1])]);
        assert!(Claims::from_der(&longer).is_err());
        assert!(Claims::from_der(&[der.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn a_reason_may_be_empty_but_not_misleading() {
        assert_eq!(Reason::parse("").unwrap(), Reason::default());
        assert!(Reason::parse(&"é".repeat(512)).is_ok());
        for text in [" x", "x ", "a\nb", "a\u{202e}b", "a\u{200b}b", "e\u{301}"] {
            assert!(
                matches!(Reason::parse(text), Err(ClaimsError::Reason(_))),
                "{text:?}"
            );
        }
    }
}
