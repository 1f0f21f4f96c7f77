//! Files that are wrong, and places that cannot be written.

use crate::{Setting, engineer_with_key, exit};
use std::{fs, process::Command};
use touchstone_tests::{engineer::Ran, policy::GRANTED};

#[test]
fn a_typo_in_the_configuration_is_named_with_its_place_and_the_nearest_key() {
    let engineer = engineer_with_key();
    let root = engineer.path_text("attestation-root.pem");
    let file = engineer.file("config.yaml");
    let write = |key: &str| {
        let text = format!(
            "clusters:\n  demo:\n    {key}: https://127.0.0.1:1\n    ca: {root}\n    trustBundle: {root}\n"
        );
        fs::write(&file, text).expect("write the configuration");
    };
    write("servr");
    for command in [
        &["config", "list"][..],
        &["login", "--cluster", "demo", "--group", "g"],
    ] {
        let ran = engineer.run(command);
        ran.failed(
            exit::CONFIG,
            &["config.yaml:3:5", "servr", "\"server\"", "try:"],
        );
    }
    write("server");
    engineer.run(["config", "list"]).succeeded();
    engineer
        .run(["login", "--cluster", "dmeo", "--group", "g"])
        .failed(exit::CONFIG, &["dmeo", "demo", "config.yaml"]);

    for broken in [
        "clusters: [",
        "clusters:\n  demo:\n    ca: [1, 2]\n",
        "\u{0}",
        "- 1",
    ] {
        fs::write(&file, broken).expect("write the configuration");
        engineer
            .run(["config", "list"])
            .failed(exit::CONFIG, &["config.yaml:"]);
    }
}

#[test]
fn a_file_that_the_configuration_names_and_that_is_gone_is_named() {
    let setting = Setting::new();
    let engineer = &setting.engineer;
    let gone = engineer.path_text("gone.pem");
    let text = fs::read_to_string(engineer.file("config.yaml")).expect("read the configuration");
    let bundle = setting.cluster.files().trust_bundle.display().to_string();
    fs::write(engineer.file("config.yaml"), text.replace(&bundle, &gone)).expect("change it");
    engineer.login(GRANTED).failed(
        exit::CONFIG,
        &["trustBundle", &gone, "touchstone config set-cluster demo"],
    );
    assert_eq!(setting.requests(), 0);
}

#[test]
fn a_place_that_cannot_be_written_is_named_before_a_try_or_a_touch_is_spent() {
    let setting = Setting::new();
    let engineer = &setting.engineer;
    engineer.secret("pin", "999999");
    // Below a file there is no folder, whoever asks.
    let place = engineer.file("pin").join("state");
    let mut login = engineer.login_command(GRANTED);
    Ran::of(login.env("TOUCHSTONE_STATE_DIR", &place)).failed(exit::OTHER, &["pin/state", "try:"]);
    let listed = engineer
        .run(["key", "list", "--output", "json"])
        .succeeded();
    assert!(listed.stdout.contains("\"pinTriesLeft\": 3"), "{listed}");
    assert_eq!(setting.requests(), 0);
}

/// Needs a file system of its own, so a mount namespace: as root, or where users may make one.
#[test]
fn a_full_disk_is_named_before_a_try_or_a_touch_is_spent() {
    let setting = Setting::new();
    let engineer = &setting.engineer;
    engineer.secret("pin", "999999");
    let disk = engineer.file("disk");
    fs::create_dir(&disk).expect("make a mount point");
    let script = r#"
set -u
disk=$1; shift
mount -t tmpfs -o size=64k tmpfs "$disk" || exit 99
head -c 1000000 /dev/zero >"$disk/ballast" 2>/dev/null
"$@"
"#;
    let mut login = engineer.login_command(GRANTED);
    login.env("TOUCHSTONE_STATE_DIR", disk.join("state"));
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new("unshare");
    command
        .arg(if root { "-m" } else { "-rm" })
        .args(["sh", "-c", script, "sh"])
        .arg(&disk)
        .arg(login.get_program())
        .args(login.get_args())
        .env_clear()
        .envs(
            login
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    Ran::of(&mut command).failed(exit::OTHER, &["disk/state", "No space left", "try:"]);
    let listed = engineer
        .run(["key", "list", "--output", "json"])
        .succeeded();
    assert!(listed.stdout.contains("\"pinTriesLeft\": 3"), "{listed}");
    assert_eq!(setting.requests(), 0);
}
