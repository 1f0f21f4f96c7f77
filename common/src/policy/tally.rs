//! Approvals counted: which stages they meet, and whom they leave to be waited for.
//!
//! A person counts once in a request: whoever is in two of its stages meets one of them, and the other needs someone else.
//! Who fills which place is found as a maximum matching, so that it never depends on the order of the statements.

use super::{
    Policy,
    evaluate::KeyFacts,
    explain::shortened,
    rule::{Rule, Stage},
    user::User,
};
use crate::{approval::Decision, claims::Reason, name::UserName};
use std::fmt;

/// The most characters of a comment that are shown again.
const QUOTED: usize = 200;

/// What an approver said of the request that is judged, with a key that speaks for them.
#[derive(Clone, Copy, Debug)]
pub struct Vote<'a> {
    /// Who.
    pub approver: &'a UserName,
    /// Yes or no.
    pub decision: Decision,
    /// Why.
    pub comment: &'a Reason,
}

/// What came of the votes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    missing: Vec<Missing>,
    counted: Vec<usize>,
    denial: Option<String>,
    nothing: Vec<(UserName, String)>,
}

/// What a stage still needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    stage: Stage,
    /// How many of its approvals are there.
    present: u16,
}

impl Tally {
    /// What is still waited for; empty when every stage is met.
    #[must_use]
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// The votes that met a stage, by their place among those given. Ascending.
    #[must_use]
    pub fn counted(&self) -> &[usize] {
        &self.counted
    }

    /// Who said no to a stage that is not met, and why, in words.
    #[must_use]
    pub fn denial(&self) -> Option<&str> {
        self.denial.as_deref()
    }

    /// Whose votes counted for nothing, and why.
    #[must_use]
    pub fn nothing(&self) -> &[(UserName, String)] {
        &self.nothing
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stage {
            Stage::Approvers { count, .. } if self.present > 0 => {
                let rest = count.saturating_sub(self.present);
                write!(
                    f,
                    "{rest} of {count} approvals from {}",
                    self.stage.approvers()
                )
            }
            stage => stage.fmt(f),
        }
    }
}

impl Policy {
    /// Whether a rule of this policy lets the user approve anything.
    #[must_use]
    pub fn is_approver(&self, name: &UserName) -> bool {
        let place = self.by_name.get(name);
        place.is_some_and(|place| self.approvers.contains(place))
    }

    /// Whether a key is good enough to approve with: what `defaults.key` asks.
    ///
    /// # Errors
    /// What it lacks, in words.
    pub fn check_approver_key(&self, key: &KeyFacts<'_>) -> Result<(), &'static str> {
        let failed = self.approver_key.check(key);
        let words = [
            (failed.attested, "it is not proven to live in a YubiKey"),
            (failed.enrolled, "it is not enrolled"),
            (failed.algorithm, "it is of another kind"),
            (failed.firmware, "the YubiKey's firmware is too old"),
            (failed.slot, "it is in another slot"),
            (failed.pin, "its PIN policy is too weak"),
            (failed.touch, "its touch policy is too weak"),
        ];
        match words.iter().find(|(failed, _)| *failed) {
            Some((_, words)) => Err(words),
            None => Ok(()),
        }
    }

    /// Counts votes for the stages of a request of `requester`. Of several votes of one approver, the last counts.
    #[must_use]
    pub fn tally(
        &self,
        stages: &[Stage],
        requester: &UserName,
        votes: &[Vote<'_>],
        approved_in_kubernetes: bool,
    ) -> Tally {
        let mut tally = Tally::default();
        let mut voters: Vec<Voter<'_>> = Vec::new();
        for (place, vote) in votes.iter().enumerate() {
            let mut nothing = |why: &str| {
                tally.nothing.push((vote.approver.clone(), why.to_owned()));
            };
            let Some(user) = self.user(vote.approver) else {
                nothing("is not a user of this policy");
                continue;
            };
            if vote.approver == requester {
                nothing("asks, and does not count");
                continue;
            }
            let eligible = self.eligible(user, stages);
            if eligible.is_empty() {
                nothing("may not approve this request");
                continue;
            }
            voters.retain(|voter| voter.vote.approver != vote.approver);
            voters.push(Voter {
                place,
                vote: *vote,
                eligible,
            });
        }

        let (no, yes): (Vec<_>, Vec<_>) = voters
            .into_iter()
            .partition(|voter| voter.vote.decision == Decision::Deny);
        let taken = Seats::fill(stages, yes.iter().map(|voter| voter.eligible.clone()));
        tally.counted = taken
            .iter()
            .flatten()
            .filter_map(|voter| yes.get(*voter).map(|voter| voter.place))
            .collect();
        tally.counted.sort_unstable();
        for voter in yes.iter().filter(|v| !tally.counted.contains(&v.place)) {
            let why = "is not needed: the stages they are in are met".to_owned();
            tally.nothing.push((voter.vote.approver.clone(), why));
        }
        let mut unmet = Vec::new();
        for (place, (stage, taken)) in stages.iter().zip(&taken).enumerate() {
            let present = u16::try_from(taken.len()).unwrap_or(u16::MAX);
            let is_met = match stage {
                Stage::Approvers { count, .. } => present >= *count,
                Stage::Kubernetes => approved_in_kubernetes,
            };
            if !is_met {
                unmet.push(place);
                tally.missing.push(Missing {
                    stage: stage.clone(),
                    present,
                });
            }
        }
        for voter in no {
            if tally.denial.is_none() && voter.eligible.iter().any(|stage| unmet.contains(stage)) {
                tally.denial = Some(denied_by(&voter.vote));
            } else {
                let why = "says no to stages that are met, or that another said no to".to_owned();
                tally.nothing.push((voter.vote.approver.clone(), why));
            }
        }
        tally
    }

    /// Whether there are people enough with keys to meet these stages, each of them in one.
    pub(super) fn can_meet(&self, stages: &[Stage]) -> bool {
        let able = self
            .approvers
            .iter()
            .filter_map(|place| self.users.get(*place));
        let able = able.filter(|user| !user.keys.is_empty());
        let eligible = able.map(|user| self.eligible(user, stages));
        let taken = Seats::fill(stages, eligible);
        stages
            .iter()
            .zip(taken)
            .all(|(stage, taken)| taken.len() == room(stage))
    }

    fn eligible(&self, user: &User, stages: &[Stage]) -> Vec<usize> {
        let stages = stages.iter().enumerate();
        stages
            .filter(|(_, stage)| self.may_approve(user, stage))
            .map(|(place, _)| place)
            .collect()
    }

    fn may_approve(&self, user: &User, stage: &Stage) -> bool {
        let Stage::Approvers { users, teams, .. } = stage else {
            return false;
        };
        let is_in = |names: &[std::sync::Arc<str>], name: &str| {
            names.binary_search_by(|one| (**one).cmp(name)).is_ok()
        };
        is_in(users, user.name.as_str())
            || user.teams.iter().any(|team| is_in(teams, self.team(*team)))
    }
}

fn denied_by(vote: &Vote<'_>) -> String {
    let comment = vote.comment.as_str();
    if comment.is_empty() {
        format!("{} says no", vote.approver)
    } else {
        format!(
            "{} says no: {:?}",
            vote.approver,
            shortened(comment, QUOTED)
        )
    }
}

struct Voter<'a> {
    place: usize,
    vote: Vote<'a>,
    /// The stages they may approve in.
    eligible: Vec<usize>,
}

/// Who meets which stage.
struct Seats<'s> {
    stages: &'s [Stage],
    /// For each voter, the stages they may approve in.
    eligible: Vec<Vec<usize>>,
    /// For each stage, the voters who are counted in it.
    taken: Vec<Vec<usize>>,
}

/// How many approvals a stage takes.
fn room(stage: &Stage) -> usize {
    match stage {
        Stage::Approvers { count, .. } => usize::from(*count),
        Stage::Kubernetes => 0,
    }
}

impl<'s> Seats<'s> {
    /// For each stage, who is counted in it: as many in all as can be.
    fn fill(stages: &'s [Stage], eligible: impl Iterator<Item = Vec<usize>>) -> Vec<Vec<usize>> {
        let mut seats = Self {
            stages,
            eligible: eligible.collect(),
            taken: vec![Vec::new(); stages.len()],
        };
        for voter in 0..seats.eligible.len() {
            seats.place(voter, &mut vec![false; stages.len()]);
        }
        seats.taken
    }

    /// Finds a place for a voter, moving others on where that makes room (an augmenting path). `seen`: stages that this
    /// search has been at.
    fn place(&mut self, voter: usize, seen: &mut [bool]) -> bool {
        for stage in self.eligible.get(voter).cloned().unwrap_or_default() {
            match seen.get_mut(stage) {
                Some(seen) if !*seen => *seen = true,
                _ => continue,
            }
            let there = self.taken.get(stage).cloned().unwrap_or_default();
            let room = self.stages.get(stage).map_or(0, room);
            let leaves = if there.len() < room {
                None
            } else {
                match there.into_iter().find(|other| self.place(*other, seen)) {
                    Some(other) => Some(other),
                    None => continue,
                }
            };
            if let Some(taken) = self.taken.get_mut(stage) {
                taken.retain(|one| Some(*one) != leaves);
                taken.push(voter);
                return true;
            }
        }
        false
    }
}

/// What these rules ask together. Stages of one rule with the same approvers need that many people together; what two
/// rules ask of the same approvers is asked once, as often as the stricter asks.
pub(super) fn stages<'a>(rules: impl Iterator<Item = &'a Rule>) -> Vec<Stage> {
    let mut all: Vec<Stage> = Vec::new();
    for rule in rules {
        let mut own: Vec<Stage> = Vec::new();
        for stage in &rule.stages {
            merge(&mut own, stage, u16::saturating_add);
        }
        for stage in &own {
            merge(&mut all, stage, u16::max);
        }
    }
    all
}

fn merge(stages: &mut Vec<Stage>, new: &Stage, counts: impl Fn(u16, u16) -> u16) {
    for stage in &mut *stages {
        match (stage, new) {
            (Stage::Kubernetes, Stage::Kubernetes) => return,
            (
                Stage::Approvers {
                    count,
                    users,
                    teams,
                },
                Stage::Approvers {
                    count: more,
                    users: same_users,
                    teams: same_teams,
                },
            ) if users == same_users && teams == same_teams => {
                *count = counts(*count, *more);
                return;
            }
            _ => {}
        }
    }
    stages.push(new.clone());
}
