//! A server over TLS that answers as a test tells it to, in whole or in part.

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use tempfile::TempDir;
use touchstone_common::{
    certificate::{CaCertificate, Prepared, Profile, SerialNumber, Validity, to_pem},
    key::{KeyAlgorithm, SigningKey as _, SoftwareKey},
};

/// What was asked.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

/// Says what goes back, byte by byte. Whether the connection stays.
type Answer = dyn Fn(&Request, &mut dyn Write) -> bool + Send + Sync;

/// The server; it ends when dropped.
pub(crate) struct Rogue {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    accepting: Option<thread::JoinHandle<()>>,
    dir: TempDir,
}

impl Rogue {
    pub(crate) fn start(
        answer: impl Fn(&Request, &mut dyn Write) -> bool + Send + Sync + 'static,
    ) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("touchstone-rogue-")
            .tempdir()
            .expect("make a temporary folder");
        let (config, ca) = identity();
        fs::write(dir.path().join("server-ca.pem"), ca).expect("write the CA");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let address = listener.local_addr().expect("an address");
        let ended = Arc::<AtomicBool>::default();
        let accepting = {
            let ended = Arc::clone(&ended);
            let answer: Arc<Answer> = Arc::new(answer);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if ended.load(Ordering::SeqCst) {
                        break;
                    }
                    let (config, answer) = (Arc::clone(&config), Arc::clone(&answer));
                    // Ends with its client, or when the client is silent for long.
                    thread::spawn(move || serve(config, stream.ok(), &*answer));
                }
            })
        };
        Self {
            address,
            ended,
            accepting: Some(accepting),
            dir,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The CA of its certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("server-ca.pem")
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the one that waits for the next connection.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// A server identity for 127.0.0.1, and the CA that it chains to.
fn identity() -> (Arc<ServerConfig>, String) {
    let now = jiff::Timestamp::now();
    let day = jiff::SignedDuration::from_hours(24);
    let validity = Validity {
        not_before: now - day,
        not_after: now + day,
    };
    let [ca_key, key] =
        [(); 2].map(|()| SoftwareKey::generate(KeyAlgorithm::P256).expect("make a key"));
    let ca = Profile::ServerCa {
        common_name: "rogue",
    };
    let serial = |byte| SerialNumber::from_random([byte; 16]);
    let ca = Prepared::new(&ca, ca_key.public_key(), validity, serial(1), None)
        .expect("prepare the CA")
        .sign(&ca_key)
        .expect("sign the CA");
    let issuer = CaCertificate::from_der(&ca).expect("read the CA");
    let server = Profile::Server {
        dns_names: &[],
        ip_addresses: &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
    };
    let leaf = Prepared::new(
        &server,
        key.public_key(),
        validity,
        serial(2),
        Some(&issuer),
    )
    .expect("prepare the server's certificate")
    .sign(&ca_key)
    .expect("sign the server's certificate");
    let private = key.to_pkcs8_der().expect("the private key").to_vec();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(leaf)],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(private)),
        )
        .expect("a server identity");
    (Arc::new(config), to_pem(&ca))
}

fn serve(config: Arc<ServerConfig>, stream: Option<TcpStream>, answer: &Answer) -> Option<()> {
    let stream = stream?;
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .ok()?;
    let connection = ServerConnection::new(config).ok()?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    loop {
        let request = read(&mut stream)?;
        if !answer(&request, stream.get_mut()) {
            // Closed without a goodbye.
            return None;
        }
        stream.get_mut().flush().ok()?;
    }
}

fn read(stream: &mut BufReader<StreamOwned<ServerConnection, TcpStream>>) -> Option<Request> {
    let mut first = String::new();
    stream
        .read_line(&mut first)
        .ok()
        .filter(|count| *count > 0)?;
    let mut words = first.split_whitespace().map(ToOwned::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Request { method, path, body })
}

/// An answer with a body, of the time that it is.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
    format!(
        "HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}
