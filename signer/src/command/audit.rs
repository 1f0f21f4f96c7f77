//! `audit`: proving and reading the log.

mod show;

use super::{Output, print, print_json};
use crate::{
    audit::{
        FILE_NAME, files,
        stream::{self, Kind, Record, Verified},
    },
    error::Error,
};
use clap::{Args, Subcommand};
use serde_json::json;
use std::{
    io,
    path::{Path, PathBuf},
};

/// The audit log.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Prove that nothing in the log was cut or changed, and print its head
    Verify(Verify),
    /// Show what the log says, who was given access among it
    Show(show::Show),
}

/// Where the log is.
#[derive(Debug, Args)]
struct Source {
    /// The log; - reads a copy from standard input, such as what `kubectl logs` prints
    #[arg(
        value_name = "FILE",
        required_unless_present = "data",
        conflicts_with = "data"
    )]
    file: Option<PathBuf>,
    /// The data directory that holds the log
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// `audit verify`.
#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    source: Source,
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
            Self::Show(show) => show.run(),
            Self::Verify(verify) => verify.run(),
        }
    }
}

impl Source {
    fn path(&self) -> PathBuf {
        match (&self.file, &self.data) {
            (Some(file), _) => file.clone(),
            (None, Some(data)) => data.join(FILE_NAME),
            // The command line was refused without either.
            (None, None) => PathBuf::from(FILE_NAME),
        }
    }

    fn is_copy(&self) -> bool {
        self.path() == Path::new("-")
    }

    /// Reads all of it, checks it, and hands each record to `see`.
    fn read(&self, anchor: Option<&str>, see: impl FnMut(&Record<'_>)) -> Result<Verified, Error> {
        let path = self.path();
        if self.is_copy() {
            let path = Path::new("standard input");
            let input = io::stdin().lock();
            return Ok(stream::read(path, input, Kind::Copy, anchor, see)?);
        }
        Ok(files::read(&path, anchor, see)?)
    }
}

impl Verify {
    fn run(self) -> Result<(), Error> {
        let verified = self.source.read(self.anchor.as_deref(), |_| ())?;
        let Verified {
            records,
            first,
            chains,
            ..
        } = verified;
        let head = verified.head.hash.to_string();
        let path = self.source.path();
        match self.output {
            Output::Json => print_json(&json!({
                "file": path,
                "records": records,
                "first": first,
                "chains": chains,
                "head": head,
                "anchored": self.anchor.is_some(),
            })),
            Output::Table => {
                let mut text =
                    format!("{}: {records} records, none cut or changed", path.display());
                if !self.source.is_copy() && first > 1 {
                    text.push_str(&format!(
                        " from record {first} on: what was before is in files that are not here"
                    ));
                }
                if self.source.is_copy() {
                    text.push_str(&format!(
                        " from record {first} on, in {chains} chains: what was before, or after, is not here to be seen"
                    ));
                }
                text.push_str(&format!("\nhead {head}\n"));
                text.push_str(match self.anchor {
                    Some(_) => "the anchored record is among them\n",
                    None => {
                        "keep the head elsewhere; `audit verify --anchor HEAD` then also proves that nothing was cut off the end\n"
                    }
                });
                print(&text)
            }
        }
    }
}
