//! Talking to the proxy that runs: one line of JSON for what is asked, then lines of what happens, the last of which is the
//! answer.
//!
//! A connection carries one question. While a `credential` is made, the proxy says how things go, and may ask for the PIN,
//! which is answered on the same connection: whoever waits for a credential is who sits before a terminal.

use super::{ProxyError, place::Place};
use crate::{
    credential::Store,
    error::Exit,
    software::{SoftwareCertificate, SoftwareCredential},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    thread,
    time::Duration,
};
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

/// The language spoken. A proxy of another one is asked to end, nothing else.
pub const VERSION: u32 = 1;
/// The longest line that either side reads.
pub const MAX_LINE: u64 = 256 * 1024;
/// Room for a line with a key and a chain in it.
pub(super) const ROOM: usize = 16 * 1024;
/// An answer that needs no human comes within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How often it is looked whether one that is being killed is gone, and how long between.
const LOOKS: u8 = 5;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is asked of a proxy.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub enum Question {
    /// A loopback certificate; the real one is asked for first when there is none.
    Credential(CredentialWanted),
    /// Keep the key and certificate of a login with a software key.
    Hold(Box<SoftwareCredential>),
    /// What was given to be kept.
    Held,
    /// How it stands.
    Status,
    /// End.
    Stop,
}

/// What a new certificate shall be for, should one be needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CredentialWanted {
    /// Its lifetime.
    pub ttl_seconds: Option<u32>,
    /// Groups to ask for; none: those of the last login.
    pub groups: Vec<String>,
    /// The reason; none: that of the last login.
    pub reason: Option<String>,
    /// The terminal that asks, such as `/dev/pts/3`: for touch notices, and for the end of streams.
    pub terminal: Option<PathBuf>,
    /// Whether whoever asks answers when the PIN is asked for.
    pub answers: bool,
}

/// A question as it is sent.
#[derive(Debug, Deserialize, Serialize)]
pub struct Sent {
    /// [`VERSION`].
    pub version: u32,
    /// The question.
    #[serde(flatten)]
    pub question: Question,
}

/// What a proxy says.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum Event {
    /// The answer to `credential`.
    Credential(LoopbackCredential),
    /// It cannot be done.
    Failed {
        /// Why.
        message: String,
        /// What helps.
        remedy: Option<String>,
        /// The exit code.
        exit: u8,
    },
    /// The PIN is needed.
    Pin {
        /// Of which YubiKey.
        serial: u32,
        /// Tries left, where known.
        tries_left: Option<u8>,
    },
    /// The answer to `held`: nothing.
    HoldsNothing,
    /// The answer to `hold`.
    Holding,
    /// The answer to `held`.
    Software(Box<SoftwareCredential>),
    /// How things go.
    Progress {
        /// In words.
        text: String,
    },
    /// The answer to `status`.
    Status(Box<ProxyStatus>),
    /// The answer to `stop`: it ends.
    Stopping,
    /// The card waits for a touch.
    Touch,
    /// What must not be missed.
    Warning {
        /// In words.
        text: String,
    },
}

/// The answer to [`Event::Pin`].
#[derive(Deserialize, Serialize, ZeroizeOnDrop)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PinAnswer {
    /// Its bytes in hex; none: nobody gives one.
    pub pin: Option<String>,
    /// Why none is given.
    #[serde(default)]
    pub refused: Option<String>,
}

impl fmt::Debug for PinAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A client certificate for the proxy's listener, and its key: they exist in the memory of the proxy and of its clients.
#[derive(Clone, Deserialize, Serialize, ZeroizeOnDrop)]
#[serde(rename_all = "camelCase")]
pub struct LoopbackCredential {
    /// PEM.
    #[zeroize(skip)]
    pub certificate: String,
    /// PKCS#8, PEM.
    pub key: String,
    /// Its end, which is that of the real certificate.
    #[zeroize(skip)]
    pub not_after: Timestamp,
}

impl fmt::Debug for LoopbackCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopbackCredential")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// How a proxy stands. The field names are those of `--output json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    /// Its process.
    pub pid: u32,
    /// Since when it runs.
    pub since: Timestamp,
    /// Where it listens.
    pub listens: String,
    /// Whether it renews the certificate by itself.
    pub renews: bool,
    /// Whom it speaks for; `None` while it has no valid certificate.
    pub user: Option<String>,
    /// The certificate's groups.
    pub groups: Vec<String>,
    /// The certificate's end.
    pub not_after: Option<Timestamp>,
    /// Requests carried so far.
    pub requests: u64,
    /// Bytes carried to the API server, bodies and streams.
    pub bytes_sent: u64,
    /// Bytes carried from it.
    pub bytes_received: u64,
    /// Requests and streams that are open now.
    pub open_streams: u64,
    /// Connections to the API server that are open now.
    pub connections: u64,
    /// Signatures that the card made for it; with a touch policy of `always`, as many touches.
    pub signatures: u64,
    /// The certificate of a software key that it keeps.
    #[serde(default)]
    pub software_key: Option<SoftwareCertificate>,
    /// Whether it holds the card at this moment.
    pub holds_card: bool,
}

/// How the proxy of a cluster stands; `None` where none runs.
///
/// # Errors
/// When its folder or socket could be someone else's, or it does not answer.
pub fn status(store: &Store, cluster: &str) -> Result<Option<ProxyStatus>, ProxyError> {
    let Some(mut line) = Line::open(store, cluster)? else {
        return Ok(None);
    };
    match line.answer_to(&Question::Status) {
        Ok(Event::Status(status)) => Ok(Some(*status)),
        Ok(other) => Err(line.unexpected(&other)),
        Err(ProxyError::Ended { .. }) => is_gone(store, cluster).map(|()| None),
        Err(error) => Err(error),
    }
}

/// The key and certificate of a login with a software key, where the cluster's proxy keeps some.
///
/// # Errors
/// As [`status`].
pub fn held(store: &Store, cluster: &str) -> Result<Option<SoftwareCredential>, ProxyError> {
    let Some(mut line) = Line::open(store, cluster)? else {
        return Ok(None);
    };
    match line.answer_to(&Question::Held) {
        Ok(Event::HoldsNothing) => Ok(None),
        Ok(Event::Software(credential)) => Ok(Some(*credential)),
        Ok(other) => Err(line.unexpected(&other)),
        Err(ProxyError::Ended { .. }) => is_gone(store, cluster).map(|()| None),
        Err(error) => Err(error),
    }
}

/// Ends the proxy of a cluster, and with it every stream. Whether one ran.
///
/// # Errors
/// As [`status`].
pub fn stop(store: &Store, cluster: &str) -> Result<bool, ProxyError> {
    let Some(mut line) = Line::open(store, cluster)? else {
        return Ok(false);
    };
    match line.answer_to(&Question::Stop) {
        Ok(Event::Stopping) => {
            // Closed when it has ended.
            let mut rest = Vec::new();
            let _ = (&mut line.reader).take(MAX_LINE).read_to_end(&mut rest);
            Ok(true)
        }
        Ok(other) => Err(line.unexpected(&other)),
        Err(ProxyError::Ended { .. }) => is_gone(store, cluster).map(|()| true),
        Err(error) => Err(error),
    }
}

/// Whether one that ended a talk without a word has ended itself: it is not believed to without a look.
fn is_gone(store: &Store, cluster: &str) -> Result<(), ProxyError> {
    for _ in 0..LOOKS {
        if Line::open(store, cluster)?.is_none() {
            return Ok(());
        }
        thread::sleep(LOOK_EVERY);
    }
    Err(ProxyError::Talk {
        cluster: cluster.to_owned(),
        why: "ends each talk without an answer".to_owned(),
    })
}

/// A connection to a proxy.
#[derive(Debug)]
pub struct Line {
    reader: BufReader<UnixStream>,
    cluster: String,
    /// Whether anything was heard.
    heard: bool,
}

impl Line {
    /// Connects to the proxy of a cluster; `None` where none runs.
    ///
    /// # Errors
    /// When folder, socket or process could be someone else's.
    pub fn open(store: &Store, cluster: &str) -> Result<Option<Self>, ProxyError> {
        let place = Place::new(store, cluster);
        if !place.has_socket()? {
            return Ok(None);
        }
        let failed = |source: io::Error| ProxyError::Talk {
            cluster: cluster.to_owned(),
            why: format!("cannot be reached: {source}"),
        };
        let stream = match UnixStream::connect(place.socket()) {
            Ok(stream) => stream,
            // What a killed one left.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let peer =
            rustix::net::sockopt::socket_peercred(&stream).map_err(|error| failed(error.into()))?;
        if peer.uid != rustix::process::geteuid() {
            return Err(ProxyError::Stranger {
                path: place.socket(),
                uid: peer.uid.as_raw(),
            });
        }
        stream
            .set_read_timeout(Some(ANSWER_WITHIN))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_WITHIN)))
            .map_err(failed)?;
        Ok(Some(Self {
            reader: BufReader::new(stream),
            cluster: cluster.to_owned(),
            heard: false,
        }))
    }

    /// Waits for answers as long as a human takes, from here on.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn wait_for_human(&mut self, limit: Duration) -> Result<(), ProxyError> {
        let set = self.reader.get_ref().set_read_timeout(Some(limit));
        set.map_err(|error| self.broken(&error))
    }

    /// Asks, and hears the first line.
    ///
    /// # Errors
    /// As [`Line::hear`].
    pub fn answer_to(&mut self, question: &Question) -> Result<Event, ProxyError> {
        self.ask(question)?;
        self.hear()
    }

    fn ask(&mut self, question: &Question) -> Result<(), ProxyError> {
        self.send(&Sent {
            version: VERSION,
            question: question.clone(),
        })
    }

    /// Sends one line.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn send<T: Serialize>(&mut self, value: &T) -> Result<(), ProxyError> {
        // Room from the start for what is secret, so that no copy is left behind by growing.
        let mut line = Zeroizing::new(Vec::with_capacity(ROOM));
        if serde_json::to_writer(&mut *line, value).is_err() {
            line.clear();
        }
        line.push(b'\n');
        let sent = self.reader.get_mut().write_all(&line);
        sent.map_err(|error| self.broken(&error))
    }

    /// The next line. A failure comes as an error.
    ///
    /// # Errors
    /// When the proxy says that it failed, goes away, or says what is not understood.
    pub fn hear(&mut self) -> Result<Event, ProxyError> {
        let mut line = Zeroizing::new(Vec::with_capacity(ROOM));
        let read = (&mut self.reader)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line);
        match read {
            Ok(0) => {
                let gone = io::Error::new(io::ErrorKind::UnexpectedEof, "it ended");
                return Err(self.broken(&gone));
            }
            Ok(_) => self.heard = true,
            Err(error) => return Err(self.broken(&error)),
        }
        match serde_json::from_slice(&line) {
            Ok(Event::Failed {
                message,
                remedy,
                exit,
            }) => Err(ProxyError::Failed {
                message,
                remedy,
                exit: Exit::from_code(exit),
            }),
            Ok(event) => Ok(event),
            Err(_) => Err(ProxyError::Talk {
                cluster: self.cluster.clone(),
                why: "says what this version of touchstone does not understand".to_owned(),
            }),
        }
    }

    /// For an answer to another question.
    #[must_use]
    pub fn unexpected(&self, event: &Event) -> ProxyError {
        ProxyError::Talk {
            cluster: self.cluster.clone(),
            why: format!("answers another question: {event:?}"),
        }
    }

    fn broken(&self, error: &io::Error) -> ProxyError {
        let why = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "does not answer".to_owned(),
            // A connection to one that is being killed is made, and then ends.
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::UnexpectedEof
                if !self.heard =>
            {
                return ProxyError::Ended {
                    cluster: self.cluster.clone(),
                };
            }
            io::ErrorKind::UnexpectedEof => "ended in the middle of an answer".to_owned(),
            _ => format!("is gone: {error}"),
        };
        ProxyError::Talk {
            cluster: self.cluster.clone(),
            why,
        }
    }
}

impl PinAnswer {
    /// A PIN.
    #[must_use]
    pub fn given(pin: &[u8]) -> Self {
        Self {
            pin: Some(hex::encode(pin)),
            refused: None,
        }
    }

    /// None, and why.
    #[must_use]
    pub fn refused(why: String) -> Self {
        Self {
            pin: None,
            refused: Some(why),
        }
    }

    /// Its bytes, when there is one and it is hex.
    #[must_use]
    pub fn bytes(&self) -> Option<Zeroizing<Vec<u8>>> {
        let mut bytes = hex::decode(self.pin.as_deref()?).ok()?;
        let kept = Zeroizing::new(bytes.clone());
        bytes.zeroize();
        Some(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::{fs::PermissionsExt as _, net::UnixListener},
    };

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().join("state"));
        Place::new(&store, "prod").prepare().unwrap();
        (directory, store)
    }

    /// Answers one question with these lines.
    fn answering(store: &Store, lines: &'static str) -> thread::JoinHandle<String> {
        let listener = UnixListener::bind(Place::new(store, "prod").socket()).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut question)
                .unwrap();
            stream.write_all(lines.as_bytes()).unwrap();
            question
        })
    }

    #[test]
    fn a_socket_that_no_one_answers_on_is_no_proxy() {
        let (_directory, store) = store();
        assert!(status_at(&store).unwrap().is_none());
        drop(UnixListener::bind(Place::new(&store, "prod").socket()).unwrap());
        assert!(status_at(&store).unwrap().is_none());
    }

    #[test]
    fn one_that_ends_before_its_first_word_is_no_proxy_any_more() {
        let (_directory, store) = store();
        let proxy = answering(&store, "");
        assert!(status_at(&store).unwrap().is_none());
        proxy.join().unwrap();
    }

    fn status_at(store: &Store) -> Result<Option<ProxyStatus>, ProxyError> {
        status(store, "prod")
    }

    #[test]
    fn a_failure_keeps_its_words_its_remedy_and_its_exit_code() {
        let (_directory, store) = store();
        let proxy = answering(
            &store,
            "{\"event\":\"failed\",\"message\":\"no touch\",\"remedy\":\"touch\",\"exit\":6}\n",
        );
        let error = status_at(&store).unwrap_err();
        assert_eq!(error.to_string(), "no touch");
        assert_eq!(error.remedy().as_deref(), Some("touch"));
        assert_eq!(error.exit(), Exit::Touch);
        assert_eq!(proxy.join().unwrap(), "{\"version\":1,\"op\":\"status\"}\n");
    }

    #[test]
    fn nonsense_and_an_end_in_the_middle_are_errors() {
        for lines in ["nonsense\n", "{\"event\":\"stopping\"}\n", "{\"event\":"] {
            let (_directory, store) = store();
            let proxy = answering(&store, lines);
            let error = status_at(&store).unwrap_err();
            assert!(
                matches!(error, ProxyError::Talk { .. }),
                "{lines:?}: {error}"
            );
            proxy.join().unwrap();
        }
    }

    #[test]
    fn a_file_in_the_place_of_the_socket_is_refused() {
        let (_directory, store) = store();
        let path = Place::new(&store, "prod").socket();
        fs::write(&path, b"").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(
            status_at(&store).unwrap_err(),
            ProxyError::Place { .. }
        ));
    }

    #[test]
    fn a_pin_and_a_key_are_never_printed() {
        let answer = PinAnswer::given(b"739154");
        assert_eq!(&*answer.bytes().unwrap().to_vec(), b"739154");
        let credential = LoopbackCredential {
            certificate: String::new(),
            key: "SECRET".to_owned(),
            not_after: Timestamp::UNIX_EPOCH,
        };
        let printed = format!(
            "{answer:?} {credential:?} {:?}",
            Event::Credential(credential.clone())
        );
        assert!(!printed.contains("373339"), "{printed}");
        assert!(!printed.contains("SECRET"), "{printed}");
    }
}
