//! Who must not get through, and what must not: nothing of it reaches the API server.

use crate::{
    Setting,
    client::{Loopback, empty},
    plugin, touches,
};
use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, fs::symlink, net::UnixListener},
    path::Path,
    sync::atomic::Ordering,
};
use touchstone_tests::{
    engineer::{Ran, is_private},
    openssl,
};

/// A certificate and key that openssl made, of the subject that the proxy's own clients have.
fn foreign(setting: &Setting) -> (String, String) {
    let [certificate, key] = ["foreign.pem", "foreign.key"].map(|n| setting.engineer.file(n));
    let subject = "/CN=touchstone loopback client";
    openssl::self_signed(
        &key,
        &certificate,
        subject,
        &["extendedKeyUsage=clientAuth"],
    );
    let read = |path: &Path| fs::read_to_string(path).expect("openssl wrote it");
    (read(&certificate), read(&key))
}

fn requests(setting: &Setting) -> u64 {
    setting.upstream.seen().requests.load(Ordering::SeqCst)
}

#[test]
fn without_the_certificate_of_this_very_proxy_nobody_gets_a_word() {
    let setting = Setting::new();
    let loopback = Loopback::of(&setting.engineer);
    let request = format!(
        "GET /version HTTP/1.1\r\nHost: {}\r\n\r\n",
        loopback.authority()
    );
    let (certificate, key) = foreign(&setting);
    for other in [
        loopback.showing(None),
        loopback.showing(Some((&certificate, &key))),
    ] {
        assert_eq!(other.raw("http/1.1", request.as_bytes()), "");
    }
    // What the local CA signs is no client, although its key is a file of the user's.
    let ca =
        fs::read(setting.engineer.file("state/demo/loopback.json")).expect("the local identity");
    let ca: serde_json::Value = serde_json::from_slice(&ca).expect("JSON");
    let text = |name: &str| ca[name].as_str().expect("text").to_owned();
    let as_ca = loopback.showing(Some((&text("caPem"), &text("keyPem"))));
    assert_eq!(as_ca.raw("http/1.1", request.as_bytes()), "");
    assert_eq!(requests(&setting), 0);
    // The right one does.
    let answer = loopback.raw("http/1.1", request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[test]
fn the_certificate_of_an_ended_proxy_opens_nothing() {
    let setting = Setting::new();
    let before = Loopback::of(&setting.engineer);
    let pid = setting.status()["pid"].as_i64().expect("a process id");
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a process id"));
    rustix::process::kill_process(pid.expect("a process id"), rustix::process::Signal::KILL)
        .expect("kill the proxy");
    // Nothing of the killed one stops the next, which takes the same port.
    let after = Loopback::of(&setting.engineer);
    assert_eq!(before.port, after.port);
    let request = format!(
        "GET /version HTTP/1.1\r\nHost: {}\r\n\r\n",
        before.authority()
    );
    assert_eq!(before.raw("http/1.1", request.as_bytes()), "");
    assert!(after.raw("http/1.1", request.as_bytes()).contains("200 OK"));
}

#[test]
fn a_web_page_that_was_led_here_by_its_name_is_misdirected() {
    let setting = Setting::new();
    let loopback = Loopback::of(&setting.engineer);
    for host in ["evil.example", "localhost", "127.0.0.1", "127.0.0.1:1"] {
        let request = format!("GET /version HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = loopback.raw("http/1.1", request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 421 "), "{host}: {answer}");
    }
    // A name in the handshake ends it before the certificate is looked at.
    crate::client::runtime().block_on(async {
        for name in ["localhost", "evil.example"] {
            assert!(loopback.connect_as("h2", name).await.is_err(), "{name}");
        }
    });
    assert_eq!(requests(&setting), 0);
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_before_it_is_passed_on() {
    let setting = Setting::new();
    let loopback = Loopback::of(&setting.engineer);
    let authority = loopback.authority();
    let post = |headers: &str, body: &str| {
        format!("POST /test/echo HTTP/1.1\r\nHost: {authority}\r\n{headers}\r\n{body}")
    };
    let get =
        |headers: &str| format!("GET /version HTTP/1.1\r\nHost: {authority}\r\n{headers}\r\n");
    let smuggled = format!("0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    for bytes in [
        post(
            "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
            &smuggled,
        ),
        post(
            "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
            &smuggled,
        ),
        post("Transfer-Encoding: chunked, identity\r\n", &smuggled),
        post("Transfer-Encoding: \x0bchunked\r\n", &smuggled),
        post("Content-Length: 1\r\nContent-Length: 2\r\n", "ab"),
        post("Content-Length: +1\r\n", "a"),
        post("Content-Length: 1, 1\r\n", "a"),
        get("X-One: a\r\n folded\r\n"),
        get("X-One : a\r\n"),
        get(" X-One: a\r\n"),
        get("X-\0One: a\r\n"),
        get("Connection: Impersonate-User\r\n"),
        get(
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        ),
        get(&format!("Host: {authority}\r\n")),
        format!("GET https://{authority}/version HTTP/1.1\r\nHost: {authority}\r\n\r\n"),
        format!("GET http://evil.example/version HTTP/1.1\r\nHost: {authority}\r\n\r\n"),
        format!("CONNECT evil.example:443 HTTP/1.1\r\nHost: {authority}\r\n\r\n"),
        format!("OPTIONS * HTTP/1.1\r\nHost: {authority}\r\n\r\n"),
        format!("GET /version HTTP/1.0\r\nHost: {authority}\r\n\r\n"),
        "GET /version HTTP/1.1\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
    ] {
        let answer = loopback.raw("http/1.1", bytes.as_bytes());
        assert!(
            !answer.contains(" 200 ") && !answer.contains(" 101 "),
            "{bytes:?}: {answer}"
        );
    }
    assert_eq!(
        requests(&setting),
        0,
        "{:?}",
        setting.upstream.seen().heads()
    );
}

#[test]
fn nobody_is_impersonated_over_either_protocol_unless_the_proxy_allows_it() {
    let setting = Setting::new();
    let loopback = Loopback::of(&setting.engineer);
    let authority = loopback.authority();
    for header in [
        "Impersonate-User: admin",
        "impersonate-group: system:masters",
        "IMPERSONATE-UID: 1",
        "Impersonate-Extra-scopes: a",
        "X-Remote-User: admin",
        "x-remote-group: system:masters",
        "X-Remote-Extra-a: b",
    ] {
        let request = format!("GET /version HTTP/1.1\r\nHost: {authority}\r\n{header}\r\n\r\n");
        let answer = loopback.raw("http/1.1", request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 403 "), "{header}: {answer}");
        let (name, value) = header.split_once(": ").expect("a header");
        loopback.run(async |client| {
            let request = client.request("/version").header(name, value);
            let answer = client.send(request.body(empty()).expect("a request")).await;
            assert_eq!(answer.expect("an answer").status(), 403, "{header}");
        });
        let upgrade = format!(
            "POST /api/v1/namespaces/default/pods/web/exec?command=true HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n{header}\r\n\r\n"
        );
        let answer = loopback.raw("http/1.1", upgrade.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 403 "), "{header}: {answer}");
    }
    assert_eq!(requests(&setting), 0);
}

#[test]
fn headers_without_end_are_refused_and_the_proxy_lives_on() {
    let setting = Setting::new();
    let loopback = Loopback::of(&setting.engineer);
    let authority = loopback.authority();
    let large = "h".repeat(10 << 20);
    let request = format!("GET /version HTTP/1.1\r\nHost: {authority}\r\nX-Large: {large}\r\n\r\n");
    let answer = loopback.raw("http/1.1", request.as_bytes());
    assert!(!answer.contains(" 200 "), "{answer}");
    let many: String = (0..10_000).map(|n| format!("X-{n}: a\r\n")).collect();
    let request = format!("GET /version HTTP/1.1\r\nHost: {authority}\r\n{many}\r\n");
    let answer = loopback.raw("http/1.1", request.as_bytes());
    assert!(!answer.contains(" 200 "), "{answer}");
    let line = format!("GET /{large} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    assert!(!loopback.raw("http/1.1", line.as_bytes()).contains(" 200 "));
    loopback.run(async |client| {
        let request = client
            .request("/version")
            .header("x-large", "h".repeat(200_000));
        let answer = client.send(request.body(empty()).expect("a request")).await;
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 431));
    });
    assert_eq!(requests(&setting), 0);
    loopback.run(async |client| assert_eq!(client.get("/version").await.0, 200));
}

#[test]
fn a_planted_socket_folder_or_link_is_named_and_not_used() {
    let setting = Setting::new();
    let run = setting.engineer.file("state/.run");
    let ask = || Ran::of(&mut plugin(&setting.engineer));
    let theirs = setting.engineer.file("theirs");
    fs::create_dir(&theirs).expect("make a folder");

    symlink(&theirs, &run).expect("plant a link");
    ask().failed(16, &[".run", "not a folder of its own"]);
    fs::remove_file(&run).expect("take it away");

    fs::create_dir(&run).expect("make the folder");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o777)).expect("open it to all");
    ask().failed(16, &["others may look into it", "chmod 700"]);
    fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).expect("close it");

    let _listener = UnixListener::bind(theirs.join("sock")).expect("listen");
    symlink(theirs.join("sock"), run.join("demo.sock")).expect("plant a link");
    ask().failed(16, &["demo.sock", "not a socket"]);
    fs::remove_file(run.join("demo.sock")).expect("take it away");
    assert_eq!(touches(&setting.engineer), 0);

    ask().succeeded();
    let log = setting.engineer.file("state/demo/proxy.log");
    assert!(is_private(&log) && is_private(&run.join("demo.sock")));
}

#[test]
fn a_port_that_another_program_has_is_named_with_the_way_to_another() {
    let setting = Setting::new();
    let loopback = Loopback::of(&setting.engineer);
    crate::stop(&setting.engineer);
    let taken = std::net::TcpListener::bind(("127.0.0.1", loopback.port)).expect("steal the port");
    Ran::of(&mut plugin(&setting.engineer)).failed(16, &["cannot listen on 127.0.0.1"]);
    drop(taken);
    Ran::of(&mut plugin(&setting.engineer)).succeeded();
}

#[test]
fn another_process_that_asks_nonsense_at_the_socket_harms_nobody() {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixStream,
    };
    let setting = Setting::new();
    Ran::of(&mut plugin(&setting.engineer)).succeeded();
    let socket = setting.engineer.file("state/.run/demo.sock");
    for bytes in [
        &b"nonsense\n"[..],
        b"{\"version\":2,\"op\":\"status\"}\n",
        b"{\"version\":1,\"op\":\"credential\",\"terminal\":7}\n",
        b"\n",
        b"",
        &[b'x'; 300_000],
    ] {
        let mut proxy = UnixStream::connect(&socket).expect("the proxy lives");
        // It may close before it has read all.
        let _ = proxy.write_all(bytes);
        let _ = proxy.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = proxy.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.contains("failed"), "{answer}");
    }
    assert_eq!(setting.status()["signatures"], 1);
}
