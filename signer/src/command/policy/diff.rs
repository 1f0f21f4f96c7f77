//! `policy diff`.

use crate::{
    command::{Output, print, print_json},
    error::Error,
    reload::{self, PolicyFileError},
};
use clap::Args;
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};
use touchstone_common::policy::{
    self, Access, AccessChange, FieldChange, ListChange, Policy, Terms, UserChange,
};

/// `policy diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// The policy before
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The policy after
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// End with 1 when there are differences
    #[arg(long)]
    exit_code: bool,
    /// How to print the differences
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Diff {
    pub(super) fn run(self) -> Result<(), Error> {
        let diff = policy::Diff::between(&load(&self.old)?, &load(&self.new)?);
        match self.output {
            Output::Table => print(&table(&diff))?,
            Output::Json => print_json(&as_json(&diff))?,
        }
        match diff.count() {
            count @ 1.. if self.exit_code => Err(Error::PolicyDiffers { count }),
            _ => Ok(()),
        }
    }
}

fn load(path: &Path) -> Result<Policy, Error> {
    let source = reload::read(path)?;
    let file = path.display().to_string();
    Ok(Policy::parse(&file, &source).map_err(PolicyFileError::Load)?)
}

fn table(diff: &policy::Diff) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    if !diff.settings.is_empty() {
        let _ = writeln!(text, "the policy\n  {}", fields(&diff.settings));
    }
    if !diff.users.is_empty() {
        text += "users\n";
        for user in &diff.users {
            let _ = writeln!(text, "  {}", user_line(user));
        }
    }
    if !diff.access.is_empty() {
        text += "access\n";
        let columns = |of: &AccessChange| (of.who.chars().count(), of.group.chars().count());
        let widths = diff.access.iter().map(columns);
        let (who, group) = widths.fold((0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)));
        for of in &diff.access {
            let (word, said) = access_words(&of.change);
            let _ = writeln!(
                text,
                "  {:<who$}  {word:<7}  {:<group$}  {said}",
                of.who, of.group
            );
        }
    }
    if !diff.denials.is_empty() {
        text += "denials\n";
        for of in &diff.denials {
            let word = if of.denied {
                "is denied"
            } else {
                "is no longer denied"
            };
            let hours = of.hours.as_ref();
            let hours = hours.map_or_else(String::new, |hours| format!(" ({hours})"));
            let _ = writeln!(text, "  {} {word} {}{hours}", of.who, of.group);
        }
    }
    let _ = match diff.count() {
        0 => writeln!(text, "no differences"),
        1 => writeln!(text, "1 difference"),
        count => writeln!(text, "{count} differences"),
    };
    text
}

fn user_line(user: &UserChange) -> String {
    let sign = match (user.was, user.is) {
        (false, _) => '+',
        (true, false) => '-',
        (true, true) => '~',
    };
    let mut parts = Vec::new();
    for (what, list) in [
        ("teams", &user.teams),
        ("keys", &user.keys),
        ("usernames", &user.usernames),
    ] {
        let added = list.added.iter().map(|name| format!("+{name}"));
        let removed = list.removed.iter().map(|name| format!("-{name}"));
        let names: Vec<_> = removed.chain(added).collect();
        if !names.is_empty() {
            parts.push(format!("{what} {}", names.join(" ")));
        }
    }
    let (colon, parts) = (if parts.is_empty() { "" } else { ": " }, parts.join("; "));
    format!("{sign} {}{colon}{parts}", user.name)
}

fn access_words(change: &Access) -> (&'static str, String) {
    match change {
        Access::Changed { old, new } => {
            let said = match (old.as_slice(), new.as_slice()) {
                ([old], [new]) => fields(&old.changes(new)),
                _ => format!("{} → {}", all_terms(old), all_terms(new)),
            };
            ("changes", said)
        }
        Access::Gained { terms, had } => ("gains", all_terms(terms) + &listed("; had", had)),
        Access::Lost { terms, keeps } => ("loses", all_terms(terms) + &listed("; keeps", keeps)),
    }
}

fn listed(word: &str, names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    format!("{word} {}", names.join(", "))
}

fn all_terms(all: &[Terms]) -> String {
    let each: Vec<_> = all.iter().map(terms).collect();
    each.join(", or ")
}

/// What is asked of the key is left to `--output json`: it is the same for most rules.
fn terms(terms: &Terms) -> String {
    let mut text = format!("{}, at most {}", terms.decision, terms.max_ttl);
    for (field, asked) in &terms.conditions {
        if !field.starts_with("key.") {
            let _ = write!(text, ", {field} {asked}");
        }
    }
    let _ = write!(text, " (rule {:?})", terms.rule);
    text
}

fn fields(changes: &[FieldChange]) -> String {
    let word = |value: &Option<String>| value.clone().unwrap_or("none".into());
    let each = changes
        .iter()
        .map(|of| format!("{}: {} → {}", of.field, word(&of.old), word(&of.new)));
    each.collect::<Vec<_>>().join("; ")
}

fn as_json(diff: &policy::Diff) -> Value {
    let settings: Vec<_> = diff.settings.iter().map(field_json).collect();
    let users: Vec<_> = diff.users.iter().map(user_json).collect();
    let access: Vec<_> = diff.access.iter().map(access_json).collect();
    let denials: Vec<_> = diff
        .denials
        .iter()
        .map(|of| json!({ "who": of.who, "group": of.group, "hours": of.hours, "denied": of.denied }))
        .collect();
    json!({
        "settings": settings,
        "users": users,
        "access": access,
        "denials": denials,
        "differences": diff.count(),
    })
}

fn field_json(of: &FieldChange) -> Value {
    json!({ "field": of.field, "old": of.old, "new": of.new })
}

fn user_json(user: &UserChange) -> Value {
    let list = |of: &ListChange| json!({ "added": of.added, "removed": of.removed });
    json!({
        "name": user.name,
        "change": match (user.was, user.is) {
            (false, _) => "added",
            (true, false) => "removed",
            (true, true) => "changed",
        },
        "teams": list(&user.teams),
        "keys": list(&user.keys),
        "usernames": list(&user.usernames),
    })
}

fn access_json(of: &AccessChange) -> Value {
    let (change, old, new, partly) = match &of.change {
        Access::Changed { old, new } => ("changed", old.as_slice(), new.as_slice(), &[][..]),
        Access::Gained { terms, had } => ("gained", &[][..], terms.as_slice(), had.as_slice()),
        Access::Lost { terms, keeps } => ("lost", terms.as_slice(), &[][..], keeps.as_slice()),
    };
    let each = |all: &[Terms]| all.iter().map(terms_json).collect::<Vec<_>>();
    json!({
        "who": of.who,
        "group": of.group,
        "change": change,
        "old": each(old),
        "new": each(new),
        "partly": partly,
    })
}

fn terms_json(terms: &Terms) -> Value {
    let conditions: serde_json::Map<_, _> = terms
        .conditions
        .iter()
        .map(|(field, asked)| ((*field).to_owned(), json!(asked)))
        .collect();
    json!({
        "rule": terms.rule,
        "decision": terms.decision.to_string(),
        "maxTTL": terms.max_ttl.to_string(),
        "conditions": conditions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const OLD: &str = "apiVersion: touchstone.dev/v1
kind: Policy
cluster: prod
users:
- { name: alice, teams: [payments], keys: [{ serial: 1 }] }
- { name: bob, teams: [sre], keys: [{ serial: 2 }] }
rules:
- { name: pay, who: { teams: [payments] }, groups: [pay], maxTTL: 30m, decision: auto }
- { name: sre, who: { teams: [sre] }, groups: [\"sre:**\"], decision: auto }
";

    fn new() -> String {
        OLD.replace(
            "teams: [payments], keys: [{ serial: 1 }]",
            "teams: [payments, sre], keys: [{ serial: 3 }]",
        )
        .replace("maxTTL: 30m", "maxTTL: 45m")
        .replace("\"sre:**\"", "\"sre:read\"")
            + "- { name: freeze, groups: [\"deploy:**\"], decision: deny }\n"
    }

    fn diff() -> policy::Diff {
        let policy = |text: &str| Policy::parse("p", text.as_bytes()).unwrap();
        policy::Diff::between(&policy(OLD), &policy(&new()))
    }

    #[test]
    fn a_change_is_shown_by_who_gains_and_loses_what() {
        assert_eq!(
            table(&diff()),
            "users
  ~ alice: teams +sre; keys -YubiKey 1 +YubiKey 3
access
  alice  changes  pay       maxTTL: 30m → 45m
  alice  gains    sre:read  auto, at most 1h (rule \"sre\")
  bob    loses    sre:**    auto, at most 1h (rule \"sre\"); keeps sre:read
denials
  everyone is denied deploy:**
5 differences
"
        );
        assert_eq!(table(&policy::Diff::default()), "no differences\n");
    }

    #[test]
    fn programs_get_the_whole_terms() {
        let json = as_json(&diff());
        assert_eq!(json["differences"], 5);
        assert_eq!(json["access"][0]["change"], "changed");
        assert_eq!(json["access"][0]["old"][0]["maxTTL"], "30m");
        assert_eq!(
            json["access"][0]["new"][0]["conditions"]["key.touch"],
            "always"
        );
        assert_eq!(json["access"][2]["partly"][0], "sre:read");
        assert_eq!(json["users"][0]["keys"]["added"][0], "YubiKey 3");
    }

    #[test]
    fn differences_are_no_failure_unless_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let (old, new) = (write("old.yaml", OLD), write("new.yaml", &new()));
        let run = |old: &Path, new: &Path, exit_code| {
            let diff = Diff {
                old: old.into(),
                new: new.into(),
                exit_code,
                output: Output::Json,
            };
            diff.run().map_or_else(|error| error.exit() as u8, |()| 0)
        };
        assert_eq!(run(&old, &new, false), 0);
        assert_eq!(run(&old, &new, true), 1);
        assert_eq!(run(&old, &old, true), 0);
        assert_eq!(run(&old, &dir.path().join("none.yaml"), true), 3);
    }
}
