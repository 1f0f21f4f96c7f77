//! What goes for the machine: folders, terminal, kubectl.

use super::{Finding, within};
use crate::{command::exec::find_program, credential::Store, file, terminal::Terminal};
use serde::Deserialize;
use std::{
    process::{Command, Stdio},
    time::Duration,
};

/// A client that is asked for its version.
const KUBECTL_ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Since this minor version kubectl knows client.authentication.k8s.io/v1
/// (kubernetes/CHANGELOG/CHANGELOG-1.22.md).
const EXEC_PLUGIN_SINCE: u32 = 22;
/// Since this one it uses WebSocket for exec and its like.
const WEB_SOCKET_SINCE: u32 = 31;

pub(super) fn check() -> Vec<Finding> {
    vec![state_folder(), prompts(), kubectl()]
}

fn state_folder() -> Finding {
    const CHECK: &str = "state folder";
    let store = match Store::open() {
        Ok(store) => store,
        Err(error) => return Finding::error(CHECK, error),
    };
    let root = store.root();
    if !root.exists() {
        return Finding::ok(CHECK, format!("{} will be made", root.display()));
    }
    match root
        .canonicalize()
        .and_then(|root| file::refuse_shared(&root))
    {
        Ok(()) => Finding::ok(CHECK, format!("{} is yours alone", root.display())),
        Err(error) => Finding::fail(
            CHECK,
            format!("{}: {error}", root.display()),
            format!("chmod 700 {0} && chown \"$USER\" {0}", root.display()),
        ),
    }
}

/// Where the PIN is asked for.
fn prompts() -> Finding {
    const CHECK: &str = "PIN prompt";
    let window = std::env::var_os("TOUCHSTONE_PINENTRY").or_else(|| Some("pinentry".into()));
    let window = window.and_then(|name| find_program(&name));
    match (Terminal::open("--pin-file FILE"), window) {
        (Ok(_), Some(window)) => Finding::ok(
            CHECK,
            format!(
                "on the terminal; for programs without one, {}",
                window.display()
            ),
        ),
        (Ok(_), None) => Finding::warn(
            CHECK,
            "on the terminal; programs without one, such as an editor's plug-in, cannot ask",
            "sudo apt-get install pinentry-gnome3 (or pinentry-qt), or run touchstone login in a terminal first",
        ),
        (Err(_), Some(window)) => Finding::ok(CHECK, format!("by {}", window.display())),
        (Err(error), None) => Finding::warn(
            CHECK,
            format!("{error}, and there is no pinentry"),
            "use --pin-file FILE, or sudo apt-get install pinentry-gnome3",
        ),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    client_version: Version,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    major: String,
    minor: String,
    git_version: String,
}

fn kubectl() -> Finding {
    const CHECK: &str = "kubectl";
    const UPGRADE: &str = "install a newer kubectl: https://kubernetes.io/docs/tasks/tools/";
    let Some(program) = find_program("kubectl".as_ref()) else {
        return Finding::warn(CHECK, "not on the PATH", UPGRADE);
    };
    let shown = program.display().to_string();
    let asked = within(KUBECTL_ANSWERS_WITHIN, || {
        Command::new(program)
            .args(["version", "--client", "--output=json"])
            // Some builds ask the current cluster for its version all the same, which could ask for a PIN.
            .env("KUBECONFIG", "/dev/null")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
    });
    let answer = match asked {
        Some(Ok(answer)) => answer.stdout,
        Some(Err(error)) => return Finding::fail(CHECK, format!("{shown}: {error}"), UPGRADE),
        None => return Finding::fail(CHECK, format!("{shown} does not answer"), UPGRADE),
    };
    let Ok(Versions { client_version }) = serde_json::from_slice(&answer) else {
        return Finding::warn(CHECK, format!("{shown} does not tell its version"), UPGRADE);
    };
    judged(CHECK, &shown, &client_version)
}

fn judged(check: &'static str, program: &str, version: &Version) -> Finding {
    // Some builds append a plus sign.
    let number = |text: &str| text.trim_end_matches('+').parse::<u32>().ok();
    let named = format!("{} ({program})", version.git_version);
    match (number(&version.major), number(&version.minor)) {
        (Some(1), Some(minor)) if minor < EXEC_PLUGIN_SINCE => Finding::fail(
            check,
            format!("{named} is too old for touchstone setup, which needs 1.{EXEC_PLUGIN_SINCE}"),
            "install a newer kubectl: https://kubernetes.io/docs/tasks/tools/",
        ),
        (Some(1), Some(minor)) if minor < WEB_SOCKET_SINCE => {
            Finding::ok(check, format!("{named}; exec and port-forward over SPDY"))
        }
        (Some(_), Some(_)) => Finding::ok(check, named),
        _ => Finding::warn(
            check,
            format!("{named}: the version is not understood"),
            "kubectl version --client",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_kubectl_that_does_not_know_the_exec_plugin_is_told_from_one_that_does() {
        let level = |major: &str, minor: &str| {
            let version = Version {
                major: major.to_owned(),
                minor: minor.to_owned(),
                git_version: "v".to_owned(),
            };
            judged("kubectl", "/usr/bin/kubectl", &version).level
        };
        assert_eq!(level("1", "20"), Level::Fail);
        assert_eq!(level("1", "22+"), Level::Ok);
        assert_eq!(level("1", "36"), Level::Ok);
        assert_eq!(level("2", "0"), Level::Ok);
        assert_eq!(level("", "x"), Level::Warn);
    }
}
