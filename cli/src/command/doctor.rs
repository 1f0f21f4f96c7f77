//! `touchstone doctor`: looks at everything between an engineer and their cluster, and says what helps.
//!
//! Each check ends in time. None asks for a PIN or a touch, and none spends a try.

mod card;
mod cluster;
mod machine;

use crate::{
    args,
    config::Config,
    credential::Store,
    error::Error,
    output::{Output, table},
};
use serde::Serialize;
use std::{sync::mpsc, thread, time::Duration};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Level {
    /// It works.
    Ok,
    /// It may not do, or could not be told.
    Warn,
    /// It does not work.
    Fail,
}

/// A line, as `--output json` has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    check: &'static str,
    cluster: Option<String>,
    level: Level,
    message: String,
    remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, message.into(), None)
    }

    fn warn(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(check, Level::Warn, message.into(), Some(remedy.into()))
    }

    fn fail(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(check, Level::Fail, message.into(), Some(remedy.into()))
    }

    /// What a command would have said.
    fn error(check: &'static str, error: impl Into<Error>) -> Self {
        let error = error.into();
        Self::new(check, Level::Fail, error.to_string(), error.remedy())
    }

    fn new(check: &'static str, level: Level, message: String, remedy: Option<String>) -> Self {
        Self {
            check,
            cluster: None,
            level,
            message,
            remedy,
        }
    }

    fn of(self, cluster: &str) -> Self {
        Self {
            cluster: Some(cluster.to_owned()),
            ..self
        }
    }
}

/// `touchstone doctor`.
pub(super) fn run(args: &args::Doctor, output: Output) -> Result<(), Error> {
    let mut findings = machine::check();
    let store = Store::open()?;
    let config = Config::load();
    let names: Vec<String> = match (&config, &args.cluster) {
        (_, Some(name)) => vec![name.clone()],
        (Ok(config), None) => config.clusters().map(|(name, _)| name.to_owned()).collect(),
        (Err(_), None) => Vec::new(),
    };
    findings.extend(card::check(args, &store, config.as_ref().ok(), &names));
    match config {
        Err(error) => findings.push(Finding::error("configuration", error)),
        Ok(config) if names.is_empty() => findings.push(Finding::warn(
            "configuration",
            format!("no cluster in {}", config.path().display()),
            "touchstone config set-cluster NAME --server https://HOST:PORT --ca FILE --trust-bundle FILE",
        )),
        Ok(config) => {
            for name in &names {
                let of_cluster = cluster::check(&config, &store, name);
                findings.extend(of_cluster.into_iter().map(|finding| finding.of(name)));
            }
        }
    }
    output.data(&findings, |findings| text(findings))?;
    let failed = findings
        .iter()
        .filter(|finding| finding.level == Level::Fail)
        .count();
    if failed == 0 {
        Ok(())
    } else {
        Err(Error::Unhealthy(failed))
    }
}

fn text(findings: &[Finding]) -> String {
    let rows: Vec<Vec<String>> = findings
        .iter()
        .flat_map(|finding| {
            let level = match finding.level {
                Level::Ok => "ok",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            let line = vec![
                level.to_owned(),
                finding.cluster.clone().unwrap_or_default(),
                finding.check.to_owned(),
                finding.message.clone(),
            ];
            let remedies = finding.remedy.iter().flat_map(|remedy| remedy.lines());
            let remedies = remedies.map(|line| {
                let empty = String::new;
                vec![empty(), empty(), empty(), format!("  try: {line}")]
            });
            std::iter::once(line).chain(remedies).collect::<Vec<_>>()
        })
        .collect();
    table(&["", "CLUSTER", "CHECK", "FINDING"], &rows)
}

/// Does `work` for so long and no longer. What is not done by then ends with the process.
fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = mpsc::channel();
    thread::spawn(move || {
        // Nobody may wait any more.
        let _ = done.send(work());
    });
    result.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_stands_under_its_finding_and_a_check_ends_in_time() {
        let findings = vec![
            Finding::ok("card", "YubiKey 1"),
            Finding::fail("PIN", "locked", "touchstone key unblock").of("prod"),
        ];
        assert_eq!(
            text(&findings),
            "      CLUSTER  CHECK  FINDING\nok             card   YubiKey 1\nFAIL  prod     PIN    locked\n                        try: touchstone key unblock\n"
        );
        assert_eq!(within(Duration::from_secs(30), || 1), Some(1));
        let slow = || thread::sleep(Duration::from_secs(60));
        assert_eq!(within(Duration::from_millis(10), slow), None);
    }
}
