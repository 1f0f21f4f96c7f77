//! One command that the yubikey package cannot send: a signature over a long message.

use super::fault::pcsc_error;
use crate::card::CardError;

/// GENERAL AUTHENTICATE with command chaining (NIST SP 800-73-4 part 2, 3.2.4): what a slot signs of `input`.
pub(super) fn general_authenticate(
    transaction: &pcsc::Transaction<'_>,
    algorithm: u8,
    slot: u8,
    input: &[u8],
) -> Result<Vec<u8>, CardError> {
    const TOO_LONG: CardError = CardError::Malformed("the message is too long for it");
    let mut template = vec![0x82, 0x00];
    push_tlv(&mut template, 0x81, input).ok_or(TOO_LONG)?;
    let mut data = Vec::with_capacity(template.len() + 4);
    push_tlv(&mut data, 0x7c, &template).ok_or(TOO_LONG)?;

    let mut answer = Vec::new();
    let mut chunks = data.chunks(255).peekable();
    let mut command = Vec::with_capacity(261);
    let mut status = [0u8; 2];
    while let Some(chunk) = chunks.next() {
        let class = if chunks.peek().is_some() { 0x10 } else { 0x00 };
        let length = u8::try_from(chunk.len()).map_err(|_| TOO_LONG)?;
        command.clear();
        command.extend_from_slice(&[class, 0x87, algorithm, slot, length]);
        command.extend_from_slice(chunk);
        status = transmit(transaction, &command, &mut answer)?;
        if !matches!(status, [0x90 | 0x61, _]) {
            break;
        }
    }
    while let [0x61, more] = status {
        status = transmit(transaction, &[0x00, 0xc0, 0x00, 0x00, more], &mut answer)?;
    }
    match status {
        [0x90, 0x00] => {}
        [0x69, 0x82] => return Err(CardError::NotAllowed),
        [high, low] => {
            return Err(CardError::Pcsc(format!(
                "signing failed with status {high:02x}{low:02x}"
            )));
        }
    }
    tlv(&answer, 0x7c)
        .and_then(|inner| tlv(inner, 0x82))
        .map(<[u8]>::to_vec)
        .ok_or(CardError::Malformed("the signature"))
}

fn transmit(
    transaction: &pcsc::Transaction<'_>,
    command: &[u8],
    answer: &mut Vec<u8>,
) -> Result<[u8; 2], CardError> {
    let mut buffer = [0u8; pcsc::MAX_BUFFER_SIZE];
    let received = transaction
        .transmit(command, &mut buffer)
        .map_err(pcsc_error)?;
    let (data, status) = received
        .split_last_chunk::<2>()
        .ok_or(CardError::Malformed("an answer without a status"))?;
    answer.extend_from_slice(data);
    Ok(*status)
}

/// Appends a BER-TLV of one tag byte and at most 65535 bytes of value.
fn push_tlv(out: &mut Vec<u8>, tag: u8, value: &[u8]) -> Option<()> {
    let length = u16::try_from(value.len()).ok()?;
    let [high, low] = length.to_be_bytes();
    out.push(tag);
    match length {
        0..0x80 => out.push(low),
        0x80..0x100 => out.extend_from_slice(&[0x81, low]),
        0x100.. => out.extend_from_slice(&[0x82, high, low]),
    }
    out.extend_from_slice(value);
    Some(())
}

/// The value of the BER-TLV that `bytes` are, if its tag is `tag` and nothing follows.
fn tlv(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(&[tag])?;
    let (length, value) = match rest {
        [length @ 0..=0x7f, value @ ..] => (usize::from(*length), value),
        [0x81, length, value @ ..] => (usize::from(*length), value),
        [0x82, high, low, value @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), value),
        _ => return None,
    };
    (value.len() == length).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_encoded_as_the_card_reads_them() {
        for length in [0, 1, 0x7f, 0x80, 0xfe, 0xff, 0x100, 0x101, 3000] {
            let mut out = Vec::new();
            push_tlv(&mut out, 0x81, &vec![7; length]).unwrap();
            assert_eq!(tlv(&out, 0x81).map(<[u8]>::len), Some(length), "{length}");
        }
    }

    #[test]
    fn a_cut_or_padded_answer_is_not_a_signature() {
        let mut out = Vec::new();
        push_tlv(&mut out, 0x82, &[1, 2, 3]).unwrap();
        assert_eq!(tlv(&out, 0x7c), None);
        out.push(0);
        assert_eq!(tlv(&out, 0x82), None);
        assert_eq!(tlv(&[0x82], 0x82), None);
        assert_eq!(tlv(&[0x82, 0x82, 0x01], 0x82), None);
    }
}
