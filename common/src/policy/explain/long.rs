//! The long form: the request, the verdict, and what each rule made of it.

use crate::{
    name::GroupName,
    policy::{
        Policy,
        evaluate::{Evaluation, Facts, Tie},
        key::{Pin, Touch, algorithm_name},
        rule::Decision,
    },
};
use std::fmt;

pub(super) struct Long<'a> {
    pub(super) evaluation: &'a Evaluation,
    pub(super) policy: &'a Policy,
    pub(super) facts: &'a Facts<'a>,
}

impl fmt::Display for Long<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            evaluation,
            policy,
            facts,
        } = self;
        let groups: Vec<_> = facts.groups.iter().map(GroupName::as_str).collect();
        writeln!(f, "{}", evaluation.short())?;
        writeln!(f)?;
        writeln!(f, "request")?;
        writeln!(f, "  user      {}", facts.user)?;
        match policy.user(facts.user) {
            Some(user) => {
                let teams: Vec<_> = user.teams.iter().map(|t| policy.team(*t)).collect();
                writeln!(f, "  teams     {}", or_none(&teams.join(", ")))?;
            }
            None => writeln!(f, "  teams     not a user of this policy")?,
        }
        writeln!(f, "  groups    {}", or_none(&groups.join(", ")))?;
        writeln!(f, "  cluster   {}", facts.cluster)?;
        let ttl = facts.ttl.map(|ttl| ttl.to_string());
        writeln!(f, "  ttl       {}", ttl.as_deref().unwrap_or("not given"))?;
        writeln!(f, "  reason    {:?}", facts.reason)?;
        let algorithm = algorithm_name(facts.key.algorithm);
        match facts.key.attested {
            None => write!(f, "  key       {algorithm}, no attestation")?,
            Some(a) => write!(
                f,
                "  key       {algorithm} in YubiKey {} slot {}, firmware {}, PIN {}, touch {}{}",
                a.serial,
                a.slot,
                a.firmware,
                Pin::from(a.pin_policy),
                Touch::from(a.touch_policy),
                if a.test_root {
                    " (vouched for by a configured root, not Yubico's)"
                } else {
                    ""
                }
            )?,
        }
        writeln!(
            f,
            "{}",
            match facts.key.tie {
                Tie::Creator => ", not enrolled; Kubernetes says who asks",
                Tie::Enrolled => "",
                Tie::Nothing => ", not enrolled",
            }
        )?;
        writeln!(f, "  time      {}", facts.now)?;
        writeln!(f)?;
        writeln!(f, "rules")?;
        for outcome in &evaluation.outcomes {
            let Some(rule) = policy.rules.get(outcome.rule()) else {
                continue;
            };
            let applies = if outcome.applies() {
                "applies"
            } else {
                "does not apply"
            };
            writeln!(f, "  {} ({}): {applies}", rule.name, rule.decision)?;
            if outcome.applies() {
                let of: Vec<_> = groups
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| outcome.speaks_of(*i))
                    .map(|(_, group)| *group)
                    .collect();
                let verb = match rule.decision {
                    Decision::Auto => "grants",
                    Decision::Deny => "denies",
                    Decision::Manual => "grants after approval",
                };
                write!(f, "    {verb} {}", of.join(", "))?;
                if rule.decision != Decision::Deny {
                    write!(f, " for at most {}", rule.max_ttl)?;
                }
                writeln!(f)?;
                if let Some(per_grant) = &rule.per_grant {
                    writeln!(f, "    binds the certificate's own group to {per_grant}")?;
                }
                for stage in &rule.stages {
                    writeln!(f, "    needs {stage}")?;
                }
            }
            for violation in outcome.violations(policy, facts) {
                writeln!(f, "    {:<16}  {}", violation.field, violation.message)?;
            }
        }
        if evaluation.outcomes.is_empty() {
            writeln!(f, "  none")?;
        }
        Ok(())
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}
