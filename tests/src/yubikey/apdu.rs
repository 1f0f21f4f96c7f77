//! Command and response APDUs (ISO 7816-4): short and extended lengths, status words.

/// What a command ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(u16);

impl Status {
    /// Done.
    pub const OK: Self = Self(0x9000);
    /// A state could not be written.
    pub const MEMORY_FAILURE: Self = Self(0x6581);
    /// The length of the data does not fit the command.
    pub const WRONG_LENGTH: Self = Self(0x6700);
    /// The last command of a chain was expected.
    pub const CHAIN_NOT_ENDED: Self = Self(0x6883);
    /// The PIN, the management key or a touch is missing.
    pub const SECURITY_STATUS: Self = Self(0x6982);
    /// No tries are left.
    pub const BLOCKED: Self = Self(0x6983);
    /// Not now: the PIN and the PUK are not both blocked.
    pub const CONDITIONS_NOT_SATISFIED: Self = Self(0x6985);
    /// The data are not what the command takes.
    pub const WRONG_DATA: Self = Self(0x6a80);
    /// No such object or application.
    pub const NOT_FOUND: Self = Self(0x6a82);
    /// No space left.
    pub const NO_SPACE: Self = Self(0x6a84);
    /// P1 or P2 are not what the command takes.
    pub const WRONG_PARAMETERS: Self = Self(0x6a86);
    /// No such key or reference.
    pub const REFERENCE_NOT_FOUND: Self = Self(0x6a88);
    /// No such slot.
    pub const WRONG_SLOT: Self = Self(0x6b00);
    /// The instruction is not known.
    pub const UNKNOWN_INSTRUCTION: Self = Self(0x6d00);
    /// The class is not known; secure messaging is none that this card speaks.
    pub const UNKNOWN_CLASS: Self = Self(0x6e00);
    /// Something inside failed.
    pub const INTERNAL: Self = Self(0x6f00);

    /// Any status word.
    #[must_use]
    pub const fn new(word: u16) -> Self {
        Self(word)
    }

    /// A wrong PIN or PUK, with the tries that are left. The nibble has place for fifteen.
    #[must_use]
    pub fn tries_left(tries: u8) -> Self {
        Self(0x63c0 | u16::from(tries.min(15)))
    }

    /// More bytes wait for GET RESPONSE; 0 stands for 256 or more.
    #[must_use]
    pub fn more(bytes: usize) -> Self {
        Self(0x6100 | u16::try_from(bytes).ok().filter(|&n| n < 256).unwrap_or(0))
    }

    /// The two bytes.
    #[must_use]
    pub const fn word(self) -> u16 {
        self.0
    }
}

/// A command answers with data, or ends with a status that is not OK.
pub type Answer = Result<Vec<u8>, Status>;

/// A parsed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The class, without its chaining bit.
    pub class: u8,
    /// More commands of this chain follow.
    pub chained: bool,
    /// The instruction.
    pub instruction: u8,
    /// First parameter.
    pub p1: u8,
    /// Second parameter.
    pub p2: u8,
    /// The data field.
    pub data: Vec<u8>,
    /// How many bytes one response may carry.
    pub expected: usize,
}

/// The most bytes of a short response.
pub const SHORT_RESPONSE: usize = 256;
const EXTENDED_RESPONSE: usize = 65536;

impl Command {
    /// Reads a command in any of the seven encodings of ISO 7816-4, section 5.1.
    ///
    /// # Errors
    /// WRONG_LENGTH where the bytes are none of them.
    pub fn read(bytes: &[u8]) -> Result<Self, Status> {
        let (&[class, instruction, p1, p2], body) =
            bytes.split_first_chunk().ok_or(Status::WRONG_LENGTH)?;
        let (data, expected) = read_body(body).ok_or(Status::WRONG_LENGTH)?;
        Ok(Self {
            class: class & !0x10,
            chained: class & 0x10 != 0,
            instruction,
            p1,
            p2,
            data: data.to_vec(),
            expected,
        })
    }
}

fn read_body(body: &[u8]) -> Option<(&[u8], usize)> {
    match body {
        [] => Some((&[], SHORT_RESPONSE)),
        [le] => Some((&[], short(*le))),
        [0, high, low] => Some((&[], extended(*high, *low))),
        [0, high, low, rest @ ..] => {
            let (data, le) =
                rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
            match le {
                _ if data.is_empty() => None,
                [] => Some((data, EXTENDED_RESPONSE)),
                [high, low] => Some((data, extended(*high, *low))),
                _ => None,
            }
        }
        [length, rest @ ..] => {
            let (data, le) = rest.split_at_checked(usize::from(*length))?;
            match le {
                _ if data.is_empty() => None,
                [] => Some((data, SHORT_RESPONSE)),
                [le] => Some((data, short(*le))),
                _ => None,
            }
        }
    }
}

fn short(le: u8) -> usize {
    if le == 0 {
        SHORT_RESPONSE
    } else {
        usize::from(le)
    }
}

fn extended(high: u8, low: u8) -> usize {
    match u16::from_be_bytes([high, low]) {
        0 => EXTENDED_RESPONSE,
        le => usize::from(le),
    }
}

/// Data and status as they go over the wire.
#[must_use]
pub fn response(mut data: Vec<u8>, status: Status) -> Vec<u8> {
    data.extend(status.word().to_be_bytes());
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
        read_body(bytes).map(|(data, expected)| (data.to_vec(), expected))
    }

    #[test]
    fn all_seven_encodings_are_read() {
        assert_eq!(body(&[]), Some((vec![], 256)));
        assert_eq!(body(&[0x10]), Some((vec![], 16)));
        assert_eq!(body(&[2, 7, 8]), Some((vec![7, 8], 256)));
        assert_eq!(body(&[2, 7, 8, 0]), Some((vec![7, 8], 256)));
        assert_eq!(body(&[0, 0, 0]), Some((vec![], 65536)));
        assert_eq!(body(&[0, 0, 2, 7, 8]), Some((vec![7, 8], 65536)));
        assert_eq!(body(&[0, 0, 2, 7, 8, 1, 0]), Some((vec![7, 8], 256)));
    }

    #[test]
    fn a_length_that_does_not_fit_the_bytes_is_refused() {
        for bytes in [
            &[5, 1][..],
            &[1, 1, 1, 1],
            &[0, 0, 5, 1],
            &[0, 0, 1, 1, 1],
            &[0, 0],
        ] {
            assert_eq!(read_body(bytes), None, "{bytes:02x?}");
        }
        assert_eq!(Command::read(&[0, 0xa4, 4]), Err(Status::WRONG_LENGTH));
    }

    #[test]
    fn the_chaining_bit_is_taken_out_of_the_class() {
        let command = Command::read(&[0x10, 0xdb, 0x3f, 0xff, 1, 9]).expect("a short command");
        assert!(command.chained);
        assert_eq!((command.class, command.data), (0, vec![9]));
    }
}
