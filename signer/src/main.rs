//! `touchstone-signer`.

use std::process::ExitCode;

fn main() -> ExitCode {
    touchstone_signer::command::main()
}
