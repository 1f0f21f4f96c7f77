//! Rules: who, which groups, and the conditions.

use super::{Check, KeyParts, shown};
use crate::{
    name::{ClusterName, GroupName},
    policy::{
        at::At,
        binding::{PerGrant, RoleKind},
        hours::{Days, Hours, Minute},
        pattern::{Pattern, PatternError, TEMPLATE, after_reserved, is_label, is_reserved},
        rule::{Decision, ReasonCondition, Rule, Stage, Who},
        user::TeamId,
        wire,
    },
    ttl::{Ttl, WaitLimit},
};
use jiff::civil::Weekday;
use regex::{Regex, RegexBuilder};
use std::sync::Arc;

/// The most characters of a reason's pattern, and the most memory that it may take once compiled.
const MAX_REGEX: usize = 256;
const MAX_REGEX_BYTES: usize = 256 * 1024;
/// The most different patterns of reasons: each may take that memory.
const MAX_REGEXES: usize = 256;
/// The most characters a reason can have (see [`crate::claims::Reason`]).
const MAX_REASON: u16 = 512;
/// The most approvals a stage may ask for.
const MAX_COUNT: u16 = 16;
/// The most namespaces that a rule may bind in.
const MAX_NAMESPACES: usize = 16;
/// The most characters of a role's name.
const MAX_ROLE: usize = 253;

impl Check {
    pub(super) fn rule(
        &mut self,
        wire: &wire::Rule,
        key: &KeyParts,
        max: Ttl,
        wait_for: WaitLimit,
    ) -> Rule {
        self.label("rule name", &wire.name);
        let decision = match wire.decision {
            wire::Decision::Auto => Decision::Auto,
            wire::Decision::Deny => Decision::Deny,
            wire::Decision::Manual => Decision::Manual,
        };
        let denies = decision == Decision::Deny;
        if denies {
            self.no_conditions_of_grants(wire);
        }
        let own = wire.key.as_ref().map(|at| self.key_parts(&at.value));
        let own = own.unwrap_or_default();
        let namespaces = self.namespaces(wire);
        self.findings.extend(own.contradiction(key));
        Rule {
            name: wire.name.value.as_str().into(),
            who: self.who(wire, denies),
            groups: self.groups(&wire.groups, denies, namespaces.as_ref()),
            clusters: wire.clusters.as_ref().map(|at| self.clusters(at)),
            max_ttl: self.max_ttl(wire, max),
            reason: wire.reason.as_ref().map(|at| self.reason(at)),
            hours: wire.hours.as_ref().and_then(|at| self.hours(at)),
            key: (!denies).then(|| own.over(key)),
            decision,
            stages: self.stages(wire, decision),
            wait_for: self.wait_for(wire, decision).unwrap_or(wait_for),
            per_grant: wire.binding.as_ref().and_then(|at| self.per_grant(at)),
        }
    }

    fn no_conditions_of_grants(&mut self, wire: &wire::Rule) {
        for (key, position) in [
            ("maxTTL", wire.max_ttl.as_ref().map(|at| at.position)),
            ("reason", wire.reason.as_ref().map(|at| at.position)),
            ("key", wire.key.as_ref().map(|at| at.position)),
            ("binding", wire.binding.as_ref().map(|at| at.position)),
        ] {
            if position.is_some() {
                self.find(
                    position,
                    format!("a rule that denies takes no {key}: it denies whatever they are"),
                );
            }
        }
    }

    fn who(&mut self, wire: &wire::Rule, denies: bool) -> Option<Who> {
        let Some(at) = wire.who.as_ref() else {
            if !denies {
                self.at(
                    &wire.name,
                    format!(
                        "rule {:?} does not say who it is for: name users, teams or groups under `who`",
                        wire.name.value
                    ),
                );
            }
            return None;
        };
        let wire = &at.value;
        self.some_of(
            "who",
            at,
            wire.users.len() + wire.teams.len() + wire.groups.len(),
        );
        let mut users: Vec<_> = wire
            .users
            .iter()
            .filter_map(|at| self.user_name(at))
            .collect();
        users.sort_unstable();
        let mut kubernetes_groups: Vec<Arc<str>> = Vec::new();
        for group in &wire.groups {
            if is_reserved(&group.value) {
                self.at(
                    group,
                    format!(
                        "{:?} is a group that Kubernetes gives by itself, not by who someone is; name teams or users",
                        shown(&group.value)
                    ),
                );
            } else if self.label("Kubernetes group", group) {
                kubernetes_groups.push(group.value.as_str().into());
            }
        }
        Some(Who {
            users,
            teams: self.teams(&wire.teams),
            kubernetes_groups,
        })
    }

    fn some_of<T>(&mut self, key: &str, at: &At<T>, count: usize) {
        if count == 0 {
            self.at(at, format!("{key} names nobody"));
        }
    }

    /// What `{namespace}` in the rule's groups stands for.
    fn namespaces(&mut self, wire: &wire::Rule) -> Option<Arc<[Pattern]>> {
        let all = wire.namespaces.as_ref()?;
        self.not_empty("namespaces", all.position, all.value.len());
        let mut groups = wire.groups.value.iter();
        if !groups.any(|at| at.value.contains(TEMPLATE)) {
            self.at(
                all,
                format!("no group of the rule has {TEMPLATE}, which is what namespaces are for"),
            );
        }
        let patterns = all.value.iter().filter_map(|at| self.namespace(at));
        Some(patterns.collect())
    }

    fn namespace(&mut self, at: &At<String>) -> Option<Pattern> {
        let text = &at.value;
        let what = format!("namespace {:?}", shown(text));
        let pattern = self.ok(at, &what, Pattern::parse(text))?;
        if text.contains("**") {
            self.at(
                at,
                format!("{what} has two stars: one is enough, a namespace has no colon"),
            );
        } else if !is_label(&text.replace('*', "x")) {
            self.at(
                at,
                format!(
                    "{what} is none that Kubernetes has: at most 63 lower-case letters, digits and `-`, none at an edge"
                ),
            );
        }
        Some(pattern)
    }

    fn groups(
        &mut self,
        all: &At<Vec<At<String>>>,
        denies: bool,
        namespaces: Option<&Arc<[Pattern]>>,
    ) -> Vec<Pattern> {
        self.not_empty("groups", all.position, all.value.len());
        let mut patterns = Vec::new();
        for at in &all.value {
            let name = |text: &str| {
                let name = GroupName::parse(&text.replace(TEMPLATE, "x"));
                name.map(drop).map_err(|e| e.to_string())
            };
            let pattern = Pattern::template(&at.value, namespaces);
            let Some(pattern) = self.pattern("group", at, pattern, denies, name) else {
                continue;
            };
            if !denies && pattern.can_match_reserved() {
                self.at(
                    at,
                    format!(
                        "group {:?} reaches reserved names (`system:` is Kubernetes' own, `touchstone:` the embedded API's), \
                         which no policy can grant",
                        at.value
                    ),
                );
            }
            patterns.push(pattern);
        }
        patterns
    }

    fn clusters(&mut self, all: &At<Vec<At<String>>>) -> Vec<Pattern> {
        self.not_empty("clusters", all.position, all.value.len());
        let name = |text: &str| {
            ClusterName::parse(text)
                .map(drop)
                .map_err(|e| e.to_string())
        };
        all.value
            .iter()
            .filter_map(|at| self.pattern("cluster", at, Pattern::parse(&at.value), false, name))
            .collect()
    }

    fn pattern(
        &mut self,
        what: &str,
        at: &At<String>,
        pattern: Result<Pattern, PatternError>,
        reserved_too: bool,
        name: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Pattern> {
        let what = format!("{what} {:?}", shown(&at.value));
        let pattern = self.ok(at, &what, pattern)?;
        // What stands around the stars has to be what a name may have; what a name may not begin with is said elsewhere.
        let sample = at.value.replace("**", "x").replace('*', "x");
        let sample = match after_reserved(&sample) {
            Some(rest) if reserved_too || pattern.can_match_reserved() => rest,
            _ => sample.as_str(),
        };
        self.ok(at, &what, name(sample))?;
        Some(pattern)
    }

    fn max_ttl(&mut self, wire: &wire::Rule, max: Ttl) -> Ttl {
        let Some(at) = wire.max_ttl.as_ref() else {
            return max;
        };
        let ttl = self.ttl(at).unwrap_or(max);
        if ttl > max {
            self.at(
                at,
                format!("maxTTL {ttl} is longer than defaults.maxTTL, {max}, the longest that any rule can grant"),
            );
        }
        ttl
    }

    fn reason(&mut self, at: &At<wire::Reason>) -> ReasonCondition {
        let wire = &at.value;
        let pattern = wire.pattern.as_ref();
        let min_length = wire.min_length.as_ref();
        if pattern.is_none() && min_length.is_none() {
            self.at(
                at,
                "reason asks for nothing: give a pattern or a minLength".to_owned(),
            );
        }
        if let Some(at) = min_length.filter(|at| at.value > MAX_REASON) {
            self.at(
                at,
                format!(
                    "minLength {} can't be met: a reason has at most {MAX_REASON} characters",
                    at.value
                ),
            );
        }
        ReasonCondition {
            pattern: pattern.and_then(|at| self.regex(at)),
            min_length: min_length.map_or(0, |at| at.value),
        }
    }

    /// A regular expression; the same text is compiled once.
    fn regex(&mut self, at: &At<String>) -> Option<Arc<Regex>> {
        if let Some(regex) = self.regexes.get(&at.value) {
            return Some(Arc::clone(regex));
        }
        if at.value.chars().count() > MAX_REGEX {
            self.at(
                at,
                format!("the pattern is longer than {MAX_REGEX} characters"),
            );
            return None;
        }
        if self.regexes.len() >= MAX_REGEXES {
            self.at(
                at,
                format!("the pattern is the policy's {}th; at most {MAX_REGEXES} different ones are read", MAX_REGEXES + 1),
            );
            return None;
        }
        let built = RegexBuilder::new(&at.value)
            .size_limit(MAX_REGEX_BYTES)
            .dfa_size_limit(MAX_REGEX_BYTES)
            .nest_limit(16)
            .build();
        match built {
            Ok(regex) => {
                let regex = Arc::new(regex);
                self.regexes.insert(at.value.clone(), Arc::clone(&regex));
                Some(regex)
            }
            Err(error) => {
                // A syntax error shows the pattern over several lines; its last one says what is wrong.
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default();
                let cause = last.trim_start_matches("error: ");
                self.at(
                    at,
                    format!("the pattern {:?} can't be read: {cause}", shown(&at.value)),
                );
                None
            }
        }
    }

    fn per_grant(&mut self, at: &At<wire::Binding>) -> Option<PerGrant> {
        let wire = &at.value.per_grant;
        let role = match (wire.cluster_role.as_ref(), wire.role.as_ref()) {
            (Some(role), None) => Some((RoleKind::ClusterRole, role)),
            (None, Some(role)) => Some((RoleKind::Role, role)),
            (Some(_), Some(_)) | (None, None) => {
                self.at(at, "perGrant names a clusterRole or a role".to_owned());
                None
            }
        };
        if let Some((_, role)) = role
            && !is_role(&role.value)
        {
            self.at(
                role,
                format!(
                    "{:?} is no role that Kubernetes can have",
                    shown(&role.value)
                ),
            );
        }
        let all = &wire.namespaces;
        self.not_empty("namespaces", all.position, all.value.len());
        if all.value.len() > MAX_NAMESPACES {
            self.at(
                all,
                format!("a rule binds in at most {MAX_NAMESPACES} namespaces"),
            );
        }
        for namespace in &all.value {
            if !is_label(&namespace.value) {
                self.at(
                    namespace,
                    format!(
                        "namespace {:?} is none that Kubernetes has; patterns are not taken here",
                        shown(&namespace.value)
                    ),
                );
            }
        }
        let (kind, role) = role?;
        let namespaces = all.value.iter().map(|at| at.value.as_str().into());
        Some(PerGrant {
            kind,
            role: role.value.as_str().into(),
            namespaces: in_order(namespaces.collect()),
        })
    }

    fn hours(&mut self, at: &At<wire::Hours>) -> Option<Hours> {
        let wire = &at.value;
        let days = match wire.days.as_ref() {
            None => Days::ALL,
            Some(at) => {
                self.not_empty("days", at.position, at.value.len());
                Days::of(at.value.iter().map(weekday))
            }
        };
        let from = self.ok(&wire.from, "", Minute::parse(&wire.from.value));
        let to = self.ok(&wire.to, "", Minute::parse(&wire.to.value));
        self.ok(&wire.zone, "", Hours::zone(&wire.zone.value))?;
        self.ok(at, "", Hours::new(days, from?, to?, &wire.zone.value))
    }

    fn wait_for(&mut self, wire: &wire::Rule, decision: Decision) -> Option<WaitLimit> {
        let at = wire.wait_for.as_ref()?;
        if decision != Decision::Manual {
            self.at(at, "waitFor goes with `decision: manual`".to_owned());
        }
        self.ok(at, "waitFor", at.value.parse())
    }

    fn stages(&mut self, wire: &wire::Rule, decision: Decision) -> Vec<Stage> {
        let approvals = match (decision, wire.approvals.as_ref()) {
            (Decision::Manual, Some(at)) => at,
            (Decision::Manual, None) => {
                self.at(
                    &wire.name,
                    format!(
                        "rule {:?} is manual but does not say who approves: give `approvals`",
                        wire.name.value
                    ),
                );
                return Vec::new();
            }
            (Decision::Auto | Decision::Deny, Some(at)) => {
                self.at(at, "approvals go with `decision: manual`".to_owned());
                return Vec::new();
            }
            (Decision::Auto | Decision::Deny, None) => return Vec::new(),
        };
        match &approvals.value {
            wire::Approvals::Kubernetes(_) => vec![Stage::Kubernetes],
            wire::Approvals::Stages(stages) => {
                self.not_empty("approvals", approvals.position, stages.len());
                stages.iter().map(|stage| self.stage(stage)).collect()
            }
        }
    }

    fn stage(&mut self, wire: &wire::Stage) -> Stage {
        let from = &wire.from.value;
        self.some_of("from", &wire.from, from.users.len() + from.teams.len());
        let count = wire.count.as_ref();
        if let Some(at) = count.filter(|at| !(1..=MAX_COUNT).contains(&at.value)) {
            self.at(at, format!("count is from 1 to {MAX_COUNT}"));
        }
        let users = from.users.iter().filter_map(|at| self.user_name(at));
        let users: Vec<Arc<str>> = users.map(|name| name.as_str().into()).collect();
        let teams = self.teams(&from.teams);
        let teams: Vec<_> = teams
            .into_iter()
            .filter_map(|id| self.team_name(id))
            .collect();
        Stage::Approvers {
            count: count.map_or(1, |at| at.value),
            users: in_order(users),
            teams: in_order(teams),
        }
    }

    fn team_name(&self, TeamId(index): TeamId) -> Option<Arc<str>> {
        self.team_names.get(index).cloned()
    }
}

/// What Kubernetes takes as the name of a role (apimachinery's path segment names), of characters that show.
fn is_role(name: &str) -> bool {
    (1..=MAX_ROLE).contains(&name.len())
        && !matches!(name, "." | "..")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'%'))
}

fn in_order(mut names: Vec<Arc<str>>) -> Vec<Arc<str>> {
    names.sort_unstable();
    names.dedup();
    names
}

fn weekday(day: &wire::Day) -> Weekday {
    match day {
        wire::Day::Mon => Weekday::Monday,
        wire::Day::Tue => Weekday::Tuesday,
        wire::Day::Wed => Weekday::Wednesday,
        wire::Day::Thu => Weekday::Thursday,
        wire::Day::Fri => Weekday::Friday,
        wire::Day::Sat => Weekday::Saturday,
        wire::Day::Sun => Weekday::Sunday,
    }
}
