//! `touchstone-signer`: judges requests by the policy, signs what it grants, and keeps the record.

pub mod audit;
pub mod ca;
pub mod clock;
pub mod controller;
pub mod data_dir;
pub mod grant;
pub mod issue;
pub mod reload;
pub mod review;
