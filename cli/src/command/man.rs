//! `touchstone man`.

use crate::{args::Cli, error::Error, output::Output};
use clap::CommandFactory as _;
use std::path::Path;

/// Writes a page for every command.
pub(super) fn run(folder: &Path, output: Output) -> Result<(), Error> {
    clap_mangen::generate_to(Cli::command(), folder).map_err(|source| Error::File {
        verb: "write to",
        path: folder.to_owned(),
        source,
    })?;
    output.progress(&format!("Manual pages written to {}.", folder.display()));
    Ok(())
}
