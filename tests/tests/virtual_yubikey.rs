//! The card as a program, and the pcscd that tests share with no one.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use touchstone_tests::pcscd::{Options, Pcscd, VirtualYubiKey, readers};

/// Killed when dropped, should a test end early.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn virtual_yubikey(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtual-yubikey"));
    command
        .current_dir(folder)
        .args(["--state", "state", "--control", "control"]);
    command
}

fn becomes(mut is: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    while !is() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

#[test]
fn the_program_brings_its_pcscd_tells_where_it_is_and_takes_it_along() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    // What a killed run leaves behind does not stop the next one.
    for end in ["KILL", "quit", "TERM", "INT"] {
        let mut command = virtual_yubikey(folder.path());
        command.args([
            "--with-pcscd",
            "--env-file",
            "env",
            "--attestation-root-out",
            "root.pem",
            "--pcscd-socket",
        ]);
        let mut program = Program(
            command
                .arg(file("pcscd"))
                .stdout(Stdio::null())
                .spawn()
                .expect("it starts"),
        );
        assert!(
            becomes(|| file("env").exists()),
            "the card comes into its reader"
        );
        let line = std::fs::read_to_string(file("env")).expect("a file");
        assert_eq!(
            line,
            format!("export PCSCLITE_CSOCK_NAME='{}'\n", file("pcscd").display())
        );
        let root = std::fs::read_to_string(file("root.pem")).expect("a file");
        assert!(root.starts_with("-----BEGIN CERTIFICATE-----\n"), "{root}");
        let seen = readers(&file("pcscd")).expect("pcscd answers");
        assert_eq!(
            seen.iter().filter(|reader| reader.card).count(),
            1,
            "{seen:?}"
        );

        let mut control = UnixStream::connect(file("control")).expect("the control socket");
        let mut answers = BufReader::new(control.try_clone().expect("a second handle")).lines();
        for (line, answer) in [
            ("touches", "ok 0"),
            ("inserted?", "ok yes"),
            ("dance", "error: \"dance\" is no command"),
        ] {
            control
                .write_all(format!("{line}\n").as_bytes())
                .expect("it listens");
            assert_eq!(answers.next().expect("an answer").expect("a line"), answer);
        }
        if end == "quit" {
            control.write_all(b"quit\n").expect("it listens");
        } else {
            let signal = match end {
                "INT" => Signal::INT,
                "KILL" => Signal::KILL,
                _ => Signal::TERM,
            };
            kill_process(Pid::from_child(&program.0), signal).expect("it runs");
        }
        let status = program.0.wait().expect("it ends");
        assert_eq!(status.success(), end != "KILL");
        assert!(
            becomes(|| readers(&file("pcscd")).is_err()),
            "pcscd has gone too"
        );
        assert_eq!(file("control").exists(), end == "KILL");
        std::fs::remove_file(file("env")).expect("the file of this run");
    }
}

#[test]
fn a_state_file_of_another_card_is_refused_in_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let vpcd = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = vpcd.local_addr().expect("an address").to_string();
    let first = virtual_yubikey(folder.path())
        .args(["--vpcd", &address, "--serial", "1"])
        .spawn();
    let first = Program(first.expect("it starts"));
    vpcd.accept().expect("the card comes");
    drop(first);
    let second = virtual_yubikey(folder.path())
        .args(["--vpcd", &address, "--serial", "2"])
        .output()
        .expect("it runs");
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("the card with serial 1, not 2"), "{said}");
}

#[test]
fn many_at_once_do_not_meet() {
    let tests: Vec<_> = (1..=4)
        .map(|serial| {
            std::thread::spawn(move || {
                let pcscd = Pcscd::start();
                let card = VirtualYubiKey::start(
                    &pcscd,
                    &Options {
                        serial,
                        ..Options::default()
                    },
                );
                assert_eq!(card.control("inserted?"), "yes");
                let socket = pcscd.socket().to_owned();
                drop((card, pcscd));
                assert!(readers(&socket).is_err());
                assert!(!socket.exists());
            })
        })
        .collect();
    for test in tests {
        test.join().expect("none of them fails");
    }
}

#[test]
fn a_card_is_pulled_out_and_put_back() {
    let pcscd = Pcscd::start();
    assert!(pcscd.wait_for_card(0, false));
    let card = VirtualYubiKey::start(&pcscd, &Options::default());
    for _ in 0..2 {
        card.control("remove");
        assert!(
            pcscd.wait_for_card(0, false),
            "pcscd wrote:\n{}",
            pcscd.log()
        );
        card.control("insert");
        assert!(
            pcscd.wait_for_card(0, true),
            "pcscd wrote:\n{}",
            pcscd.log()
        );
    }
    drop(card);
    assert!(
        pcscd.wait_for_card(0, false),
        "pcscd wrote:\n{}",
        pcscd.log()
    );
}

#[test]
fn a_failed_test_leaves_neither_card_nor_pcscd_behind() {
    let (tell, told) = std::sync::mpsc::channel();
    let failed = std::thread::spawn(move || {
        let pcscd = Pcscd::start();
        let _card = VirtualYubiKey::start(&pcscd, &Options::default());
        tell.send(pcscd.socket().to_owned())
            .expect("someone listens");
        panic!("as a test does that fails");
    });
    let socket = told.recv().expect("it came so far");
    assert!(failed.join().is_err());
    assert!(readers(&socket).is_err());
    assert!(!socket.parent().expect("a folder").exists());
}
