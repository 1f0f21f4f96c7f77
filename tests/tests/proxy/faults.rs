//! What breaks on the way, and how both ends come out of it.

use crate::{
    PATIENCE, Setting,
    client::{Body, Loopback, empty},
    engineer_with_key, plugin, text, touches, wait_until,
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use std::{fs, process::Command, sync::atomic::Ordering, thread, time::Duration};
use touchstone_tests::{child::Running, cluster, engineer::Ran, pty::Session, upstream::Options};

/// Exit codes of docs/exit-codes.md.
mod exit {
    pub(crate) const CARD: i32 = 4;
    pub(crate) const PIN: i32 = 5;
    pub(crate) const TOUCH: i32 = 6;
    pub(crate) const INTERRUPTED: i32 = 130;
}

fn without_tickets() -> Setting {
    let options = Options {
        tickets: false,
        ..Options::default()
    };
    Setting::with(options, Duration::from_secs(1800))
}

#[test]
fn a_stream_that_breaks_upstream_breaks_here_and_the_next_request_connects_anew() {
    let setting = Setting::new();
    let loopback = Loopback::of(&setting.engineer);
    loopback.run(async |client| {
        let request = client
            .request("/test/cut")
            .body(empty())
            .expect("a request");
        let answer = client.send(request).await.expect("an answer");
        assert!(
            answer.into_body().collect().await.is_err(),
            "no end is made up"
        );

        let request = client.request("/test/events?n=100000&pause=5");
        let request = request.body(empty()).expect("a request");
        let mut body = client.send(request).await.expect("an answer").into_body();
        body.frame().await.expect("an event").expect("an event");
        setting.upstream.cut();
        while let Some(Ok(_)) = body.frame().await {}
        assert_eq!(client.get("/version").await.0, 200);
    });
    assert_eq!(touches(&setting.engineer), 1, "the session was resumed");
}

#[test]
fn after_a_goaway_what_is_open_is_finished_and_what_is_new_goes_elsewhere() {
    let setting = Setting::new();
    let loopback = Loopback::of(&setting.engineer);
    loopback.run(async |client| {
        let request = client.request("/test/events?n=50&pause=20");
        let request = request.body(empty()).expect("a request");
        let mut body = client.send(request).await.expect("an answer").into_body();
        body.frame().await.expect("an event").expect("an event");
        setting.upstream.go_away();
        for _ in 0..20 {
            assert_eq!(client.get("/version").await.0, 200);
        }
        let rest = body.collect().await.expect("the rest of the events");
        let rest = String::from_utf8_lossy(&rest.to_bytes()).into_owned();
        assert!(rest.contains("pod-49"), "{rest}");
    });
    assert_eq!(touches(&setting.engineer), 1);
}

#[test]
fn a_server_that_is_gone_is_named_to_kubectl() {
    let mut setting = Setting::new();
    let config = setting.kubeconfig();
    setting.upstream.end();
    let mut get = cluster::kubectl(&config);
    get.args(["get", "--raw", "/version"]);
    let ran = Ran::of(&mut get);
    assert_ne!(ran.code, Some(0), "{ran}");
    assert!(
        ran.stderr.contains("cannot reach https://127.0.0.1"),
        "{ran}"
    );
}

#[test]
fn trailers_pass_and_an_answer_of_401_comes_as_it_is() {
    let setting = Setting::new();
    Loopback::of(&setting.engineer).run(async |client| {
        let request = client
            .request("/test/trailers")
            .body(empty())
            .expect("a request");
        let body = client.send(request).await.expect("an answer").into_body();
        let whole = body.collect().await.expect("a body");
        let trailer = whole.trailers().and_then(|all| all.get("x-trailer"));
        assert_eq!(trailer.map(|value| value.as_bytes()), Some(&b"seen"[..]));
        let (code, body) = client.get("/test/unauthorized").await;
        assert!(code == 401 && body.contains("Unauthorized"), "{body}");
        let (code, body) = client.get("/test/large-header?n=1000000").await;
        assert!(
            code == 503 && body.contains("touchstone: "),
            "{code} {body}"
        );
        assert_eq!(client.get("/version").await.0, 200);
    });
}

/// A process's resident memory in MiB.
fn memory(setting: &Setting) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", setting.status()["pid"]));
    let status = status.expect("the proxy runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("a number") / 1024
}

#[test]
fn bodies_stream_in_both_directions_and_whoever_stands_still_stops_the_sender() {
    const PIECES: u64 = 400;
    let setting = Setting::new();
    let loopback = Loopback::of(&setting.engineer);
    let before = memory(&setting);
    loopback.run(async |client| {
        let piece = Bytes::from(vec![7; 512 * 1024]);
        let pieces = stream::iter(0..PIECES).map(move |_| Ok(Frame::data(piece.clone())));
        let body: Body = StreamBody::new(pieces).boxed_unsync();
        let request = client.request("/test/count").method("POST").body(body);
        let answer = client
            .send(request.expect("a request"))
            .await
            .expect("an answer");
        let count = answer
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        assert_eq!(
            String::from_utf8_lossy(&count),
            (PIECES * 512 * 1024).to_string()
        );

        let request = client.request("/test/bytes?n=10000000000");
        let request = request.body(empty()).expect("a request");
        let mut body = client.send(request).await.expect("an answer").into_body();
        body.frame().await.expect("a piece").expect("a piece");
        // Nobody reads on; others are served all the same.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(client.get("/version").await.0, 200);
        let received = setting.status()["bytesReceived"]
            .as_u64()
            .expect("a number");
        assert!(
            received < 32 << 20,
            "{received} bytes were taken for nobody"
        );
        drop(body);
    });
    wait_until("nothing is open", || setting.status()["openStreams"] == 0);
    let grown = memory(&setting).saturating_sub(before);
    assert!(grown < 64, "grown by {grown} MiB over 200 MiB of bodies");
}

#[test]
fn a_thousand_requests_at_once_wait_for_room_and_many_watches_get_a_second_connection() {
    let options = Options {
        streams: 100,
        ..Options::default()
    };
    let setting = Setting::with(options, Duration::from_secs(1800));
    let loopback = Loopback::of(&setting.engineer);
    loopback.run(async |client| {
        let all = (0..1000).map(|_| client.get("/version"));
        for (code, _) in futures::future::join_all(all).await {
            assert_eq!(code, 200);
        }
        assert_eq!(setting.status()["connections"], 1);
        let mut watches = Vec::new();
        for _ in 0..150 {
            let request = client.request("/test/events?n=1000000&pause=1000");
            let request = request.body(empty()).expect("a request");
            watches.push(client.send(request).await.expect("an answer"));
        }
        assert_eq!(client.get("/version").await.0, 200);
        assert_eq!(setting.status()["connections"], 2);
        drop(watches);
    });
    assert_eq!(touches(&setting.engineer), 1);
}

#[test]
fn a_request_that_is_given_up_is_given_up_upstream() {
    let setting = Setting::new();
    let config = setting.kubeconfig();
    let log = setting.engineer.file("hang.log");
    let mut hang = cluster::kubectl(&config);
    hang.args(["--request-timeout=0", "get", "--raw", "/test/hang"]);
    let mut hang = Running::start("kubectl", &mut hang, &log);
    wait_until("it is open", || setting.status()["openStreams"] == 1);
    hang.kill().expect("kill kubectl");
    wait_until("it is closed", || setting.status()["openStreams"] == 0);
}

#[test]
fn a_card_that_is_pulled_out_in_the_handshake_is_named_and_works_again_when_it_is_back() {
    let setting = Setting::new();
    let card = setting.engineer.yubikey();
    card.control("touch-mode ask");
    let ran = thread::scope(|scope| {
        let asking = scope.spawn(|| Ran::of(&mut plugin(&setting.engineer)));
        card.wait_for_touch_request();
        card.control("remove");
        asking.join().expect("the plugin ends")
    });
    ran.failed(exit::CARD, &["pulled out", "plug it in"]);
    card.control("insert");
    card.control("touch-mode auto");
    wait_until("the card is back", || {
        Ran::of(&mut plugin(&setting.engineer)).code == Some(0)
    });
}

#[test]
fn a_touch_that_never_comes_is_missed_once_for_all_who_wait() {
    let setting = Setting::new();
    let card = setting.engineer.yubikey();
    card.control("touch-mode never");
    card.control("touch-timeout 1500");
    thread::scope(|scope| {
        let asking: Vec<_> = (0..5)
            .map(|_| scope.spawn(|| Ran::of(&mut plugin(&setting.engineer))))
            .collect();
        let asked: usize = asking
            .into_iter()
            .map(|one| one.join().expect("the plugin ends"))
            .map(|ran| {
                ran.failed(exit::TOUCH, &["not touched in time"]);
                ran.stderr.matches("Touch your YubiKey").count()
            })
            .sum();
        assert!((1..5).contains(&asked), "asked {asked} times");
    });
    card.control("touch-mode auto");
    Ran::of(&mut plugin(&setting.engineer)).succeeded();
}

#[test]
fn a_wrong_pin_costs_one_try_and_a_locked_one_names_the_way_out() {
    let setting = Setting::new();
    let pin = fs::read_to_string(setting.engineer.file("pin")).expect("the PIN");
    setting.engineer.secret("pin", "999999");
    let ask = || Ran::of(&mut plugin(&setting.engineer));
    ask().failed(exit::PIN, &["2 tries left"]);
    ask().failed(exit::PIN, &["1 try left"]);
    ask().failed(exit::PIN, &["locked"]);
    setting.engineer.secret("pin", pin.trim());
    ask().failed(exit::PIN, &["locked", "touchstone key unblock"]);
}

/// Without a terminal, as an editor has it.
fn in_background(setting: &Setting, further: &[(&str, &str)]) -> Command {
    let inner = setting
        .engineer
        .touchstone(["credential", "--cluster=demo"]);
    let mut command = Command::new("setsid");
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
        .envs(further.iter().copied())
        .stdin(std::process::Stdio::null());
    command
}

/// A person before a window: the program says what `answer` has it say.
fn pinentry(setting: &Setting, answer: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = setting.engineer.file("pinentry");
    let log = setting.engineer.path_text("pinentry.log");
    let script = format!(
        "#!/bin/sh\necho 'OK Pleased to meet you'\nwhile read -r line; do\n  echo \"$line\" >>{log}\n  case \"$line\" in\n    GETPIN*) {answer} ;;\n    BYE*) echo OK; exit 0 ;;\n    *) echo OK ;;\n  esac\ndone\n"
    );
    fs::write(&path, script).expect("write a program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("make it one");
    path.to_str().expect("a plain name").to_owned()
}

#[test]
fn without_a_terminal_a_pinentry_asks_once_and_nobody_is_asked_again_after_a_refusal() {
    let setting = Setting::new();
    // Nothing to ask in at all.
    Ran::of(&mut in_background(&setting, &[])).failed(
        exit::PIN,
        &[
            "no terminal",
            "TOUCHSTONE_PINENTRY",
            "touchstone credential",
        ],
    );
    // The proxy that runs has the environment of who started it.
    crate::stop(&setting.engineer);
    let program = pinentry(&setting, "echo 'ERR 83886179 Operation cancelled'");
    let asked = || {
        text(&setting.engineer.file("pinentry.log"))
            .matches("GETPIN")
            .count()
    };
    let environment = [("TOUCHSTONE_PINENTRY", program.as_str())];
    Ran::of(&mut in_background(&setting, &environment)).failed(exit::PIN, &["cancelled"]);
    for _ in 0..3 {
        Ran::of(&mut in_background(&setting, &environment)).failed(
            exit::PIN,
            &["nobody is asked again for", "run this in a terminal"],
        );
    }
    assert_eq!(asked(), 1);
    // Whoever comes with an answer is heard at once.
    Ran::of(&mut plugin(&setting.engineer)).succeeded();
    crate::stop(&setting.engineer);
    pinentry(&setting, "echo 'D 271828'; echo OK");
    Ran::of(&mut in_background(&setting, &environment)).succeeded();
    assert_eq!(asked(), 2);
}

#[test]
fn the_pin_is_asked_for_on_the_terminal_and_kept_or_not_as_it_was_said() {
    let setting = without_tickets();
    let session = |further: &[&str]| {
        let arguments = ["credential", "--cluster=demo"];
        Session::start(&setting.engineer.touchstone(arguments.iter().chain(further)))
    };
    let mut first = session(&["--pin-cache=off"]);
    first.answer_hidden("PIN of YubiKey 12345678: ", touchstone_tests::engineer::PIN);
    first
        .end()
        .with(0, &["ExecCredential"])
        .without(&[touchstone_tests::engineer::PIN]);
    // The connection is there: no signature, no PIN.
    session(&["--pin-cache=off"])
        .end()
        .with(0, &["ExecCredential"]);
    wait_until("the card is let go of", || {
        setting.status()["holdsCard"] == false
    });
    setting.upstream.cut();
    let mut again = session(&["--pin-cache=off"]);
    again.answer_hidden("PIN of YubiKey 12345678: ", touchstone_tests::engineer::PIN);
    again.end().with(0, &["ExecCredential"]);

    crate::stop(&setting.engineer);
    let mut first = session(&[]);
    first.answer_hidden("PIN of YubiKey 12345678: ", touchstone_tests::engineer::PIN);
    first.end().with(0, &["ExecCredential"]);
    wait_until("the card is let go of", || {
        setting.status()["holdsCard"] == false
    });
    setting.upstream.cut();
    session(&[])
        .end()
        .with(0, &["ExecCredential"])
        .without(&["PIN of YubiKey"]);
}

#[test]
fn at_the_certificates_end_every_stream_ends_and_the_terminal_says_why() {
    let setting = Setting::with(Options::default(), Duration::from_secs(14));
    let config = setting.kubeconfig();
    let exec = |websockets: &str| {
        let mut command = cluster::kubectl(&config);
        command
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
            .args([
                "--request-timeout=0",
                "exec",
                "-it",
                "web",
                "--",
                "sh",
                "-i",
            ]);
        command
    };
    let mut shells = ["true", "false"].map(|websockets| Session::start(&exec(websockets)));
    for shell in &mut shells {
        shell.type_line("echo $((6 * 7))");
        shell.wait_for("42");
    }
    let log = setting.engineer.file("logs.log");
    let mut follow = cluster::kubectl(&config);
    follow.args(["--request-timeout=0", "logs", "-f", "web"]);
    let mut follow = Running::start("kubectl logs -f", &mut follow, &log);
    for shell in shells {
        let ended = shell.end();
        assert_ne!(ended.code, Some(0), "{}", ended.shown);
        assert!(ended.echoes, "{}", ended.shown);
        assert!(
            ended.shown.contains("touchstone: the certificate for demo"),
            "{}",
            ended.shown
        );
    }
    follow.wait(PATIENCE);
    wait_until("nothing is open", || setting.status()["openStreams"] == 0);
    assert_eq!(setting.status()["user"], serde_json::Value::Null);
    let seen = setting.upstream.seen();
    wait_until("nothing is open upstream", || {
        seen.open.load(Ordering::SeqCst) == 0
    });
}

#[test]
fn a_proxy_that_renews_asks_two_minutes_before_the_end_and_goes_on() {
    let engineer = engineer_with_key();
    let cluster = engineer.enrolled_cluster();
    engineer
        .login(touchstone_tests::policy::GRANTED)
        .succeeded();
    // The same, as if it were near its end.
    let kept = engineer.file("state/demo/credential.json");
    let mut credential: serde_json::Value =
        serde_json::from_slice(&fs::read(&kept).expect("a certificate")).expect("JSON");
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(123);
    let soon = jiff::Timestamp::from_second(soon.as_second()).expect("a time");
    credential["notAfter"] = serde_json::json!(soon);
    fs::write(&kept, credential.to_string()).expect("keep it");
    let mut asking = plugin(&engineer);
    asking.arg("--renew");
    Ran::of(&mut asking).succeeded();
    assert_eq!(
        crate::status(&engineer)["notAfter"],
        serde_json::json!(soon)
    );
    wait_until("it is renewed", || {
        crate::status(&engineer)["notAfter"] != serde_json::json!(soon)
    });
    wait_until("it is connected", || {
        crate::status(&engineer)["signatures"] == 2
    });
    let requests = cluster.kubectl_ok(["get", "csr", "-o", "name"]);
    assert_eq!(requests.lines().count(), 2, "{requests}");
}

#[test]
fn a_proxy_in_the_background_keeps_no_pipe_of_the_shell_that_it_came_from() {
    let setting = Setting::new();
    let inner = plugin(&setting.engineer);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "exec 3>&1 && exec \"$@\" >/dev/null", "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .env_clear()
        .envs(
            inner
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    // Reads until every holder of the pipe has gone: never, if the proxy is one.
    let (done, ended) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let _ = done.send(Ran::of(&mut shell));
    });
    ended
        .recv_timeout(PATIENCE)
        .expect("the pipe is closed")
        .succeeded();
}

#[test]
fn a_proxy_in_the_foreground_gives_a_kubeconfig_and_leaves_nothing_when_it_is_interrupted() {
    let setting = Setting::new();
    let pin = setting.engineer.path_text("pin");
    let proxy = ["proxy", "--cluster=demo", "--pin-file", &pin];
    let log = setting.engineer.file("proxy.log");
    let mut running = Running::start("proxy", &mut setting.engineer.touchstone(proxy), &log);
    running.wait_until(PATIENCE, "the kubeconfig", || {
        text(&log).contains("KUBECONFIG=")
    });
    let config = setting.engineer.file("state/.run/demo.kubeconfig");
    assert!(touchstone_tests::engineer::is_private(&config));
    let mut get = cluster::kubectl(&config);
    get.args(["get", "pods"]);
    assert!(Ran::of(&mut get).succeeded().stdout.contains("web"));
    // There is one for a cluster.
    setting.engineer.run(proxy).failed(16, &["runs already"]);
    running.signal(rustix::process::Signal::INT);
    assert_eq!(
        running.wait(PATIENCE).code(),
        Some(exit::INTERRUPTED),
        "{}",
        running.output()
    );
    assert!(!config.exists());
    assert!(!setting.engineer.file("state/.run/demo.sock").exists());
}
