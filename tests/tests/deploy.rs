//! What stands in `deploy/`, read as it is: that it is sound needs no cluster. What it does on one is in
//! `tests/tests/permissions.rs` and `tests/tests/admission.rs`.

use clap::Parser as _;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use touchstone_signer::{
    ca::{key::KeyPlace, settings::CaSettings},
    command::Arguments,
    traces::Endpoint,
};
use touchstone_tests::{child::program, cluster::kubectl, engineer::Ran};

const SIGNER: &str = "system:serviceaccount:touchstone:touchstone-signer";
const COMPONENTS: [&str; 4] = ["approve-only", "front-door", "opentelemetry", "prometheus"];
const OVERLAYS: [&str; 5] = ["approve-only", "both", "own-ca", "pkcs11", "root-less"];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Every YAML file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("read a folder") {
        let path = entry.expect("read a folder").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|it| it == "yaml") {
            found.push(path);
        }
    }
    found
}

/// Every document of a kind that is deployed.
fn documents(kinds: &[&str]) -> Vec<Value> {
    let mut found = Vec::new();
    for file in files(&deploy()) {
        let text = fs::read_to_string(&file).expect("read a manifest");
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        found.extend(documents.into_iter().filter(|document| {
            let kind = document["kind"].as_str();
            kind.is_some_and(|kind| kinds.contains(&kind))
        }));
    }
    assert!(!found.is_empty(), "{kinds:?}");
    found
}

fn text_of(path: &Path) -> String {
    let path = fs::canonicalize(path).expect("it is there");
    path.to_str().expect("a plain name").to_owned()
}

fn list(values: &Value) -> Vec<&str> {
    let values = values.as_array().into_iter().flatten();
    values.filter_map(Value::as_str).collect()
}

#[test]
fn no_role_has_a_wildcard_and_a_secret_is_opened_by_its_name_alone() {
    for role in documents(&["Role", "ClusterRole"]) {
        for rule in role["rules"].as_array().expect("rules") {
            for field in ["apiGroups", "resources", "verbs", "resourceNames"] {
                assert!(
                    !list(&rule[field]).iter().any(|it| it.contains('*')),
                    "{role}"
                );
            }
            let verbs = list(&rule["verbs"]);
            assert!(!verbs.is_empty(), "{role}");
            for verb in ["bind", "escalate", "impersonate"] {
                let by_name = !list(&rule["resourceNames"]).is_empty();
                assert!(
                    !verbs.contains(&verb) || by_name && verb == "bind",
                    "{role}"
                );
            }
            if list(&rule["resources"]).contains(&"secrets") {
                let by_name = list(&rule["resourceNames"]) == ["touchstone-ca"];
                assert!(
                    role["kind"] == "Role" && (by_name || verbs == ["create"]),
                    "{role}"
                );
            }
            if list(&rule["resources"]).contains(&"signers") {
                assert!(!list(&rule["resourceNames"]).is_empty(), "{role}");
            }
        }
    }
}

#[test]
fn approving_and_signing_are_granted_apart() {
    for role in documents(&["ClusterRole"]) {
        let rules = role["rules"].as_array().expect("rules");
        let has = |verb: &str| rules.iter().any(|it| list(&it["verbs"]).contains(&verb));
        assert!(!(has("approve") && has("sign")), "{role}");
    }
}

#[test]
fn admission_policies_fail_closed_are_bound_and_know_the_account_that_is_deployed() {
    let account = &documents(&["ServiceAccount"])[0]["metadata"];
    assert_eq!(
        SIGNER,
        format!(
            "system:serviceaccount:{}:{}",
            account["namespace"].as_str().expect("a namespace"),
            account["name"].as_str().expect("a name")
        )
    );
    let bindings = documents(&["ValidatingAdmissionPolicyBinding"]);
    let policies = documents(&["ValidatingAdmissionPolicy"]);
    assert_eq!(policies.len(), 5);
    for policy in policies {
        assert_eq!(policy["spec"]["failurePolicy"], "Fail");
        assert!(
            policy.to_string().contains(&format!("'{SIGNER}'")),
            "{policy}"
        );
        let binding = bindings
            .iter()
            .find(|it| it["spec"]["policyName"] == policy["metadata"]["name"])
            .unwrap_or_else(|| panic!("not bound: {policy}"));
        assert_eq!(
            binding["spec"]["validationActions"],
            serde_json::json!(["Deny"])
        );
    }
}

/// The command line is one of the signer's, and what it names is mounted.
fn understood(deployment: &Value) {
    let container = deployment
        .pointer("/spec/template/spec/containers/0")
        .expect("a container");
    let arguments = list(&container["args"]);
    Arguments::try_parse_from(["touchstone-signer"].iter().chain(&arguments))
        .unwrap_or_else(|error| panic!("{error}"));
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    let paths = arguments
        .iter()
        .filter_map(|it| Some(it.split_once("=/")?.1));
    for path in paths {
        let folder = Path::new("/").join(path);
        let mounted = |mount: &Value| folder.parent() == mount["mountPath"].as_str().map(Path::new);
        assert!(mounts.iter().any(mounted), "{path} is not mounted");
    }
}

#[test]
fn the_deployments_command_line_is_understood_and_names_files_that_are_mounted() {
    documents(&["Deployment"])
        .iter()
        .filter(|it| it.pointer("/spec/replicas").is_some())
        .for_each(understood);
}

#[test]
fn the_starter_policy_is_free_of_findings_and_grants_nothing() {
    let file = deploy().join("base/policy.yaml");
    let mut lint = Command::new(program("touchstone-signer"));
    let ran = Ran::of(lint.args(["policy", "lint", "--output", "json"]).arg(&file)).succeeded();
    let findings: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(findings["findings"], serde_json::json!([]));
    let text = fs::read_to_string(file).expect("read the policy");
    let policy: Value = serde_saphyr::from_str(&text).expect("YAML");
    for rule in policy["rules"].as_array().expect("rules") {
        assert_eq!(rule["decision"], "deny");
    }
}

#[test]
fn the_ca_settings_of_every_overlay_are_understood() {
    for overlay in ["own-ca", "pkcs11", "root-less"] {
        let folder = deploy().join("overlays").join(overlay);
        CaSettings::load(&folder.join("ca-settings.yaml"), KeyPlace::Secret)
            .unwrap_or_else(|error| panic!("{overlay}: {error}"));
    }
}

/// The port of the collector that the environment of a container names, where it names one.
fn collector_port(deployment: &Value) -> Option<u64> {
    let variables = deployment.pointer("/spec/template/spec/containers/0/env")?;
    let named = variables
        .as_array()?
        .iter()
        .find(|it| it["name"] == "OTEL_EXPORTER_OTLP_ENDPOINT")?;
    let url = named["value"].as_str().expect("a value");
    url.parse::<Endpoint>()
        .unwrap_or_else(|error| panic!("{url}: {error}"));
    let (_, port) = url.rsplit_once(':').expect("a port");
    Some(port.parse().expect("a number"))
}

/// Whether a NetworkPolicy lets the signer out to this port.
fn lets_out(policy: &Value, port: u64) -> bool {
    let rules = policy.pointer("/spec/egress").and_then(Value::as_array);
    let ports = rules
        .into_iter()
        .flatten()
        .filter_map(|it| it["ports"].as_array());
    policy["kind"] == "NetworkPolicy" && ports.flatten().any(|it| it["port"] == port)
}

/// The oldest kubectl whose kustomize knows components and replacements.
const OLDEST_KUBECTL: u64 = 22;

#[test]
fn everything_is_rendered_and_what_is_named_is_there() {
    let version = Ran::of(kubectl(Path::new("/")).args(["version", "--client", "-o", "json"]));
    let version: Value = serde_json::from_str(&version.succeeded().stdout).expect("JSON");
    let minor = version["clientVersion"]["minor"]
        .as_str()
        .expect("a version");
    let minor: u64 = minor.trim_end_matches('+').parse().expect("a number");
    if minor < OLDEST_KUBECTL {
        return;
    }
    // One of an operator's own, with every component.
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join("overlay");
    fs::create_dir_all(&own).expect("make a folder");
    let own = fs::canonicalize(own).expect("a folder");
    let up = "../".repeat(own.components().count() - 1);
    let at = |folder: &str| {
        format!(
            "{up}{}",
            text_of(&deploy().join(folder)).trim_start_matches('/')
        )
    };
    let kustomization = serde_json::json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": [at("overlays/pkcs11")],
        "components": COMPONENTS.map(|it| at(&format!("components/{it}"))),
    });
    let file = own.join("kustomization.yaml");
    fs::write(file, kustomization.to_string()).expect("write a kustomization");

    let mut folders = OVERLAYS
        .map(|it| deploy().join("overlays").join(it))
        .to_vec();
    folders.extend(["namespace", "cluster"].map(|it| deploy().join("debug-roles").join(it)));
    folders.push(own);
    let mut collectors = 0;
    for folder in folders {
        let mut render = kubectl(Path::new("/"));
        let ran = Ran::of(render.arg("kustomize").arg(&folder)).succeeded();
        let folder = folder.display();
        assert!(ran.stderr.is_empty(), "{folder}: {ran}");
        let rendered: Vec<Value> = serde_saphyr::from_multiple(&ran.stdout).expect("YAML");
        let has = |kind: &str, name: &Value| {
            rendered
                .iter()
                .any(|it| it["kind"] == kind && it["metadata"]["name"] == *name)
        };
        for document in &rendered {
            if document["kind"] == "Deployment" {
                understood(document);
                if let Some(port) = collector_port(document) {
                    assert!(rendered.iter().any(|it| lets_out(it, port)), "{folder}");
                    collectors += 1;
                }
            }
            if let Some(role) = document.get("roleRef") {
                assert!(
                    has(role["kind"].as_str().expect("a kind"), &role["name"]),
                    "{document}"
                );
            }
            for volume in document
                .pointer("/spec/template/spec/volumes")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                if let Some(map) = volume.get("configMap") {
                    assert!(has("ConfigMap", &map["name"]), "{folder}: {volume}");
                }
            }
        }
    }
    assert_eq!(collectors, 1, "the overlay of one's own has the component");
}
