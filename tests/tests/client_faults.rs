//! What goes wrong between `touchstone` and its server, clock and files, and what the engineer is told.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on ends, and says what it saw"
)]

#[path = "client_faults/clock.rs"]
mod clock;
#[path = "client_faults/files.rs"]
mod files;
#[path = "client_faults/hostile_signer.rs"]
mod hostile_signer;
#[path = "client_faults/rogue.rs"]
mod rogue;
#[path = "client_faults/server.rs"]
mod server;
#[path = "client_faults/waiting.rs"]
mod waiting;

use rogue::Rogue;
use std::{fs, io::Write, path::Path, process::Command};
use touchstone_tests::{cluster::Cluster, engineer::Engineer, pcscd::Options};

const USER: &str = "alice@example.com";

/// Exit codes of docs/exit-codes.md.
mod exit {
    pub(crate) const OTHER: i32 = 1;
    pub(crate) const CONFIG: i32 = 3;
    pub(crate) const WAITING: i32 = 8;
    pub(crate) const SERVER: i32 = 9;
    pub(crate) const VERIFICATION: i32 = 10;
    pub(crate) const CLOCK: i32 = 13;
    pub(crate) const INTERRUPTED: i32 = 130;
}

/// An engineer of the team `payments` with an enrolled key, and the cluster.
struct Setting {
    engineer: Engineer,
    cluster: Cluster,
}

impl Setting {
    fn new() -> Self {
        let engineer = engineer_with_key();
        let cluster = engineer.enrolled_cluster();
        Self { engineer, cluster }
    }

    fn requests(&self) -> usize {
        self.cluster
            .kubectl_ok(["get", "csr", "-o", "name"])
            .lines()
            .count()
    }
}

fn engineer_with_key() -> Engineer {
    let engineer = Engineer::new(USER, &Options::default());
    engineer.set_up();
    engineer.generate(&[]);
    engineer
}

/// Leads an engineer to a server of the test's own.
fn configure(engineer: &Engineer, rogue: &Rogue, trust_bundle: &Path) {
    set_cluster(engineer, &rogue.url(), &rogue.ca(), trust_bundle);
}

fn set_cluster(engineer: &Engineer, server: &str, ca: &Path, trust_bundle: &Path) {
    let mut command = engineer.touchstone(["config", "set-cluster", "demo", "--user", USER]);
    command
        .args(["--server", server, "--ca"])
        .arg(ca)
        .arg("--trust-bundle")
        .arg(trust_bundle);
    touchstone_tests::engineer::Ran::of(&mut command).succeeded();
}

/// The request that waits, as it is noted.
fn pending(engineer: &Engineer) -> Option<serde_json::Value> {
    let noted = fs::read(engineer.file("state/demo/pending.json")).ok()?;
    Some(serde_json::from_slice(&noted).expect("the note is JSON"))
}

/// Whether the client still listens.
fn put(out: &mut dyn Write, text: &str) -> bool {
    out.write_all(text.as_bytes()).is_ok()
}

/// A command whose clock is off by `offset`, such as `+10m`. What is run comes as its arguments.
fn faketime(offset: &str) -> Command {
    assert!(
        Path::new("/usr/bin/faketime").exists(),
        "faketime is missing: apt-get install faketime (scripts/setup test does)"
    );
    let mut command = Command::new("/usr/bin/faketime");
    command.args(["-f", offset]);
    command
}

/// `command` with its clock off.
fn at_another_time(offset: &str, command: &Command) -> Command {
    let mut faked = faketime(offset);
    faked
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    faked
}
