//! PEM as RFC 7468 writes it: labels, base64, nothing inside a block but that.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// Why text is not the PEM that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// Bytes that are not base64, or lines that are not PEM.
    #[error("line {0} is not PEM")]
    Line(usize),
    /// A block of another kind.
    #[error("has a PEM block of another kind than {0:?}")]
    Label(&'static str),
    /// Too few or too many blocks.
    #[error("has {found} PEM blocks {label:?}; {expected} expected")]
    Count {
        /// The kind of block.
        label: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        expected: &'static str,
    },
    /// A block that never ends.
    #[error("has a PEM block without an end")]
    Unterminated,
}

/// What may stand around the blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Around {
    /// Line ends only.
    Nothing,
    /// Any text, as the bundles of distributions have it.
    Text,
}

/// Writes one block. No copy of its text stays behind: it may be a private key.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let base64 = Zeroizing::new(STANDARD.encode(der));
    let mut out = String::with_capacity(base64.len() + base64.len() / 64 + 2 * label.len() + 40);
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    let mut rest = base64.as_str();
    while let Some((line, after)) = rest
        .split_at_checked(64)
        .filter(|(_, rest)| !rest.is_empty())
    {
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str(rest);
    out.push_str("\n-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

/// Reads every block; all must have this label.
pub(crate) fn blocks(
    pem: &[u8],
    label: &'static str,
    around: Around,
) -> Result<Vec<Vec<u8>>, PemError> {
    let mut blocks = Vec::new();
    // As large as it can become, so that no outgrown copy of a private key stays behind.
    let mut open: Option<Zeroizing<Vec<u8>>> = None;
    for (index, line) in pem.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let number = index + 1;
        match open.as_mut() {
            None if line.starts_with(b"-----BEGIN ") => {
                if !is_boundary(line, b"-----BEGIN ", label) {
                    return Err(PemError::Label(label));
                }
                open = Some(Zeroizing::new(Vec::with_capacity(pem.len())));
            }
            None if line.is_empty() || around == Around::Text => {}
            None => return Err(PemError::Line(number)),
            Some(base64) if is_boundary(line, b"-----END ", label) => {
                let der = STANDARD
                    .decode(base64.as_slice())
                    .map_err(|_| PemError::Line(number))?;
                blocks.push(der);
                open = None;
            }
            // What is not base64, and padding before the end, is refused by the decoder.
            Some(base64) if !line.is_empty() => base64.extend_from_slice(line),
            Some(_) => return Err(PemError::Line(number)),
        }
    }
    if open.is_some() {
        return Err(PemError::Unterminated);
    }
    Ok(blocks)
}

/// Reads exactly one block and nothing else.
pub(crate) fn one_block(pem: &[u8], label: &'static str) -> Result<Vec<u8>, PemError> {
    let mut found = blocks(pem, label, Around::Nothing)?;
    match (found.len(), found.pop()) {
        (1, Some(der)) => Ok(der),
        (found, _) => Err(PemError::Count {
            label,
            found,
            expected: "exactly one",
        }),
    }
}

fn is_boundary(line: &[u8], start: &[u8], label: &str) -> bool {
    line.strip_prefix(start)
        .and_then(|rest| rest.strip_suffix(b"-----"))
        .is_some_and(|found| found == label.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "CERTIFICATE REQUEST";

    #[test]
    fn what_is_written_is_read_back() {
        for length in [0, 1, 47, 48, 49, 1000] {
            let der = vec![0x5a; length];
            let pem = encode(LABEL, &der);
            if length > 0 {
                assert_eq!(one_block(pem.as_bytes(), LABEL), Ok(der));
            }
            assert!(pem.lines().all(|line| line.len() <= 64));
        }
    }

    #[test]
    fn a_second_block_is_refused() {
        let two = encode(LABEL, b"a") + &encode(LABEL, b"b");
        assert!(matches!(
            one_block(two.as_bytes(), LABEL),
            Err(PemError::Count { found: 2, .. })
        ));
    }

    #[test]
    fn text_around_and_inside_a_block_is_refused() {
        let pem = encode(LABEL, b"abc");
        for hostile in [
            format!("hello\n{pem}"),
            format!("{pem}hello"),
            format!(" {pem}"),
            pem.replace("-----\n", "-----\nProc-Type: 4,ENCRYPTED\n"),
            pem.replace("YWJj", "YW Jj"),
            pem.replace("YWJj", "YWJj\n\nYWJj"),
            pem.replace("YWJj", "YW=="),
            pem.replace("-----END CERTIFICATE REQUEST-----", ""),
            pem.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"),
            pem.replace('\n', "\u{2028}"),
            String::new(),
        ] {
            assert!(one_block(hostile.as_bytes(), LABEL).is_err(), "{hostile:?}");
        }
    }

    #[test]
    fn padding_with_stray_bits_is_refused() {
        let pem = encode(LABEL, b"a").replace("YQ==", "YR==");
        assert!(one_block(pem.as_bytes(), LABEL).is_err());
    }

    #[test]
    fn line_ends_of_windows_are_read() {
        let pem = encode(LABEL, b"abc").replace('\n', "\r\n");
        assert_eq!(one_block(pem.as_bytes(), LABEL), Ok(b"abc".to_vec()));
    }
}
