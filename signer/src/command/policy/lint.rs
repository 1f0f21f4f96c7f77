//! `policy lint`.

mod bindings;
mod grants;
mod sarif;

pub use bindings::ManifestError;

use crate::{
    command::{choose_crypto, print, print_json, run, runtime},
    error::Error,
    reload,
};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
};
use touchstone_common::{
    certificate::CaCertificate,
    policy::{self, Finding, GrantBindings, Policy, Position, Severity, Surroundings},
};

/// `policy lint`.
#[derive(Debug, Args)]
pub struct Lint {
    /// The policy
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A folder of manifests, or a file: groups that no RoleBinding or ClusterRoleBinding in it names are found
    #[arg(long, value_name = "DIR")]
    bindings: Vec<PathBuf>,
    /// A cluster: groups that none of its bindings names are found, and bindings of grants that it would not take
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The signer's account in that cluster: whether it may bind what rules bind for their grants is asked
    #[arg(long, value_name = "NAME", requires = "kubeconfig", default_value = grants::ACCOUNT)]
    account: String,
    /// Which of the kubeconfig's contexts; its current one otherwise
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    context: Option<String>,
    /// The issuing CA's certificate, PEM: lifetimes that none of its certificates can have are found
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How to print the findings
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// How findings are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For code scanning: SARIF 2.1.0
    Sarif,
}

impl Lint {
    pub(super) fn run(self) -> Result<(), Error> {
        let source = reload::read(&self.file)?;
        let file = self.file.display().to_string();
        let findings = findings(&file, &source, &self.surroundings(&file, &source)?);
        let errors = findings
            .iter()
            .filter(|lint| lint.severity == Severity::Error)
            .count();
        match self.output {
            Output::Table => print(&table(&file, &findings, errors))?,
            Output::Json => print_json(&as_json(&file, &findings, errors))?,
            Output::Sarif => print_json(&sarif::log(&file, &findings))?,
        }
        if errors == 0 {
            Ok(())
        } else {
            Err(Error::PolicyLint {
                path: self.file,
                errors,
            })
        }
    }

    fn surroundings(&self, file: &str, source: &[u8]) -> Result<Surroundings, Error> {
        let mut groups = BTreeSet::new();
        let mut grant_bindings = GrantBindings::default();
        for path in &self.bindings {
            groups.extend(bindings::in_manifests(path)?);
        }
        if let Some(kubeconfig) = &self.kubeconfig {
            choose_crypto();
            // One that does not load has findings of its own.
            let policy = Policy::parse(file, source);
            let bound = policy.map(|policy| policy.grant_bindings());
            let bound = bound.unwrap_or_default();
            let (of_cluster, of_grants) = runtime()?.block_on(async {
                let config = run::config(kubeconfig, self.context.clone()).await?;
                let (client, _) = run::connect(config)?;
                let groups = bindings::in_cluster(client.clone()).await?;
                let grants = grants::look(&client, &self.account, &bound).await?;
                Ok::<_, Error>((groups, grants))
            })?;
            groups.extend(of_cluster);
            grant_bindings = of_grants;
        }
        let known = !self.bindings.is_empty() || self.kubeconfig.is_some();
        Ok(Surroundings {
            bound_groups: known.then_some(groups),
            grant_bindings,
            ca_seconds: self.ca.as_deref().map(ca_seconds).transpose()?,
        })
    }
}

/// How long the certificate lasts in all.
fn ca_seconds(path: &Path) -> Result<u64, Error> {
    let pem = std::fs::read(path).map_err(|source| Error::IssuingRead {
        path: path.to_owned(),
        source,
    })?;
    let certificate = CaCertificate::from_pem(&pem).map_err(|source| Error::IssuingLoad {
        path: path.to_owned(),
        source,
    })?;
    let validity = certificate.validity();
    let seconds = validity.not_after.as_second() - validity.not_before.as_second();
    Ok(seconds.try_into().unwrap_or_default())
}

/// A policy that does not load has findings too.
fn findings(file: &str, source: &[u8], around: &Surroundings) -> Vec<policy::Lint> {
    policy::lint(file, source, around).unwrap_or_else(|refused| {
        let of = |finding: &Finding| policy::Lint {
            severity: Severity::Error,
            code: "refused",
            finding: finding.clone(),
        };
        refused.findings().iter().map(of).collect()
    })
}

fn table(file: &str, findings: &[policy::Lint], errors: usize) -> String {
    let mut text = String::new();
    for lint in findings {
        let place = match lint.finding.position {
            Some(Position { line, column }) => format!("{file}:{line}:{column}"),
            None => file.to_owned(),
        };
        let (severity, message) = (lint.severity, &lint.finding.message);
        // Writing to a string does not fail.
        let _ = writeln!(text, "{place}: {severity}: {message} [{}]", lint.code);
    }
    let warnings = findings.len() - errors;
    let _ = writeln!(
        text,
        "{file}: {}, {}",
        counted(errors, "error"),
        counted(warnings, "warning")
    );
    text
}

fn counted(number: usize, what: &str) -> String {
    match number {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

fn as_json(file: &str, findings: &[policy::Lint], errors: usize) -> Value {
    let each = |lint: &policy::Lint| {
        json!({
            "severity": lint.severity.to_string(),
            "code": lint.code,
            "line": lint.finding.position.map(|position| position.line),
            "column": lint.finding.position.map(|position| position.column),
            "message": lint.finding.message,
        })
    };
    json!({
        "file": file,
        "findings": findings.iter().map(each).collect::<Vec<_>>(),
        "errors": errors,
        "warnings": findings.len() - errors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPO: &[u8] = b"apiVersion: touchstone.dev/v1
kind: Policy
cluster: prod
rules:
- name: r
  grops: [a]
";

    fn of(file: PathBuf) -> Lint {
        Lint {
            file,
            bindings: Vec::new(),
            kubeconfig: None,
            account: String::new(),
            context: None,
            ca: None,
            output: Output::Json,
        }
    }

    #[test]
    fn a_typo_is_shown_with_its_place_and_the_nearest_key() {
        let findings = findings("policy.yaml", TYPO, &Surroundings::default());
        assert_eq!(
            table("policy.yaml", &findings, 1),
            "policy.yaml:6:3: error: unknown key \"grops\" in a rule; did you mean \"groups\"? [refused]\n\
             policy.yaml: 1 error, no warnings\n"
        );
        let json = as_json("policy.yaml", &findings, 1);
        assert_eq!(json["findings"][0]["line"], 6);
        assert_eq!(json["findings"][0]["column"], 3);
        assert_eq!(json["errors"], 1);
    }

    #[test]
    fn errors_end_with_one_and_warnings_with_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let lint = |name: &str, content: &[u8]| {
            let file = dir.path().join(name);
            std::fs::write(&file, content).unwrap();
            of(file).run()
        };
        let error = lint("typo.yaml", TYPO).unwrap_err();
        assert_eq!(error.exit() as u8, 1);
        let empty = b"apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: prod\n";
        lint("warning.yaml", empty).unwrap();
    }
}
