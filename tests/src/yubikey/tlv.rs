//! BER-TLV as PIV and X.509 need it: definite lengths of at most 65535 bytes.

/// One element: its tag, up to two bytes, and its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// The tag: one byte, or two where the first has its low five bits set.
    pub tag: u16,
    /// The content.
    pub value: &'a [u8],
}

/// Reads one element and gives what follows it. None where the bytes end too early or the length is not definite.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<(Tlv<'_>, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (tag, rest) = if first & 0x1f == 0x1f {
        let (&second, rest) = rest.split_first()?;
        (u16::from_be_bytes([first, second]), rest)
    } else {
        (u16::from(first), rest)
    };
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => {
            let (&length, rest) = rest.split_first()?;
            (usize::from(length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((Tlv { tag, value }, rest))
}

/// Reads elements to the end of the bytes. None where they are not whole elements.
#[must_use]
pub fn read_all(mut bytes: &[u8]) -> Option<Vec<Tlv<'_>>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (tlv, rest) = read(bytes)?;
        all.push(tlv);
        bytes = rest;
    }
    Some(all)
}

/// The content of the only element with this tag.
#[must_use]
pub fn find<'a>(all: &[Tlv<'a>], tag: u16) -> Option<&'a [u8]> {
    all.iter().find(|tlv| tlv.tag == tag).map(|tlv| tlv.value)
}

/// Writes one element with the shortest length.
#[must_use]
pub fn write(tag: u16, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 5);
    match tag.to_be_bytes() {
        [0, low] => out.push(low),
        both => out.extend(both),
    }
    match value.len() {
        short @ 0..=0x7f => out.push(short as u8),
        medium @ 0x80..=0xff => out.extend([0x81, medium as u8]),
        long => {
            out.push(0x82);
            out.extend((long as u16).to_be_bytes());
        }
    }
    out.extend(value);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(tag in prop_oneof![Just(0x53_u16), Just(0x7c), Just(0x7f49)],
                                      value in proptest::collection::vec(any::<u8>(), 0..700),
                                      after in proptest::collection::vec(any::<u8>(), 0..4)) {
            let mut bytes = write(tag, &value);
            bytes.extend(&after);
            let (tlv, rest) = read(&bytes).expect("what was just written");
            prop_assert_eq!(tlv, Tlv { tag, value: &value });
            prop_assert_eq!(rest, &after[..]);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_all(&bytes);
        }
    }

    #[test]
    fn an_indefinite_length_is_refused() {
        assert_eq!(read(&[0x53, 0x80, 0x00, 0x00]), None);
    }
}
