//! `touchstone-signer`: judges requests by the policy, signs what it grants, and keeps the record.
//!
//! How the parts relate: [`command`] reads the command line and puts a [`service`] together from a [`data_dir`], the
//! [`ca`] and the [`audit`] log in it, and the policy that [`reload`] keeps in force. The service runs the
//! [`controller`], which asks [`review`] what to do with a request and [`issue`] what to sign, and keeps the record in
//! [`grant`]s and the audit log; [`metrics`] counts, [`traces`] tell what each
//! request waited for. The [`front`] door brings in the
//! requests of those whom the cluster does not know. `review` and `issue` are pure: they know no network, clock or file.

pub mod anonymous;
pub mod api;
pub mod approvers;
pub mod audit;
pub mod bundle;
pub mod ca;
pub mod client_ca;
pub mod clock;
pub mod command;
pub mod controller;
pub mod credentials;
pub mod data_dir;
pub mod error;
pub mod front;
pub mod grant;
pub mod issue;
pub mod lease;
pub mod metrics;
pub mod reload;
pub mod review;
pub mod service;
pub mod signers;
pub mod traces;
