//! What the tests share.

pub(crate) mod frames;
pub(crate) mod network;
pub(crate) mod pki;
pub(crate) mod server;
pub(crate) mod target;
