//! What goes wrong with cards, and what the engineer is told: the real program, the real pcscd, a virtual YubiKey.

use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};
use touchstone_tests::{
    child::Running,
    cluster::{Cluster, Setup},
    engineer::{Engineer, PIN, Ran},
    pcscd::{Options, VirtualYubiKey},
    policy::policy,
};

const USER: &str = "alice@example.com";

/// Exit codes of docs/exit-codes.md.
mod exit {
    pub(crate) const USAGE: i32 = 2;
    pub(crate) const CARD: i32 = 4;
    pub(crate) const PIN: i32 = 5;
    pub(crate) const TOUCH: i32 = 6;
    pub(crate) const SLOT_OCCUPIED: i32 = 11;
    pub(crate) const FACTORY_SECRETS: i32 = 12;
    pub(crate) const INTERRUPTED: i32 = 130;
}

fn engineer() -> Engineer {
    let engineer = Engineer::new(USER, &Options::default());
    engineer.set_up();
    engineer
}

/// An engineer with a key, and a signer that knows nobody: what fails here fails before anything is sent, or is denied.
struct Setting {
    engineer: Engineer,
    _cluster: Cluster,
}

fn setting() -> Setting {
    let engineer = engineer();
    engineer.generate(&[]);
    let cluster = Cluster::start(&Setup {
        policy: policy(&[]),
        attestation_roots: vec![engineer.attestation_root()],
    });
    engineer.configure(&cluster);
    Setting {
        engineer,
        _cluster: cluster,
    }
}

#[test]
fn without_pcscd_the_command_that_starts_it_is_named() {
    let mut engineer = Engineer::without_card(USER);
    engineer.pcscd().kill();
    engineer
        .run(["key", "list"])
        .failed(exit::CARD, &["pcscd", "try:"]);
}

#[test]
fn an_empty_reader_is_told_from_a_missing_service() {
    let engineer = Engineer::without_card(USER);
    engineer
        .run(["key", "list"])
        .failed(exit::CARD, &["YubiKey"]);
}

#[test]
fn of_two_cards_one_has_to_be_named() {
    let mut engineer = engineer();
    let second = Options {
        serial: 87_654_321,
        slot: 1,
        ..Options::default()
    };
    let _second = VirtualYubiKey::start(engineer.pcscd(), &second);
    let pin = engineer.path_text("pin");
    let generate = ["key", "generate", "--pin-file", &pin];
    engineer
        .run(generate)
        .failed(exit::CARD, &["12345678", "87654321", "--serial"]);
    let root = engineer.path_text("attestation-root.pem");
    let named = ["--serial", "12345678", "--attestation-root", &root];
    engineer.run(generate.iter().chain(&named)).succeeded();
}

#[test]
fn factory_secrets_are_refused_and_the_way_out_is_named() {
    let engineer = Engineer::new(USER, &Options::default());
    let pin = engineer.path_text("factory-pin");
    engineer
        .run(["key", "generate", "--pin-file", &pin])
        .failed(
            exit::FACTORY_SECRETS,
            &["PIN", "PUK", "management key", "touchstone key setup"],
        );
    assert!(
        engineer
            .run(["key", "list"])
            .succeeded()
            .stdout
            .contains("no keys"),
        "nothing was made"
    );
}

#[test]
fn an_occupied_slot_is_left_alone_until_overwrite_is_said() {
    let engineer = engineer();
    engineer.generate(&[]);
    let before = engineer.enrolment("payments");
    let pin = engineer.path_text("pin");
    let generate = ["key", "generate", "--pin-file", &pin];
    engineer
        .run(generate)
        .failed(exit::SLOT_OCCUPIED, &["9a", "p256", "--overwrite"]);
    assert_eq!(
        engineer.enrolment("payments"),
        before,
        "the key is the same"
    );
    engineer.generate(&["--overwrite"]);
    assert_ne!(engineer.enrolment("payments"), before, "the key is another");
}

#[test]
fn a_wrong_pin_costs_one_try_and_says_how_many_are_left() {
    let setting = setting();
    let engineer = &setting.engineer;
    engineer.secret("pin", "999999");
    engineer.login("any").failed(exit::PIN, &["2 tries left"]);
    engineer.login("any").failed(exit::PIN, &["1 try left"]);
    engineer.secret("pin", PIN);
    let ran = engineer.login("any");
    assert_ne!(
        ran.code,
        Some(exit::PIN),
        "the right PIN still works: {ran}"
    );
}

#[test]
fn a_locked_pin_names_the_way_to_unblock_it() {
    let setting = setting();
    let engineer = &setting.engineer;
    engineer.secret("pin", "999999");
    for _ in 0..3 {
        let _ = engineer.login("any");
    }
    engineer
        .login("any")
        .failed(exit::PIN, &["locked", "touchstone key unblock"]);
    let [puk, new] = ["puk", "new-pin"].map(|name| engineer.path_text(name));
    engineer.secret("new-pin", "161803");
    engineer
        .run(["key", "unblock", "--puk-file", &puk, "--new-pin-file", &new])
        .succeeded();
    engineer.secret("pin", "161803");
    assert_ne!(
        engineer.login("any").code,
        Some(exit::PIN),
        "the new PIN works"
    );
}

#[test]
fn a_stray_otp_touch_is_no_pin_and_spends_no_try() {
    let setting = setting();
    let engineer = &setting.engineer;
    engineer.secret("pin", "cccccbcnvtjhgdffdvlkrcrkvtihkuvgnggtljvkrlin");
    for _ in 0..4 {
        engineer
            .login("any")
            .failed(exit::PIN, &["one-time password"]);
    }
    engineer.secret("pin", PIN);
    assert_ne!(
        engineer.login("any").code,
        Some(exit::PIN),
        "all tries are left"
    );
}

#[test]
fn the_touch_is_asked_for_when_the_card_waits_and_only_then() {
    let setting = setting();
    let engineer = &setting.engineer;
    let at_once = engineer.login("any");
    assert!(
        !at_once.stderr.to_lowercase().contains("touch your yubikey"),
        "{at_once}"
    );
    engineer.yubikey().control("touch-mode late");
    let late = engineer.login("any");
    assert!(
        late.stderr.to_lowercase().contains("touch your yubikey"),
        "{late}"
    );
}

#[test]
fn a_touch_that_never_comes_ends_and_says_so() {
    let setting = setting();
    let engineer = &setting.engineer;
    engineer.yubikey().control("touch-mode never");
    engineer.yubikey().control("touch-timeout 1500");
    engineer.login("any").failed(exit::TOUCH, &["touch"]);
    assert!(!engineer.certificate("demo").exists(), "nothing is kept");
}

#[test]
fn a_card_pulled_out_while_it_waits_is_named_as_such() {
    let setting = setting();
    let engineer = &setting.engineer;
    engineer.yubikey().control("touch-mode ask");
    let ran = thread::scope(|scope| {
        let login = scope.spawn(|| engineer.login("any"));
        engineer.yubikey().wait_for_touch_request();
        engineer.yubikey().control("remove");
        login.join().expect("the login ends")
    });
    ran.failed(exit::CARD, &["pulled out"]);
    assert!(!engineer.certificate("demo").exists(), "nothing is kept");
}

#[test]
fn ctrl_c_while_the_card_waits_ends_at_once_and_leaves_nothing() {
    let setting = setting();
    let engineer = &setting.engineer;
    engineer.yubikey().control("touch-mode ask");
    let mut login = engineer.login_command("any");
    let login = login
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = Running::start("login", login, &engineer.file("login.log"));
    engineer.yubikey().wait_for_touch_request();
    running.signal(rustix::process::Signal::INT);
    let start = Instant::now();
    let status = running.wait(Duration::from_secs(20));
    assert_eq!(
        status.code(),
        Some(exit::INTERRUPTED),
        "{}",
        running.output()
    );
    assert!(start.elapsed() < Duration::from_secs(5), "it ended at once");
    assert!(!engineer.certificate("demo").exists(), "nothing is kept");
}

#[test]
fn the_pin_is_in_no_log_however_loud() {
    let setting = setting();
    let engineer = &setting.engineer;
    let ran = Ran::of(
        engineer
            .login_command("any")
            .env("RUST_LOG", "trace,yubikey=trace,pcsc=trace"),
    );
    let apdu_of_the_pin = PIN
        .bytes()
        .map(|digit| format!("{digit:02x}"))
        .collect::<String>();
    let listed = format!("{:?}", PIN.as_bytes());
    let listed = listed.trim_matches(['[', ']']);
    for secret in [PIN, &apdu_of_the_pin, listed] {
        assert!(
            !ran.stderr.to_lowercase().contains(secret),
            "the PIN as {secret} in:\n{ran}"
        );
        assert!(
            !ran.stdout.contains(secret),
            "the PIN as {secret} in:\n{ran}"
        );
    }
}

#[test]
fn a_slot_that_may_not_hold_an_engineers_key_is_refused_on_the_command_line() {
    let engineer = Engineer::without_card(USER);
    for slot in ["9e", "f9", "9d", "81", "96", "nonsense"] {
        engineer
            .run(["key", "generate", "--slot", slot])
            .failed(exit::USAGE, &["9a, 9c"]);
    }
}
