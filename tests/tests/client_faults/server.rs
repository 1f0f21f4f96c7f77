//! Servers that are not there, not the right ones, or not in their right mind.

use crate::{
    Setting, configure, engineer_with_key, exit, pending, put,
    rogue::{Request, Rogue, answer},
    set_cluster,
};
use std::{
    fs,
    io::Write,
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};
use touchstone_tests::{engineer::Engineer, policy::GRANTED};

#[test]
fn a_server_that_is_not_there_is_named_and_no_try_is_spent() {
    let engineer = engineer_with_key();
    engineer.secret("pin", "999999");
    let root = engineer.attestation_root();
    // Taken and let go: nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("an address");
    set_cluster(&engineer, &format!("https://{address}"), &root, &root);
    engineer.login(GRANTED).failed(
        exit::SERVER,
        &[
            &address.to_string(),
            "refused",
            "try:",
            "touchstone config show",
        ],
    );
    set_cluster(&engineer, "https://touchstone.invalid:6443", &root, &root);
    engineer
        .login(GRANTED)
        .failed(exit::SERVER, &["touchstone.invalid", "try:"]);
    let listed = engineer
        .run(["key", "list", "--output", "json"])
        .succeeded();
    assert!(listed.stdout.contains("\"pinTriesLeft\": 3"), "{listed}");
}

#[test]
fn a_server_of_another_ca_is_not_believed_and_no_try_is_spent() {
    let engineer = engineer_with_key();
    engineer.secret("pin", "999999");
    let rogue = Rogue::start(|_, out| put(out, &answer("200 OK", "", "{}")));
    let root = engineer.attestation_root();
    set_cluster(&engineer, &rogue.url(), &root, &root);
    engineer.login(GRANTED).failed(
        exit::SERVER,
        &[
            "is not the server it should be",
            &rogue.url(),
            "--ca",
            "in between",
        ],
    );
    let listed = engineer
        .run(["key", "list", "--output", "json"])
        .succeeded();
    assert!(listed.stdout.contains("\"pinTriesLeft\": 3"), "{listed}");
}

#[test]
fn a_certificate_that_does_not_chain_to_the_trust_bundle_is_refused_and_not_kept() {
    let setting = Setting::new();
    let engineer = &setting.engineer;
    let text = fs::read_to_string(engineer.file("config.yaml")).expect("read the configuration");
    let bundle = setting.cluster.files().trust_bundle.display().to_string();
    // A CA, but of something else.
    let other = engineer.path_text("attestation-root.pem");
    fs::write(engineer.file("config.yaml"), text.replace(&bundle, &other)).expect("change it");
    engineer.login(GRANTED).failed(
        exit::VERIFICATION,
        &["refused", "trust bundle", "nothing was kept"],
    );
    assert!(!engineer.certificate("demo").exists());
    assert_eq!(pending(engineer), None);
    let listed = engineer.run(["key", "list"]).succeeded().stdout;
    assert!(!listed.contains(crate::USER), "{listed}");
}

/// What is sent instead of an answer, and whether the connection stays.
type Spoil = fn(&mut dyn Write) -> bool;

/// Answers the question for the time, and spoils the answer to the request.
fn spoil(
    how: impl Fn(&Request, &mut dyn Write) -> bool + Send + Sync + 'static,
) -> (Engineer, Rogue) {
    let engineer = engineer_with_key();
    let rogue = Rogue::start(move |request, out| {
        if request.path == "/version" {
            put(out, &answer("200 OK", "", "{}"))
        } else {
            how(request, out)
        }
    });
    configure(&engineer, &rogue, &engineer.attestation_root());
    (engineer, rogue)
}

#[test]
fn an_answer_that_makes_no_sense_ends_the_login_and_nothing_is_kept() {
    let spoilt: &[(&str, Spoil)] = &[
        ("garbage", |out| put(out, "\u{0}\u{1}nonsense\r\n\r\n")),
        ("closed at once", |_| false),
        ("closed in the middle of the head", |out| {
            put(out, "HTTP/1.1 201 Cre");
            false
        }),
        ("closed in the middle of the body", |out| {
            put(
                out,
                "HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n{\"kind\":",
            );
            false
        }),
        ("500 with a page", |out| {
            put(
                out,
                &answer(
                    "500 Internal Server Error",
                    "",
                    "<html>\u{1b}[2Jsorry</html>",
                ),
            )
        }),
        ("a redirect", |out| {
            put(
                out,
                &answer(
                    "307 Temporary Redirect",
                    "Location: https://127.0.0.1:1/\r\n",
                    "",
                ),
            )
        }),
        ("not JSON", |out| {
            put(out, &answer("201 Created", "", "hello"))
        }),
        ("another kind", |out| {
            put(out, &answer("201 Created", "", "{\"kind\":\"Pod\"}"))
        }),
        ("ten megabytes", |out| {
            put(
                out,
                &answer(
                    "201 Created",
                    "",
                    &format!("\"{}\"", "x".repeat(10_000_000)),
                ),
            )
        }),
        ("deep JSON", |out| {
            put(out, &answer("201 Created", "", &"[".repeat(100_000)))
        }),
        ("a status of lies", |out| {
            let status = "{\"kind\":\"Status\",\"status\":\"Failure\",\"code\":-5,\"message\":\"\\u001b[31mred\"}";
            put(out, &answer("403 Forbidden", "", status))
        }),
    ];
    for (name, spoil_it) in spoilt {
        let (engineer, rogue) = spoil(|_, out| spoil_it(out));
        let ran = engineer.login(GRANTED);
        println!("{name}: {ran}");
        ran.failed(exit::SERVER, &["error:"]);
        assert!(
            !ran.stderr.contains('\u{1b}'),
            "{name} drives the terminal: {ran}"
        );
        assert!(ran.stderr.len() < 4000, "{name} floods the terminal");
        assert!(!engineer.certificate("demo").exists(), "{name}");
        assert_eq!(pending(&engineer), None, "{name}");
        drop(rogue);
    }
}

#[test]
fn an_answer_that_never_comes_or_never_ends_is_given_up() {
    let spoilt: [Spoil; 2] = [
        |_| {
            thread::sleep(Duration::from_secs(45));
            false
        },
        |out| {
            put(
                out,
                "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n",
            );
            let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
            while put(out, &chunk) {}
            false
        },
    ];
    thread::scope(|scope| {
        for spoil_it in spoilt {
            scope.spawn(move || {
                let (engineer, _rogue) = spoil(move |_, out| spoil_it(out));
                let started = Instant::now();
                let ran = engineer.login(GRANTED);
                ran.failed(exit::SERVER, &["try:"]);
                assert!(started.elapsed() < Duration::from_secs(40), "{ran}");
            });
        }
    });
}

#[test]
fn whoami_gives_up_too_and_says_why() {
    let setting = Setting::new();
    let engineer = &setting.engineer;
    engineer.login(GRANTED).succeeded();
    let bundle = setting.cluster.files().trust_bundle.clone();
    let pin = engineer.path_text("pin");
    let whoami = ["whoami", "--cluster", "demo", "--pin-file", &pin];
    let endless = Rogue::start(|_, out| {
        put(
            out,
            "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        while put(out, &chunk) {}
        false
    });
    let garbage = Rogue::start(|_, out| put(out, "nonsense\r\n\r\n"));
    let slow = Rogue::start(|_, out| {
        put(out, "HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n");
        let _ = out.flush();
        thread::sleep(Duration::from_secs(45));
        false
    });
    for rogue in [endless, garbage, slow] {
        configure(engineer, &rogue, &bundle);
        let started = Instant::now();
        let ran = engineer.run(whoami);
        ran.failed(exit::SERVER, &["try:"]);
        assert!(started.elapsed() < Duration::from_secs(40), "{ran}");
    }
}
