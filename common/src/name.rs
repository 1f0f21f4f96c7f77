//! Names that may stand in a certificate: users, groups, clusters.

use std::fmt;

/// The most characters a user, group or cluster name may have (X.520 ub-common-name).
pub const MAX_NAME_CHARS: usize = 64;
/// The most groups one request may carry.
pub const MAX_GROUPS: usize = 32;

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Placeholder until the rules are written.
    #[error("is empty")]
    Empty,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Reads a name strictly.
            ///
            /// # Errors
            /// When it breaks any rule of this module.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                todo!("{text}")
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// Who: the certificate's CN.
    UserName
);
name_type!(
    /// A Kubernetes group: one O of the certificate.
    GroupName
);
name_type!(
    /// The cluster a request is for.
    ClusterName
);
