//! The card's front: chaining, selection of an application, dispatch, responses in pieces.

use super::apdu::{Answer, Command, SHORT_RESPONSE, Status, response};
use super::sensor::Sensor;
use super::session::Session;
use super::state::State;
use super::{attestation, authenticate, generate, management, metadata, objects, pins, tlv};

const PIV: &[u8] = &[
    0xa0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00,
];
const MANAGEMENT: &[u8] = &[0xa0, 0x00, 0x00, 0x05, 0x27, 0x47, 0x11, 0x17];
const OTP: &[u8] = &[0xa0, 0x00, 0x00, 0x05, 0x27, 0x20, 0x01, 0x01];
/// The card's buffer for one command, in one APDU or in a chain; with names and lengths it bounds an object to 3063 bytes.
const LONGEST_COMMAND: usize = 3072;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Application {
    Management,
    Otp,
    Piv,
}

impl Application {
    /// The application whose identifier begins with these bytes, of which PIV needs five.
    fn find(identifier: &[u8]) -> Option<Self> {
        [
            (PIV, Self::Piv),
            (MANAGEMENT, Self::Management),
            (OTP, Self::Otp),
        ]
        .into_iter()
        .find(|(whole, _)| identifier.len() >= 5 && whole.starts_with(identifier))
        .map(|(_, application)| application)
    }
}

/// A whole YubiKey, but for its connector: bytes in, bytes out.
#[derive(Debug)]
pub struct Applet<S> {
    state: State,
    sensor: S,
    session: Session,
    selected: Option<Application>,
    chain: Option<Command>,
    waiting: Vec<u8>,
}

impl<S: Sensor> Applet<S> {
    /// A powered card with this memory and this touch sensor.
    #[must_use]
    pub fn new(state: State, sensor: S) -> Self {
        Self {
            state,
            sensor,
            session: Session::default(),
            selected: None,
            chain: None,
            waiting: Vec::new(),
        }
    }

    /// What the card remembers.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Spends the tries of the PIN (or the PUK), as someone else's wrong guesses would.
    pub fn block(&mut self, puk: bool) {
        let reference = if puk {
            &mut self.state.puk
        } else {
            &mut self.state.pin
        };
        reference.left = 0;
        self.session.forget_pin();
    }

    /// Power off or reset: all that is not written is forgotten.
    pub fn power_off(&mut self) {
        self.session = Session::default();
        self.selected = None;
        self.chain = None;
        self.waiting.clear();
    }

    /// Executes one command APDU and gives the response APDU.
    pub fn execute(&mut self, apdu: &[u8]) -> Vec<u8> {
        let command = match Command::read(apdu) {
            Ok(command) => command,
            Err(status) => return response(Vec::new(), status),
        };
        if command.class != 0 {
            return response(Vec::new(), Status::UNKNOWN_CLASS);
        }
        if command.instruction == 0xc0 {
            return self.next_piece(command.expected);
        }
        self.waiting.clear();
        match self.assemble(command) {
            Ok(None) => response(Vec::new(), Status::OK),
            Ok(Some(command)) => match self.dispatch(&command) {
                Ok(data) => {
                    self.waiting = data;
                    self.next_piece(command.expected)
                }
                Err(status) => response(Vec::new(), status),
            },
            Err(status) => response(Vec::new(), status),
        }
    }

    /// As much of the waiting response as one answer takes, with the number of bytes that are left.
    fn next_piece(&mut self, expected: usize) -> Vec<u8> {
        // A short command that says less than 256 is answered in full pieces by a YubiKey, as the T=1 reader takes them.
        let size = expected.max(SHORT_RESPONSE).min(self.waiting.len());
        let rest = self.waiting.split_off(size);
        let piece = std::mem::replace(&mut self.waiting, rest);
        let status = if self.waiting.is_empty() {
            Status::OK
        } else {
            Status::more(self.waiting.len())
        };
        response(piece, status)
    }

    /// Collects the commands of a chain; the whole command at its end.
    fn assemble(&mut self, command: Command) -> Result<Option<Command>, Status> {
        let whole = match self.chain.take() {
            None => command,
            Some(mut begun) => {
                let same = |c: &Command| (c.instruction, c.p1, c.p2);
                if same(&begun) != same(&command) {
                    return Err(Status::CHAIN_NOT_ENDED);
                }
                begun.data.extend(command.data);
                Command {
                    data: begun.data,
                    ..command
                }
            }
        };
        if whole.data.len() > LONGEST_COMMAND {
            return Err(Status::WRONG_LENGTH);
        }
        if whole.chained {
            self.chain = Some(whole);
            return Ok(None);
        }
        Ok(Some(whole))
    }

    fn dispatch(&mut self, command: &Command) -> Answer {
        if command.instruction == 0xa4 {
            return self.select(command);
        }
        match self.selected {
            Some(Application::Piv) => self.piv(command),
            Some(Application::Management) => management::management(&self.state, command),
            Some(Application::Otp) => management::otp(&self.state, command),
            None => Err(Status::UNKNOWN_INSTRUCTION),
        }
    }

    /// SELECT by name. Whatever is selected, PIV forgets who was verified.
    fn select(&mut self, command: &Command) -> Answer {
        if command.p1 != 0x04 {
            return Err(Status::WRONG_PARAMETERS);
        }
        let application = Application::find(&command.data).ok_or(Status::NOT_FOUND)?;
        self.selected = Some(application);
        self.session = Session::default();
        Ok(match application {
            Application::Piv => {
                let mut template = tlv::write(0x4f, PIV.get(5..).unwrap_or_default());
                template.extend(tlv::write(
                    0x79,
                    &tlv::write(0x4f, PIV.get(..5).unwrap_or_default()),
                ));
                tlv::write(0x61, &template)
            }
            Application::Management => {
                format!("Virtual mgr - FW version {}", self.state.firmware).into_bytes()
            }
            Application::Otp => management::otp_status(&self.state),
        })
    }

    fn piv(&mut self, command: &Command) -> Answer {
        let Self {
            state,
            session,
            sensor,
            ..
        } = self;
        let firmware = state.firmware.0;
        match command.instruction {
            0x20 => pins::verify(state, session, command),
            0x24 => pins::change_reference(state, session, command),
            0x2c => pins::reset_retry(state, session, command),
            0x47 => generate::generate(state, session, command),
            0x87 => authenticate::general_authenticate(state, session, sensor, command),
            0xcb => objects::get(state, session, command),
            0xdb => objects::put(state, session, command),
            0xf6 if firmware >= [5, 7, 0] => generate::move_key(state, session, command),
            0xf7 if firmware >= [5, 3, 0] => metadata::get(state, command),
            0xf8 if firmware >= [5, 0, 0] => Ok(state.serial.to_be_bytes().to_vec()),
            0xf9 if firmware >= [4, 3, 0] => attestation::attest(state, command.p1, command.p2),
            0xfa => pins::set_retries(state, session, command),
            0xfb => pins::reset(state, session),
            0xfd => Ok(firmware.to_vec()),
            0xfe => generate::import(state, session, command),
            0xff => authenticate::set_management_key(state, session, command),
            _ => Err(Status::UNKNOWN_INSTRUCTION),
        }
    }
}

#[cfg(test)]
mod tests;
