//! From `setup` to `logout`: plain kubectl, and programs with a kubeconfig of their own.

use crate::{KNOWS_EXEC_V1, USER, engineer_with_key, exit, kubectl};
use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        net::UnixListener,
        process::ExitStatusExt as _,
    },
    thread,
    time::{Duration, Instant},
};
use touchstone_tests::{
    engineer::{Engineer, Ran},
    policy::GRANTED,
};

fn document(engineer: &Engineer, arguments: &[&str]) -> serde_json::Value {
    let ran = engineer.run(arguments.iter().chain(&["--output", "json"]));
    serde_json::from_str(&ran.succeeded().stdout).expect("JSON")
}

#[test]
fn plain_kubectl_works_after_setup_and_ends_with_logout() {
    if !*KNOWS_EXEC_V1 {
        return;
    }
    let engineer = engineer_with_key();
    let _cluster = engineer.enrolled_cluster();
    engineer.login(GRANTED).succeeded();
    assert!(document(&engineer, &["status"])[0]["proxy"].is_null());

    let path = engineer.file("kubeconfig");
    let file = engineer.path_text("kubeconfig");
    engineer.run(["setup", "--kubeconfig", &file]).succeeded();
    // There is no terminal here, so the PIN comes from a file; setup leaves what was added.
    let pin = format!("      - --pin-file={}\n", engineer.path_text("pin"));
    let text = fs::read_to_string(&path).expect("read it");
    let text = text.replace("      - --ttl=30m\n", &format!("      - --ttl=30m\n{pin}"));
    fs::write(&path, &text).expect("write it");
    engineer.run(["setup", "--kubeconfig", &file]).succeeded();
    assert_eq!(fs::read_to_string(&path).expect("read it"), text);

    let mut who = kubectl(&engineer, &path);
    who.args(["auth", "whoami"]);
    let answer = Ran::of(&mut who).succeeded();
    assert!(
        answer.stdout.contains(USER) && answer.stdout.contains(GRANTED),
        "{answer}"
    );

    let status = document(&engineer, &["status"]);
    let proxy = &status[0]["proxy"];
    assert_eq!(proxy["user"], USER, "{status}");
    assert!(
        proxy["requests"]
            .as_u64()
            .is_some_and(|requests| requests > 0),
        "{status}"
    );
    assert!(
        proxy["signatures"]
            .as_u64()
            .is_some_and(|signed| signed > 0),
        "{status}"
    );
    let shown = engineer.run(["status"]).succeeded();
    assert!(shown.stdout.contains("requests"), "{shown}");

    // A program of its own: same proxy, no second PIN, no touch of the user's kubeconfig.
    let own = engineer
        .run(["kubectl", "--", "auth", "whoami"])
        .succeeded();
    assert!(own.stdout.contains(USER), "{own}");
    let run = |script: &str| engineer.run(["exec", "--cluster", "demo", "--", "sh", "-c", script]);
    let ended = run("echo $KUBECONFIG; kubectl config current-context; exit 7");
    assert_eq!(ended.code, Some(7), "{ended}");
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.get(1), Some(&"demo"), "{ended}");
    assert!(
        touchstone_tests::engineer::is_private(lines[0].as_ref()),
        "it holds a certificate authority only"
    );
    run("true").succeeded();
    assert!(
        !fs::exists(lines[0]).expect("look for it"),
        "the next one removes it"
    );
    let mut killed = engineer.touchstone(["exec", "--", "sh", "-c", "kill -TERM $$"]);
    let status = killed.status().expect("run it");
    assert_eq!(status.signal(), Some(15), "the signal is the program's own");
    engineer
        .run(["exec", "--", "no-such-program"])
        .failed(exit::NO_PROGRAM, &["no-such-program", "PATH"]);

    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = free.expect("a free port").port().to_string();
    let moved = engineer.run(["setup", "--kubeconfig", &file, "--port", &port]);
    let moved = moved.succeeded();
    assert!(moved.stderr.contains("still listens at"), "{moved}");

    let process = proxy["pid"].as_u64().expect("a process");
    let forgotten = document(&engineer, &["logout"]);
    assert_eq!(forgotten[0]["proxyStopped"], true, "{forgotten}");
    let runs = || {
        let state = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ")
    };
    let end = Instant::now() + Duration::from_secs(60);
    while runs() {
        assert!(Instant::now() < end, "the proxy still runs");
        thread::sleep(Duration::from_millis(20));
    }
    engineer
        .run(["status"])
        .failed(exit::NOT_LOGGED_IN, &["touchstone login"]);
    engineer
        .run(["logout", "--cluster", "demo"])
        .failed(exit::NOT_LOGGED_IN, &["demo"]);
    let nothing = document(&engineer, &["logout", "--all"]);
    assert_eq!(nothing, serde_json::json!([]));
}

#[test]
fn manual_pages_are_made_for_every_command() {
    let engineer = Engineer::without_card(USER);
    let folder = engineer.file("man");
    fs::create_dir(&folder).expect("make a folder");
    let path = engineer.path_text("man");
    engineer.run(["man", &path]).succeeded();
    for page in [
        "touchstone",
        "touchstone-login",
        "touchstone-key-generate",
        "touchstone-setup",
    ] {
        let text = fs::read_to_string(folder.join(format!("{page}.1"))).expect("a page");
        assert!(
            text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"),
            "{page}"
        );
    }
    engineer
        .run(["man", "/nonexistent"])
        .failed(1, &["/nonexistent"]);
}

#[test]
fn a_proxy_that_does_not_end_keeps_no_certificate_from_being_forgotten() {
    let engineer = engineer_with_key();
    let _cluster = engineer.enrolled_cluster();
    engineer.login(GRANTED).succeeded();
    let folder = engineer.file("state").join(".run");
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&folder)
        .expect("make the folder");
    let socket = folder.join("demo.sock");
    let listener = UnixListener::bind(&socket).expect("listen in the proxy's place");
    fs::set_permissions(&socket, Permissions::from_mode(0o600)).expect("make it private");
    // It ends each talk without a word.
    thread::spawn(move || for _talk in listener.incoming() {});

    assert!(engineer.certificate("demo").exists());
    engineer
        .run(["logout", "--cluster", "demo"])
        .failed(exit::PROXY, &["demo", "pkill"]);
    assert!(!engineer.certificate("demo").exists());
}
