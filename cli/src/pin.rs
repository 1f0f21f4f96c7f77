//! PIN, PUK and management key: checked before the card sees them, wiped from memory, never printed.

use crate::terminal::{self, Terminal, TerminalError};
use std::{
    fmt,
    io::Read as _,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The most bytes that are read of a file that holds a secret.
const MAX_SECRET_FILE: u64 = 4096;

/// Why a PIN, PUK or management key was not sent to the card. No try was spent.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Typed twice, differently.
    #[error("the two entries differ")]
    Differ,
    /// The factory's value.
    #[error("{0} is the factory's and known to everyone")]
    Factory(&'static str),
    /// A PIN or PUK of another length.
    #[error("a {what} has 6 to 8 characters, this has {length}")]
    Length {
        /// PIN or PUK.
        what: &'static str,
        /// Bytes given.
        length: usize,
    },
    /// A management key that is not one.
    #[error("a management key is 32, 48 or 64 hexadecimal digits")]
    ManagementKey,
    /// A one-time password typed by a touch.
    #[error(
        "that was a one-time password, typed by the YubiKey when it was touched by accident; no try was spent"
    )]
    OtpTouch,
    /// A file that could not be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No terminal to ask on.
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    /// Whoever was asked did not answer.
    #[error("nobody gave the PIN: {0}")]
    Unanswered(String),
    /// Bytes that no keyboard types, such as those of a binary file.
    #[error(
        "a {0} has no control characters, and not the byte FF, with which the card fills up shorter ones"
    )]
    Unprintable(&'static str),
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Zeroizing<Vec<u8>>);

        impl $name {
            /// The bytes, for the card alone.
            #[must_use]
            pub fn expose(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[redacted]")
            }
        }
    };
}

secret!(
    /// A PIN of 6 to 8 bytes.
    Pin
);
secret!(
    /// A PIN unblocking key of 6 to 8 bytes.
    Puk
);
secret!(
    /// A management key of 16, 24 or 32 bytes.
    ManagementKey
);

impl Pin {
    /// Checks a PIN without asking the card.
    ///
    /// # Errors
    /// When it cannot be one.
    pub fn parse(text: &[u8]) -> Result<Self, PinError> {
        checked(text, "PIN").map(Self)
    }

    /// As [`Pin::parse`], and not the factory's.
    ///
    /// # Errors
    /// When it cannot be a new PIN.
    pub fn parse_new(text: &[u8]) -> Result<Self, PinError> {
        let pin = Self::parse(text)?;
        if pin.is_factory() {
            return Err(PinError::Factory("123456"));
        }
        Ok(pin)
    }

    /// Whether it is the one that every YubiKey has when it is new.
    #[must_use]
    pub fn is_factory(&self) -> bool {
        self.expose() == b"123456"
    }
}

impl Puk {
    /// Checks a PUK without asking the card.
    ///
    /// # Errors
    /// When it cannot be one.
    pub fn parse(text: &[u8]) -> Result<Self, PinError> {
        checked(text, "PUK").map(Self)
    }

    /// As [`Puk::parse`], and not the factory's.
    ///
    /// # Errors
    /// When it cannot be a new PUK.
    pub fn parse_new(text: &[u8]) -> Result<Self, PinError> {
        if text == b"12345678" {
            return Err(PinError::Factory("12345678"));
        }
        Self::parse(text)
    }
}

impl ManagementKey {
    /// Reads hexadecimal digits.
    ///
    /// # Errors
    /// When it is not 16, 24 or 32 bytes of hex.
    pub fn parse(text: &[u8]) -> Result<Self, PinError> {
        let bytes = Zeroizing::new(hex::decode(text).map_err(|_| PinError::ManagementKey)?);
        if matches!(bytes.len(), 16 | 24 | 32) {
            Ok(Self(bytes))
        } else {
            Err(PinError::ManagementKey)
        }
    }

    /// Reads a file of hexadecimal digits.
    ///
    /// # Errors
    /// When it cannot be read or is no management key.
    pub fn from_file(path: &Path) -> Result<Self, PinError> {
        Self::parse(&secret_from_file(path)?)
    }
}

fn checked(text: &[u8], what: &'static str) -> Result<Zeroizing<Vec<u8>>, PinError> {
    if is_otp_touch(text) {
        return Err(PinError::OtpTouch);
    }
    // https://docs.yubico.com/yesdk/users-manual/application-piv/pin-puk-mgmt-key.html: 6 to 8 bytes.
    if !(6..=8).contains(&text.len()) {
        return Err(PinError::Length {
            what,
            length: text.len(),
        });
    }
    // To the card, 123456 and an FF after it are 123456.
    if text
        .iter()
        .any(|&byte| byte.is_ascii_control() || byte == 0xff)
    {
        return Err(PinError::Unprintable(what));
    }
    Ok(Zeroizing::new(text.to_vec()))
}

/// A touch without a waiting command types a one-time password: 44 characters of Yubico's modhex alphabet.
/// Two touches type two of them.
fn is_otp_touch(text: &[u8]) -> bool {
    text.len() >= 44 && text.iter().all(|byte| b"cbdefghijklnrtuv".contains(byte))
}

/// The first line of a file, or of standard input for `-`.
///
/// # Errors
/// When it cannot be read.
pub fn secret_from_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, PinError> {
    let failed = |source| PinError::Read {
        path: path.to_owned(),
        source,
    };
    // Room from the start, so that no copy is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(4097));
    if path == Path::new("-") {
        terminal::read_line_from(&mut std::io::stdin().lock(), &mut bytes).map_err(failed)?;
    } else {
        std::fs::File::open(path)
            .map_err(failed)?
            .take(MAX_SECRET_FILE)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
    }
    let end = bytes
        .iter()
        .position(|byte| matches!(byte, b'\n' | b'\r'))
        .unwrap_or(bytes.len());
    bytes.truncate(end);
    Ok(bytes)
}

/// Where the PIN comes from.
#[derive(Clone, Debug)]
pub enum PinSource {
    /// The first line of a file, or of standard input for `-`.
    File(PathBuf),
    /// Asked on the terminal.
    Prompt,
}

impl PinSource {
    /// A file when one was named, the terminal otherwise.
    #[must_use]
    pub fn new(file: Option<PathBuf>) -> Self {
        file.map_or(Self::Prompt, Self::File)
    }

    /// The PIN, checked. `tries_left` stands in the prompt.
    ///
    /// # Errors
    /// When there is none, or it cannot be a PIN. A stray touch at the prompt is asked again: it costs nothing.
    pub fn pin(&self, serial: u32, tries_left: Option<u8>) -> Result<Pin, PinError> {
        match self {
            Self::File(path) => Pin::parse(&secret_from_file(path)?),
            Self::Prompt => {
                let mut terminal = Terminal::open("--pin-file FILE")?;
                let prompt = match tries_left {
                    Some(n) if n < 3 => format!(
                        "PIN of YubiKey {serial} ({n} {} left): ",
                        if n == 1 { "try" } else { "tries" }
                    ),
                    _ => format!("PIN of YubiKey {serial}: "),
                };
                loop {
                    match Pin::parse(&terminal.secret(&prompt)?) {
                        Err(
                            error @ (PinError::OtpTouch
                            | PinError::Length { .. }
                            | PinError::Unprintable(_)),
                        ) => {
                            terminal.complain(&error)?;
                        }
                        other => return other,
                    }
                }
            }
        }
    }
}

/// Asks for a new PIN or PUK twice, until both entries are the same and the value will do.
///
/// # Errors
/// When the terminal fails.
pub fn ask_new<T>(
    terminal: &mut Terminal,
    what: &str,
    parse: impl Fn(&[u8]) -> Result<T, PinError>,
) -> Result<T, PinError> {
    loop {
        let first = terminal.secret(&format!("New {what} (6 to 8 characters): "))?;
        let parsed = match parse(&first) {
            Ok(parsed) => parsed,
            Err(PinError::Terminal(error)) => return Err(error.into()),
            Err(error) => {
                terminal.complain(&error)?;
                continue;
            }
        };
        if *terminal.secret(&format!("The new {what} again: "))? == *first {
            return Ok(parsed);
        }
        terminal.complain(&PinError::Differ)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_one_time_password_is_told_from_a_pin() {
        let otp = b"cccccclnvhgkfjrtbdeuigfhjkrnvcdeibvtunlkhgrt";
        assert_eq!(otp.len(), 44);
        assert!(matches!(Pin::parse(otp), Err(PinError::OtpTouch)));
    }

    #[test]
    fn a_long_pin_that_is_not_modhex_is_only_too_long() {
        assert!(matches!(
            Pin::parse(&[b'1'; 44]),
            Err(PinError::Length { length: 44, .. })
        ));
    }

    #[test]
    fn pins_outside_six_to_eight_bytes_never_reach_the_card() {
        for length in [0, 1, 5, 9, 64] {
            assert!(Pin::parse(&vec![b'7'; length]).is_err(), "{length}");
        }
        for length in 6..=8 {
            assert!(Pin::parse(&vec![b'7'; length]).is_ok(), "{length}");
        }
    }

    #[test]
    fn the_factory_values_are_refused_as_new_ones() {
        assert!(matches!(
            Pin::parse_new(b"123456"),
            Err(PinError::Factory(_))
        ));
        assert!(matches!(
            Puk::parse_new(b"12345678"),
            Err(PinError::Factory(_))
        ));
    }

    #[test]
    fn the_factory_pin_does_not_pass_in_the_disguise_of_the_cards_padding() {
        for text in [&b"123456\xff"[..], b"123456\xff\xff"] {
            assert!(matches!(
                Pin::parse_new(text),
                Err(PinError::Unprintable("PIN"))
            ));
        }
        assert!(Puk::parse_new(b"314159\xff\xff").is_err());
    }

    #[test]
    fn a_binary_file_costs_no_try() {
        for text in [&b"1234\x0056"[..], b"\x1b[31mab", b"271828\x7f"] {
            assert!(matches!(
                Pin::parse(text),
                Err(PinError::Unprintable("PIN"))
            ));
        }
        assert!(Pin::parse("pâté3".as_bytes()).is_ok());
    }

    #[test]
    fn secrets_print_as_redacted() {
        let pin = Pin::parse(b"739154").unwrap();
        let source = ManagementKey::parse(&[b'a'; 48]).unwrap();
        assert_eq!(format!("{pin:?} {source:?}"), "[redacted] [redacted]");
    }

    #[test]
    fn a_pin_file_may_end_with_a_newline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pin");
        for text in ["739154", "739154\n", "739154\r\n", "739154\nsecond line\n"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(&**secret_from_file(&path).unwrap(), b"739154", "{text:?}");
        }
    }

    #[test]
    fn a_management_key_has_16_24_or_32_bytes() {
        for digits in [0, 30, 34, 47, 49, 66] {
            assert!(
                ManagementKey::parse(&vec![b'0'; digits]).is_err(),
                "{digits}"
            );
        }
        for digits in [32, 48, 64] {
            assert!(
                ManagementKey::parse(&vec![b'0'; digits]).is_ok(),
                "{digits}"
            );
        }
    }
}
