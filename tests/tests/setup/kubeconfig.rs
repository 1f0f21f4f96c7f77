//! The kubeconfig's file: what `touchstone setup` does to it, and what it must not.

use crate::{USER, exit, kubectl};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    thread,
};
use touchstone_tests::{
    engineer::{Engineer, Ran},
    openssl,
};

const THEIRS: &str = "\
# the team's
apiVersion: v1
kind: Config
clusters:
- name: dev   # old
  cluster: {server: 'https://dev.example.com:6443'}
contexts:
- context: {cluster: dev, user: dev}
  name: dev
current-context: dev
users: null
";

/// An engineer whose configuration has these clusters. Nothing of them is reached.
fn engineer(clusters: &[&str]) -> Engineer {
    let engineer = Engineer::without_card(USER);
    let key = engineer.file("ca.key");
    let ca = engineer.file("ca.pem");
    openssl::self_signed(&key, &ca, "/CN=test", &["keyUsage=critical,keyCertSign"]);
    let ca = engineer.path_text("ca.pem");
    for cluster in clusters {
        let set = [
            "config",
            "set-cluster",
            cluster,
            "--server",
            "https://127.0.0.1:1",
        ];
        let files = ["--ca", &ca, "--trust-bundle", &ca];
        engineer.run(set.iter().chain(&files)).succeeded();
    }
    engineer
}

/// `touchstone setup` on this file.
fn setup(engineer: &Engineer, file: &Path, further: &[&str]) -> Ran {
    let mut command = engineer.touchstone(["setup", "--kubeconfig"]);
    command.arg(file).args(further);
    Ran::of(&mut command)
}

fn theirs(engineer: &Engineer) -> PathBuf {
    let path = engineer.file("their.kubeconfig");
    fs::write(&path, THEIRS).expect("write a kubeconfig");
    path
}

fn backups(of: &Path) -> Vec<PathBuf> {
    let folder = of.parent().expect("a folder");
    let name = of
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a name");
    fs::read_dir(folder)
        .expect("list the folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.display()
                .to_string()
                .contains(&format!("{name}.touchstone-"))
        })
        .collect()
}

#[test]
fn entries_come_and_go_and_the_rest_of_the_file_stays_byte_for_byte() {
    let engineer = engineer(&["prod", "stage"]);
    let link = engineer.file("link");
    let path = theirs(&engineer);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set a mode");
    symlink(&path, &link).expect("make a link");

    let ran = setup(&engineer, &link, &[]).succeeded();
    for word in [
        "touchstone-prod",
        "touchstone-stage",
        "touchstone login",
        "kubectl",
    ] {
        assert!(ran.stderr.contains(word), "{word}: {ran}");
    }
    let written = fs::read_to_string(&path).expect("read it");
    let mode = fs::metadata(&path)
        .expect("look at it")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640);
    assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
    for line in THEIRS.lines().filter(|line| !line.starts_with("users")) {
        assert!(written.contains(line), "{line}:\n{written}");
    }
    let [backup] = backups(&link).try_into().expect("one backup");
    assert_eq!(fs::read_to_string(&backup).expect("read it"), THEIRS);
    let private = fs::metadata(&backup)
        .expect("look at it")
        .permissions()
        .mode();
    assert_eq!(private & 0o777, 0o600);

    // As kubectl reads it.
    let mut view = kubectl(&engineer, &link);
    view.args(["config", "view", "--raw", "-o", "json"]);
    let view = Ran::of(&mut view).succeeded().stdout;
    let view: serde_json::Value = serde_json::from_str(&view).expect("JSON");
    assert_eq!(view["current-context"], "dev");
    assert_eq!(view["contexts"].as_array().map(Vec::len), Some(3), "{view}");
    let exec = &view["users"][0]["user"]["exec"];
    assert_eq!(
        exec["args"],
        serde_json::json!(["credential", "--cluster=prod", "--ttl=30m"])
    );
    assert_eq!(exec["apiVersion"], "client.authentication.k8s.io/v1");
    let server = view["clusters"][1]["cluster"]["server"]
        .as_str()
        .expect("a server");
    assert!(server.starts_with("https://127.0.0.1:"), "{server}");

    let again = setup(&engineer, &link, &["--output", "json"]).succeeded();
    let again: serde_json::Value = serde_json::from_str(&again.stdout).expect("JSON");
    assert_eq!(again["changed"], false, "{again}");
    assert_eq!(backups(&link).len(), 1);

    setup(&engineer, &link, &["--remove"]).succeeded();
    assert_eq!(fs::read_to_string(&path).expect("read it"), THEIRS);
    assert_eq!(backups(&link).len(), 2);
}

#[test]
fn a_dry_run_shows_the_difference_and_changes_nothing() {
    let engineer = engineer(&["prod"]);
    let path = theirs(&engineer);
    let ran = setup(&engineer, &path, &["--dry-run", "--set-current"]).succeeded();
    for line in [
        "-current-context: dev",
        "+current-context: touchstone-prod",
        "+  name: touchstone-prod",
    ] {
        assert!(
            ran.stdout.lines().any(|shown| shown == line),
            "{line}: {ran}"
        );
    }
    assert_eq!(fs::read_to_string(&path).expect("read it"), THEIRS);
    assert!(backups(&path).is_empty());
    assert!(!engineer.file("state/prod").exists());
}

#[test]
fn without_a_file_one_is_made_for_its_owner_alone_with_a_current_context() {
    let engineer = engineer(&["prod"]);
    engineer
        .run(["setup", "--namespace", "payments"])
        .succeeded();
    let path = engineer.file(".kube/config");
    let mode = fs::metadata(&path)
        .expect("look at it")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut view = kubectl(&engineer, &path);
    view.args(["config", "view", "--minify", "-o", "jsonpath={..namespace}"]);
    assert_eq!(Ran::of(&mut view).succeeded().stdout, "payments");
}

#[test]
fn of_several_files_the_one_is_changed_that_kubectl_would_change() {
    let engineer = engineer(&["prod"]);
    let path = theirs(&engineer);
    let [missing, last] = ["missing", "last"].map(|name| engineer.file(name));
    let set = |files: &[&PathBuf]| {
        let mut command = engineer.touchstone(["setup"]);
        command.env("KUBECONFIG", std::env::join_paths(files).expect("paths"));
        Ran::of(&mut command).succeeded()
    };
    set(&[&missing, &path, &last]);
    assert!(!missing.exists() && !last.exists());
    assert!(
        fs::read_to_string(&path)
            .expect("read it")
            .contains("touchstone-prod")
    );
    // One that knows the cluster comes before one that is first.
    fs::write(&missing, THEIRS).expect("write a kubeconfig");
    set(&[&missing, &path, &last]);
    assert_eq!(fs::read_to_string(&missing).expect("read it"), THEIRS);

    // Another's context of this name would stand before ours.
    let foreign = THEIRS.replace("  name: dev\ncurrent", "  name: touchstone-prod\ncurrent");
    fs::write(&missing, foreign).expect("write a kubeconfig");
    let mut command = engineer.touchstone(["setup"]);
    command.env(
        "KUBECONFIG",
        std::env::join_paths([&missing, &path]).expect("paths"),
    );
    Ran::of(&mut command).failed(exit::CONFIG, &["touchstone-prod", "--context-name"]);
}

#[test]
fn many_at_once_lose_nothing() {
    // Without kubectl among them, which reads the file before it takes its lock and so undoes what others do meanwhile.
    let names: Vec<String> = (0..6).map(|number| format!("c{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let engineer = engineer(&names);
    let path = theirs(&engineer);
    thread::scope(|scope| {
        let (engineer, path) = (&engineer, &path);
        for &name in &names {
            scope.spawn(move || setup(engineer, path, &["--cluster", name]).succeeded());
        }
    });
    let text = fs::read_to_string(&path).expect("read it");
    for name in names {
        let entry = format!("name: touchstone-{name}\n");
        assert_eq!(text.matches(&entry).count(), 3, "{entry}:\n{text}");
    }
    assert!(!engineer.file("their.kubeconfig.lock").exists());
}

#[test]
fn what_is_no_kubeconfig_of_the_users_is_refused_and_left() {
    let engineer = engineer(&["prod"]);
    let [folder, pipe, link, large, other] =
        ["folder", "pipe", "link", "large", "other"].map(|name| engineer.file(name));
    fs::create_dir(&folder).expect("make a folder");
    Ran::of(Command::new("mkfifo").arg(&pipe)).succeeded();
    symlink(engineer.file("nowhere"), &link).expect("make a link");
    fs::write(&large, format!("{THEIRS}{}", "#\n".repeat(5 << 20))).expect("write a large file");
    let mut cases = vec![
        (folder, "not a file"),
        (pipe, "not a file"),
        (link, "leads nowhere"),
        (large, "4 MiB"),
    ];
    if rustix::process::geteuid().is_root() {
        fs::write(&other, THEIRS).expect("write a kubeconfig");
        std::os::unix::fs::chown(&other, Some(65_534), None).expect("give it away");
        cases.push((other, "another user"));
    }
    for (path, why) in cases {
        let ran = setup(&engineer, &path, &[]);
        ran.failed(exit::CONFIG, &[why, "--kubeconfig FILE"]);
        assert!(backups(&path).is_empty(), "{path:?}");
        let mut lock = path.into_os_string();
        lock.push(".lock");
        assert!(!Path::new(&lock).exists(), "{lock:?}");
    }
    for (text, why) in [
        ("{\"kind\": \"Config\"}", "braces"),
        ("kind: Config\nusers: &a []\ncontexts: *a\n", "anchor"),
        (
            "kind: Config\nusers: null\n---\nkind: Config\n",
            "more than one",
        ),
        ("\u{0}ELF", "YAML"),
    ] {
        let path = engineer.file("odd");
        fs::write(&path, text).expect("write a file");
        // With the lines to be put in by hand.
        setup(&engineer, &path, &[])
            .failed(exit::CONFIG, &[why, "- credential", "touchstone-prod"]);
        assert_eq!(fs::read_to_string(&path).expect("read it"), text);
    }
}

#[test]
fn a_lock_that_someone_left_is_named() {
    let engineer = engineer(&["prod"]);
    let path = theirs(&engineer);
    let lock = engineer.file("their.kubeconfig.lock");
    fs::write(&lock, "").expect("leave a lock");
    let ran = setup(&engineer, &path, &[]);
    ran.failed(
        exit::CONFIG,
        &["left its lock", "remove", "their.kubeconfig.lock"],
    );
    assert!(lock.exists());
    assert_eq!(fs::read_to_string(&path).expect("read it"), THEIRS);
}

#[test]
fn a_cluster_that_is_not_configured_and_options_for_one_are_refused() {
    let engineer = engineer(&["prod", "stage"]);
    let path = theirs(&engineer);
    setup(&engineer, &path, &["--cluster", "nope"]).failed(exit::CONFIG, &["nope", "set-cluster"]);
    setup(&engineer, &path, &["--port", "4711"]).failed(exit::USAGE, &["--port", "--cluster"]);
    setup(&engineer, &path, &["--remove", "--port", "4711"]).failed(exit::USAGE, &["--remove"]);
}

#[test]
fn a_cluster_is_not_sent_to_its_own_proxy() {
    let engineer = engineer(&[]);
    let path = theirs(&engineer);
    let [ca, own] = ["ca.pem", "their.kubeconfig"].map(|name| engineer.path_text(name));
    let set = [
        "config",
        "set-cluster",
        "prod",
        "--kubeconfig",
        &own,
        "--trust-bundle",
        &ca,
    ];
    engineer.run(set).succeeded();
    let quiet = setup(&engineer, &path, &[]).succeeded();
    assert!(!quiet.stderr.contains("warning"), "{quiet}");
    let warned = setup(&engineer, &path, &["--set-current"]).succeeded();
    assert!(
        warned.stderr.contains("warning") && warned.stderr.contains("--context"),
        "{warned}"
    );
    let doctor = engineer.run(["doctor"]);
    assert!(
        doctor.stdout.contains("that context is touchstone's own"),
        "{doctor}"
    );
}

#[test]
fn kubectl_finds_touchstone_as_its_plug_in() {
    let engineer = engineer(&["prod"]);
    let folder = engineer.file("bin");
    fs::create_dir(&folder).expect("make a folder");
    let path = theirs(&engineer);
    let plugin = ["--plugin", folder.to_str().expect("a plain name")];
    for _ in 0..2 {
        let ran = setup(&engineer, &path, &plugin).succeeded();
        assert!(ran.stderr.contains("not on the PATH"), "{ran}");
    }
    let ask = |arguments: &[&str]| {
        let mut command = kubectl(&engineer, &path);
        let mut paths = vec![folder.clone()];
        paths.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ));
        command.env("PATH", std::env::join_paths(paths).expect("paths"));
        Ran::of(command.arg("touchstone").args(arguments))
    };
    assert!(ask(&["config", "list"]).succeeded().stdout.contains("prod"));
    let help = ask(&["--help"]).succeeded();
    assert!(help.stdout.contains("Usage: kubectl touchstone"), "{help}");
}
