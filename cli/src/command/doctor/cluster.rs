//! A cluster: its configuration, server, certificate, proxy and kubeconfig.

use super::{Finding, Level, within};
use crate::{
    api::Connection,
    command::{
        exec::find_program,
        login::runtime,
        setup::same_file,
        status::{in_local_time, span},
    },
    config::{Cluster, Config, Reach},
    credential::Store,
    error::Error,
    kubeconfig::{
        Kubeconfig,
        file::{self, KubeconfigError},
    },
    proxy::{ProxyError, control, local::LocalEndpoint},
};
use jiff::{SignedDuration, Timestamp};
use std::{io, net::TcpListener, time::Duration};

/// A server is asked for its time.
const SERVER_ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// From here on requests are refused.
const MAX_SKEW: SignedDuration = SignedDuration::from_mins(5);
/// From here on it is worth a look.
const NOTICED_SKEW: SignedDuration = SignedDuration::from_secs(30);
/// A request that a running signer has long answered.
const ANSWERED_BY_NOW: SignedDuration = SignedDuration::from_mins(5);

pub(super) fn check(config: &Config, store: &Store, name: &str) -> Vec<Finding> {
    let cluster = match config.cluster(name) {
        Ok(cluster) => cluster,
        Err(error) => return vec![Finding::error("configuration", error)],
    };
    let mut findings = vec![Finding::ok(
        "trust bundle",
        "read; it holds CA certificates",
    )];
    findings.extend(server("server", cluster.reach(), name));
    if let Some(door) = cluster.front_door() {
        findings.extend(server("front door", door, name));
    }
    findings.push(signer(store, name));
    findings.push(certificate(store, name));
    findings.push(proxy(store, name));
    findings.push(kubeconfig(store, name));
    findings.extend(loops(&cluster));
    findings
}

/// Reachable, the right one, and of the same time.
fn server(what: &'static str, reach: &Reach, name: &str) -> Vec<Finding> {
    let reach = reach.clone();
    let asked = within(SERVER_ANSWERS_WITHIN, move || -> Result<_, Error> {
        runtime()?.block_on(async {
            let connection = Connection::new(&reach).await?;
            Ok(connection.server_time().await?)
        })
    });
    match asked {
        None => vec![Finding::fail(
            what,
            format!("no answer within {} s", SERVER_ANSWERS_WITHIN.as_secs()),
            format!(
                "check the network and the address of the {what} (touchstone config show {name})"
            ),
        )],
        Some(Err(error)) => vec![Finding::error(what, error)],
        Some(Ok(time)) => vec![
            Finding::ok(what, "reached; its certificate is the configured CA's"),
            clock(what, time, Timestamp::now()),
        ],
    }
}

fn clock(what: &str, server: Option<Timestamp>, here: Timestamp) -> Finding {
    const CHECK: &str = "clock";
    const SET: &str = "sudo timedatectl set-ntp true";
    let Some(server) = server else {
        return Finding::warn(
            CHECK,
            format!("the {what} does not tell its time"),
            "timedatectl status",
        );
    };
    let apart = here.duration_since(server);
    let said = format!("{} s apart from the {what}'s", apart.as_secs().abs());
    match apart.abs() {
        apart if apart > MAX_SKEW => Finding::fail(CHECK, said, SET),
        apart if apart > NOTICED_SKEW => Finding::warn(CHECK, said, SET),
        _ => Finding::ok(CHECK, said),
    }
}

/// Whether a signer answers, and to this key, shows in what it answered: the policy is not for engineers to read.
fn signer(store: &Store, name: &str) -> Finding {
    const CHECK: &str = "signer, enrolment";
    match store.pending(name) {
        Ok(Some(pending))
            if Timestamp::now().duration_since(pending.submitted) > ANSWERED_BY_NOW =>
        {
            return Finding::warn(
                CHECK,
                format!(
                    "request {} waits since {}: for an approval, or for a signer that does not run",
                    pending.name,
                    in_local_time(pending.submitted)
                ),
                format!("touchstone login --cluster {name} --resume"),
            );
        }
        Ok(_) => {}
        Err(error) => return Finding::error(CHECK, error),
    }
    match store.credential(name) {
        Ok(Some(credential)) => Finding::ok(
            CHECK,
            format!(
                "seen at {}: a certificate for the key in slot {} of YubiKey {}",
                in_local_time(credential.not_before),
                credential.slot,
                credential.yubikey
            ),
        ),
        Ok(None) => Finding::warn(
            CHECK,
            "cannot be seen from here before the first login",
            format!(
                "touchstone login --cluster {name} --group GROUP --reason \"WHY\"; to be enrolled: touchstone key enrol"
            ),
        ),
        Err(error) => Finding::error(CHECK, error),
    }
}

fn certificate(store: &Store, name: &str) -> Finding {
    const CHECK: &str = "certificate";
    let login = format!("touchstone login --cluster {name} --group GROUP --reason \"WHY\"");
    match store.credential(name) {
        Ok(Some(credential)) => {
            let left = credential
                .not_after
                .duration_since(Timestamp::now())
                .as_secs();
            if left > 0 {
                let groups = credential.groups.join(", ");
                Finding::ok(
                    CHECK,
                    format!("{} in {groups}, {} left", credential.user, span(left)),
                )
            } else {
                let ended = in_local_time(credential.not_after);
                Finding::warn(CHECK, format!("ended {ended}"), login)
            }
        }
        Ok(None) => Finding::warn(CHECK, "none", login),
        Err(error) => Finding::error(CHECK, error),
    }
}

fn proxy(store: &Store, name: &str) -> Finding {
    const CHECK: &str = "proxy";
    match control::status(store, name) {
        Ok(Some(status)) => Finding::ok(
            CHECK,
            format!(
                "process {} at {}, {} requests so far",
                status.pid, status.listens, status.requests
            ),
        ),
        Err(error) => Finding::error(CHECK, error),
        Ok(None) => match LocalEndpoint::kept(store, name) {
            Ok(None) => Finding::ok(CHECK, "not running, and not needed yet"),
            Ok(Some(endpoint)) => match TcpListener::bind(endpoint.address()) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => Finding::fail(
                    CHECK,
                    format!("another program listens at {}", endpoint.address()),
                    format!("choose another port: touchstone setup --cluster {name} --port N"),
                ),
                _ => Finding::ok(CHECK, "not running; kubectl starts it"),
            },
            Err(error) => Finding::error(CHECK, ProxyError::from(error)),
        },
    }
}

/// Whether kubectl finds the proxy, and the program that starts it.
fn kubeconfig(store: &Store, name: &str) -> Finding {
    const CHECK: &str = "kubeconfig";
    let setup = format!("touchstone setup --cluster {name}");
    let read = || -> Result<_, KubeconfigError> {
        let files = file::files()?;
        let path = file::chosen(&files, name).ok_or(KubeconfigError::Nowhere)?;
        let text = file::read(&path)?.unwrap_or_default();
        let kubeconfig = Kubeconfig::read(&text).map_err(|error| KubeconfigError::Edit {
            path: path.clone(),
            error: error.into(),
            lines: None,
        })?;
        Ok((path, kubeconfig))
    };
    let (path, kubeconfig) = match read() {
        Ok(read) => read,
        // kubectl may well read what is not edited.
        Err(error) => {
            return Finding {
                level: Level::Warn,
                ..Finding::error(CHECK, error)
            };
        }
    };
    let shown = path.display();
    let Some((command, server)) = kubeconfig.command_and_server(name) else {
        return Finding::warn(
            CHECK,
            format!(
                "{shown} does not know the proxy: only touchstone kubectl and touchstone exec use it"
            ),
            setup,
        );
    };
    let expected = LocalEndpoint::kept(store, name).ok().flatten();
    if expected.is_none_or(|endpoint| endpoint.server_url() != server) {
        return Finding::fail(
            CHECK,
            format!("{shown} leads to {server}, where the proxy is not"),
            setup,
        );
    }
    if find_program(command.as_ref()).is_none() {
        return Finding::fail(
            CHECK,
            format!("{shown} runs {command}, which is not there"),
            setup,
        );
    }
    match kubeconfig.contexts(name).as_slice() {
        [] => Finding::fail(CHECK, format!("{shown} has no context for it"), setup),
        contexts => match kubeconfig.current_context() {
            Some(current) if contexts.iter().any(|context| context == current) => Finding::ok(
                CHECK,
                format!("{shown}: context {current}, the current one"),
            ),
            _ => Finding::ok(
                CHECK,
                format!("{shown}: kubectl --context {}", contexts.join(", ")),
            ),
        },
    }
}

/// A cluster that is reached by a kubeconfig must not be reached through its own proxy: it would wait for itself.
fn loops(cluster: &Cluster) -> Option<Finding> {
    let Reach::Kubeconfig { path, context } = cluster.reach() else {
        return None;
    };
    let kubeconfig = Kubeconfig::read(&file::read(path).ok()??).ok()?;
    let context = context.as_deref().or(kubeconfig.current_context())?;
    kubeconfig.runs_touchstone(context).then(|| {
        let shared = file::files().is_ok_and(|files| files.iter().any(|file| same_file(file, path)));
        let shared = if shared { ", which is also kubectl's" } else { "" };
        Finding::fail(
            "configuration",
            format!(
                "certificates are asked for by context {context} of {}{shared}, and that context is touchstone's own",
                path.display()
            ),
            format!(
                "name the context of your other credential: touchstone config set-cluster {} --kubeconfig {} --context NAME --trust-bundle FILE",
                cluster.name().as_str(),
                path.display()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_are_told_before_the_signer_refuses() {
        let here: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let level = |seconds: i64| {
            let server = here + SignedDuration::from_secs(seconds);
            clock("server", Some(server), here).level
        };
        assert_eq!(level(0), Level::Ok);
        assert_eq!(level(-29), Level::Ok);
        assert_eq!(level(60), Level::Warn);
        assert_eq!(level(301), Level::Fail);
        assert_eq!(level(-301), Level::Fail);
        assert_eq!(clock("server", None, here).level, Level::Warn);
    }
}
