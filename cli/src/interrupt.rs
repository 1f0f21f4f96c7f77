//! Ctrl-C: at once, except in the middle of a write that must be whole.

use crate::{error::Exit, terminal};
use std::{
    cell::Cell,
    io::Write as _,
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};
use tokio::signal::unix::{SignalKind, signal};

static WHOLE: Mutex<()> = Mutex::new(());

/// What an interrupted user should know of the work that goes on without them.
static LAST_WORDS: Mutex<Option<String>> = Mutex::new(None);

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Keeps interruptions waiting while it lives.
#[derive(Debug)]
pub struct Shield {
    /// Held by the outermost of a thread's shields.
    _whole: Option<MutexGuard<'static, ()>>,
}

/// While the shield lives, an interruption waits: for writes to the card and to disk, which take well under a second.
#[must_use]
pub fn shield() -> Shield {
    let outermost = DEPTH.replace(DEPTH.get() + 1) == 0;
    Shield {
        _whole: outermost.then(|| WHOLE.lock().unwrap_or_else(PoisonError::into_inner)),
    }
}

impl Drop for Shield {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// An interruption from here on says `text` too; with `None`, nothing more.
pub fn last_words(text: Option<String>) {
    *LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner) = text;
}

/// From here on, SIGINT and SIGTERM put the terminal's echo back and end the process with their exit codes.
pub fn install() {
    let (listening, listens) = mpsc::channel::<()>();
    let listen = || -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let exit = runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            drop(listening);
            Ok::<_, std::io::Error>(tokio::select! {
                _ = interrupt.recv() => Exit::Interrupted,
                _ = terminate.recv() => Exit::Terminated,
            })
        })?;
        let _whole = shield();
        terminal::restore_echo();
        // A new line, because the terminal shows ^C in the one before.
        let _ = match exit {
            Exit::Interrupted => writeln!(std::io::stderr(), "\ninterrupted"),
            _ => writeln!(std::io::stderr(), "terminated"),
        };
        if let Some(text) = &*LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
        std::process::exit(exit.code().into());
    };
    // Without the handler the default disposition ends the process: no worse than before.
    let thread = thread::Builder::new().name("interrupt".to_owned());
    if thread.spawn(listen).is_ok() {
        // Until then a Ctrl-C would end the process at once, and leave the terminal as a prompt has made it. The sender
        // is dropped when the handlers are there, and when they can't be.
        let _ = listens.recv();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shields_may_stand_in_each_other_and_the_outermost_holds() {
        let outer = shield();
        drop(shield());
        assert!(WHOLE.try_lock().is_err());
        drop(outer);
        drop(shield());
    }
}
