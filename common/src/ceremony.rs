//! What the root's ceremonies check, without I/O: the request that an issuing CA's key makes, and the certificate that
//! comes back for it.

pub use issuing::{ExpectedIssuing, IssuingError, verify_issuing};
pub use request::{IssuingRequest, IssuingRequestError};

mod issuing;
mod request;
#[cfg(test)]
mod tests;
