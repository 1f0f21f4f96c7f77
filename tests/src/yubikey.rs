//! A virtual YubiKey: a PIV card with Yubico's extensions that speaks to vpcd, the virtual smart card reader of pcscd.
//!
//! It enforces what a YubiKey enforces, so that a refusal here means a refusal there; docs/virtual-yubikey.md says what
//! it leaves out. [`Applet`] is the card, bytes in and bytes out, and needs no reader. [`device`] plugs it into one.
//!
//! This is test equipment. Its keys lie readable in its state file, and its attestation root is made on the spot.

pub mod apdu;
pub mod applet;
pub mod attestation;
mod authenticate;
pub mod command_line;
pub mod control;
pub mod device;
mod generate;
pub mod keys;
mod management;
pub mod management_key;
mod metadata;
mod objects;
mod pins;
pub mod sensor;
mod session;
pub mod slot;
pub mod state;
pub mod tlv;

pub use applet::Applet;
pub use control::{Panel, TouchMode};
pub use device::Device;
pub use state::{Firmware, State, StateFile};
