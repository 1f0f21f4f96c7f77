//! On a cluster: the embedded API, or a real control plane.

use crate::{USER, engineer_with_key, touches};
use std::{fs, path::PathBuf, process::Command};
use touchstone_tests::{
    cluster::kubectl,
    engineer::{Engineer, Ran},
    policy::GRANTED,
};

/// A kubeconfig whose user is the exec plugin, as `touchstone setup` writes it.
fn kubeconfig(engineer: &Engineer) -> PathBuf {
    let pin = engineer.path_text("pin");
    let arguments = [
        "credential",
        "--cluster=demo",
        "--ttl=30m",
        "--pin-file",
        &pin,
    ];
    let plugin = engineer.touchstone(arguments);
    Ran::of(&mut engineer.touchstone(arguments)).succeeded();
    let kept = fs::read(engineer.file("state/demo/loopback.json")).expect("the local identity");
    let kept: serde_json::Value = serde_json::from_slice(&kept).expect("JSON");
    let ca = engineer.file("loopback-ca.pem");
    fs::write(&ca, kept["caPem"].as_str().expect("a CA")).expect("write the CA");
    let environment: Vec<_> = plugin
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)))
        .map(|(name, value)| serde_json::json!({ "name": name, "value": value }))
        .collect();
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "demo",
        "clusters": [{ "name": "demo", "cluster": {
            "server": format!("https://127.0.0.1:{}", kept["port"]), "certificate-authority": ca,
        } }],
        "users": [{ "name": "demo", "user": { "exec": {
            "apiVersion": "client.authentication.k8s.io/v1beta1", "interactiveMode": "IfAvailable",
            "command": plugin.get_program().to_str(), "args": arguments, "env": environment,
        } } }],
        "contexts": [{ "name": "demo", "context": { "cluster": "demo", "user": "demo" } }],
    });
    let path = engineer.file("demo.kubeconfig");
    fs::write(&path, config.to_string()).expect("write a kubeconfig");
    path
}

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
    let who = Ran::of(&mut ask(&["auth", "whoami"])).succeeded();
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
