//! Real kubectl: `KUBECTL` says which, else the one on the path.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::support::{
    network::kubeconfig,
    server::{TestServer, request},
};

/// kubectl with a kubeconfig and a home of its own.
struct Kubectl {
    config: PathBuf,
    home: PathBuf,
}

/// How a command ended.
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Kubectl {
    fn command(&self, arguments: &[&str]) -> Command {
        let program = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
        let mut command = Command::new(program);
        command
            .arg("--kubeconfig")
            .arg(&self.config)
            .args(arguments)
            .env("HOME", &self.home)
            .stdin(Stdio::null());
        command
    }

    async fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap();
        let output =
            output.expect("kubectl runs (apt-get install kubernetes-client, or set KUBECTL)");
        Ended {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command that must succeed without a warning.
    async fn ok(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments).await;
        assert_eq!(ended.code, 0, "kubectl {arguments:?}: {}", ended.err);
        assert!(
            !ended.err.to_lowercase().contains("warning"),
            "kubectl {arguments:?}: {}",
            ended.err
        );
        ended.out
    }
}

/// A process that is killed when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn setup() -> (TestServer, Kubectl, Kubectl) {
    let server = TestServer::new();
    let (address, ca) = server.listen().await;
    let kubectl = |config| Kubectl {
        config,
        home: server.pki.path("home"),
    };
    std::fs::create_dir_all(server.pki.path("home")).unwrap();
    let root = server.pki.client(&server.administrators, "/CN=root");
    let alice = server.pki.client(&server.engineers, "/CN=alice/O=oncall");
    let root = kubectl(kubeconfig(&server.pki, address, &ca, &root));
    let alice = kubectl(kubeconfig(&server.pki, address, &ca, &alice));
    (server, root, alice)
}

fn file(server: &TestServer, name: &str) -> String {
    let mut csr = request(&server.pki.rsa_request(), "a.example/b");
    csr.metadata.generate_name = None;
    csr.metadata.name = Some(name.to_owned());
    let path = server.pki.path(&format!("{name}.json"));
    std::fs::write(&path, serde_json::to_vec(&csr).unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_works_on_requests_with_kubectl() {
    let (server, kubectl, _) = setup().await;
    let (one, two) = (file(&server, "one"), file(&server, "two"));
    assert_eq!(kubectl.ok(&["get", "--raw", "/readyz"]).await, "ok");
    let created = kubectl.ok(&["create", "-f", &one]).await;
    assert_eq!(
        created,
        "certificatesigningrequest.certificates.k8s.io/one created\n"
    );
    kubectl.ok(&["create", "-f", &two]).await;

    let mut watch = kubectl
        .command(&["get", "csr", "-w"])
        .stdout(Stdio::piped())
        .spawn()
        .map(Killed)
        .unwrap();
    let watched = watch.0.stdout.take().unwrap();
    let (lines, mut seen) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in BufReader::new(watched).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    let mut wait_for = async |words: &[&str]| {
        let line = async {
            loop {
                let line = seen.recv().await.expect("the watch goes on");
                if words.iter().all(|word| line.contains(word)) {
                    break;
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), line)
            .await
            .unwrap();
    };
    wait_for(&["NAME", "AGE", "SIGNERNAME", "REQUESTOR", "CONDITION"]).await;
    wait_for(&["two", "Pending"]).await;
    kubectl.ok(&["certificate", "approve", "one"]).await;
    wait_for(&["one", "a.example/b", "root", "Approved"]).await;
    kubectl.ok(&["certificate", "deny", "two"]).await;
    wait_for(&["two", "Denied"]).await;
    drop(watch);

    let again = kubectl.run(&["certificate", "approve", "two"]).await;
    assert_ne!(again.code, 0);
    let described = kubectl.ok(&["describe", "csr", "one"]).await;
    for words in [
        "Requesting User:",
        "root",
        "Approved",
        "system:node:a",
        "node-a.example",
        "Events:",
    ] {
        assert!(described.contains(words), "{described}");
    }
    kubectl.ok(&["annotate", "csr", "one", "a=b"]).await;
    kubectl.ok(&["label", "csr", "one", "c=d"]).await;
    let labelled = kubectl.ok(&["get", "csr", "-l", "c=d", "-o", "name"]).await;
    assert_eq!(
        labelled,
        "certificatesigningrequest.certificates.k8s.io/one\n"
    );
    assert!(
        kubectl
            .ok(&["get", "csr", "one", "-o", "yaml"])
            .await
            .contains("a: b")
    );
    let json = kubectl.ok(&["get", "csr", "-o", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["items"].as_array().unwrap().len(), 2);
    kubectl.ok(&["get", "csr", "-o", "wide"]).await;
    kubectl.ok(&["delete", "csr", "one"]).await;
    let gone = kubectl.run(&["get", "csr", "one"]).await;
    assert_eq!(
        gone.err.trim(),
        "Error from server (NotFound): certificatesigningrequests.certificates.k8s.io \"one\" not found"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_works_on_the_other_kinds_with_kubectl() {
    let (server, kubectl, _) = setup().await;
    let grant = server.pki.path("grant.json");
    let text = serde_json::json!({
        "apiVersion": "touchstone.dev/v1", "kind": "Grant", "metadata": {"name": "g"},
        "spec": {"user": "alice", "groups": ["oncall", "jit:x"], "rules": ["on-call"]},
    });
    std::fs::write(&grant, text.to_string()).unwrap();
    kubectl.ok(&["create", "-f", grant.to_str().unwrap()]).await;
    let grants = kubectl.ok(&["get", "grants"]).await;
    let lines: Vec<Vec<&str>> = grants
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[0],
        [
            "NAME", "USER", "GROUPS", "PHASE", "RULE", "EXPIRES", "REVOKED", "AGE"
        ]
    );
    assert_eq!(lines[1][..3], ["g", "alice", "oncall,jit:x"]);
    kubectl.ok(&["create", "namespace", "x"]).await;
    kubectl
        .ok(&[
            "create",
            "secret",
            "generic",
            "s",
            "-n",
            "x",
            "--from-literal=a=b",
        ])
        .await;
    assert!(
        kubectl
            .ok(&["get", "secrets", "-n", "x"])
            .await
            .contains("Opaque")
    );
    let data = kubectl
        .ok(&["get", "secret", "s", "-n", "x", "-o", "jsonpath={.data.a}"])
        .await;
    assert_eq!(data, "Yg==");
    kubectl
        .ok(&["create", "configmap", "m", "--from-literal=a=b"])
        .await;
    kubectl.ok(&["get", "events"]).await;
    kubectl.ok(&["get", "events", "-A", "-o", "wide"]).await;
    assert!(kubectl.ok(&["api-resources"]).await.contains("grants"));
    kubectl
        .ok(&[
            "patch",
            "grant",
            "g",
            "--type=merge",
            "-p",
            "{\"spec\":{\"rules\":[\"other\"]}}",
        ])
        .await;
    let generation = kubectl
        .ok(&["get", "grant", "g", "-o", "jsonpath={.metadata.generation}"])
        .await;
    assert_eq!(generation, "2");
    kubectl.ok(&["delete", "namespace", "x"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engineer_learns_with_kubectl_who_they_are_and_what_they_may() {
    let (server, _, kubectl) = setup().await;
    let whoami = kubectl.run(&["auth", "whoami"]).await;
    // kubectl before 1.28 does not know the command, or only its betas.
    if !whoami.err.contains("unknown command") && !whoami.err.contains("not enabled") {
        assert_eq!(whoami.code, 0, "{}", whoami.err);
        assert!(
            whoami.out.contains("alice") && whoami.out.contains("oncall"),
            "{}",
            whoami.out
        );
    }
    assert_eq!(
        kubectl.run(&["auth", "can-i", "create", "csr"]).await.out,
        "yes\n"
    );
    assert_eq!(
        kubectl.run(&["auth", "can-i", "approve", "csr"]).await.out,
        "no\n"
    );
    assert_eq!(
        kubectl.run(&["auth", "can-i", "get", "secrets"]).await.out,
        "no\n"
    );
    kubectl.ok(&["create", "-f", &file(&server, "mine")]).await;
    assert!(kubectl.ok(&["get", "csr", "mine"]).await.contains("alice"));
    let list = kubectl.run(&["get", "csr"]).await;
    assert!(
        list.err
            .contains("is forbidden: User \"alice\" cannot list resource"),
        "{}",
        list.err
    );
    assert_ne!(
        kubectl.run(&["certificate", "approve", "mine"]).await.code,
        0
    );
}
