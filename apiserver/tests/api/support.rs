//! What the tests share.

pub(crate) mod pki;
pub(crate) mod server;
