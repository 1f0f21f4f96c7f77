//! Clients in the process of the test: libpcsclite reads the environment of its process, so they need one of their own.

use super::{Pcscd, SOCKET_VARIABLE};
use std::env;
use std::process::Command;

/// Runs a part of a test in a process that finds the pcscd which `equip` starts: this same test program, asked for this
/// test alone. In the first process `equip` is called, and what it gives lives until the second one has ended; there,
/// `body` is run instead.
///
/// # Panics
/// When the child fails; its output is in the message.
pub fn in_child<T>(test: &str, equip: impl FnOnce() -> (Pcscd, T), body: impl FnOnce()) {
    if env::var_os(MARK).is_some() {
        return body();
    }
    let (pcscd, _cards) = equip();
    let output = env::current_exe().and_then(|program| {
        Command::new(program)
            .args(["--exact", test, "--nocapture", "--include-ignored"])
            .env(MARK, "1")
            .env(SOCKET_VARIABLE, pcscd.socket())
            .output()
    });
    match output {
        Ok(output)
            if output.status.success()
                && String::from_utf8_lossy(&output.stdout).contains("1 passed") => {}
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            panic!(
                "the client failed:\n{}\npcscd wrote:\n{}",
                String::from_utf8_lossy(&said),
                pcscd.log()
            );
        }
        Err(why) => panic!("the client did not start: {why}"),
    }
}

const MARK: &str = "TOUCHSTONE_TEST_CHILD";
