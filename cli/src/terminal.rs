//! The terminal: prompts without echo, questions, notices. Data never goes here, and prompts never go to standard output.

use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use std::{
    fmt,
    fs::File,
    io::{self, Read, Write as _},
    sync::{Mutex, MutexGuard, PoisonError},
};
use zeroize::Zeroizing;

/// Why nothing could be asked.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// Closed in the middle of a question.
    #[error("the terminal was closed before an answer came")]
    Closed,
    /// No terminal.
    #[error("there is no terminal to ask on")]
    Missing {
        /// The option that does without.
        instead: &'static str,
    },
    /// It failed.
    #[error("the terminal failed: {0}")]
    Io(#[from] io::Error),
}

/// The controlling terminal.
#[derive(Debug)]
pub struct Terminal {
    tty: File,
}

/// What to put back when a prompt is interrupted: the terminal and its modes before the echo was turned off.
static HIDDEN: Mutex<Option<(File, Termios)>> = Mutex::new(None);

fn hidden() -> MutexGuard<'static, Option<(File, Termios)>> {
    HIDDEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Terminal {
    /// Opens the controlling terminal; `instead` names the option that does without.
    ///
    /// # Errors
    /// When the process has none.
    pub fn open(instead: &'static str) -> Result<Self, TerminalError> {
        File::options()
            .read(true)
            .write(true)
            .open("/dev/tty")
            .map(|tty| Self { tty })
            .map_err(|_| TerminalError::Missing { instead })
    }

    /// Prints a line.
    ///
    /// # Errors
    /// When the terminal fails.
    pub fn say(&mut self, text: &str) -> Result<(), TerminalError> {
        Ok(writeln!(self.tty, "{text}")?)
    }

    /// Says what is wrong with an answer, as a sentence.
    ///
    /// # Errors
    /// When the terminal fails.
    pub fn complain(&mut self, about: &dyn fmt::Display) -> Result<(), TerminalError> {
        let about = about.to_string();
        let mut rest = about.chars();
        let first: String = rest
            .next()
            .into_iter()
            .flat_map(char::to_uppercase)
            .collect();
        self.say(&format!("{first}{}.", rest.as_str()))
    }

    /// Asks for a line without echo.
    ///
    /// # Errors
    /// When the terminal fails or is closed.
    pub fn secret(&mut self, prompt: &str) -> Result<Zeroizing<Vec<u8>>, TerminalError> {
        let before = termios::tcgetattr(&self.tty).map_err(io::Error::from)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        quiet
            .local_modes
            .insert(LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG);
        *hidden() = Some((self.tty.try_clone()?, before));
        let result = termios::tcsetattr(&self.tty, OptionalActions::Flush, &quiet)
            .map_err(io::Error::from)
            .and_then(|()| self.ask(prompt));
        restore_echo();
        result?.ok_or(TerminalError::Closed)
    }

    /// Asks a question that only `yes` or `y` answers with yes.
    ///
    /// # Errors
    /// When the terminal fails or is closed.
    pub fn confirm(&mut self, question: &str) -> Result<bool, TerminalError> {
        let answer = self
            .ask(&format!("{question} [y/N] "))?
            .ok_or(TerminalError::Closed)?;
        Ok(matches!(
            answer.trim_ascii().to_ascii_lowercase().as_slice(),
            b"y" | b"yes"
        ))
    }

    /// Asks for `word` to be typed, and takes nothing else for a yes.
    ///
    /// # Errors
    /// When the terminal fails or is closed.
    pub fn confirm_by(&mut self, question: &str, word: &str) -> Result<bool, TerminalError> {
        let answer = self
            .ask(&format!("{question} ({word}): "))?
            .ok_or(TerminalError::Closed)?;
        Ok(answer.trim_ascii() == word.as_bytes())
    }

    /// `None` at the end of input.
    fn ask(&mut self, prompt: &str) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        write!(self.tty, "{prompt}")?;
        self.tty.flush()?;
        let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE));
        let ended = read_line_from(&mut self.tty, &mut line)?;
        Ok((ended || !line.is_empty()).then_some(line))
    }
}

const MAX_LINE: usize = 512;

/// Reads a line, without its newline, byte by byte: nothing of what follows is taken. Whether a newline ended it.
///
/// # Errors
/// When reading fails.
pub fn read_line_from(input: &mut impl Read, line: &mut Vec<u8>) -> io::Result<bool> {
    let mut byte = Zeroizing::new([0u8; 1]);
    loop {
        match input.read(&mut *byte) {
            Ok(0) => return Ok(false),
            Ok(_) => match *byte {
                [b'\n'] => return Ok(true),
                [other] => {
                    if line.len() < MAX_LINE {
                        line.push(other);
                    }
                }
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Turns the echo on again when a prompt had turned it off.
pub fn restore_echo() {
    if let Some((tty, before)) = hidden().take() {
        // Nothing can be done when the terminal is gone.
        let _ = termios::tcsetattr(&tty, OptionalActions::Now, &before);
    }
}
