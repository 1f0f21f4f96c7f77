//! The crate's tests from outside, in one binary.

#[cfg(test)]
mod attestation;
#[cfg(test)]
mod roundtrip;
#[cfg(test)]
mod support;
