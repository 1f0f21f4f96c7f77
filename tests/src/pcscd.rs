//! A real pcscd of one's own, with a virtual reader, for each test that needs a card.
//!
//! pcscd's socket path is compiled in, but a pcscd that systemd starts takes the socket that it is given (sd_listen_fds).
//! So each instance here is handed a socket in its own folder, and its clients are pointed to it by
//! `PCSCLITE_CSOCK_NAME`. USB readers are left alone: the folder of their drivers is an empty one.

mod clients;
mod probe;

pub use clients::in_child;
pub use probe::{Reader, readers};

use crate::yubikey::control::ControlCommand;
use crate::yubikey::device::RunningDevice;
use crate::yubikey::{Device, Firmware, Panel, State, StateFile, TouchMode};
use rustix::pipe::{PipeFlags, pipe_with};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What a client must see in its environment.
pub const SOCKET_VARIABLE: &str = "PCSCLITE_CSOCK_NAME";
/// The name of the reader, as a YubiKey with CCID alone has it. pcscd puts two numbers behind it.
pub const READER: &str = "Yubico YubiKey CCID";
const DRIVER: &str = "/usr/lib/pcsc/drivers/serial/libifdvpcd.so";
const PATIENCE: Duration = Duration::from_secs(20);
const ATTEMPTS: usize = 10;

/// Holds pcscd in a shell that ends it as soon as the pipe on its input closes, even when the process at the other end was killed.
/// The socket comes as standard output and becomes descriptor 3, where systemd would put it.
const SHELL: &str = r#"
exec 3<&1 1>&2
sh -c 'LISTEN_PID=$$ LISTEN_FDS=1 exec pcscd "$@"' pcscd "$@" </dev/null &
daemon=$!
exec 3<&-
read -r _
kill "$daemon" 2>/dev/null
wait "$daemon"
"#;

/// Why there is no pcscd.
#[derive(Debug, thiserror::Error)]
pub enum PcscdError {
    /// Its driver for virtual readers is missing.
    #[error("find {DRIVER}: install the driver with `apt-get install pcscd vsmartcard-vpcd`")]
    NoDriver,
    /// Something of the system failed.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
    /// It started and was not ready in time; its log says more.
    #[error("get pcscd ready; it wrote:\n{0}")]
    NotReady(String),
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> PcscdError {
    move |why| PcscdError::Io(what, why)
}

/// A running pcscd. It ends when dropped, or when this process does.
#[derive(Debug)]
pub struct Pcscd {
    daemon: Daemon,
    port: u16,
    socket: PathBuf,
    folder: tempfile::TempDir,
}

impl Pcscd {
    /// Starts pcscd with a reader of two slots, both empty.
    ///
    /// # Panics
    /// When pcscd or its driver is missing, or does not come up: no test goes on without it.
    #[must_use]
    pub fn start() -> Self {
        match Self::start_at(None) {
            Ok(pcscd) => pcscd,
            Err(why) => panic!("failed to {why}"),
        }
    }

    /// Starts pcscd with a reader of two slots, both empty, and its socket at a path of the caller's choice.
    ///
    /// # Errors
    /// pcscd or its driver is missing, or does not come up.
    pub fn start_at(socket: Option<&Path>) -> Result<Self, PcscdError> {
        if !Path::new(DRIVER).exists() {
            return Err(PcscdError::NoDriver);
        }
        let folder = tempfile::Builder::new()
            .prefix("pcscd-")
            .tempdir()
            .map_err(io_error("make a folder for pcscd"))?;
        let socket = socket.map_or_else(|| folder.path().join("pcscd.comm"), Path::to_owned);
        // What a killed run left behind refuses connections; a living pcscd's socket stays, and the bind fails.
        if UnixStream::connect(&socket)
            .is_err_and(|why| why.kind() == io::ErrorKind::ConnectionRefused)
        {
            fs::remove_file(&socket).map_err(io_error("remove an old socket of pcscd"))?;
        }
        let listener = UnixListener::bind(&socket).map_err(io_error("make the socket of pcscd"))?;
        let mut log = String::new();
        // vpcd listens on two ports that are chosen before it binds them. Whether it got them shows in its readers.
        for _ in 0..ATTEMPTS {
            let port = two_free_ports().map_err(io_error("find two free ports"))?;
            let listener = listener
                .try_clone()
                .map_err(io_error("share the socket of pcscd"))?;
            let daemon = Daemon::spawn(folder.path(), listener, port)?;
            let answers = wait_until(PATIENCE, || readers(&socket).is_ok());
            if answers && readers(&socket).is_ok_and(|readers| readers.len() == 2) {
                return Ok(Self {
                    daemon,
                    port,
                    socket,
                    folder,
                });
            }
            drop(daemon);
            log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            if !answers {
                break;
            }
        }
        let _ = fs::remove_file(&socket);
        Err(PcscdError::NotReady(log))
    }

    /// The path of its socket, the value of [`SOCKET_VARIABLE`].
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A folder that lives as long as pcscd.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What pcscd wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A command whose process will find this pcscd and no other.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env(SOCKET_VARIABLE, &self.socket);
        command
    }

    /// Where vpcd waits for the card of the first (0) or second (1) slot.
    #[must_use]
    pub fn address(&self, slot: u16) -> String {
        format!("127.0.0.1:{}", self.port + slot)
    }

    /// The name of a slot, as clients see it.
    #[must_use]
    pub fn reader(&self, slot: u16) -> String {
        format!("{READER} 00 {slot:02X}")
    }

    /// Waits until a card is in the slot, or is not.
    #[must_use]
    pub fn wait_for_card(&self, slot: u16, present: bool) -> bool {
        let name = self.reader(slot);
        wait_until(PATIENCE, || {
            readers(&self.socket).is_ok_and(|readers| {
                readers
                    .iter()
                    .any(|reader| reader.name == name && reader.card == present)
            })
        })
    }

    /// Ends pcscd while its clients still hold on to it; its socket stays, and no one answers on it.
    pub fn kill(&mut self) {
        self.daemon.end();
        // Gone, rather than silent: a client that connects must be refused, not left waiting.
        let _ = fs::remove_file(&self.socket);
    }
}

impl Drop for Pcscd {
    fn drop(&mut self) {
        self.daemon.end();
        let _ = fs::remove_file(&self.socket);
    }
}

#[derive(Debug)]
struct Daemon {
    shell: Child,
    lifeline: Option<OwnedFd>,
}

impl Daemon {
    fn spawn(folder: &Path, listener: UnixListener, port: u16) -> Result<Self, PcscdError> {
        let config = folder.join("reader.conf");
        let entry = format!(
            "FRIENDLYNAME \"{READER}\"\nDEVICENAME /dev/null:{port}\nLIBPATH {DRIVER}\nCHANNELID {port}\n"
        );
        fs::write(&config, entry).map_err(io_error("write reader.conf"))?;
        let no_drivers = folder.join("no-usb-drivers");
        fs::create_dir_all(&no_drivers).map_err(io_error("make a folder for pcscd"))?;
        let log = File::create(folder.join("log")).map_err(io_error("make the log of pcscd"))?;
        let (end, lifeline) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|why| PcscdError::Io("make a pipe", why.into()))?;
        let mut command = Command::new("sh");
        command
            .args(["-c", SHELL, "sh", "--foreground", "--info", "--config"])
            .arg(&config);
        if has_polkit() {
            command.arg("--disable-polkit");
        }
        command
            .env("PCSCLITE_HP_DROPDIR", &no_drivers)
            .stdin(Stdio::from(end))
            .stdout(OwnedFd::from(listener))
            .stderr(log);
        let shell = command.spawn().map_err(io_error("start pcscd"))?;
        Ok(Self {
            shell,
            lifeline: Some(lifeline),
        })
    }

    fn end(&mut self) {
        drop(self.lifeline.take());
        // The shell ends when its pipe closes.
        let _ = self.shell.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// From 2.0, a pcscd that was built with polkit asks it who may connect.
fn has_polkit() -> bool {
    Command::new("pcscd")
        .arg("--help")
        .output()
        .is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--disable-polkit"))
}

/// Two ports side by side that no one listens on. vpcd binds them a moment later.
fn two_free_ports() -> io::Result<u16> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..100 {
        // Below the ports that the system gives to outgoing connections.
        let port = 10_000 + getrandom::u32().unwrap_or_default() as u16 % 11_000 * 2;
        match TcpListener::bind(("0.0.0.0", port))
            .and_then(|_| TcpListener::bind(("0.0.0.0", port + 1)))
        {
            Ok(_) => return Ok(port),
            Err(why) => last = why,
        }
    }
    Err(last)
}

pub(crate) fn wait_until(limit: Duration, mut true_now: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !true_now() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

/// How a card is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its serial number.
    pub serial: u32,
    /// Its firmware.
    pub firmware: Firmware,
    /// When it is touched.
    pub touch: TouchMode,
    /// The slot of the reader.
    pub slot: u16,
    /// Where its memory is kept; in the process alone when None.
    pub state: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            serial: 12_345_678,
            firmware: Firmware([5, 7, 1]),
            touch: TouchMode::Auto,
            slot: 0,
            state: None,
        }
    }
}

/// A virtual YubiKey in the slot of a [`Pcscd`]; pulled out and ended when dropped.
#[derive(Debug)]
pub struct VirtualYubiKey {
    device: RunningDevice,
    root: String,
    serial: u32,
}

impl VirtualYubiKey {
    /// Makes the card, plugs it in and waits until pcscd has seen it.
    ///
    /// # Panics
    /// When its memory can't be read or pcscd does not see it: no test goes on without its card.
    #[must_use]
    pub fn start(pcscd: &Pcscd, options: &Options) -> Self {
        let (file, state) = match &options.state {
            None => (None, State::factory(options.serial, options.firmware)),
            Some(path) => match StateFile::open(path, options.serial, options.firmware) {
                Ok((file, state)) => (Some(file), state),
                Err(why) => panic!("the virtual YubiKey failed to {why}"),
            },
        };
        let root = state.attestation_root();
        let device = Device::new(state, Panel::new(options.touch), file);
        let device = RunningDevice::start(device, pcscd.address(options.slot));
        assert!(
            pcscd.wait_for_card(options.slot, true),
            "pcscd did not see the card; it wrote:\n{}",
            pcscd.log()
        );
        Self {
            device,
            root,
            serial: options.serial,
        }
    }

    /// Says a line of the control protocol and gives the value in the answer.
    ///
    /// # Panics
    /// When the line is no command, or can't be obeyed.
    pub fn control(&self, line: &str) -> String {
        match line
            .parse()
            .and_then(|command: ControlCommand| self.device.panel().obey(command))
        {
            Ok(value) => value,
            Err(why) => panic!("{line}: {why}"),
        }
    }

    /// Waits until the card wants to be touched.
    ///
    /// # Panics
    /// When it does not within twenty seconds.
    pub fn wait_for_touch_request(&self) {
        assert!(
            wait_until(PATIENCE, || self.control("waiting?") == "yes"),
            "the card never waited for a touch"
        );
    }

    /// The certificate of its attestation root, in PEM.
    #[must_use]
    pub fn attestation_root(&self) -> &str {
        &self.root
    }

    /// Its serial number.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }
}
