//! Which role a certificate's own group is bound to, and where, while the certificate is valid.

use std::{fmt, sync::Arc};

/// The most RoleBindings that one certificate may come with.
pub const MAX_BINDINGS: usize = 64;

/// The kind of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoleKind {
    /// One for all namespaces.
    ClusterRole,
    /// One of its namespace.
    Role,
}

/// One RoleBinding for the group of a grant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    /// In which namespace.
    pub namespace: Arc<str>,
    /// What kind of role.
    pub kind: RoleKind,
    /// Its name.
    pub role: Arc<str>,
}

/// What a rule has bound for each of its grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PerGrant {
    pub(crate) kind: RoleKind,
    pub(crate) role: Arc<str>,
    /// Sorted, none twice.
    pub(crate) namespaces: Vec<Arc<str>>,
}

impl PerGrant {
    pub(super) fn bindings(&self) -> impl Iterator<Item = Binding> + '_ {
        self.namespaces.iter().map(|namespace| Binding {
            namespace: Arc::clone(namespace),
            kind: self.kind,
            role: Arc::clone(&self.role),
        })
    }
}

impl fmt::Display for RoleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterRole => "ClusterRole",
            Self::Role => "Role",
        })
    }
}

impl fmt::Display for PerGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} in {}",
            self.kind,
            self.role,
            self.namespaces.join(", ")
        )
    }
}
