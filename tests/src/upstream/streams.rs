//! What goes through a stream to a container, whatever carries it.

use bytes::Bytes;
use tokio::sync::mpsc;

/// How much waits between two ends: little, so that a slow reader slows the writer.
pub(super) const DEPTH: usize = 8;

/// What is run in a container, and which streams it has.
#[derive(Clone, Debug, Default)]
pub(super) struct Exec {
    pub(super) command: Vec<String>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// From the client.
#[derive(Debug)]
pub(super) enum Input {
    Data(Bytes),
    End,
    Size { columns: u16, rows: u16 },
}

/// To the client: standard output or standard error.
pub(super) type Output = mpsc::Sender<(Channel, Bytes)>;

/// The numbers that WebSocket streams give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    Error = 3,
    Resize = 4,
}

impl Exec {
    /// As the query of a request says.
    pub(super) fn new(query: &str) -> Self {
        let mut exec = Self::default();
        for (name, value) in pairs(query) {
            let yes = value == "true" || value == "1";
            match name.as_str() {
                "command" => exec.command.push(value),
                "stdin" => exec.stdin = yes,
                "stdout" => exec.stdout = yes,
                "stderr" => exec.stderr = yes,
                "tty" => exec.tty = yes,
                _ => {}
            }
        }
        exec
    }
}

/// A size of a terminal, as clients send it.
pub(super) fn size(json: &[u8]) -> Option<Input> {
    let size: serde_json::Value = serde_json::from_slice(json).ok()?;
    let number = |name: &str| u16::try_from(size[name].as_u64()?).ok();
    Some(Input::Size {
        columns: number("Width")?,
        rows: number("Height")?,
    })
}

/// The pairs of a query, decoded.
pub(super) fn pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, mut after)) = rest.split_first() {
        let byte = match (first, after) {
            (b'+', _) => b' ',
            (b'%', [high, low, further @ ..]) => {
                after = further;
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).unwrap_or("3f");
                u8::from_str_radix(digits, 16).unwrap_or(b'?')
            }
            _ => *first,
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
