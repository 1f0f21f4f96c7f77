//! Users who came, left, changed teams or keys.

use super::{ListChange, UserChange};
use crate::policy::{
    Policy,
    user::{EnrolledKey, User},
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
struct Person {
    teams: BTreeSet<String>,
    keys: BTreeSet<String>,
    usernames: BTreeSet<String>,
}

pub(super) fn changes(old: &Policy, new: &Policy) -> Vec<UserChange> {
    let (before, after) = (people(old), people(new));
    let names: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
    let nobody = Person::default();
    names
        .into_iter()
        .filter_map(|name| {
            let (was, is) = (before.get(name), after.get(name));
            let (old, new) = (was.unwrap_or(&nobody), is.unwrap_or(&nobody));
            let change = UserChange {
                name: name.to_owned(),
                was: was.is_some(),
                is: is.is_some(),
                teams: ListChange::between(&old.teams, &new.teams),
                keys: ListChange::between(&old.keys, &new.keys),
                usernames: ListChange::between(&old.usernames, &new.usernames),
            };
            let same = change.was == change.is
                && change.teams.is_empty()
                && change.keys.is_empty()
                && change.usernames.is_empty();
            (!same).then_some(change)
        })
        .collect()
}

fn people(policy: &Policy) -> BTreeMap<&str, Person> {
    let mut people: BTreeMap<&str, Person> = policy
        .users
        .iter()
        .map(|user| (user.name.as_str(), person(policy, user)))
        .collect();
    for (creator, owner) in &policy.by_creator {
        let owner = policy.users.get(*owner).map(|user| user.name.as_str());
        if let Some(person) = owner.and_then(|name| people.get_mut(name)) {
            person.usernames.insert(creator.clone());
        }
    }
    people
}

fn person(policy: &Policy, user: &User) -> Person {
    let teams = user.teams.iter();
    Person {
        teams: teams.map(|team| policy.team(*team).to_owned()).collect(),
        keys: user.keys.iter().map(key).collect(),
        usernames: BTreeSet::new(),
    }
}

fn key(key: &EnrolledKey) -> String {
    match key {
        EnrolledKey::Key { spki_sha256 } => format!("key sha256:{}", hex::encode(spki_sha256)),
        EnrolledKey::YubiKey {
            serial,
            spki_sha256: None,
        } => format!("YubiKey {serial}"),
        EnrolledKey::YubiKey {
            serial,
            spki_sha256: Some(spki),
        } => format!(
            "YubiKey {serial}, only its key sha256:{}",
            hex::encode(spki)
        ),
    }
}
