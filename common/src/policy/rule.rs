//! A checked rule.

use std::sync::Arc;

/// What a rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Granted at once.
    Auto,
    /// Denied, whatever other rules grant.
    Deny,
    /// Granted when the approvals are there.
    Manual,
}

/// One stage of a manual rule: what must be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// So many approvals, signed by enrolled approvers other than the requester.
    Approvers {
        /// How many.
        count: u16,
        /// Users who may approve.
        users: Vec<Arc<str>>,
        /// Teams whose members may approve.
        teams: Vec<Arc<str>>,
    },
    /// The Kubernetes approval of the request, by whoever Kubernetes lets approve.
    Kubernetes,
}
