//! Requests that wait: for a signer that is down, for others, beside another login.

use crate::{Setting, exit, pending};
use std::{fs, thread, time::Duration};
use touchstone_tests::{
    child::Running,
    engineer::{Engineer, Ran},
    policy::{GRANTED, MANUAL},
};

fn resume(engineer: &Engineer, timeout: &str) -> Ran {
    let pin = engineer.path_text("pin");
    let resume = [
        "login",
        "--cluster",
        "demo",
        "--resume",
        "--timeout",
        timeout,
    ];
    engineer.run(resume.iter().chain(&["--pin-file", &pin]))
}

#[test]
fn a_login_waits_for_a_signer_that_is_down_and_is_resumed_when_it_is_back() {
    let mut setting = Setting::new();
    if setting.cluster.is_embedded() {
        // API and signer are one: what is submitted before it goes is answered when it is back.
        let mut login = setting.engineer.login_command(MANUAL);
        Ran::of(login.arg("--no-wait")).succeeded();
        setting.cluster.kill_signer();
        resume(&setting.engineer, "2s").failed(exit::WAITING, &["--resume"]);
        assert!(
            pending(&setting.engineer).is_some(),
            "the request is not forgotten"
        );
        grant_the_manual_group(&setting);
        setting.cluster.start_signer();
        // Another port.
        setting.engineer.configure(&setting.cluster);
    } else {
        setting.cluster.kill_signer();
        let mut login = setting.engineer.login_command(GRANTED);
        Ran::of(login.args(["--timeout", "3s"])).failed(
            exit::WAITING,
            &["after 3 s", "--resume", "waiting for up to 3 s"],
        );
        resume(&setting.engineer, "1s").failed(exit::WAITING, &["--resume"]);
        setting.cluster.start_signer();
    }
    let ran = resume(&setting.engineer, "60s").succeeded();
    assert!(ran.stdout.contains("logged in to"), "{ran}");
    assert!(setting.engineer.certificate("demo").exists());
    assert_eq!(pending(&setting.engineer), None);
    resume(&setting.engineer, "1s").failed(15, &["request that waits"]);
}

/// The manual rule becomes an automatic one.
fn grant_the_manual_group(setting: &Setting) {
    let file = &setting.cluster.files().policy;
    let policy = fs::read_to_string(file).expect("read the policy");
    let granting = policy.replacen(
        "    decision: manual\n    approvals: [ { from: { teams: [billing] }, count: 1 } ]\n",
        "    decision: auto\n",
        1,
    );
    assert_ne!(policy, granting);
    fs::write(file, granting).expect("write the policy");
}

#[test]
fn ctrl_c_while_it_waits_leaves_the_request_and_resume_fetches_its_certificate() {
    let setting = Setting::new();
    let engineer = &setting.engineer;
    let mut login = engineer.login_command(MANUAL);
    let mut login = Running::start("login", &mut login, &engineer.file("login.log"));
    login.wait_until(Duration::from_secs(20), "waiting", || {
        pending(engineer).is_some()
    });
    login.signal(rustix::process::Signal::INT);
    let status = login.wait(Duration::from_secs(10));
    assert_eq!(status.code(), Some(exit::INTERRUPTED), "{}", login.output());
    assert!(login.output().contains("--resume"), "{}", login.output());
    assert!(!engineer.certificate("demo").exists());

    grant_the_manual_group(&setting);
    resume(engineer, "60s").succeeded();
    assert!(engineer.certificate("demo").exists());
    assert_eq!(setting.requests(), 1, "it was the same request");
}

#[test]
fn two_logins_at_once_each_succeed_or_name_the_other_and_what_is_kept_is_whole() {
    let setting = Setting::new();
    let engineer = &setting.engineer;
    for _ in 0..3 {
        let ended: Vec<Ran> = thread::scope(|scope| {
            let logins = [(); 3].map(|()| scope.spawn(|| engineer.login(GRANTED)));
            logins
                .into_iter()
                .map(|login| login.join().expect("a login ends"))
                .collect()
        });
        assert!(ended.iter().any(|ran| ran.code == Some(0)), "{ended:?}");
        for ran in ended.iter().filter(|ran| ran.code != Some(0)) {
            ran.failed(
                4,
                &["another program holds the YubiKey", "touchstone", "try:"],
            );
        }
        let status = engineer.run(["status"]).succeeded();
        assert!(status.stdout.contains("demo"), "{status}");
        assert_eq!(pending(engineer), None);
    }
    let pin = engineer.path_text("pin");
    engineer
        .run(["whoami", "--cluster", "demo", "--pin-file", &pin])
        .succeeded();
}

#[test]
fn a_second_login_while_the_first_waits_for_a_touch_harms_neither() {
    let setting = Setting::new();
    let engineer = &setting.engineer;
    engineer.yubikey().control("touch-mode ask");
    let mut first = engineer.login_command(GRANTED);
    let mut first = Running::start("login", &mut first, &engineer.file("login.log"));
    engineer.yubikey().wait_for_touch_request();
    thread::scope(|scope| {
        let second = scope.spawn(|| engineer.login(GRANTED));
        thread::sleep(Duration::from_secs(2));
        engineer.yubikey().control("touch-mode auto");
        let status = first.wait(Duration::from_secs(30));
        assert_eq!(status.code(), Some(0), "{}", first.output());
        let second = second.join().expect("the second login ends");
        if second.code != Some(0) {
            second.failed(4, &["another program holds the YubiKey", "try:"]);
        }
    });
    engineer.run(["status"]).succeeded();
}
