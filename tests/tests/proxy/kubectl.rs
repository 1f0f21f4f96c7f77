//! Real kubectl before a server that has pods: what it reads and writes, and its streams, over WebSocket and SPDY.

use crate::{PATIENCE, Setting, text, touches, wait_until};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
};
use touchstone_tests::{child::Running, cluster, engineer::Ran, pty::Session};

/// Which of its two protocols kubectl is to use first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streams {
    WebSocket,
    Spdy,
}

const BOTH: [Streams; 2] = [Streams::WebSocket, Streams::Spdy];

/// An old kubectl knows SPDY alone, and takes no notice of the variables.
fn kubectl(config: &Path, streams: Streams, arguments: &[&str]) -> Command {
    let mut command = cluster::kubectl(config);
    let websockets = if streams == Streams::WebSocket {
        "true"
    } else {
        "false"
    };
    command
        .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
        .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
        .args(arguments);
    command
}

/// Without the time limit of other commands.
fn lasting(config: &Path, streams: Streams, arguments: &[&str]) -> Command {
    let mut command = kubectl(config, streams, &["--request-timeout=0"]);
    command.args(arguments);
    command
}

#[test]
fn get_and_apply_pass_and_a_watch_sees_what_is_applied() {
    let setting = Setting::new();
    let config = setting.kubeconfig();
    let run = |arguments: &[&str]| {
        Ran::of(&mut kubectl(&config, Streams::WebSocket, arguments)).succeeded()
    };
    assert!(run(&["get", "pods"]).stdout.contains("web"));
    let log = setting.engineer.file("watch.log");
    let mut watch = Running::start(
        "kubectl get -w",
        &mut lasting(&config, Streams::WebSocket, &["get", "configmaps", "-w"]),
        &log,
    );
    // The list comes before the watch, and what is applied in between is seen by neither.
    watch.wait_until(PATIENCE, "the watch", || {
        let heads = setting.upstream.seen().heads();
        heads
            .iter()
            .any(|head| head.contains("/configmaps?") && head.contains("watch"))
    });
    let manifest = setting.engineer.file("cm.json");
    for (value, word) in [("one", "created"), ("two", "configured")] {
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "applied" }, "data": { "key": value },
        });
        fs::write(&manifest, object.to_string()).expect("write a manifest");
        let path = manifest.to_str().expect("a plain name");
        let ran = run(&["apply", "--validate=false", "-f", path]);
        assert!(ran.stdout.contains(word), "{ran}");
        let read = run(&["get", "configmap", "applied", "-o", "jsonpath={.data.key}"]);
        assert_eq!(read.stdout, value);
    }
    watch.wait_until(PATIENCE, "what was applied", || {
        text(&log).contains("applied")
    });
    drop(watch);
    assert_eq!(setting.status()["signatures"], 1, "one touch for all of it");
}

#[test]
fn logs_come_whole_and_are_followed_until_kubectl_is_killed() {
    let setting = Setting::new();
    let config = setting.kubeconfig();
    let ran = Ran::of(&mut kubectl(&config, Streams::WebSocket, &["logs", "web"])).succeeded();
    assert_eq!(ran.stdout, "line 0\nline 1\nline 2\n");
    let log = setting.engineer.file("logs.log");
    let mut follow = Running::start(
        "kubectl logs -f",
        &mut lasting(&config, Streams::WebSocket, &["logs", "-f", "web"]),
        &log,
    );
    follow.wait_until(PATIENCE, "some lines", || text(&log).contains("line 10\n"));
    assert_eq!(setting.status()["openStreams"], 1);
    follow.kill().expect("kill kubectl");
    wait_until("its stream is closed", || {
        setting.status()["openStreams"] == 0
    });
}

#[test]
fn exec_passes_both_outputs_input_and_the_exit_code() {
    let setting = Setting::new();
    let config = setting.kubeconfig();
    for streams in BOTH {
        let script = "echo out; echo err >&2; exit 7";
        let exec = ["exec", "web", "--", "sh", "-c", script];
        let ran = Ran::of(&mut kubectl(&config, streams, &exec));
        assert_eq!(ran.code, Some(7), "{streams:?}: {ran}");
        assert_eq!(ran.stdout, "out\n", "{streams:?}: {ran}");
        assert!(ran.stderr.contains("err\n"), "{streams:?}: {ran}");

        // Input that is longer than every buffer on the way, and its end.
        let mut exec = lasting(&config, streams, &["exec", "-i", "web", "--", "sha256sum"]);
        let mut child = exec
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("run kubectl");
        let input: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_be_bytes).collect();
        let mut stdin = child.stdin.take().expect("a pipe");
        let written = input.clone();
        let writing = thread::spawn(move || stdin.write_all(&written));
        let output = child.wait_with_output().expect("kubectl ends");
        writing.join().expect("the writer").expect("all is taken");
        let digest = hex::encode(touchstone_digest(&input));
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(printed.starts_with(&digest), "{streams:?}: {printed}");
    }
    assert_eq!(touches(&setting.engineer), 1, "what resumes needs no touch");
    let seen = setting.upstream.seen();
    assert!(seen.resumed.load(std::sync::atomic::Ordering::SeqCst) >= 4);
}

fn touchstone_digest(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes)
        .as_ref()
        .to_vec()
}

#[test]
fn a_shell_on_a_terminal_answers_resizes_and_ends() {
    let setting = Setting::new();
    let config = setting.kubeconfig();
    for streams in BOTH {
        let exec = lasting(&config, streams, &["exec", "-it", "web", "--", "sh", "-i"]);
        let mut session = Session::start(&exec);
        session.type_line("echo $((6 * 7))");
        session.wait_for("42");
        session.type_line("test -t 0 && echo it is a terminal");
        session.wait_for("\nit is a terminal");
        session.type_line("stty size");
        session.wait_for("24 80");
        session.type_line("exit 3");
        let ended = session.end();
        assert_eq!(ended.code, Some(3), "{streams:?}:\n{}", ended.shown);
        assert!(ended.echoes, "{streams:?}:\n{}", ended.shown);
    }
    wait_until("its streams are closed", || {
        setting.status()["openStreams"] == 0
    });
}

#[test]
fn attach_reads_and_writes() {
    let setting = Setting::new();
    let config = setting.kubeconfig();
    for streams in BOTH {
        let mut attach = lasting(&config, streams, &["attach", "-i", "web"]);
        let mut child = attach
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run kubectl");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(b"and back\n").expect("write");
        drop(stdin);
        let output = child.wait_with_output().expect("kubectl ends");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(printed.contains("and back\n"), "{streams:?}: {output:?}");
    }
}

#[test]
fn files_are_copied_in_both_directions() {
    let setting = Setting::new();
    let config = setting.kubeconfig();
    for streams in BOTH {
        let here = setting.engineer.file(&format!("{streams:?}"));
        let there = setting.upstream.dir().join(format!("{streams:?}"));
        for folder in [&here, &there] {
            fs::create_dir_all(folder).expect("make a folder");
        }
        let bytes: Vec<u8> = (0..500_000u32).flat_map(u32::to_be_bytes).collect();
        fs::write(here.join("up"), &bytes).expect("write a file");
        let name = |path: &Path| path.to_str().expect("a plain name").to_owned();
        let pod = |path: &Path| format!("web:{}", name(path));
        let copy = |from: &str, to: &str| {
            Ran::of(&mut lasting(&config, streams, &["cp", from, to])).succeeded();
        };
        copy(&name(&here.join("up")), &pod(&there.join("up")));
        assert_eq!(fs::read(there.join("up")).expect("it came"), bytes);
        copy(&pod(&there.join("up")), &name(&here.join("down")));
        assert_eq!(fs::read(here.join("down")).expect("it came back"), bytes);
    }
}

/// Answers each connection with what it sends.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone().expect("share"), &stream);
                let _ = std::io::copy(&mut from, &mut to);
                let _ = stream.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    port
}

#[test]
fn a_forwarded_port_carries_many_connections_at_once_and_each_end_closes() {
    let setting = Setting::new();
    let config = setting.kubeconfig();
    let target = echo();
    for streams in BOTH {
        let log = setting.engineer.file(&format!("forward-{streams:?}.log"));
        let ports = format!(":{target}");
        let mut forward = Running::start(
            "kubectl port-forward",
            &mut lasting(&config, streams, &["port-forward", "pod/web", &ports]),
            &log,
        );
        forward.wait_until(PATIENCE, "its port", || {
            text(&log).contains("Forwarding from")
        });
        let printed = text(&log);
        let port: u16 = printed
            .split("127.0.0.1:")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .and_then(|port| port.parse().ok())
            .expect("a port");
        thread::scope(|scope| {
            for number in 0..8u8 {
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
                    let sent = vec![number; 1_000_000];
                    let mut writer = stream.try_clone().expect("share");
                    let written = sent.clone();
                    let writing = thread::spawn(move || writer.write_all(&written));
                    let mut came = vec![0; sent.len()];
                    stream.read_exact(&mut came).expect("it comes back");
                    writing.join().expect("the writer").expect("all is taken");
                    assert!(came == sent, "connection {number}");
                });
            }
        });
        forward.kill().expect("end kubectl");
    }
    wait_until("its streams are closed", || {
        setting.status()["openStreams"] == 0
    });
    assert_eq!(touches(&setting.engineer), 1, "one for all");
}

#[test]
fn where_the_server_gives_no_tickets_each_stream_costs_a_touch() {
    let options = touchstone_tests::upstream::Options {
        tickets: false,
        ..Default::default()
    };
    let setting = Setting::with(options, std::time::Duration::from_secs(1800));
    let config = setting.kubeconfig();
    for count in 1..=2 {
        let exec = ["exec", "web", "--", "true"];
        Ran::of(&mut kubectl(&config, Streams::Spdy, &exec)).succeeded();
        assert_eq!(touches(&setting.engineer), 1 + count);
    }
}

#[test]
fn a_server_without_websockets_sends_kubectl_to_spdy() {
    let options = touchstone_tests::upstream::Options {
        websockets: false,
        ..Default::default()
    };
    let setting = Setting::with(options, std::time::Duration::from_secs(1800));
    let config = setting.kubeconfig();
    let exec = ["exec", "web", "--", "echo", "after all"];
    let ran = Ran::of(&mut kubectl(&config, Streams::WebSocket, &exec)).succeeded();
    assert_eq!(ran.stdout, "after all\n");
}
