//! The crate's tests from outside, in one binary.

#[cfg(test)]
mod attestation;
#[cfg(test)]
mod der;
#[cfg(test)]
mod hostile_attestation;
#[cfg(test)]
mod hostile_chain;
#[cfg(test)]
mod hostile_csr;
#[cfg(test)]
mod hostile_subject;
#[cfg(test)]
mod openssl;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod request;
#[cfg(test)]
mod roundtrip;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod support;
#[cfg(test)]
mod x509;
