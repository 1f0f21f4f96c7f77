//! A collector of traces that keeps the bytes, for who looks whether something is among them.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// Its answer, whatever it was sent.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A collector that takes what comes until the test ends.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Collector {
    /// Starts it.
    ///
    /// # Panics
    /// When no port is to be had.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let collector = Self {
            address: listener.local_addr().expect("an address"),
            bytes: Arc::default(),
        };
        let bytes = Arc::clone(&collector.bytes);
        thread::spawn(move || {
            for stream in listener.incoming() {
                // Whoever breaks off sends it again.
                let _ = stream.and_then(|stream| take(stream, &bytes));
            }
        });
        collector
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that came so far, as far as it is text.
    #[must_use]
    pub fn text(&self) -> String {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Takes one request, whose body has a length.
fn take(mut stream: TcpStream, bytes: &Mutex<Vec<u8>>) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while !is_whole(&request) {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => request.extend_from_slice(&buffer[..read]),
        }
    }
    bytes
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend(request);
    stream.write_all(ANSWER)
}

fn is_whole(request: &[u8]) -> bool {
    let end = request.windows(4).position(|it| it == b"\r\n\r\n");
    let Some(end) = end else {
        return false;
    };
    let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.and_then(|it| it.parse().ok()).unwrap_or_default();
    request.len() >= end + 4 + length
}
