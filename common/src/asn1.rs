//! Strict DER: read without copying, written without choices.
//!
//! The tokens come from the `der` crate, which refuses indefinite and non-minimal lengths. This module adds what every
//! reader here needs: a value of exactly this tag, nothing left over, nothing out of order.

use der::{Encode as _, Header, Length, Reader as _, SliceReader, Tag, TagNumber, asn1::AnyRef};

pub(crate) use der::Error;

/// Walks over the fields of one constructed value.
pub(crate) struct Fields<'a>(SliceReader<'a>);

impl<'a> Fields<'a> {
    /// The fields of `contents`, the bytes inside a SEQUENCE or SET.
    pub(crate) fn new(contents: &'a [u8]) -> Result<Self, Error> {
        SliceReader::new(contents).map(Self)
    }

    /// The next value, whatever its tag.
    pub(crate) fn any(&mut self) -> Result<AnyRef<'a>, Error> {
        self.0.decode()
    }

    /// The next value's contents when it has exactly this tag.
    pub(crate) fn value(&mut self, tag: Tag) -> Result<&'a [u8], Error> {
        let any = self.any()?;
        any.header().tag().assert_eq(tag)?;
        Ok(any.value())
    }

    /// The fields of the next value when it has exactly this tag.
    pub(crate) fn inner(&mut self, tag: Tag) -> Result<Self, Error> {
        Self::new(self.value(tag)?)
    }

    /// The next value whole, tag and length included, when it has exactly this tag.
    pub(crate) fn whole(&mut self, tag: Tag) -> Result<&'a [u8], Error> {
        Header::peek(&self.0)?.tag().assert_eq(tag)?;
        self.0.tlv_bytes()
    }

    /// The next value, read as `T`.
    pub(crate) fn read<T: der::Decode<'a, Error = Error>>(&mut self) -> Result<T, Error> {
        self.0.decode()
    }

    /// Whether a value of this tag comes next.
    pub(crate) fn next_is(&self, tag: Tag) -> bool {
        Header::peek(&self.0).is_ok_and(|header| header.tag() == tag)
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_finished()
    }

    /// Refuses anything left over.
    pub(crate) fn finish(self) -> Result<(), Error> {
        self.0.finish()
    }
}

/// The fields of `bytes` when they are exactly one value of this tag.
pub(crate) fn only(bytes: &[u8], tag: Tag) -> Result<Fields<'_>, Error> {
    let mut outer = Fields::new(bytes)?;
    let inner = outer.inner(tag)?;
    outer.finish()?;
    Ok(inner)
}

/// The bytes of the next BIT STRING, which must have no unused bits.
pub(crate) fn whole_bits<'a>(fields: &mut Fields<'a>) -> Result<&'a [u8], Error> {
    match fields.value(Tag::BitString)?.split_first() {
        Some((0, bytes)) => Ok(bytes),
        _ => Err(Tag::BitString.value_error().into()),
    }
}

/// A context-specific tag.
pub(crate) const fn context(number: u32, constructed: bool) -> Tag {
    Tag::ContextSpecific {
        constructed,
        number: TagNumber(number),
    }
}

/// One value: tag, minimal length, then the parts one after the other.
pub(crate) fn tlv(tag: Tag, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    #[expect(
        clippy::expect_used,
        reason = "values written here are bounded by what fits in memory many times over: far below 4 GiB"
    )]
    let header = Header::new(tag, Length::try_from(length).expect("below 4 GiB"))
        .to_der()
        .expect("a header always encodes");
    let mut out = Vec::with_capacity(header.len() + length);
    out.extend_from_slice(&header);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// A SEQUENCE of the parts.
pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(Tag::Sequence, parts)
}

/// An OBJECT IDENTIFIER.
pub(crate) fn oid(oid: const_oid::ObjectIdentifier) -> Vec<u8> {
    tlv(Tag::ObjectIdentifier, &[oid.as_bytes()])
}

/// A non-negative INTEGER from big-endian bytes, with as many octets as it needs.
pub(crate) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().take_while(|byte| **byte == 0).count();
    match bytes.get(start..) {
        None | Some([]) => tlv(Tag::Integer, &[&[0]]),
        Some(rest @ [first, ..]) if *first >= 0x80 => tlv(Tag::Integer, &[&[0], rest]),
        Some(rest) => tlv(Tag::Integer, &[rest]),
    }
}

/// A BIT STRING without unused bits.
pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    tlv(Tag::BitString, &[&[0], bytes])
}

/// A UTF8String.
pub(crate) fn utf8_string(text: &str) -> Vec<u8> {
    tlv(Tag::Utf8String, &[text.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_written_with_as_many_octets_as_they_need() {
        assert_eq!(unsigned(&[]), [2, 1, 0]);
        assert_eq!(unsigned(&[0, 0]), [2, 1, 0]);
        assert_eq!(unsigned(&[0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(unsigned(&[0x80]), [2, 2, 0, 0x80]);
    }

    #[test]
    fn a_length_is_minimal_and_definite() {
        assert!(only(&[0x30, 0x00], Tag::Sequence).is_ok());
        assert!(only(&[0x30, 0x81, 0x00], Tag::Sequence).is_err());
        assert!(only(&[0x30, 0x80, 0x00, 0x00], Tag::Sequence).is_err());
        assert!(only(&[0x30, 0x00, 0x00], Tag::Sequence).is_err());
    }

    #[test]
    fn a_bit_string_with_unused_bits_is_refused() {
        let mut fields = Fields::new(&[3, 2, 1, 0xfe]).unwrap();
        assert!(whole_bits(&mut fields).is_err());
        let mut fields = Fields::new(&[3, 0]).unwrap();
        assert!(whole_bits(&mut fields).is_err());
    }
}
