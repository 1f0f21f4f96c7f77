//! What the programs cost before they do anything: processor time of `touchstone --help`, and the size of both on disk.

use crate::support::{figure, ms, processor_time};
use std::{fs, process::Command};
use touchstone_tests::child::program;

pub(crate) fn run() {
    let help = processor_time(|| {
        let mut command = Command::new(program("touchstone"));
        command.arg("--help").env_clear();
        command
    });
    figure("touchstone --help: processor time", &ms(help), "20 ms");
    for name in ["touchstone", "touchstone-signer"] {
        let bytes = fs::metadata(program(name)).expect("the program").len();
        figure(
            &format!("{name}: size"),
            &format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
            "",
        );
    }
}
