//! Ctrl-C wherever it waits: 130, the echo back, nothing half done.

use crate::{Setting, assert_tries, card, engineer_with_key, engineer_with_new_card, exit};
use std::{
    fs,
    time::{Duration, Instant},
};
use touchstone_tests::{
    engineer::{Engineer, PIN, PUK},
    policy::{GRANTED, MANUAL},
    pty::{CTRL_C, Session},
};

/// Ends a session by Ctrl-C, at once.
#[track_caller]
fn interrupt(mut session: Session) -> String {
    let start = Instant::now();
    session.type_keys(CTRL_C);
    let ended = session.end().with(exit::INTERRUPTED, &["interrupted"]);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "it ended at once, not after {:?}",
        start.elapsed()
    );
    ended.shown
}

/// Asserts that nothing is kept for the cluster, and nothing of a file half written.
fn assert_nothing_kept(engineer: &Engineer) {
    let kept: Vec<_> = fs::read_dir(engineer.file("state/demo"))
        .map(|entries| {
            entries
                .map(|entry| entry.expect("an entry").file_name())
                .collect()
        })
        .unwrap_or_default();
    assert!(kept.is_empty(), "{kept:?}");
}

#[test]
fn at_the_pin_of_a_login() {
    let setting = Setting::new();
    let before = card(&setting.engineer);
    let mut login = Session::start(&setting.login(GRANTED, &[]));
    login.wait_for("PIN of YubiKey");
    login.type_keys("2718");
    let shown = interrupt(login);
    assert!(!shown.contains("2718"), "{shown}");
    assert_eq!(card(&setting.engineer), before);
    assert_eq!(setting.requests(), 0, "nothing was sent");
    assert_nothing_kept(&setting.engineer);
}

#[test]
fn sigterm_puts_the_echo_back_too() {
    let setting = Setting::new();
    let mut login = Session::start(&setting.login(GRANTED, &[]));
    login.wait_for("PIN of YubiKey");
    login.signal(rustix::process::Signal::TERM);
    login.end().with(exit::TERMINATED, &["terminated"]);
    assert_tries(&setting.engineer, 3);
}

#[test]
fn at_the_pin_of_a_logout_that_clears_the_card() {
    let setting = Setting::new();
    let engineer = &setting.engineer;
    engineer.login(GRANTED).succeeded();
    let certificate = |engineer: &Engineer| card(engineer)["keys"][0]["certificate"].clone();
    let before = certificate(engineer);
    assert!(before.is_object(), "{before}");
    let logout = || Session::start(&engineer.touchstone(["logout", "--clear-card"]));

    let mut session = logout();
    session.wait_for("PIN of YubiKey");
    interrupt(session);
    let mut session = logout();
    session.answer_hidden("PIN of YubiKey", "999999");
    session.end().with(exit::PIN, &["2 tries left"]);
    assert_eq!(certificate(engineer), before);
    assert!(
        engineer.certificate("demo").exists(),
        "it can be tried again"
    );

    let mut session = logout();
    session.answer_hidden("PIN of YubiKey", PIN);
    session
        .end()
        .with(0, &["cannot be revoked"])
        .without(&[PIN]);
    assert!(certificate(engineer).is_null());
    assert!(!engineer.certificate("demo").exists());
}

#[test]
fn while_whoami_waits_for_a_touch() {
    let setting = Setting::new();
    let engineer = &setting.engineer;
    engineer.login(GRANTED).succeeded();
    engineer.yubikey().control("touch-mode ask");
    let mut whoami = Session::start(&engineer.touchstone(["whoami"]));
    whoami.answer_hidden("PIN of YubiKey", PIN);
    whoami.wait_for("Touch your YubiKey now.");
    interrupt(whoami);
    assert!(engineer.certificate("demo").exists());
}

#[test]
fn while_the_card_waits_for_a_touch() {
    let setting = Setting::new();
    setting.engineer.yubikey().control("touch-mode ask");
    let mut login = Session::start(&setting.login(GRANTED, &[]));
    login.answer_hidden("PIN of YubiKey", PIN);
    login.wait_for("Touch your YubiKey now.");
    interrupt(login);
    assert_eq!(setting.requests(), 0, "nothing was sent");
    assert_nothing_kept(&setting.engineer);

    // The card is free for the next one.
    setting.engineer.yubikey().control("touch-mode auto");
    setting.engineer.login(GRANTED).succeeded();
}

#[test]
fn while_it_waits_for_approval_and_the_request_can_be_resumed() {
    let setting = Setting::new();
    let mut login = Session::start(&setting.login(MANUAL, &[]));
    login.answer_hidden("PIN of YubiKey", PIN);
    login.wait_for("submitted.");
    let shown = interrupt(login);
    assert!(shown.contains("--resume"), "{shown}");
    assert!(!setting.engineer.certificate("demo").exists());
    assert_eq!(setting.requests(), 1);

    let resume = ["login", "--cluster", "demo", "--resume", "--timeout", "1s"];
    let resumed = setting.engineer.run(resume);
    resumed.failed(exit::WAITING, &["--resume"]);
    assert_eq!(setting.requests(), 1, "it is the same request");
}

#[test]
fn at_each_prompt_of_key_setup_and_what_was_changed_is_said() {
    let engineer = engineer_with_new_card();
    let factory = card(&engineer);
    let start = || Session::start(&engineer.touchstone(["key", "setup"]));

    let mut setup = start();
    setup.wait_for("New PIN");
    setup.type_keys("27");
    let shown = interrupt(setup);
    assert!(!shown.contains("27\r"), "{shown}");
    assert_eq!(card(&engineer), factory);

    let mut setup = start();
    setup.answer_hidden("New PIN", PIN);
    setup.wait_for("The new PIN again: ");
    interrupt(setup);
    assert_eq!(card(&engineer), factory);

    let mut setup = start();
    setup.answer_hidden("New PIN", PIN);
    setup.answer_hidden("The new PIN again: ", PIN);
    setup.wait_for("New PUK");
    let shown = interrupt(setup);
    assert!(shown.contains("PIN changed."), "{shown}");
    let left = serde_json::json!(["PUK", "management key"]);
    assert_eq!(card(&engineer)["factorySecrets"], left);

    // It goes on where it ended, with the PIN that was set.
    let mut setup = start();
    setup.wait_for("PIN of YubiKey");
    interrupt(setup);
    let mut setup = start();
    setup.answer_hidden("PIN of YubiKey", PIN);
    setup.answer_hidden("New PUK", PUK);
    setup.wait_for("The new PUK again: ");
    interrupt(setup);
    assert_eq!(card(&engineer)["factorySecrets"], left);
    let mut setup = start();
    for (question, answer) in [("PIN of YubiKey", PIN), ("New PUK", PUK), ("again", PUK)] {
        setup.answer_hidden(question, answer);
    }
    setup.end().with(0, &["changed PUK, management key"]);
    assert_eq!(card(&engineer)["factorySecrets"], serde_json::json!([]));
    assert_tries(&engineer, 3);
}

#[test]
fn at_the_prompts_of_key_generate_and_key_unblock() {
    let engineer = engineer_with_new_card();
    let factory = card(&engineer);
    let mut generate = Session::start(&engineer.touchstone(["key", "generate"]));
    generate.wait_for("Change them now?");
    interrupt(generate);
    assert_eq!(card(&engineer), factory);

    let engineer = engineer_with_key();
    let before = card(&engineer);
    let overwrite = ["key", "generate", "--overwrite"];
    let mut generate = Session::start(&engineer.touchstone(overwrite));
    generate.wait_for("it will be replaced.");
    generate.wait_for("PIN of YubiKey");
    interrupt(generate);
    assert_eq!(card(&engineer), before, "the old key is still there");

    for answers in [&[][..], &[PUK][..], &[PUK, "161803"][..]] {
        let mut unblock = Session::start(&engineer.touchstone(["key", "unblock"]));
        for (question, answer) in ["PUK of", "New PIN"].iter().zip(answers) {
            unblock.answer_hidden(question, answer);
        }
        let next = ["PUK of", "New PIN", "again"][answers.len()];
        unblock.wait_for(next);
        interrupt(unblock);
        assert_eq!(card(&engineer), before);
    }
    engineer.generate(&["--overwrite"]);
}
