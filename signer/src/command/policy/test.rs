//! `policy test`.

use crate::{
    command::{Output, print, print_json},
    error::Error,
    reload::{self, PolicyFileError},
};
use clap::Args;
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};
use touchstone_common::policy::{CaseResult, Cases, MAX_POLICY_BYTES, Policy, Position};

/// `policy test`.
#[derive(Debug, Args)]
pub struct Test {
    /// The policies
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The cases [default: those beside each policy: policy.tests.yaml for policy.yaml]
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    /// How to print the results
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What came of the cases of one policy.
struct Tested {
    policy: PathBuf,
    cases: PathBuf,
    results: Vec<CaseResult>,
}

impl Test {
    pub(super) fn run(self) -> Result<(), Error> {
        let tested: Vec<_> = self
            .files
            .iter()
            .map(|file| tested(file, self.cases.as_deref()))
            .collect::<Result<_, _>>()?;
        match self.output {
            Output::Table => print(&table(&tested))?,
            Output::Json => print_json(&as_json(&tested))?,
        }
        let all = tested.iter().map(|tested| tested.results.len()).sum();
        match tested.iter().map(Tested::failed).sum() {
            0 => Ok(()),
            failed => Err(Error::PolicyCases { failed, all }),
        }
    }
}

impl Tested {
    fn failed(&self) -> usize {
        let failed = self.results.iter().filter(|result| !result.passed());
        failed.count()
    }
}

fn tested(file: &Path, cases: Option<&Path>) -> Result<Tested, Error> {
    let source = reload::read(file)?;
    let policy =
        Policy::parse(&file.display().to_string(), &source).map_err(PolicyFileError::Load)?;
    let path = cases.map_or_else(|| beside(file), Path::to_path_buf);
    let source = read(&path).map_err(|source| Error::PolicyCasesRead {
        path: path.clone(),
        source,
    })?;
    let cases =
        Cases::parse(&path.display().to_string(), &source).map_err(Error::PolicyCasesLoad)?;
    Ok(Tested {
        policy: file.to_path_buf(),
        cases: path,
        results: cases.run(&policy),
    })
}

/// `policy.tests.yaml` for `policy.yaml`.
fn beside(policy: &Path) -> PathBuf {
    let extension = policy.extension().unwrap_or("yaml".as_ref());
    let mut tests = std::ffi::OsString::from("tests.");
    tests.push(extension);
    policy.with_extension(tests)
}

/// As much of a file as it takes to see that it is too large.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut source = Vec::new();
    let most = u64::try_from(MAX_POLICY_BYTES).unwrap_or(u64::MAX);
    File::open(path)?
        .take(most.saturating_add(1))
        .read_to_end(&mut source)?;
    Ok(source)
}

fn table(tested: &[Tested]) -> String {
    let mut text = String::new();
    for of in tested {
        let cases = of.cases.display();
        for result in &of.results {
            // Writing to a string does not fail.
            if result.passed() {
                let _ = writeln!(text, "ok    {}", result.name);
                continue;
            }
            let Position { line, column } = result.position;
            let _ = writeln!(text, "FAIL  {} ({cases}:{line}:{column})", result.name);
            for mismatch in &result.mismatches {
                let _ = writeln!(
                    text,
                    "      {:<8} expected  {}\n               got       {}",
                    mismatch.field, mismatch.expected, mismatch.got
                );
            }
            let _ = writeln!(text, "      {}", result.explanation);
        }
        let failed = of.failed();
        let _ = writeln!(
            text,
            "{}: {} passed, {failed} failed",
            of.policy.display(),
            of.results.len() - failed
        );
    }
    text
}

fn as_json(tested: &[Tested]) -> Value {
    let each = |result: &CaseResult| {
        let mismatches: Vec<_> = result
            .mismatches
            .iter()
            .map(|m| json!({ "field": m.field, "expected": m.expected, "got": m.got }))
            .collect();
        json!({
            "name": result.name,
            "line": result.position.line,
            "column": result.position.column,
            "passed": result.passed(),
            "verdict": result.verdict.to_string(),
            "rules": result.rules,
            "ttl": result.ttl.map(|ttl| ttl.to_string()),
            "message": result.explanation,
            "mismatches": mismatches,
        })
    };
    let policies: Vec<_> = tested
        .iter()
        .map(|of| {
            json!({
                "file": of.policy.display().to_string(),
                "casesFile": of.cases.display().to_string(),
                "cases": of.results.iter().map(each).collect::<Vec<_>>(),
                "passed": of.results.len() - of.failed(),
                "failed": of.failed(),
            })
        })
        .collect();
    json!({ "policies": policies })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const POLICY: &str = "apiVersion: touchstone.dev/v1
kind: Policy
cluster: prod
users: [{ name: alice, teams: [sre], keys: [{ serial: 1 }] }]
rules: [{ name: r, who: { teams: [sre] }, groups: [oncall], decision: auto }]
";
    const CASES: &str = "apiVersion: touchstone.dev/v1
kind: PolicyTests
at: 2026-07-01T10:00:00Z
cases:
- name: alice is on call
  request: { user: alice, groups: [oncall] }
  expect: { verdict: approve, rules: [r] }
- name: alice is no administrator
  request: { user: alice, groups: [admin] }
  expect: { verdict: deny }
";

    fn command(dir: &Path, cases: Option<&str>) -> Test {
        let file = dir.join("policy.yaml");
        fs::write(&file, POLICY).unwrap();
        if let Some(cases) = cases {
            fs::write(dir.join("policy.tests.yaml"), cases).unwrap();
        }
        Test {
            files: vec![file],
            cases: None,
            output: Output::Table,
        }
    }

    fn exit(test: Test) -> u8 {
        test.run().map_or_else(|error| error.exit() as u8, |()| 0)
    }

    #[test]
    fn cases_stand_beside_the_policy() {
        for (policy, cases) in [
            ("a/policy.yaml", "a/policy.tests.yaml"),
            ("prod.eu.json", "prod.eu.tests.json"),
            ("policy", "policy.tests.yaml"),
        ] {
            assert_eq!(beside(Path::new(policy)), Path::new(cases));
        }
    }

    #[test]
    fn the_exit_code_tells_a_failed_case_from_a_file_that_cannot_be_used() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(exit(command(dir.path(), None)), 3, "no cases");
        assert_eq!(exit(command(dir.path(), Some(CASES))), 0);
        let wrong = CASES.replace("verdict: deny", "verdict: wait");
        assert_eq!(exit(command(dir.path(), Some(&wrong))), 1);
        let typo = CASES.replace("expect:", "expects:");
        assert_eq!(exit(command(dir.path(), Some(&typo))), 3);
        let mut broken = command(dir.path(), Some(CASES));
        fs::write(&broken.files[0], "kind: Polcy").unwrap();
        broken.output = Output::Json;
        assert_eq!(exit(broken), 3);
    }

    #[test]
    fn a_failed_case_is_shown_with_its_place_what_was_expected_and_what_was_said() {
        let dir = tempfile::tempdir().unwrap();
        let wrong = CASES.replace("verdict: approve, rules: [r]", "verdict: deny, rules: []");
        let test = command(dir.path(), Some(&wrong));
        let mut tested = [tested(&test.files[0], None).unwrap()];
        tested[0].policy = "policy.yaml".into();
        tested[0].cases = "policy.tests.yaml".into();
        assert_eq!(
            table(&tested),
            "FAIL  alice is on call (policy.tests.yaml:5:9)
      verdict  expected  deny
               got       approve
      rules    expected  none
               got       \"r\"
      granted for 30m by rule \"r\"
ok    alice is no administrator
policy.yaml: 1 passed, 1 failed
"
        );
        let json = as_json(&tested);
        assert_eq!(json["policies"][0]["failed"], 1);
        assert_eq!(
            json["policies"][0]["cases"][0]["mismatches"][0]["got"],
            "approve"
        );
    }

    #[test]
    fn the_example_answers_its_cases() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
        let tested = tested(&examples.join("policy.yaml"), None).unwrap();
        let tested = [tested];
        assert_eq!(tested[0].failed(), 0, "{}", table(&tested));
    }
}
