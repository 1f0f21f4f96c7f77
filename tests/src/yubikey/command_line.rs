//! `virtual-yubikey`: the card as a program of its own.

use super::control::{self, Panel, TouchMode};
use super::device::{Device, RunningDevice};
use super::state::{Firmware, StateFile, StateFileError};
use crate::pcscd::{Pcscd, PcscdError, SOCKET_VARIABLE};
use clap::Parser;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{fs, future};
use tokio::signal::unix::{SignalKind, signal};

/// A YubiKey for tests, in the reader of vpcd. Nothing should trust it but a test.
#[derive(Debug, Parser)]
#[command(name = "virtual-yubikey", version)]
struct Arguments {
    /// Where the card's memory is kept; a new card is made where there is none
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// The card's serial number
    #[arg(long, default_value_t = 12_345_678)]
    serial: u32,
    /// The card's firmware
    #[arg(long, default_value = "5.7.1", value_name = "VERSION")]
    firmware: Firmware,
    /// When the card is touched: auto, ask (by the control socket), never, late (after three seconds)
    #[arg(long, default_value = "auto", value_name = "MODE")]
    touch: TouchMode,
    /// A Unix socket that takes commands: touch, remove, insert, … (docs/virtual-yubikey.md)
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    /// Where to write the certificate of the attestation root, in PEM
    #[arg(long, value_name = "FILE")]
    attestation_root_out: Option<PathBuf>,
    /// Where vpcd waits for its card
    #[arg(long, default_value = "127.0.0.1:35963", value_name = "HOST:PORT")]
    vpcd: String,
    /// Starts a pcscd for this card alone, and ends it with the card
    #[arg(long, conflicts_with = "vpcd")]
    with_pcscd: bool,
    /// The socket of that pcscd
    #[arg(long, requires = "with_pcscd", value_name = "PATH")]
    pcscd_socket: Option<PathBuf>,
    /// Where to write the line of shell that points clients to that pcscd, once the card is in its reader
    #[arg(long, requires = "with_pcscd", value_name = "FILE")]
    env_file: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("write {0}: {1}")]
    File(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Pcscd(#[from] PcscdError),
    #[error("get the card into the reader of pcscd, which wrote:\n{0}")]
    NoCard(String),
    #[error("wait for signals: {0}")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    State(#[from] StateFileError),
}

/// Runs the card until it is told to quit, or is sent SIGTERM or SIGINT.
#[must_use]
#[expect(clippy::print_stderr, reason = "the edge of a program")]
pub fn run() -> ExitCode {
    match serve(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("virtual-yubikey: failed to {why}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: Arguments) -> Result<(), Failure> {
    let (file, state) = StateFile::open(&arguments.state, arguments.serial, arguments.firmware)?;
    if let Some(path) = &arguments.attestation_root_out {
        replace(path, &state.attestation_root())?;
    }
    let panel = Panel::new(arguments.touch);
    let _control = arguments
        .control
        .as_deref()
        .map(|path| ControlSocket::listen(panel.clone(), path))
        .transpose()?;
    let device = Device::new(state, panel.clone(), Some(file));
    if !arguments.with_pcscd {
        let _card = RunningDevice::start(device, arguments.vpcd);
        return until_the_end(&panel);
    }
    let pcscd = Pcscd::start_at(arguments.pcscd_socket.as_deref())?;
    let _card = RunningDevice::start(device, pcscd.address(0));
    if !pcscd.wait_for_card(0, true) {
        return Err(Failure::NoCard(pcscd.log()));
    }
    announce(pcscd.socket(), arguments.env_file.as_deref())?;
    until_the_end(&panel)
}

#[expect(clippy::print_stdout, reason = "what the program gives")]
fn announce(socket: &Path, file: Option<&Path>) -> Result<(), Failure> {
    let quoted = socket.display().to_string().replace('\'', r"'\''");
    let line = format!("export {SOCKET_VARIABLE}='{quoted}'\n");
    if let Some(path) = file {
        replace(path, &line)?;
    }
    print!("{line}");
    io::stdout()
        .flush()
        .map_err(|why| Failure::File(PathBuf::from("standard output"), why))
}

fn until_the_end(panel: &Panel) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Signals)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Signals)?;
        let quit = async {
            while !panel.has_quit() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let mut quit = std::pin::pin!(quit);
        future::poll_fn(|context| {
            let ended = terminate.poll_recv(context).is_ready()
                || interrupt.poll_recv(context).is_ready()
                || quit.as_mut().poll(context).is_ready();
            if ended {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
        Ok(())
    })
}

/// Whoever waits for the file finds it whole.
fn replace(path: &Path, content: &str) -> Result<(), Failure> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let write = || {
        let mut beside = tempfile::NamedTempFile::new_in(folder)?;
        beside.write_all(content.as_bytes())?;
        beside.persist(path).map_err(|failed| failed.error)
    };
    write()
        .map(drop)
        .map_err(|why| Failure::File(path.to_owned(), why))
}

/// The control socket; its file goes with it.
struct ControlSocket(PathBuf);

impl ControlSocket {
    /// A socket that an earlier run left behind is replaced.
    fn listen(panel: Panel, path: &Path) -> Result<Self, Failure> {
        match fs::remove_file(path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::File(path.to_owned(), why));
            }
            Ok(()) | Err(_) => {}
        }
        control::listen(panel, path).map_err(|why| Failure::File(path.to_owned(), why))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
