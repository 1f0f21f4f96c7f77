//! Asks a pcscd at a given socket for its readers: libpcsclite finds its socket in the environment, which a test that
//! shares its process with others can't change. The messages are those of pcsc-lite's src/winscard_msg.h, protocol 4.4.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const VERSION: u32 = 0x11;
const READERS: u32 = 0x12;
const MOST_READERS: usize = 16;
const NAME: usize = 128;
const ENTRY: usize = 184;
/// After the name: events, state, sharing, an ATR of at most 33 bytes and its padding, the ATR's length, the protocol.
const STATE: usize = NAME + 4;
const ATR_LENGTH: usize = NAME + 48;
const PRESENT: u32 = 0x04;

/// A slot of a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Its name.
    pub name: String,
    /// A card is in it and has given its ATR.
    pub card: bool,
}

/// The readers that the pcscd at this socket knows.
///
/// # Errors
/// It does not answer, or speaks another protocol.
pub fn readers(socket: &Path) -> io::Result<Vec<Reader>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut hello = Vec::new();
    for number in [12, VERSION, 4, 4, 0] {
        hello.extend(number.to_ne_bytes());
    }
    stream.write_all(&hello)?;
    let mut version = [0; 12];
    stream.read_exact(&mut version)?;
    if version.get(8..) != Some(&[0; 4]) {
        return Err(io::Error::other(
            "pcscd speaks another version of its protocol",
        ));
    }
    let mut ask = 0_u32.to_ne_bytes().to_vec();
    ask.extend(READERS.to_ne_bytes());
    stream.write_all(&ask)?;
    let mut entries = vec![0; ENTRY * MOST_READERS];
    stream.read_exact(&mut entries)?;
    Ok(entries.chunks_exact(ENTRY).filter_map(read_entry).collect())
}

fn read_entry(entry: &[u8]) -> Option<Reader> {
    let number = |at: usize| {
        entry
            .get(at..)?
            .first_chunk()
            .copied()
            .map(u32::from_ne_bytes)
    };
    let name = entry.get(..NAME)?.split(|&byte| byte == 0).next()?;
    let card = number(STATE)? & PRESENT != 0 && number(ATR_LENGTH)? != 0;
    (!name.is_empty()).then(|| Reader {
        name: String::from_utf8_lossy(name).into_owned(),
        card,
    })
}
