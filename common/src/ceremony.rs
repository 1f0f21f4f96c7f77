//! What the root's ceremonies check, without I/O: the [`Plan`] that was reviewed beforehand, the request that an issuing
//! CA's key makes, the certificate that comes back for it, and the [`Record`] that shows afterwards what was done.

pub use issuing::{ExpectedIssuing, IssuingError, check_root, verify_issuing};
pub use plan::{Makes, Person, Plan, schema};
pub use record::{Record, RecordError, SignedWith, Statement};
pub use request::{IssuingRequest, IssuingRequestError};

mod issuing;
mod plan;
mod record;
mod request;
#[cfg(test)]
mod tests;
