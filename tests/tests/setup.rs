//! `touchstone setup`, `kubectl`, `exec`, `status`, `logout` and `doctor`: what stands around the proxy, before real kubectl.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on ends"
)]

#[path = "setup/doctor.rs"]
mod doctor;
#[path = "setup/kubeconfig.rs"]
mod kubeconfig;
#[path = "setup/programs.rs"]
mod programs;

use std::{
    path::Path,
    process::Command,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};
use touchstone_tests::{engineer::Engineer, pcscd::Options};

const USER: &str = "alice@example.com";
const PATIENCE: Duration = Duration::from_secs(60);

/// Exit codes of docs/exit-codes.md.
mod exit {
    pub(crate) const USAGE: i32 = 2;
    pub(crate) const CONFIG: i32 = 3;
    pub(crate) const NOT_LOGGED_IN: i32 = 15;
    pub(crate) const PROXY: i32 = 16;
    pub(crate) const UNHEALTHY: i32 = 17;
    pub(crate) const NO_PROGRAM: i32 = 127;
}

/// An engineer with a key in slot 9a, and a PIN of their own.
fn engineer_with_key() -> Engineer {
    let engineer = Engineer::new(USER, &Options::default());
    engineer.set_up();
    engineer.generate(&[]);
    engineer
}

/// Waits until something is so.
#[track_caller]
fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Real kubectl in an engineer's surroundings, so that it starts the exec plugin in them.
fn kubectl(engineer: &Engineer, kubeconfig: &Path) -> Command {
    let own = engineer.touchstone([""; 0]);
    let mut command = Command::new(std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into()));
    command.env_clear();
    for (name, value) in own.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("KUBECONFIG", kubeconfig);
    command
}

/// Whether this kubectl knows client.authentication.k8s.io/v1, which came with 1.22.
static KNOWS_EXEC_V1: LazyLock<bool> = LazyLock::new(|| {
    let program = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
    let told = Command::new(program)
        .args(["version", "--client", "--output=json"])
        .output()
        .expect("run kubectl");
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let minor = told["clientVersion"]["minor"].as_str().expect("a version");
    minor
        .trim_end_matches('+')
        .parse::<u32>()
        .expect("a number")
        >= 22
});
