//! HTTP/2 frame by frame (RFC 9113 section 4), as no client library would write it.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use crate::support::{network::tls, pki::Certified};

/// Kinds of frames (RFC 9113 section 6).
const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
/// Their flags.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
/// Errors (section 7).
const CANCEL: [u8; 4] = [0, 0, 0, 8];
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// How long a server may take to hang up, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The head of a request without a body, as HPACK has it (RFC 7541): names of the static table, values as they are.
pub(crate) fn head(method: &str, path: &str) -> Vec<u8> {
    let mut block = vec![0x87];
    for (name, value) in [(0x01, "localhost"), (0x02, method), (0x04, path)] {
        block.push(name);
        // Seven bits hold the length of all that is asked for here.
        assert!(value.len() < 127);
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    block
}

/// A stream that posts this JSON.
pub(crate) fn post(stream: u32, path: &str, body: &[u8]) -> Vec<u8> {
    let mut block = head("POST", path);
    // A header of a name of its own (RFC 7541 section 6.2.2).
    block.push(0);
    for text in ["content-type", "application/json"] {
        block.push(text.len() as u8);
        block.extend(text.as_bytes());
    }
    let mut frames = frame(HEADERS, END_HEADERS, stream, &block);
    frames.extend(frame(DATA, END_STREAM, stream, body));
    frames
}

/// Takes a stream back.
pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL)
}

/// A connection on which nothing is right but what a test makes so. What comes is read all the time.
pub(crate) struct Frames {
    writer: WriteHalf<TlsStream<TcpStream>>,
    reading: JoinHandle<Vec<u8>>,
}

impl Frames {
    /// Opens one, and says the preface (section 3.4).
    pub(crate) async fn open(address: SocketAddr, ca: &Certified) -> Self {
        let (reader, writer) = tokio::io::split(tls(address, ca, None).await);
        let mut frames = Self {
            writer,
            reading: tokio::spawn(read(reader)),
        };
        assert!(frames.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await);
        assert!(frames.send(&frame(SETTINGS, 0, 0, &[])).await);
        frames
    }

    /// Whether it could be sent.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = async {
            self.writer.write_all(bytes).await?;
            self.writer.flush().await
        };
        matches!(timeout(PATIENCE, sent).await, Ok(Ok(())))
    }

    /// Waits until the server hangs up; the error that it gave as its reason, if it came through.
    pub(crate) async fn hung_up_on(self) -> Option<u32> {
        let came = timeout(PATIENCE, self.reading).await;
        let came = came.expect("the connection is still open").unwrap();
        let mut rest = &came[..];
        let mut reason = None;
        while let [a, b, c, kind, _, _, _, _, _, after @ ..] = rest {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let (payload, after) = after.split_at(length.min(after.len()));
            if let (GOAWAY, [_, _, _, _, code @ ..]) = (*kind, payload) {
                reason = code.first_chunk().map(|code| u32::from_be_bytes(*code));
            }
            rest = after;
        }
        reason
    }

    /// Whether the server has hung up.
    pub(crate) fn is_over(&self) -> bool {
        self.reading.is_finished()
    }
}

async fn read(mut reader: ReadHalf<TlsStream<TcpStream>>) -> Vec<u8> {
    let mut all = Vec::new();
    // A connection that is reset is over, too.
    let _ = reader.read_to_end(&mut all).await;
    all
}
