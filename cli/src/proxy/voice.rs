//! Whom the proxy talks to: whoever waits for a credential, the terminal that a stream belongs to, or a pinentry.

use super::{
    control::{Event, PinAnswer},
    pins::Pins,
};
use crate::{
    pin::{Pin, PinError},
    talk::{Person, Talk},
    touch::Notice,
};
use pinentry::PassphraseInput;
use rustix::{
    fs::{FileType, OFlags},
    process::geteuid,
};
use secrecy::ExposeSecret as _;
use std::{
    env,
    fs::File,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

/// Names the program that asks for a PIN where there is no terminal.
pub(super) const PINENTRY_VARIABLE: &str = "TOUCHSTONE_PINENTRY";
/// How long a question for the PIN stands.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// A voice, with the PIN's memory.
pub(super) struct Voice {
    pins: Arc<Pins>,
    route: Route,
}

enum Route {
    /// Someone waits on the control socket.
    Conversation {
        say: tokio::sync::mpsc::UnboundedSender<Event>,
        /// `None`: whoever waits there answers no questions.
        answers: Option<Mutex<mpsc::Receiver<PinAnswer>>>,
        terminal: Option<PathBuf>,
    },
    /// The proxy's own terminal.
    Person(Person),
    /// The terminal of a client whose request needs the card; none for programs without.
    Terminal(Option<PathBuf>),
}

impl Voice {
    /// Whoever waits on the control socket.
    pub(super) fn conversation(
        pins: Arc<Pins>,
        say: tokio::sync::mpsc::UnboundedSender<Event>,
        answers: Option<mpsc::Receiver<PinAnswer>>,
        terminal: Option<PathBuf>,
    ) -> Self {
        let route = Route::Conversation {
            say,
            answers: answers.map(Mutex::new),
            terminal,
        };
        Self { pins, route }
    }

    /// The person at the proxy's own terminal.
    pub(super) fn person(pins: Arc<Pins>, person: Person) -> Self {
        let route = Route::Person(person);
        Self { pins, route }
    }

    /// A client's terminal.
    pub(super) fn terminal(pins: Arc<Pins>, terminal: Option<PathBuf>) -> Self {
        let route = Route::Terminal(terminal);
        Self { pins, route }
    }

    fn say(&self, event: Event) {
        let text = match &event {
            Event::Progress { text } | Event::Warning { text } => text.clone(),
            _ => TOUCH.to_owned(),
        };
        match &self.route {
            Route::Conversation { say, terminal, .. } => {
                // Whoever left in the meantime is told on the terminal they sit at.
                if say.send(event).is_err() {
                    tell(terminal.as_deref(), &text);
                }
            }
            Route::Person(person) => match event {
                Event::Progress { .. } => person.progress(&text),
                Event::Warning { .. } => person.warn(&text),
                _ => person.waiting(),
            },
            Route::Terminal(terminal) => tell(terminal.as_deref(), &text),
        }
    }
}

const TOUCH: &str = "Touch your YubiKey now.";

impl Notice for Voice {
    fn waiting(&self) {
        self.say(Event::Touch);
    }

    fn over(&self) {}
}

impl Talk for Voice {
    fn progress(&self, text: &str) {
        self.say(Event::Progress {
            text: text.to_owned(),
        });
    }

    fn warn(&self, text: &str) {
        self.say(Event::Warning {
            text: text.to_owned(),
        });
    }

    fn pin(&self, serial: u32, tries_left: Option<u8>) -> Result<Pin, PinError> {
        if let Some(pin) = self.pins.pin() {
            return Ok(pin);
        }
        match &self.route {
            Route::Person(person) => person.pin(serial, tries_left),
            Route::Conversation {
                say,
                answers: Some(answers),
                ..
            } => {
                let question = Event::Pin { serial, tries_left };
                let gone = |_| PinError::Unanswered("whoever asked went away".to_owned());
                say.send(question).map_err(|_| gone(()))?;
                let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                match answers.recv_timeout(ANSWER_WITHIN) {
                    Ok(answer) => match answer.bytes() {
                        Some(bytes) => Pin::parse(&bytes),
                        None => Err(PinError::Unanswered(
                            answer.refused.clone().unwrap_or_default(),
                        )),
                    },
                    Err(mpsc::RecvTimeoutError::Timeout) => Err(PinError::Unanswered(format!(
                        "no answer within {} s",
                        ANSWER_WITHIN.as_secs()
                    ))),
                    Err(mpsc::RecvTimeoutError::Disconnected) => Err(gone(())),
                }
            }
            Route::Conversation { .. } | Route::Terminal(_) => by_pinentry(serial, tries_left),
        }
    }

    fn judged(&self, pin: &Pin, right: bool) {
        if right {
            self.pins.keep(pin);
        } else {
            // A kept PIN that was changed costs one try, not three.
            self.pins.wipe();
        }
    }
}

/// The program that asks in a window, where there are windows or the user has named one.
fn pinentry() -> Option<String> {
    let named = env::var(PINENTRY_VARIABLE)
        .ok()
        .filter(|name| !name.is_empty());
    let windows = ["WAYLAND_DISPLAY", "DISPLAY"]
        .iter()
        .any(|variable| env::var_os(variable).is_some_and(|value| !value.is_empty()));
    named.or_else(|| windows.then(|| "pinentry".to_owned()))
}

fn by_pinentry(serial: u32, tries_left: Option<u8>) -> Result<Pin, PinError> {
    let nobody = |why: &str| {
        PinError::Unanswered(format!(
            "there is no terminal to ask on, and {why}: run touchstone credential in a terminal, or name a pinentry with {PINENTRY_VARIABLE}"
        ))
    };
    let program = pinentry().ok_or_else(|| nobody("no window to ask in"))?;
    let mut dialog = PassphraseInput::with_binary(&program)
        .ok_or_else(|| nobody(&format!("{program} is not there")))?;
    let tries = match tries_left {
        Some(left @ ..=2) => format!(" ({left} left before it locks)"),
        _ => String::new(),
    };
    let description =
        format!("kubectl needs your YubiKey {serial}. Give its PIN{tries}, then touch it.");
    let timeout = u16::try_from(ANSWER_WITHIN.as_secs()).unwrap_or(u16::MAX);
    let answer = dialog
        .with_title("Touchstone")
        .with_description(&description)
        .with_prompt("PIN:")
        .with_timeout(timeout)
        .interact();
    match answer {
        Ok(pin) => Pin::parse(pin.expose_secret().as_bytes()),
        Err(pinentry::Error::Cancelled) => Err(PinError::Unanswered(
            "the question was cancelled".to_owned(),
        )),
        Err(pinentry::Error::Timeout) => Err(PinError::Unanswered(format!(
            "no answer within {timeout} s"
        ))),
        Err(error) => Err(nobody(&format!("{program} failed ({error})"))),
    }
}

/// Writes a line to a terminal of this user's, where it is one. A program may have it in raw mode: so both returns.
pub(super) fn tell(terminal: Option<&Path>, text: &str) {
    tracing::info!(?terminal, "{text}");
    let Some(terminal) = terminal else { return };
    let tty = File::options()
        .write(true)
        .custom_flags(
            (OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::NOFOLLOW)
                .bits()
                .cast_signed(),
        )
        .open(terminal);
    let Ok(mut tty) = tty else { return };
    let is_ours = tty.metadata().is_ok_and(|found| {
        FileType::from_raw_mode(found.mode()) == FileType::CharacterDevice
            && found.uid() == geteuid().as_raw()
    });
    if is_ours && rustix::termios::isatty(&tty) {
        let text = crate::output::one_line(text);
        // A terminal that is gone, or that takes nothing, is not waited for.
        let _ = tty.write_all(format!("\r\n{text}\r\n").as_bytes());
    }
}

/// Which terminal this process is at, by the streams that it was given, or by what controls it.
pub(super) fn own_terminal() -> Option<PathBuf> {
    let named = |name: std::ffi::CString| {
        use std::os::unix::ffi::OsStringExt as _;
        PathBuf::from(std::ffi::OsString::from_vec(name.into_bytes()))
    };
    let by_name = rustix::termios::ttyname(std::io::stderr(), Vec::new())
        .or_else(|_| rustix::termios::ttyname(std::io::stdin(), Vec::new()))
        .ok()
        .map(named);
    by_name.or_else(controlling_terminal)
}

/// Field 7 of `/proc/self/stat` (proc(5)) is the number of the controlling terminal; pseudo-terminals have major 136 to 143.
fn controlling_terminal() -> Option<PathBuf> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let number: u32 = fields.split_whitespace().nth(4)?.parse().ok()?;
    let major = (number >> 8) & 0xfff;
    let minor = (number & 0xff) | ((number >> 12) & 0xfff00);
    (136..=143)
        .contains(&major)
        .then(|| PathBuf::from(format!("/dev/pts/{}", (major - 136) * 256 + minor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(
        pins: &Arc<Pins>,
    ) -> (
        Voice,
        tokio::sync::mpsc::UnboundedReceiver<Event>,
        mpsc::Sender<PinAnswer>,
    ) {
        let (say, said) = tokio::sync::mpsc::unbounded_channel();
        let (answer, answers) = mpsc::channel();
        let voice = Voice::conversation(Arc::clone(pins), say, Some(answers), None);
        (voice, said, answer)
    }

    #[test]
    fn a_pin_is_asked_for_once_and_again_after_the_card_refused_it() {
        let pins = Arc::new(Pins::kept());
        let (voice, mut said, answer) = conversation(&pins);
        for round in 0..2 {
            answer.send(PinAnswer::given(b"739154")).unwrap();
            let pin = voice.pin(7, Some(3)).unwrap();
            assert!(matches!(said.try_recv(), Ok(Event::Pin { serial: 7, .. })));
            voice.judged(&pin, true);
            voice.pin(7, Some(3)).unwrap();
            assert!(said.try_recv().is_err(), "round {round}: it was asked for");
            voice.judged(&pin, false);
        }
    }

    #[test]
    fn who_goes_away_or_refuses_gives_no_pin() {
        let pins = Arc::new(Pins::kept());
        let (voice, _said, answer) = conversation(&pins);
        answer.send(PinAnswer::refused("no".to_owned())).unwrap();
        assert!(matches!(voice.pin(7, None), Err(PinError::Unanswered(why)) if why == "no"));
        drop(answer);
        assert!(matches!(voice.pin(7, None), Err(PinError::Unanswered(_))));
    }

    #[test]
    fn only_a_terminal_is_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, b"theirs").unwrap();
        tell(Some(&path), "text");
        assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
        tell(Some(Path::new("/dev/null")), "text");
        tell(Some(Path::new("/nonexistent")), "text");
    }
}
