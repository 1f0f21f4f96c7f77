//! Test equipment: a virtual YubiKey, a smart card daemon of one's own, and the suites that use them.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "equipment that is broken ends the test"
)]

pub mod card_key;
pub mod child;
#[expect(clippy::indexing_slicing, reason = "JSON that a server of ours wrote")]
pub mod cluster;
pub mod engineer;
pub mod pcscd;
pub mod policy;
pub mod yubikey;
