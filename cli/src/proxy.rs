//! The proxy on the engineer's machine: kubectl cannot sign with a YubiKey, so it talks to a listener on loopback, which
//! talks to the API server over TLS that the YubiKey signs.
//!
//! [`local`] is what a kubeconfig knows of a cluster's proxy before one runs: address and CA. [`control`] is how other
//! commands find the one that runs.

pub mod control;
mod error;
pub mod local;
pub mod place;

pub use error::ProxyError;
