//! On a cluster: the embedded API, or a real control plane.

use crate::{USER, client::Loopback, engineer_with_key, kubeconfig, plugin, status, touches};
use std::{process::Command, thread};
use touchstone_tests::{
    cluster::kubectl,
    engineer::Ran,
    policy::{GRANTED, MANUAL},
};

#[test]
fn kubectl_asks_who_it_is_through_the_exec_plugin_with_one_touch() {
    let engineer = engineer_with_key();
    let _cluster = engineer.enrolled_cluster();
    engineer.login(GRANTED).succeeded();
    let before = touches(&engineer);
    let config = kubeconfig(&engineer);
    assert_eq!(touches(&engineer), before + 1, "one connection, one touch");
    let ask = |arguments: &[&str]| -> Command {
        let mut command = kubectl(&config);
        command.args(arguments);
        command
    };
    for _ in 0..3 {
        let ran = Ran::of(&mut ask(&["get", "--raw", "/version"])).succeeded();
        assert!(ran.stdout.contains("gitVersion"), "{ran}");
    }
    let review = engineer.secret(
        "review.json",
        r#"{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}"#,
    );
    let review = review.to_str().expect("a plain name");
    // As `kubectl auth whoami` does, which an old kubectl does not have.
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let who = Ran::of(&mut ask(&["create", "--raw", path, "-f", review])).succeeded();
    assert!(
        who.stdout.contains(USER) && who.stdout.contains(GRANTED),
        "{who}"
    );
    assert_eq!(
        touches(&engineer),
        before + 1,
        "the connection serves them all"
    );
}

#[test]
fn a_thousand_calls_one_after_the_other_and_all_at_once_cost_one_touch() {
    let engineer = engineer_with_key();
    let _cluster = engineer.enrolled_cluster();
    engineer.login(GRANTED).succeeded();
    let before = touches(&engineer);
    let loopback = Loopback::of(&engineer);
    loopback.run(async |client| {
        for _ in 0..500 {
            assert_eq!(client.get("/version").await.0, 200);
        }
        let all = (0..500).map(|_| client.get("/version"));
        for (code, _) in futures::future::join_all(all).await {
            assert_eq!(code, 200);
        }
    });
    assert_eq!(touches(&engineer), before + 1);
    assert_eq!(status(&engineer)["signatures"], 1);
    assert_eq!(status(&engineer)["requests"], 1000);
}

#[test]
fn ten_kubectls_at_once_end_in_one_proxy_one_login_and_two_touches() {
    let engineer = engineer_with_key();
    let _cluster = engineer.enrolled_cluster();
    let before = touches(&engineer);
    thread::scope(|scope| {
        let started: Vec<_> = (0..10)
            .map(|_| {
                scope.spawn(|| {
                    let mut command = plugin(&engineer);
                    command.args(["--group", GRANTED, "--reason", "INC-4211 checkout latency"]);
                    Ran::of(&mut command).succeeded()
                })
            })
            .collect();
        for credential in started {
            let printed = credential.join().expect("it ends").stdout;
            let printed: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
            assert_eq!(printed["kind"], "ExecCredential");
        }
    });
    // One signs the request, one the connection.
    assert_eq!(touches(&engineer), before + 2);
    assert_eq!(status(&engineer)["signatures"], 1);
}

#[test]
fn without_a_certificate_and_without_groups_the_login_is_named() {
    let engineer = engineer_with_key();
    let _cluster = engineer.enrolled_cluster();
    let before = touches(&engineer);
    Ran::of(&mut plugin(&engineer)).failed(15, &["there is no certificate", "touchstone login"]);
    assert_eq!(touches(&engineer), before);
}

#[test]
fn a_group_that_the_certificate_lacks_is_asked_for_and_its_denial_is_shown() {
    let engineer = engineer_with_key();
    let _cluster = engineer.enrolled_cluster();
    engineer.login(GRANTED).succeeded();
    Ran::of(&mut plugin(&engineer)).succeeded();
    let mut more = plugin(&engineer);
    more.args([
        "--group",
        "jit:oncall:billing",
        "--reason",
        "INC-4211 checkout latency",
    ]);
    Ran::of(&mut more).failed(
        7,
        &["denied", "Asking for 30m in demo", "jit:oncall:billing"],
    );
    // What was there is as good as before.
    Ran::of(&mut plugin(&engineer)).succeeded();
}

#[test]
fn a_request_that_waits_for_its_approval_is_not_made_twice() {
    let engineer = engineer_with_key();
    let cluster = engineer.enrolled_cluster();
    let pin = engineer.path_text("pin");
    let login = [
        "login",
        "--cluster",
        "demo",
        "--group",
        MANUAL,
        "--reason",
        "INC-4211 checkout latency",
        "--no-wait",
        "--pin-file",
        &pin,
    ];
    engineer.run(login).succeeded();
    let mut asking = plugin(&engineer);
    asking.args(["--group", MANUAL, "--reason", "INC-4211 checkout latency"]);
    let log = engineer.file("credential.log");
    let mut asking = touchstone_tests::child::Running::start("credential", &mut asking, &log);
    asking.wait_until(crate::PATIENCE, "the request that waits", || {
        crate::text(&log).contains("Fetching request")
    });
    let requests = cluster.kubectl_ok(["get", "csr", "-o", "name"]);
    assert_eq!(requests.lines().count(), 1, "{requests}");
}
