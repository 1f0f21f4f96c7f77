//! A YubiKey for tests; see docs/virtual-yubikey.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    touchstone_tests::yubikey::command_line::run()
}
