//! `touchstone completions`.

use crate::{args::Cli, error::Error, output::Output};
use clap::CommandFactory as _;

/// Prints the completion script of a shell.
pub(super) fn run(shell: clap_complete::Shell, output: Output) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "touchstone", &mut script);
    output.text(&String::from_utf8_lossy(&script))
}
