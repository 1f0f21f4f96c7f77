//! What is asked, and what an answer does.

use crate::{OTP, Setting, assert_tries, card, engineer_with_key, engineer_with_new_card, exit};
use std::process::Stdio;
use touchstone_tests::{
    engineer::{Engineer, PIN, PUK, Ran},
    policy::GRANTED,
    pty::{CTRL_D, Session},
};

const WRONG_PIN: &str = "999999";
const PIN_PROMPT: &str = "PIN of YubiKey 12345678: ";

#[test]
fn the_pin_is_asked_without_echo_and_never_shown() {
    let setting = Setting::new();
    let mut login = Session::start(&setting.login(GRANTED, &[]));
    login.answer_hidden(PIN_PROMPT, PIN);
    let ended = login.end().with(0, &["logged in to", "alice@example.com"]);
    ended.without(&[PIN]);
    assert!(setting.engineer.certificate("demo").exists());
}

#[test]
fn a_wrong_pin_says_how_many_tries_are_left_and_is_not_asked_for_again() {
    let setting = Setting::new();
    let mut login = Session::start(&setting.login(GRANTED, &[]));
    login.answer_hidden(PIN_PROMPT, WRONG_PIN);
    let ended = login.end().with(exit::PIN, &["wrong PIN", "2 tries left"]);
    ended.without(&[WRONG_PIN]);
    assert_eq!(ended.shown.matches("PIN of YubiKey").count(), 1);
    assert_tries(&setting.engineer, 2);

    // The next prompt says it before anyone types.
    let mut login = Session::start(&setting.login(GRANTED, &[]));
    login.answer_hidden("PIN of YubiKey 12345678 (2 tries left): ", PIN);
    login.end().with(0, &["logged in to"]).without(&[PIN]);
    assert_tries(&setting.engineer, 3);
}

#[test]
fn a_stray_touch_at_the_pin_prompt_costs_nothing_and_the_prompt_stays() {
    let setting = Setting::new();
    let mut login = Session::start(&setting.login(GRANTED, &[]));
    login.answer_hidden(PIN_PROMPT, OTP);
    login.wait_for("one-time password");
    login.answer_hidden(PIN_PROMPT, "123");
    login.wait_for("6 to 8 characters, this has 3");
    login.answer_hidden(PIN_PROMPT, PIN);
    login.end().with(0, &["logged in to"]).without(&[OTP, PIN]);
    assert_tries(&setting.engineer, 3);
}

#[test]
fn the_touch_is_asked_for_on_the_terminal_and_never_on_standard_output() {
    let setting = Setting::new();
    setting.engineer.yubikey().control("touch-mode late");
    let output = setting.engineer.file("stdout.json");
    let command = setting.login(GRANTED, &["--output", "json", "--quiet"]);
    let mut login = Session::with_output(&command, Some(&output));
    login.answer_hidden(PIN_PROMPT, PIN);
    login.wait_for("Touch your YubiKey now.");
    let ended = login.end().with(0, &[]);
    ended.without(&[PIN, "fingerprint"]);
    let printed = std::fs::read_to_string(output).expect("read the output");
    let value: serde_json::Value = serde_json::from_str(&printed).expect("one JSON document");
    assert_eq!(value["cluster"], "demo", "{printed}");
}

#[test]
fn the_end_of_input_at_a_prompt_ends_the_command_and_changes_nothing() {
    let setting = Setting::new();
    let mut login = Session::start(&setting.login(GRANTED, &[]));
    login.wait_for(PIN_PROMPT);
    login.type_keys(CTRL_D);
    login.end().with(exit::PIN, &["closed before an answer"]);
    assert_tries(&setting.engineer, 3);
    assert_eq!(setting.requests(), 0);

    let engineer = engineer_with_new_card();
    let before = card(&engineer);
    for (command, prompt) in [
        (["key", "setup"], "New PIN"),
        (["key", "unblock"], "PUK of YubiKey"),
        (["key", "generate"], "Change them now?"),
    ] {
        let mut session = Session::start(&engineer.touchstone(command));
        session.wait_for(prompt);
        session.type_keys(CTRL_D);
        session.end().with(exit::PIN, &["closed before an answer"]);
        assert_eq!(card(&engineer), before, "{command:?}");
    }
}

#[test]
fn without_a_terminal_the_option_that_does_without_is_named() {
    /// A session without a terminal, as a service or a job of CI has it.
    fn run(engineer: &Engineer, arguments: &[&str]) -> Ran {
        let inner = engineer.touchstone(arguments);
        let mut command = std::process::Command::new("setsid");
        command
            .arg("--wait")
            .arg(inner.get_program())
            .args(inner.get_args())
            .env_clear()
            .envs(
                inner
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .stdin(Stdio::null());
        Ran::of(&mut command)
    }
    let setting = Setting::new();
    let login = ["login", "--cluster", "demo", "--group", GRANTED];
    run(&setting.engineer, &login).failed(exit::PIN, &["no terminal", "--pin-file FILE"]);
    run(&setting.engineer, &["key", "generate", "--slot", "82"])
        .failed(exit::PIN, &["no terminal", "--pin-file FILE"]);
    run(&setting.engineer, &["key", "unblock"])
        .failed(exit::PIN, &["no terminal", "--puk-file FILE"]);
    assert_tries(&setting.engineer, 3);

    let engineer = engineer_with_new_card();
    run(&engineer, &["key", "setup"]).failed(exit::PIN, &["no terminal", "--new-pin-file FILE"]);
    run(&engineer, &["key", "generate"]).failed(
        exit::FACTORY_SECRETS,
        &["touchstone key setup", "--new-pin-file FILE"],
    );
}

#[test]
fn key_setup_asks_twice_until_both_agree_and_shows_nothing() {
    let engineer = engineer_with_new_card();
    let mut setup = Session::start(&engineer.touchstone(["key", "setup"]));
    setup.answer_hidden("New PIN (6 to 8 characters): ", "123456");
    setup.wait_for("known to everyone");
    setup.answer_hidden("New PIN (6 to 8 characters): ", OTP);
    setup.wait_for("one-time password");
    setup.answer_hidden("New PIN (6 to 8 characters): ", PIN);
    setup.answer_hidden("The new PIN again: ", "271829");
    setup.wait_for("The two entries differ.");
    setup.answer_hidden("New PIN (6 to 8 characters): ", PIN);
    setup.answer_hidden("The new PIN again: ", PIN);
    setup.wait_for("PIN changed.");
    setup.answer_hidden("New PUK (6 to 8 characters): ", PUK);
    setup.answer_hidden("The new PUK again: ", PUK);
    let ended = setup.end().with(0, &["changed PIN, PUK, management key"]);
    ended.without(&[PIN, PUK, OTP, "271829", "123456\r"]);
    assert_eq!(card(&engineer)["factorySecrets"], serde_json::json!([]));

    // They are what was typed.
    engineer.generate(&[]);
    let mut unblock = Session::start(&engineer.touchstone(["key", "unblock"]));
    unblock.answer_hidden("PUK of YubiKey 12345678: ", PUK);
    unblock.answer_hidden("New PIN", "161803");
    unblock.answer_hidden("The new PIN again: ", "161803");
    let ended = unblock.end().with(0, &["the PIN is set and unlocked"]);
    ended.without(&[PUK, "161803"]);
}

#[test]
fn key_generate_offers_to_change_the_factorys_secrets_and_goes_on() {
    let engineer = engineer_with_new_card();
    let mut generate = Session::start(&engineer.touchstone(["key", "generate"]));
    generate.wait_for("PIN, PUK and management key of YubiKey 12345678 are still");
    generate.wait_for("Change them now? [y/N] ");
    generate.type_line("no");
    generate
        .end()
        .with(exit::FACTORY_SECRETS, &["touchstone key setup"]);

    let mut generate = Session::start(&engineer.touchstone(["key", "generate"]));
    generate.wait_for("Change them now? [y/N] ");
    generate.type_line("yes");
    for (question, answer) in [
        ("New PIN", PIN),
        ("again", PIN),
        ("New PUK", PUK),
        ("again", PUK),
    ] {
        generate.answer_hidden(question, answer);
    }
    let ended = generate.end().with(0, &["Made:", "serial: 12345678"]);
    ended.without(&[PIN, PUK]);
    assert_eq!(card(&engineer)["factorySecrets"], serde_json::json!([]));
    assert_eq!(card(&engineer)["keys"][0]["slot"], "9a");
}

#[test]
fn an_occupied_slot_is_shown_and_nothing_is_asked() {
    let engineer = engineer_with_key();
    let generate = Session::start(&engineer.touchstone(["key", "generate"]));
    let ended = generate
        .end()
        .with(exit::SLOT_OCCUPIED, &["--overwrite", "p256"]);
    ended.without(&["PIN of YubiKey"]);
}
