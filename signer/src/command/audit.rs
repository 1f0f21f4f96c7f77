//! `audit`: proving and reading the log.

use super::{Output, print, print_json};
use crate::{
    audit::{FILE_NAME, verify},
    error::Error,
};
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::PathBuf;

/// The audit log.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Prove that nothing in the log was cut or changed, and print its head
    Verify(Verify),
}

/// `audit verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The log
    #[arg(
        value_name = "FILE",
        required_unless_present = "data",
        conflicts_with = "data"
    )]
    file: Option<PathBuf>,
    /// The data directory that holds the log
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A head that was kept elsewhere: prove that its record is still there
    #[arg(long, value_name = "HASH")]
    anchor: Option<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Audit {
    pub(super) fn run(self) -> Result<(), Error> {
        match self {
            Self::Verify(verify) => verify.run(),
        }
    }
}

impl Verify {
    fn run(self) -> Result<(), Error> {
        let path = match (self.file, self.data) {
            (Some(file), _) => file,
            (None, Some(data)) => data.join(FILE_NAME),
            // The command line was refused without either.
            (None, None) => PathBuf::from(FILE_NAME),
        };
        let verified = verify::verify_settled(&path, self.anchor.as_deref())?;
        let (records, head) = (verified.head.seq, verified.head.hash.to_string());
        match self.output {
            Output::Json => print_json(&json!({
                "file": path,
                "records": records,
                "head": head,
                "anchored": self.anchor.is_some(),
            })),
            Output::Table => {
                let anchored = match self.anchor {
                    Some(_) => "the anchored record is among them\n",
                    None => {
                        "keep the head elsewhere; `audit verify --anchor HEAD` then also proves that nothing was cut off the end\n"
                    }
                };
                print(&format!(
                    "{}: {records} records, none cut or changed\nhead {head}\n{anchored}",
                    path.display()
                ))
            }
        }
    }
}
