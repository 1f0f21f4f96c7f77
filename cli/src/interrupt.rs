//! Ctrl-C: at once, except in the middle of a write that must be whole.

use crate::{error::Exit, terminal};
use std::{
    io::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};
use tokio::signal::unix::{SignalKind, signal};

static WHOLE: Mutex<()> = Mutex::new(());

/// While the guard lives, an interruption waits: for writes to the card and to disk, which take well under a second.
pub fn shield() -> MutexGuard<'static, ()> {
    WHOLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on, SIGINT and SIGTERM put the terminal's echo back and end the process with their exit codes.
pub fn install() {
    let listen = || -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let exit = runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
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
        std::process::exit(exit.code().into());
    };
    // Without the handler the default disposition ends the process: no worse than before.
    drop(
        thread::Builder::new()
            .name("interrupt".to_owned())
            .spawn(listen),
    );
}
