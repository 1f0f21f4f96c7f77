//! `touchstone`: asks for short-lived Kubernetes client certificates with a key that lives in a YubiKey.
//!
//! A command ([`command`]) opens the card ([`card`]), asks for the PIN ([`pin`]), signs a request, submits it
//! ([`submit`]) over [`api`], verifies what comes back and keeps it ([`credential`]). Errors are typed where they
//! happen and shown at one place, with their remedy ([`error`], [`output`]).

pub mod api;
pub mod approval;
pub mod args;
pub mod card;
pub mod command;
pub mod config;
pub mod credential;
pub mod error;
pub mod file;
pub mod grants;
pub mod interrupt;
pub mod kubeconfig;
pub mod logging;
pub mod output;
pub mod pin;
pub mod proxy;
pub mod software;
pub mod submit;
pub mod talk;
pub mod terminal;
pub mod tls;
pub mod touch;

use clap::{CommandFactory as _, FromArgMatches as _};
use error::Exit;
use std::{ffi::OsString, path::Path, process::ExitCode};

/// A PIN must not end in a core file. Where the limit cannot be lowered, one is no worse off than before.
fn keep_no_core() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
}

/// Reads the command line. As `kubectl-touchstone` the program is what kubectl runs for `kubectl touchstone`, and its help
/// says so.
fn parse(arguments: Vec<OsString>) -> Result<args::Cli, clap::Error> {
    let own_name = arguments.first().map(Path::new).and_then(Path::file_name);
    let command = match own_name {
        Some(name) if name == "kubectl-touchstone" => {
            args::Cli::command().bin_name("kubectl touchstone")
        }
        _ => args::Cli::command(),
    };
    args::Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

/// Runs the command line and says how it ended.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    logging::install();
    keep_no_core();
    let exit = match parse(arguments.into_iter().collect()) {
        Ok(cli) => match command::run(cli) {
            Ok(()) => Exit::Ok,
            Err(error) => {
                output::failure(&error);
                error.exit()
            }
        },
        Err(error) => {
            // Help and version are answers; nobody can be told when the output is gone.
            let _ = error.print();
            if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            }
        }
    };
    exit.code().into()
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, getrlimit};

    #[test]
    fn no_core_file_is_written() {
        super::keep_no_core();
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
    }
}
