//! `policy`: for the pull request that changes it.

mod diff;
mod explain;
mod lint;
mod test;

pub use lint::ManifestError;

use crate::error::Error;
use clap::Subcommand;

/// The policy file.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Check a policy: every error with its line, and what its authors can hardly have meant
    ///
    /// Ends with 1 when there is an error, with 0 when there are none or warnings only.
    Lint(lint::Lint),
    /// Ask policies what the cases beside them ask, and compare the answers
    ///
    /// Ends with 0 when all are as expected, with 1 when one is not, with 3 when a file cannot be used.
    Test(test::Test),
    /// Show who gains and who loses which groups by a change of the policy
    Diff(diff::Diff),
    /// Show what a policy says of a request, rule by rule
    Explain(explain::Explain),
    /// Print the JSON Schema of policies, for editors
    Schema,
}

impl Policy {
    pub(super) fn run(self) -> Result<(), Error> {
        match self {
            Self::Lint(lint) => lint.run(),
            Self::Test(test) => test.run(),
            Self::Diff(diff) => diff.run(),
            Self::Explain(explain) => explain.run(),
            Self::Schema => super::print(&schema()),
        }
    }
}

/// The JSON Schema. deploy/policy.schema.json is this.
#[must_use]
pub fn schema() -> String {
    format!("{:#}\n", touchstone_common::policy::schema())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_schema_is_the_one_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/policy.schema.json");
        let checked_in = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            checked_in == schema(),
            "run: cargo run -p touchstone-signer -- policy schema > deploy/policy.schema.json"
        );
    }
}
