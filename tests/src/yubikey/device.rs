//! The connector: an [`Applet`] in the slot of a vpcd reader, its memory in a file, its faults on a [`Panel`].

use super::apdu::{Status, response};
use super::applet::Applet;
use super::control::{ControlCommand, Panel};
use super::state::{State, StateFile};
use rustix::net::sockopt::set_tcp_quickack;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;
use vpicc::VSmartCard;

/// The ATR of a YubiKey 5 over USB: T=1, historical bytes "YubiKey".
pub const ATR: &[u8] = &[
    0x3b, 0xfd, 0x13, 0x00, 0x00, 0x81, 0x31, 0xfe, 0x15, 0x80, 0x73, 0xc0, 0x21, 0xc0, 0x57, 0x59,
    0x75, 0x62, 0x69, 0x4b, 0x65, 0x79, 0x40,
];

/// Between two attempts to reach a reader that isn't there yet.
const RETRY: Duration = Duration::from_millis(20);

/// A card that left its reader stays away at least so long. pcscd looks every 0.4 s; a card that is back before it looked
/// gets no power from it.
const ABSENCE: Duration = Duration::from_secs(1);

/// A card that looks for its reader.
#[derive(Debug)]
pub struct Device {
    applet: Applet<Panel>,
    panel: Panel,
    file: Option<StateFile>,
}

impl Device {
    /// A card with this memory, which is kept in `file` where there is one.
    #[must_use]
    pub fn new(state: State, panel: Panel, file: Option<StateFile>) -> Self {
        Self {
            applet: Applet::new(state, panel.clone()),
            panel,
            file,
        }
    }

    /// Sits in the reader that vpcd offers at `address`, host and port, whenever the panel says that the card is
    /// inserted. Returns when the panel says quit.
    pub fn run(&mut self, address: &str) {
        while self.panel.wait_until_inserted() {
            match TcpStream::connect(address) {
                Ok(stream) => self.sit(stream),
                Err(_) => self.panel.pause(RETRY),
            }
        }
    }

    fn sit(&mut self, stream: TcpStream) {
        // Without more handles the card could not be pulled out: as well not plug it in.
        let (Ok(handle), Ok(plug)) = (stream.try_clone(), stream.try_clone()) else {
            return;
        };
        if !self.panel.connected(plug) {
            return;
        }
        let mut connection = vpicc::Connection::from(stream);
        loop {
            // vpcd sends the length of a command, then the command, and its kernel holds the second back until the first
            // is acknowledged. Linux acknowledges late, unless told so after each answer: 40 ms for every command.
            let _ = set_tcp_quickack(&handle, true);
            if connection.poll(self).is_err() {
                break;
            }
        }
        self.panel.disconnected();
        self.applet.power_off();
        self.panel.pause(ABSENCE);
    }

    fn answer(&mut self, apdu: &[u8]) -> Vec<u8> {
        let faults = self.panel.take_faults();
        thread::sleep(faults.slow);
        if faults.block_pin {
            self.applet.block(false);
        }
        if faults.block_puk {
            self.applet.block(true);
        }
        if let Some(status) = faults.fail {
            return response(Vec::new(), status);
        }
        let answer = self.applet.execute(apdu);
        // Written before it is said: a try that the host saw spent stays spent.
        match self
            .file
            .as_ref()
            .map(|file| file.save(self.applet.state()))
        {
            None | Some(Ok(())) => answer,
            Some(Err(_)) => response(Vec::new(), Status::MEMORY_FAILURE),
        }
    }
}

impl VSmartCard for Device {
    fn atr(&self) -> &[u8] {
        ATR
    }

    fn power_on(&mut self) {
        self.applet.power_off();
    }

    fn power_off(&mut self) {
        self.applet.power_off();
    }

    fn reset(&mut self) {
        self.applet.power_off();
    }

    fn execute(&mut self, apdu: &[u8]) -> Vec<u8> {
        self.answer(apdu)
    }
}

/// A card that runs in a thread of this process, and ends when dropped.
#[derive(Debug)]
pub struct RunningDevice {
    panel: Panel,
    thread: Option<thread::JoinHandle<()>>,
}

impl RunningDevice {
    /// Starts it.
    #[must_use]
    pub fn start(mut device: Device, address: String) -> Self {
        let panel = device.panel.clone();
        let thread = thread::spawn(move || device.run(&address));
        Self {
            panel,
            thread: Some(thread),
        }
    }

    /// Its outside.
    #[must_use]
    pub fn panel(&self) -> &Panel {
        &self.panel
    }
}

impl Drop for RunningDevice {
    fn drop(&mut self) {
        let _ = self.panel.obey(ControlCommand::Quit);
        if let Some(thread) = self.thread.take() {
            // A card that panicked has said so on its own.
            let _ = thread.join();
        }
    }
}
