//! Test equipment: a virtual YubiKey, a smart card daemon of one's own, and the suites that use them.

pub mod card_key;
pub mod child;
pub mod cluster;
pub mod colleagues;
pub mod collector;
pub mod controller_manager;
pub mod engineer;
pub mod fault_proxy;
pub mod openssl;
pub mod pcscd;
pub mod policy;
pub mod port;
pub mod pty;
pub mod softhsm;
pub mod upstream;
pub mod yubikey;
