//! `touchstone-signer`: judges requests by the policy, signs what it grants, and keeps the record.

pub mod review;
