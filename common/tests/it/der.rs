//! DER by hand, right or wrong, independent of the code under test.

/// Tags.
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const BMP_STRING: u8 = 0x1e;
pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const IA5_STRING: u8 = 0x16;
pub(crate) const NULL: &[u8] = &[5, 0];
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
pub(crate) const TELETEX_STRING: u8 = 0x14;
pub(crate) const UTF8_STRING: u8 = 0x0c;

pub(crate) fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match value.len() {
        length @ 0..=0x7f => out.push(u8::try_from(length).unwrap()),
        length @ 0x80..=0xff => out.extend([0x81, u8::try_from(length).unwrap()]),
        length => {
            out.push(0x82);
            out.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    out.extend_from_slice(value);
    out
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

pub(crate) fn set(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SET, &parts.concat())
}

pub(crate) fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[0], bytes].concat())
}

/// An OBJECT IDENTIFIER from its dotted form.
pub(crate) fn oid(dotted: &str) -> Vec<u8> {
    let arcs: Vec<u64> = dotted.split('.').map(|arc| arc.parse().unwrap()).collect();
    let mut value = Vec::new();
    let mut push = |arc: u64| {
        let mut groups = vec![u8::try_from(arc & 0x7f).unwrap()];
        let mut rest = arc >> 7;
        while rest > 0 {
            groups.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
            rest >>= 7;
        }
        value.extend(groups.iter().rev());
    };
    push(arcs[0] * 40 + arcs[1]);
    arcs[2..].iter().copied().for_each(&mut push);
    tlv(0x06, &value)
}

/// One RDN with one attribute.
pub(crate) fn rdn(dotted: &str, tag: u8, value: &[u8]) -> Vec<u8> {
    set(&[&pair(dotted, tag, value)])
}

pub(crate) fn pair(dotted: &str, tag: u8, value: &[u8]) -> Vec<u8> {
    sequence(&[&oid(dotted), &tlv(tag, value)])
}

pub(crate) fn cn(name: &str) -> Vec<u8> {
    rdn("2.5.4.3", UTF8_STRING, name.as_bytes())
}

pub(crate) fn o(name: &str) -> Vec<u8> {
    rdn("2.5.4.10", UTF8_STRING, name.as_bytes())
}

/// The parts of a SEQUENCE (or SET), each whole. For well-formed input only.
pub(crate) fn children(whole: &[u8]) -> Vec<Vec<u8>> {
    let (_, mut rest) = whole.split_at(header(whole).0);
    let mut children = Vec::new();
    while !rest.is_empty() {
        let (start, length) = header(rest);
        let (child, after) = rest.split_at(start + length);
        children.push(child.to_vec());
        rest = after;
    }
    children
}

fn header(whole: &[u8]) -> (usize, usize) {
    match whole[1] {
        0x81 => (3, usize::from(whole[2])),
        0x82 => (4, usize::from(u16::from_be_bytes([whole[2], whole[3]]))),
        length => (2, usize::from(length)),
    }
}
