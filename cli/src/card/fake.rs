//! A card for unit tests of what stands on [`Card`]: it checks the PIN and answers signatures as it is told, nothing
//! else. What a real YubiKey enforces, the virtual one in `tests/` does.

use super::{
    Algorithm, Card, CardError, KeySlot, ManagementAccess, SecretState, Secrets, SlotKey, ToSign,
};
use crate::pin::{Pin, Puk};
use std::{thread, time::Duration};
use touchstone_common::attestation::{Firmware, PinPolicy, TouchPolicy};

/// What was asked of it, in order, and how it signs.
#[derive(Debug, Default)]
pub(crate) struct FakeCard {
    pub(crate) asked: Vec<&'static str>,
    pub(crate) waits: Duration,
    pub(crate) refuses: Option<CardError>,
}

const NOT_HERE: CardError = CardError::Malformed("not what this fake is for");

impl Card for FakeCard {
    fn serial(&self) -> u32 {
        1
    }
    fn firmware(&self) -> Firmware {
        Firmware {
            major: 5,
            minor: 7,
            patch: 1,
        }
    }
    fn key(&mut self, _: KeySlot) -> Result<Option<SlotKey>, CardError> {
        Err(NOT_HERE)
    }
    fn certificate(&mut self, _: KeySlot) -> Result<Option<Vec<u8>>, CardError> {
        Err(NOT_HERE)
    }
    fn attest(&mut self, _: KeySlot) -> Result<Vec<u8>, CardError> {
        Err(NOT_HERE)
    }
    fn attestation_certificate(&mut self) -> Result<Vec<u8>, CardError> {
        Err(NOT_HERE)
    }
    fn pin_state(&mut self) -> Result<SecretState, CardError> {
        Err(NOT_HERE)
    }
    fn secrets(&mut self) -> Result<Secrets, CardError> {
        Err(NOT_HERE)
    }
    fn verify_pin(&mut self, pin: &Pin) -> Result<(), CardError> {
        self.asked.push("PIN");
        if pin.expose() == b"739154" {
            Ok(())
        } else {
            Err(CardError::WrongPin { tries_left: 2 })
        }
    }
    fn change_pin(&mut self, _: Option<&Pin>, _: &Pin) -> Result<(), CardError> {
        Err(NOT_HERE)
    }
    fn change_puk(&mut self, _: Option<&Puk>, _: &Puk) -> Result<(), CardError> {
        Err(NOT_HERE)
    }
    fn unblock_pin(&mut self, _: &Puk, _: &Pin) -> Result<(), CardError> {
        Err(NOT_HERE)
    }
    fn authenticate(&mut self, _: &ManagementAccess) -> Result<(), CardError> {
        Err(NOT_HERE)
    }
    fn protect_management_key(&mut self) -> Result<(), CardError> {
        Err(NOT_HERE)
    }
    fn generate(
        &mut self,
        _: KeySlot,
        _: Algorithm,
        _: PinPolicy,
        _: TouchPolicy,
    ) -> Result<Vec<u8>, CardError> {
        Err(NOT_HERE)
    }
    fn write_certificate(&mut self, _: KeySlot, _: Option<&[u8]>) -> Result<(), CardError> {
        Err(NOT_HERE)
    }
    fn sign(&mut self, _: KeySlot, _: &ToSign) -> Result<Vec<u8>, CardError> {
        self.asked.push("signature");
        thread::sleep(self.waits);
        match &self.refuses {
            Some(error) => Err(error.clone()),
            None => Ok(vec![0x30]),
        }
    }
}
