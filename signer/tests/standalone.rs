//! The standalone as a process: what it leaves on disk, what it says, how it ends.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that panics has failed"
)]

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use touchstone_signer::audit::{AuditLog, Event};

const PROGRAM: &str = env!("CARGO_BIN_EXE_touchstone-signer");
const PATIENCE: Duration = Duration::from_secs(60);
const POLICY: &str =
    "apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: prod\nusers: []\nrules: []\n";

/// A folder with a policy in it, and the standalone on it.
struct Place {
    temp: TempDir,
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn id(&self) -> u32 {
        self.0.id()
    }

    fn terminate(&mut self) -> std::process::ExitStatus {
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not stop");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Place {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("policy.yaml"), POLICY).unwrap();
        Self { temp }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg("standalone")
            .arg("--data")
            .arg(self.path("data"))
            .args(["--listen", "127.0.0.1:0", "--policy"])
            .arg(self.path("policy.yaml"))
            .arg("--ready-file")
            .arg(self.path("ready.json"))
            .stdin(Stdio::null());
        command
    }

    fn spawn(&self) -> Running {
        self.spawn_with(&[])
    }

    fn spawn_with(&self, further: &[&str]) -> Running {
        let quiet = || {
            fs::File::options()
                .create(true)
                .append(true)
                .open(self.path("log"))
                .unwrap()
        };
        Running(
            self.command()
                .args(further)
                .stdout(quiet())
                .stderr(quiet())
                .spawn()
                .unwrap(),
        )
    }

    fn start(&self) -> Running {
        self.start_with(&[])
    }

    fn start_with(&self, further: &[&str]) -> Running {
        // One that was killed leaves its ready file.
        let _ = fs::remove_file(self.path("ready.json"));
        let mut running = self.spawn_with(further);
        let end = Instant::now() + PATIENCE;
        while !self.path("ready.json").exists() {
            let ended = running.0.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < end,
                "{ended:?}: {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
        running
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Runs it until it ends by itself.
    fn refused(&self) -> (Option<i32>, String) {
        let output = self.command().output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(PROGRAM)
            .args(arguments)
            .arg("--data")
            .arg(self.path("data"))
            .output()
            .unwrap()
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_second_start_goes_on_with_the_first_ones_ca_and_every_file_is_for_the_owner_alone() {
    let place = Place::new();
    let mut first = place.start();
    let bundle = fs::read(place.path("data/trust-bundle.pem")).unwrap();
    let server_ca = fs::read(place.path("data/server-ca.pem")).unwrap();
    let ready: serde_json::Value =
        serde_json::from_slice(&fs::read(place.path("ready.json")).unwrap()).unwrap();
    assert_eq!(ready["pid"], first.id());
    assert!(
        ready["server"]
            .as_str()
            .unwrap()
            .starts_with("https://127.0.0.1:")
    );
    assert!(
        fs::read_to_string(place.path("data/admin.kubeconfig"))
            .unwrap()
            .contains(ready["server"].as_str().unwrap())
    );
    for file in files_below(&place.path("data")) {
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.display());
    }
    assert!(first.terminate().success(), "{}", place.log());
    assert!(!place.path("ready.json").exists());
    let _second = place.start();
    assert_eq!(
        fs::read(place.path("data/trust-bundle.pem")).unwrap(),
        bundle
    );
    assert_eq!(
        fs::read(place.path("data/server-ca.pem")).unwrap(),
        server_ca
    );
}

#[test]
fn a_second_process_on_the_same_data_is_refused_and_told_the_first_ones_number() {
    let place = Place::new();
    let first = place.start();
    let (code, message) = place.refused();
    assert_eq!(code, Some(4), "{message}");
    assert!(message.contains(&first.id().to_string()), "{message}");
    assert!(
        place.path("ready.json").exists(),
        "the first is ready all the same"
    );
}

#[test]
fn killed_at_any_moment_of_its_first_start_it_starts_again() {
    let place = Place::new();
    for round in 0..24u64 {
        let mut running = place.spawn();
        thread::sleep(Duration::from_millis(round * 8));
        running.0.kill().unwrap();
        running.0.wait().unwrap();
        // A CA that is there is whole.
        if place.path("data/ca").exists() {
            let status = place.run(&["ca", "status"]);
            assert!(
                status.status.success(),
                "{}",
                String::from_utf8_lossy(&status.stderr)
            );
        }
    }
    let mut running = place.start();
    assert!(running.terminate().success(), "{}", place.log());
    assert!(place.run(&["audit", "verify"]).status.success());
}

#[test]
fn a_broken_policy_is_named_with_its_place_and_nothing_is_made() {
    let place = Place::new();
    fs::write(
        place.path("policy.yaml"),
        POLICY.replace("rules:", "ruels:"),
    )
    .unwrap();
    let (code, message) = place.refused();
    assert_eq!(code, Some(3), "{message}");
    assert!(message.contains("policy.yaml:5:"), "{message}");
    assert!(!place.path("data").exists());
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named_with_a_remedy() {
    let place = Place::new();
    fs::write(place.path("data"), "a file").unwrap();
    let (code, message) = place.refused();
    assert_eq!(code, Some(5), "{message}");
    assert!(message.contains("--data"), "{message}");
}

#[test]
fn an_address_in_use_is_named_with_a_remedy() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let output = Command::new(PROGRAM)
        .args([
            "standalone",
            "--listen",
            &taken.local_addr().unwrap().to_string(),
            "--data",
        ])
        .arg(place.path("data"))
        .arg("--policy")
        .arg(place.path("policy.yaml"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("--listen"), "{message}");
}

#[test]
fn a_changed_audit_log_is_found_by_verify_and_keeps_the_signer_from_starting() {
    let place = Place::new();
    place.start().terminate();
    let path = place.path("data/audit.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text.replacen("touchstone.dev/client", "touchstone.dev/clienu", 1),
    )
    .unwrap();
    let verify = place.run(&["audit", "verify"]);
    assert_eq!(verify.status.code(), Some(6));
    assert!(
        String::from_utf8_lossy(&verify.stderr).contains("line 1"),
        "{verify:?}"
    );
    let (code, message) = place.refused();
    assert_eq!(code, Some(6), "{message}");
}

/// Runs a command of `audit` on a copy of a log.
fn on_copy(arguments: &[&str], copy: &str) -> Output {
    let mut child = Command::new(PROGRAM)
        .arg("audit")
        .args(arguments)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // Whoever found what is wrong reads no further.
    let _ = input.write_all(copy.as_bytes());
    drop(input);
    child.wait_with_output().unwrap()
}

#[test]
fn a_log_on_standard_output_is_verified_and_shown_from_what_collected_it() {
    let place = Place::new();
    for _ in 0..2 {
        place.start_with(&["--audit", "stdout"]).terminate();
    }
    assert!(!place.path("data/audit.jsonl").exists());
    // As `kubectl logs` has it: with what was logged, and two starts.
    let copy = place.log();
    let verify = on_copy(&["verify"], &copy);
    let said = String::from_utf8_lossy(&verify.stdout);
    assert!(verify.status.success(), "{verify:?}");
    assert!(said.contains("in 2 chains"), "{said}");
    let show = on_copy(&["show", "--since", "1h"], &copy);
    assert!(show.status.success(), "{show:?}");
    let said = String::from_utf8_lossy(&show.stdout).into_owned();
    assert_eq!(said.matches("  started  ").count(), 2, "{said}");
    let none = on_copy(
        &["show", "--user", "alice@example.com", "--output", "json"],
        &copy,
    );
    assert!(none.status.success() && none.stdout.is_empty(), "{none:?}");

    for (arguments, forged) in [
        (
            &["verify"][..],
            copy.replacen("policyLoaded", "policyLoadee", 1),
        ),
        (
            &["show"],
            copy.replacen("\"kind\":\"stopped\"", "\"kind\":\"stoppee\"", 1),
        ),
    ] {
        assert_ne!(forged, copy);
        assert_eq!(on_copy(arguments, &forged).status.code(), Some(6));
    }
}

#[test]
fn a_log_in_several_files_is_one_chain_and_is_also_printed_where_that_is_asked_for() {
    let place = Place::new();
    place.start().terminate();
    // More than a file of the least size may have.
    let path = place.path("data/audit.jsonl");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let now = jiff::Timestamp::now();
        let log = AuditLog::open(&path, now).unwrap();
        let all = (0..400).map(|_| log.append(now, Event::Stopped {}));
        for receipt in futures::future::join_all(all).await {
            receipt.unwrap();
        }
    });
    place
        .start_with(&["--audit", "both", "--audit-max-size", "64KiB"])
        .terminate();
    assert!(place.path("data/audit-000001.jsonl").exists());
    place.start().terminate();
    let verify = place.run(&["audit", "verify"]);
    assert!(verify.status.success(), "{verify:?}");
    let printed = place.log();
    assert!(printed.contains("\"kind\":\"rotated\""));
    assert!(on_copy(&["verify"], &printed).status.success());
    fs::remove_file(path).unwrap();
    let (code, message) = place.refused();
    assert_eq!(code, Some(6), "{message}");
    assert!(message.contains("audit-000001.jsonl"), "{message}");
}

#[test]
fn a_ca_without_its_key_is_an_error_and_not_made_anew() {
    let place = Place::new();
    place.start().terminate();
    fs::remove_file(place.path("data/ca/issuing/key.pem")).unwrap();
    let (code, message) = place.refused();
    assert_eq!(code, Some(5), "{message}");
    assert!(
        message.contains("ca/issuing/key.pem is missing"),
        "{message}"
    );
    assert!(message.contains("backup"), "{message}");
}

#[test]
fn an_unknown_option_is_a_usage_error() {
    let output = Command::new(PROGRAM)
        .args(["standalone", "--dtaa", "x"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
