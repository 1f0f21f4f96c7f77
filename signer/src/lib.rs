//! `touchstone-signer`: judges requests by the policy, signs what it grants, and keeps the record.

pub mod audit;
pub mod data_dir;
pub mod review;
