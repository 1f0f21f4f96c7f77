//! The engineer's and the security team's tool.

use std::process::ExitCode;

fn main() -> ExitCode {
    touchstone_cli::run(std::env::args_os())
}
