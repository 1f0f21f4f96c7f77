//! Reading a policy file: bytes to YAML to checked rules, or every finding with its place.

use super::{MAX_POLICY_BYTES, Policy, Position, check, syntax, wire};
use serde::de::DeserializeOwned;
use std::fmt;

/// The most findings that an error prints.
const SHOWN: usize = 100;

/// Something wrong in a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where, if it stands anywhere.
    pub position: Option<Position>,
    /// What, and what to do about it.
    pub message: String,
}

/// A policy file was refused. Printed, it is one line for each finding: `policy.yaml:12:5: unknown key …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    file: String,
    findings: Vec<Finding>,
}

impl LoadError {
    /// The file's name, as it was given.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// What is wrong, in the order of the file; at least one.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// All of `findings`, put in the order of the file.
    pub(crate) fn of(file: &str, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.position);
        Self {
            file: file.to_owned(),
            findings,
        }
    }

    fn one(file: &str, finding: Finding) -> Self {
        Self {
            file: file.to_owned(),
            findings: vec![finding],
        }
    }
}

impl std::error::Error for LoadError {}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.findings.iter().enumerate() {
            if i == SHOWN {
                let more = self.findings.len().saturating_sub(SHOWN);
                return write!(f, "\n{}: and {more} more", self.file);
            }
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.file)?;
            if let Some(Position { line, column }) = finding.position {
                write!(f, "{line}:{column}:")?;
            }
            write!(f, " {}", finding.message)?;
        }
        Ok(())
    }
}

/// Reads the policy as it is written; nothing in it has been checked yet but its shape.
pub(super) fn read(file: &str, source: &[u8]) -> Result<wire::Policy, LoadError> {
    read_document(file, source, "a policy")
}

/// Reads a file as it is written. `document` says what it should be.
pub(crate) fn read_document<T: DeserializeOwned>(
    file: &str,
    source: &[u8],
    document: &str,
) -> Result<T, LoadError> {
    let refuse = |message: String| {
        let position = None;
        Err(LoadError::one(file, Finding { position, message }))
    };
    if source.len() > MAX_POLICY_BYTES {
        return refuse(format!(
            "the file has {} bytes; at most {MAX_POLICY_BYTES} are read",
            source.len()
        ));
    }
    let text = match std::str::from_utf8(source) {
        Ok(text) => text,
        Err(error) => {
            let before = source.get(..error.valid_up_to()).unwrap_or_default();
            let finding = Finding {
                position: Some(after(&String::from_utf8_lossy(before))),
                message: "the file is not UTF-8 text from here on; save it as UTF-8".to_owned(),
            };
            return Err(LoadError::one(file, finding));
        }
    };
    syntax::read(text, document).map_err(|finding| LoadError::one(file, finding))
}

/// Where the text ends.
fn after(text: &str) -> Position {
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let last = text.rsplit('\n').next().unwrap_or_default();
    Position {
        line: count(text.matches('\n').count()).saturating_add(1),
        column: count(last.chars().count()).saturating_add(1),
    }
}

pub(super) fn parse(file: &str, source: &[u8]) -> Result<Policy, LoadError> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, source);
    // SHA-256 gives 32 bytes.
    let digest = digest.as_ref().try_into().unwrap_or_default();
    check::policy(read(file, source)?, digest).map_err(|findings| LoadError::of(file, findings))
}
