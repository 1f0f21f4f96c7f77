//! Reading a policy file.

use super::{Policy, Position};
use std::fmt;

/// Something wrong in a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where, if it stands anywhere.
    pub position: Option<Position>,
    /// What, and what to do about it.
    pub message: String,
}

/// A policy file was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    file: String,
    findings: Vec<Finding>,
}

impl LoadError {
    /// What is wrong, in the order of the file; at least one.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

impl std::error::Error for LoadError {}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.findings.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            match finding.position {
                Some(Position { line, column }) => {
                    write!(f, "{}:{line}:{column}: {}", self.file, finding.message)?;
                }
                None => write!(f, "{}: {}", self.file, finding.message)?,
            }
        }
        Ok(())
    }
}

pub(super) fn parse(file: &str, source: &[u8]) -> Result<Policy, LoadError> {
    todo!("{file} {source:?}")
}
