//! What Touchstone decides, without I/O: names, keys, certificate signing requests, claims, evidence, attestation,
//! certificates and the policy.
//!
//! How the parts relate: an engineer's card signs a [`csr::Draft`] that carries [`claims::Claims`] and
//! [`evidence::Evidence`]. The signer reads it strictly into a [`csr::Request`], verifies the evidence into an
//! [`attestation::Attested`] key, asks the [`policy::Policy`], and builds a certificate with [`certificate`] from the
//! validated values alone. The engineer's side checks the result with [`certificate::verify_issued`].
//!
//! Nothing here reads a clock, a file, a network or a random source: callers pass those in. The one exception is
//! [`key::SoftwareKey`], which draws from its crypto library's generator.

pub mod approval;
mod asn1;
pub mod attestation;
pub mod ceremony;
pub mod certificate;
pub mod claims;
pub mod csr;
pub mod evidence;
pub mod grant;
pub mod key;
pub mod name;
pub mod oid;
mod pem;
pub mod policy;
mod text;
pub mod ttl;
mod x509;
