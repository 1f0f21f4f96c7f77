//! `touchstone` on a terminal: what it asks, what it shows, what it leaves when it is interrupted.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on ends"
)]

#[path = "terminal/help.rs"]
mod help;
#[path = "terminal/interrupted.rs"]
mod interrupted;
#[path = "terminal/json.rs"]
mod json;
#[path = "terminal/prompts.rs"]
mod prompts;

use std::process::Command;
use touchstone_tests::{cluster::Cluster, engineer::Engineer, pcscd::Options};

const USER: &str = "alice@example.com";
/// 44 characters of modhex: what a YubiKey types when it is touched while no one waits for it.
const OTP: &str = "cccccbcnvtjhgdffdvlkrcrkvtihkuvgnggtljvkrlin";

/// Exit codes of docs/exit-codes.md.
mod exit {
    pub(crate) const USAGE: i32 = 2;
    pub(crate) const PIN: i32 = 5;
    pub(crate) const WAITING: i32 = 8;
    pub(crate) const SLOT_OCCUPIED: i32 = 11;
    pub(crate) const FACTORY_SECRETS: i32 = 12;
    pub(crate) const INTERRUPTED: i32 = 130;
    pub(crate) const TERMINATED: i32 = 143;
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

    /// `login` that asks for the PIN on the terminal.
    fn login(&self, group: &str, further: &[&str]) -> Command {
        let arguments = [
            "login",
            "--cluster",
            "demo",
            "--group",
            group,
            "--reason",
            "INC-4211 checkout latency",
        ];
        self.engineer
            .touchstone(arguments.iter().chain(further.iter()))
    }

    fn requests(&self) -> usize {
        self.cluster
            .kubectl_ok(["get", "csr", "-o", "name"])
            .lines()
            .count()
    }
}

/// An engineer whose card is fresh from the factory.
fn engineer_with_new_card() -> Engineer {
    Engineer::new(USER, &Options::default())
}

/// An engineer with a key in slot 9a, and a PIN of their own.
fn engineer_with_key() -> Engineer {
    let engineer = engineer_with_new_card();
    engineer.set_up();
    engineer.generate(&[]);
    engineer
}

/// What `key list` says of the one card.
fn card(engineer: &Engineer) -> serde_json::Value {
    let listed = engineer
        .run(["key", "list", "--output", "json"])
        .succeeded();
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    listed[0].clone()
}

/// Asserts how many tries the PIN has left.
fn assert_tries(engineer: &Engineer, left: u64) {
    assert_eq!(card(engineer)["pinTriesLeft"], left, "{}", card(engineer));
}
