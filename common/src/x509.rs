//! X.509 certificates as they stand on the wire: cut into their fields once, nothing copied, nothing interpreted that a
//! reader did not ask for.

use crate::{
    asn1::{self, Fields},
    certificate::Validity,
    key::{Accept, KeyError, PublicKey, SignatureAlgorithm},
};
use const_oid::ObjectIdentifier;
use der::{
    Encode as _, Tag,
    asn1::{GeneralizedTime, IntRef, PrintableStringRef, UtcTime},
};
use jiff::Timestamp;
use std::time::Duration;

pub(crate) const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
pub(crate) const ORGANIZATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.10");
pub(crate) const SUBJECT_KEY_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.14");
pub(crate) const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
pub(crate) const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
pub(crate) const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
pub(crate) const AUTHORITY_KEY_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.35");
pub(crate) const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");

/// Bits of KeyUsage (RFC 5280 section 4.2.1.3), the first of its bytes.
pub(crate) const DIGITAL_SIGNATURE: u8 = 0x80;
pub(crate) const KEY_CERT_SIGN: u8 = 0x04;
pub(crate) const CRL_SIGN: u8 = 0x02;

/// Why bytes are not a certificate that can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The algorithm inside the signed part differs from the one beside the signature.
    #[error("names two different signature algorithms")]
    AlgorithmMismatch,
    /// Not DER, or not the structure of a certificate.
    #[error("is not strict DER: {0}")]
    Der(#[from] der::Error),
    /// An extension that stands there twice.
    #[error("has the extension {0} twice")]
    DuplicateExtension(ObjectIdentifier),
    /// A public key or a signature algorithm.
    #[error("has a key or signature that is not accepted: {0}")]
    Key(#[from] KeyError),
    /// A name that is not a sequence of single attributes.
    #[error("has a name with more than one attribute in one place")]
    MultiValuedName,
    /// Not version 3.
    #[error("is not of X.509 version 3")]
    Version,
}

/// A certificate, cut into its fields.
#[derive(Clone, Debug)]
pub(crate) struct Certificate<'a> {
    /// The to-be-signed part, whole.
    pub(crate) tbs: &'a [u8],
    /// The contents of the serial number's INTEGER.
    pub(crate) serial: &'a [u8],
    /// The issuer's name, whole.
    pub(crate) issuer: &'a [u8],
    /// Its dates.
    pub(crate) validity: Validity,
    /// The subject's name, whole.
    pub(crate) subject: &'a [u8],
    /// The SubjectPublicKeyInfo, whole.
    pub(crate) spki: &'a [u8],
    /// The extensions, none twice.
    pub(crate) extensions: Vec<Extension<'a>>,
    /// The contents of the AlgorithmIdentifier.
    signature_algorithm: &'a [u8],
    /// The signature's bytes.
    signature: &'a [u8],
}

/// One extension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extension<'a> {
    pub(crate) oid: ObjectIdentifier,
    pub(crate) critical: bool,
    pub(crate) value: &'a [u8],
}

/// One attribute of a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attribute<'a> {
    pub(crate) oid: ObjectIdentifier,
    pub(crate) tag: Tag,
    pub(crate) value: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// Reads exactly one version 3 certificate (RFC 5280 section 4.1).
    pub(crate) fn from_der(der: &'a [u8]) -> Result<Self, ReadError> {
        let mut outer = asn1::only(der, Tag::Sequence)?;
        let tbs = outer.whole(Tag::Sequence)?;
        let signature_algorithm = outer.value(Tag::Sequence)?;
        let signature = asn1::whole_bits(&mut outer)?;
        outer.finish()?;

        let mut fields = asn1::only(tbs, Tag::Sequence)?;
        if !fields.next_is(asn1::context(0, true)) {
            return Err(ReadError::Version);
        }
        let mut version = fields.inner(asn1::context(0, true))?;
        if version.read::<u8>()? != 2 {
            return Err(ReadError::Version);
        }
        version.finish()?;
        let serial = fields.read::<IntRef<'_>>()?.as_bytes();
        if fields.value(Tag::Sequence)? != signature_algorithm {
            return Err(ReadError::AlgorithmMismatch);
        }
        let issuer = fields.whole(Tag::Sequence)?;
        let mut dates = fields.inner(Tag::Sequence)?;
        let validity = Validity {
            not_before: time(&mut dates)?,
            not_after: time(&mut dates)?,
        };
        dates.finish()?;
        let subject = fields.whole(Tag::Sequence)?;
        let spki = fields.whole(Tag::Sequence)?;
        // The unique identifiers [1] and [2] of version 2 are nowhere in use and not read.
        let extensions = if fields.is_empty() {
            Vec::new()
        } else {
            let mut wrapper = fields.inner(asn1::context(3, true))?;
            fields.finish()?;
            let extensions = extensions(wrapper.inner(Tag::Sequence)?)?;
            wrapper.finish()?;
            extensions
        };

        Ok(Self {
            tbs,
            serial,
            issuer,
            validity,
            subject,
            spki,
            extensions,
            signature_algorithm,
            signature,
        })
    }

    /// Its public key.
    pub(crate) fn public_key(&self) -> Result<PublicKey, KeyError> {
        PublicKey::from_spki_der(self.spki)
    }

    /// Verifies its signature with its issuer's key.
    pub(crate) fn verify(&self, issuer: &PublicKey, accept: Accept) -> Result<(), KeyError> {
        let algorithm = SignatureAlgorithm::read(Fields::new(self.signature_algorithm)?, accept)?;
        issuer.verify_accepting(accept, algorithm, self.tbs, self.signature)
    }

    /// The extension of this identifier.
    pub(crate) fn extension(&self, oid: ObjectIdentifier) -> Option<Extension<'a>> {
        self.extensions
            .iter()
            .find(|extension| extension.oid == oid)
            .copied()
    }

    /// BasicConstraints: whether it is a CA, and the path length.
    pub(crate) fn basic_constraints(&self) -> Result<Option<(bool, Option<u8>)>, der::Error> {
        let Some(extension) = self.extension(BASIC_CONSTRAINTS) else {
            return Ok(None);
        };
        let mut fields = asn1::only(extension.value, Tag::Sequence)?;
        let ca = fields.next_is(Tag::Boolean) && read_true(&mut fields)?;
        let path_length = if ca && !fields.is_empty() {
            Some(fields.read()?)
        } else {
            None
        };
        fields.finish()?;
        Ok(Some((ca, path_length)))
    }

    /// KeyUsage: the first eight of its bits.
    pub(crate) fn key_usage(&self) -> Result<Option<u8>, der::Error> {
        let Some(extension) = self.extension(KEY_USAGE) else {
            return Ok(None);
        };
        let mut outer = Fields::new(extension.value)?;
        let bits = outer.value(Tag::BitString)?;
        outer.finish()?;
        match bits {
            [unused @ 0..=7, first, ..]
                if bits.len() > 2 || first.trailing_zeros() >= u32::from(*unused) =>
            {
                Ok(Some(*first))
            }
            _ => Err(Tag::BitString.value_error().into()),
        }
    }

    /// ExtendedKeyUsage: its purposes.
    pub(crate) fn extended_key_usage(&self) -> Result<Option<Vec<ObjectIdentifier>>, der::Error> {
        let Some(extension) = self.extension(EXTENDED_KEY_USAGE) else {
            return Ok(None);
        };
        let mut fields = asn1::only(extension.value, Tag::Sequence)?;
        let mut purposes = Vec::new();
        while !fields.is_empty() {
            purposes.push(fields.read()?);
        }
        Ok(Some(purposes))
    }

    /// SubjectKeyIdentifier.
    pub(crate) fn subject_key_id(&self) -> Result<Option<&'a [u8]>, der::Error> {
        let Some(extension) = self.extension(SUBJECT_KEY_ID) else {
            return Ok(None);
        };
        let mut outer = Fields::new(extension.value)?;
        let identifier = outer.value(Tag::OctetString)?;
        outer.finish()?;
        Ok(Some(identifier))
    }

    /// AuthorityKeyIdentifier: the key's identifier, when that is all it has.
    pub(crate) fn authority_key_id(&self) -> Result<Option<&'a [u8]>, der::Error> {
        let Some(extension) = self.extension(AUTHORITY_KEY_ID) else {
            return Ok(None);
        };
        let mut fields = asn1::only(extension.value, Tag::Sequence)?;
        let identifier = fields.value(asn1::context(0, false))?;
        fields.finish()?;
        Ok(Some(identifier))
    }
}

/// The attributes of a name (RDNSequence, whole), each alone in its place.
pub(crate) fn attributes(name: &[u8]) -> Result<Vec<Attribute<'_>>, ReadError> {
    let places = places(name)?;
    let single = |place: Vec<_>| <[Attribute<'_>; 1]>::try_from(place);
    let attributes = places
        .into_iter()
        .map(|place| single(place).map(|[attribute]| attribute));
    attributes
        .collect::<Result<_, _>>()
        .map_err(|_| ReadError::MultiValuedName)
}

/// The attributes of a name (RDNSequence, whole), where several of one type may share a place: Go's library writes all of
/// a subject's O into one, and kube-apiserver reads each of them.
pub(crate) fn attributes_by_type(name: &[u8]) -> Result<Vec<Attribute<'_>>, ReadError> {
    let places = places(name)?;
    let mixed = |place: &Vec<Attribute<'_>>| place.array_windows().any(|[a, b]| a.oid != b.oid);
    if places.iter().any(mixed) {
        return Err(ReadError::MultiValuedName);
    }
    Ok(places.into_iter().flatten().collect())
}

/// The places of a name (RDNs), each with its attributes; none is empty.
fn places(name: &[u8]) -> Result<Vec<Vec<Attribute<'_>>>, ReadError> {
    let mut names = asn1::only(name, Tag::Sequence)?;
    let mut places = Vec::new();
    while !names.is_empty() {
        let mut set = names.inner(Tag::Set)?;
        let mut place = Vec::new();
        loop {
            let mut pair = set.inner(Tag::Sequence)?;
            let oid = pair.read()?;
            let value = pair.any()?;
            pair.finish()?;
            place.push(Attribute {
                oid,
                tag: value.header().tag(),
                value: value.value(),
            });
            if set.is_empty() {
                break;
            }
        }
        places.push(place);
    }
    Ok(places)
}

impl<'a> Attribute<'a> {
    /// Its text, when it is a UTF8String or a PrintableString.
    ///
    /// Go decodes BMPString and TeletexString to text as well, each in its own way: neither is text here.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match self.tag {
            Tag::Utf8String => std::str::from_utf8(self.value).ok(),
            Tag::PrintableString => {
                PrintableStringRef::new(self.value).ok()?;
                std::str::from_utf8(self.value).ok()
            }
            _ => None,
        }
    }
}

fn extensions<'a>(mut fields: Fields<'a>) -> Result<Vec<Extension<'a>>, ReadError> {
    let mut extensions: Vec<Extension<'a>> = Vec::new();
    while !fields.is_empty() {
        let mut extension = fields.inner(Tag::Sequence)?;
        let oid = extension.read()?;
        let critical = extension.next_is(Tag::Boolean) && read_true(&mut extension)?;
        let value = extension.value(Tag::OctetString)?;
        extension.finish()?;
        if extensions.iter().any(|earlier| earlier.oid == oid) {
            return Err(ReadError::DuplicateExtension(oid));
        }
        extensions.push(Extension {
            oid,
            critical,
            value,
        });
    }
    Ok(extensions)
}

/// A BOOLEAN whose default is FALSE: DER writes it only when it is TRUE (X.690 section 11.5).
fn read_true(fields: &mut Fields<'_>) -> Result<bool, der::Error> {
    if fields.read::<bool>()? {
        Ok(true)
    } else {
        Err(Tag::Boolean.value_error().into())
    }
}

/// UTCTime through 2049, GeneralizedTime from 2050 on (RFC 5280 section 4.1.2.5).
fn time(fields: &mut Fields<'_>) -> Result<Timestamp, der::Error> {
    if fields.next_is(Tag::UtcTime) {
        return Ok(timestamp(fields.read::<UtcTime>()?.to_unix_duration()));
    }
    let time: GeneralizedTime = fields.read()?;
    if time.to_unix_duration() < UTC_TIME_END {
        return Err(Tag::GeneralizedTime.value_error().into());
    }
    Ok(timestamp(time.to_unix_duration()))
}

/// 2050-01-01T00:00:00Z.
const UTC_TIME_END: Duration = Duration::from_secs(2_524_608_000);

/// A time of a certificate. The last second of year 9999, which says "no end" (RFC 5280 section 4.1.2.5), lies past
/// jiff's range and becomes its end.
pub(crate) fn timestamp(since_1970: Duration) -> Timestamp {
    i64::try_from(since_1970.as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::MAX)
}

/// The time without its fraction of a second, and not before 1970.
fn since_1970(time: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0))
}

/// A GeneralizedTime of whole seconds.
#[expect(
    clippy::expect_used,
    reason = "jiff's times end in year 9999, and so do GeneralizedTime's"
)]
pub(crate) fn generalized_time(time: Timestamp) -> Vec<u8> {
    GeneralizedTime::from_unix_duration(since_1970(time))
        .and_then(|time| time.to_der())
        .expect("a time before year 10000")
}

/// A certificate's time.
pub(crate) fn certificate_time(time: Timestamp) -> Vec<u8> {
    UtcTime::from_unix_duration(since_1970(time))
        .and_then(|time| time.to_der())
        .unwrap_or_else(|_| generalized_time(time))
}
