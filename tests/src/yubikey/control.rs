//! The hand that touches the card, pulls it out and breaks it: a shared panel, and a Unix socket that speaks to it.
//!
//! One command a line, one line back: `ok`, `ok VALUE` or `error: …`.

use super::apdu::Status;
use super::sensor::Sensor;
use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// When a finger comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TouchMode {
    /// When `touch` is said, while the card waits.
    Ask,
    /// At once.
    #[default]
    Auto,
    /// Three seconds after the card began to wait.
    Late,
    /// Never.
    Never,
}

impl FromStr for TouchMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ask" => Ok(Self::Ask),
            "auto" => Ok(Self::Auto),
            "late" => Ok(Self::Late),
            "never" => Ok(Self::Never),
            _ => Err(format!("{text:?} is none of auto, ask, never, late")),
        }
    }
}

/// A line of the control protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlCommand {
    /// `block-pin`: no tries are left.
    BlockPin,
    /// `block-puk`: no tries are left.
    BlockPuk,
    /// `fail-next SW`: the next command ends with this status word.
    FailNext(Status),
    /// `insert`: the card is plugged in.
    Insert,
    /// `inserted?`: whether the reader has taken the card.
    IsInserted,
    /// `quit`: the card ends.
    Quit,
    /// `remove`: the card is pulled out, also in the middle of a command.
    Remove,
    /// `signatures`: how many private-key operations there were.
    Signatures,
    /// `slow MS`: each command takes this much longer.
    Slow(Duration),
    /// `touch`: a finger, if the card waits for one.
    Touch,
    /// `touch-mode MODE`.
    TouchMode(TouchMode),
    /// `touch-timeout MS`: how long the card waits for a finger.
    TouchTimeout(Duration),
    /// `touches`: how many touches there were.
    Touches,
    /// `waiting?`: whether the card waits for a finger.
    IsWaiting,
}

impl FromStr for ControlCommand {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let milliseconds = |text: &str| {
            text.parse()
                .map(Duration::from_millis)
                .map_err(|_| format!("{text:?} is no number of milliseconds"))
        };
        Ok(match words.as_slice() {
            ["block-pin"] => Self::BlockPin,
            ["block-puk"] => Self::BlockPuk,
            ["fail-next", word] => Self::FailNext(
                u16::from_str_radix(word, 16)
                    .map(Status::new)
                    .map_err(|_| format!("{word:?} is no status word in hex"))?,
            ),
            ["insert"] => Self::Insert,
            ["inserted?"] => Self::IsInserted,
            ["quit"] => Self::Quit,
            ["remove"] => Self::Remove,
            ["signatures"] => Self::Signatures,
            ["slow", time] => Self::Slow(milliseconds(time)?),
            ["touch"] => Self::Touch,
            ["touch-mode", mode] => Self::TouchMode(mode.parse()?),
            ["touch-timeout", time] => Self::TouchTimeout(milliseconds(time)?),
            ["touches"] => Self::Touches,
            ["waiting?"] => Self::IsWaiting,
            _ => return Err(format!("{line:?} is no command")),
        })
    }
}

const LATE: Duration = Duration::from_secs(3);
const DEFAULT_TOUCH_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug)]
struct Controls {
    mode: TouchMode,
    touch_timeout: Duration,
    waiting: bool,
    finger: bool,
    inserted: bool,
    quit: bool,
    slow: Duration,
    fail_next: Option<Status>,
    block_pin: bool,
    block_puk: bool,
    touches: u64,
    signatures: u64,
    /// The ways to the reader: closing them is how the card is pulled out.
    connection: Option<std::net::TcpStream>,
}

/// The card's outside, shared by the card and whoever holds it.
#[derive(Clone)]
pub struct Panel(Arc<(Mutex<Controls>, Condvar)>);

impl fmt::Debug for Panel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Panel").field(&*self.controls()).finish()
    }
}

/// What is asked of the card before its next command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Faults {
    pub(super) slow: Duration,
    pub(super) fail: Option<Status>,
    pub(super) block_pin: bool,
    pub(super) block_puk: bool,
}

impl Panel {
    /// A card that is plugged in.
    #[must_use]
    pub fn new(mode: TouchMode) -> Self {
        let controls = Controls {
            mode,
            touch_timeout: DEFAULT_TOUCH_TIMEOUT,
            waiting: false,
            finger: false,
            inserted: true,
            quit: false,
            slow: Duration::ZERO,
            fail_next: None,
            block_pin: false,
            block_puk: false,
            touches: 0,
            signatures: 0,
            connection: None,
        };
        Self(Arc::new((Mutex::new(controls), Condvar::new())))
    }

    fn controls(&self) -> MutexGuard<'_, Controls> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Obeys a command; the value that it asks for, or nothing.
    ///
    /// # Errors
    /// A touch while the card waits for none.
    pub fn obey(&self, command: ControlCommand) -> Result<String, String> {
        let yes = |is| String::from(if is { "yes" } else { "no" });
        let mut controls = self.controls();
        let mut value = String::new();
        match command {
            ControlCommand::BlockPin => controls.block_pin = true,
            ControlCommand::BlockPuk => controls.block_puk = true,
            ControlCommand::FailNext(status) => controls.fail_next = Some(status),
            ControlCommand::Insert => controls.inserted = true,
            ControlCommand::IsInserted => value = yes(controls.connection.is_some()),
            ControlCommand::Quit => {
                controls.quit = true;
                controls.unplug();
            }
            ControlCommand::Remove => {
                controls.inserted = false;
                controls.unplug();
            }
            ControlCommand::Signatures => value = controls.signatures.to_string(),
            ControlCommand::Slow(time) => controls.slow = time,
            ControlCommand::Touch if controls.waiting => controls.finger = true,
            ControlCommand::Touch => return Err(String::from("the card waits for no touch")),
            ControlCommand::TouchMode(mode) => controls.mode = mode,
            ControlCommand::TouchTimeout(time) => controls.touch_timeout = time,
            ControlCommand::Touches => value = controls.touches.to_string(),
            ControlCommand::IsWaiting => value = yes(controls.waiting),
        }
        drop(controls);
        self.0.1.notify_all();
        Ok(value)
    }

    /// The card was told to end.
    #[must_use]
    pub fn has_quit(&self) -> bool {
        self.controls().quit
    }

    /// Waits until the card may connect to its reader. False when it is to end.
    pub(super) fn wait_until_inserted(&self) -> bool {
        let mut controls = self.controls();
        while !controls.inserted && !controls.quit {
            controls = self
                .0
                .1
                .wait(controls)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !controls.quit
    }

    /// Sleeps, unless the card is told to end meanwhile.
    pub(super) fn pause(&self, time: Duration) {
        let controls = self.controls();
        let _ = self
            .0
            .1
            .wait_timeout_while(controls, time, |controls| !controls.quit);
    }

    /// The card is in its reader; false when it was pulled out meanwhile.
    pub(super) fn connected(&self, stream: std::net::TcpStream) -> bool {
        let mut controls = self.controls();
        if !controls.inserted || controls.quit {
            return false;
        }
        controls.connection = Some(stream);
        true
    }

    pub(super) fn disconnected(&self) {
        self.controls().connection = None;
    }

    pub(super) fn take_faults(&self) -> Faults {
        let mut controls = self.controls();
        Faults {
            slow: controls.slow,
            fail: controls.fail_next.take(),
            block_pin: std::mem::take(&mut controls.block_pin),
            block_puk: std::mem::take(&mut controls.block_puk),
        }
    }
}

impl Controls {
    fn unplug(&mut self) {
        if let Some(connection) = self.connection.take() {
            // It may be closed already: then there is nothing left to do.
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }

    fn touch(&mut self) -> bool {
        self.touches += 1;
        true
    }
}

impl Sensor for Panel {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wait_for_touch(&mut self) -> bool {
        let begun = Instant::now();
        let mut controls = self.controls();
        if controls.mode == TouchMode::Auto {
            return controls.touch();
        }
        controls.waiting = true;
        controls.finger = false;
        let touched = loop {
            if controls.quit || !controls.inserted {
                break false;
            }
            let waited = begun.elapsed();
            let due = match controls.mode {
                TouchMode::Auto => true,
                TouchMode::Ask => controls.finger,
                TouchMode::Late => controls.finger || waited >= LATE,
                TouchMode::Never => false,
            };
            if due {
                break controls.touch();
            }
            let limit = controls.touch_timeout;
            let Some(left) = limit.checked_sub(waited).filter(|left| !left.is_zero()) else {
                break false;
            };
            let left = if controls.mode == TouchMode::Late {
                left.min(LATE.saturating_sub(waited))
            } else {
                left
            };
            (controls, _) = self
                .0
                .1
                .wait_timeout(controls, left)
                .unwrap_or_else(PoisonError::into_inner);
        };
        controls.waiting = false;
        touched
    }

    fn signed(&mut self) {
        self.controls().signatures += 1;
    }
}

/// Listens on a Unix socket and obeys what comes, until the process ends.
///
/// # Errors
/// The socket can't be made.
pub fn listen(panel: Panel, socket: &Path) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let panel = panel.clone();
            thread::spawn(move || converse(&panel, stream));
        }
    });
    Ok(())
}

fn converse(panel: &Panel, stream: UnixStream) -> io::Result<()> {
    let mut answers = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        let answer = line?.parse().and_then(|command| panel.obey(command));
        let answer = match answer {
            Ok(value) if value.is_empty() => String::from("ok\n"),
            Ok(value) => format!("ok {value}\n"),
            Err(why) => format!("error: {why}\n"),
        };
        answers.write_all(answer.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finger_counts_only_while_the_card_waits() {
        let panel = Panel::new(TouchMode::Ask);
        assert!(panel.obey(ControlCommand::Touch).is_err());
        let mut card = panel.clone();
        let waiting = thread::spawn(move || card.wait_for_touch());
        while panel.obey(ControlCommand::IsWaiting) != Ok(String::from("yes")) {
            thread::yield_now();
        }
        assert_eq!(panel.obey(ControlCommand::Touch), Ok(String::new()));
        assert!(waiting.join().expect("the card's thread"));
        assert_eq!(panel.obey(ControlCommand::Touches), Ok(String::from("1")));
    }

    #[test]
    fn a_card_that_is_never_touched_gives_up() {
        let mut panel = Panel::new(TouchMode::Never);
        assert_eq!(
            "touch-timeout 20"
                .parse()
                .and_then(|command| panel.obey(command)),
            Ok(String::new())
        );
        assert!(!panel.wait_for_touch());
        assert_eq!(panel.obey(ControlCommand::Touches), Ok(String::from("0")));
    }

    #[test]
    fn pulling_the_card_out_ends_its_wait() {
        let panel = Panel::new(TouchMode::Never);
        let mut card = panel.clone();
        let waiting = thread::spawn(move || card.wait_for_touch());
        while panel.obey(ControlCommand::IsWaiting) != Ok(String::from("yes")) {
            thread::yield_now();
        }
        assert_eq!(panel.obey(ControlCommand::Remove), Ok(String::new()));
        assert!(!waiting.join().expect("the card's thread"));
    }

    #[test]
    fn a_line_that_is_no_command_says_so() {
        for line in [
            "",
            "touch me",
            "slow",
            "slow fast",
            "fail-next 6g00",
            "touch-mode often",
        ] {
            assert!(line.parse::<ControlCommand>().is_err(), "{line:?}");
        }
        assert_eq!(
            "fail-next 6f00".parse(),
            Ok(ControlCommand::FailNext(Status::INTERNAL))
        );
    }
}
