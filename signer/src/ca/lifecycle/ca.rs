//! One issuing CA: which it is, how far it came, and when.

use super::{Length, Root, after};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Which CA of a record: `ca-1` is its first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CaId(pub(super) u32);

/// Not a CA's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a CA's id such as ca-3")]
pub struct CaIdError(String);

/// How far a CA is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its key is there.
    Prepared,
    /// The security team is asked for its certificate.
    AwaitingRoot,
    /// It is trusted, and does not sign yet.
    Published,
    /// It signs.
    Active,
    /// It signs no more, and is trusted until its last leaf has ended.
    Retiring,
    /// Its key is destroyed.
    Removed,
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifetime {
    /// First second.
    pub not_before: Timestamp,
    /// Last second.
    pub not_after: Timestamp,
}

/// An issuing CA's way so far.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ca {
    pub(super) id: CaId,
    pub(super) state: State,
    pub(super) root: Root,
    pub(super) made: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lifetime: Option<Lifetime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) published: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) activated: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) retired: Option<Timestamp>,
    /// No leaf of it lives past this moment and the time that CAs are kept after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) leaves_end: Option<Timestamp>,
    /// How long its leaves may live, from when it became active on.
    pub(super) longest_leaf: Length,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) removed: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) distrusted: Option<Timestamp>,
}

impl Ca {
    pub(super) fn new(id: CaId, root: Root, made: Timestamp, longest_leaf: Length) -> Self {
        Self {
            id,
            state: State::Prepared,
            root,
            made,
            lifetime: None,
            published: None,
            activated: None,
            retired: None,
            leaves_end: None,
            longest_leaf,
            removed: None,
            distrusted: None,
        }
    }

    /// What its state asks for, and whether it is there.
    pub(super) fn needs(&self) -> Vec<(&'static str, bool)> {
        let trusted = || {
            vec![
                ("certificate", self.lifetime.is_some()),
                ("time of publishing", self.published.is_some()),
            ]
        };
        match self.state {
            State::Prepared | State::AwaitingRoot | State::Removed => Vec::new(),
            State::Published => trusted(),
            State::Active => [
                trusted(),
                vec![("time of activation", self.activated.is_some())],
            ]
            .concat(),
            State::Retiring => [trusted(), vec![("last leaf", self.leaves_end.is_some())]].concat(),
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> CaId {
        self.id
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Who signs, or signed, its certificate.
    #[must_use]
    pub fn root(&self) -> Root {
        self.root
    }

    /// When its key was made.
    #[must_use]
    pub fn made(&self) -> Timestamp {
        self.made
    }

    /// The dates of its certificate, once it has one.
    #[must_use]
    pub fn lifetime(&self) -> Option<Lifetime> {
        self.lifetime
    }

    /// Since when it is trusted.
    #[must_use]
    pub fn published(&self) -> Option<Timestamp> {
        self.published
    }

    /// Since when it signs, or signed.
    #[must_use]
    pub fn activated(&self) -> Option<Timestamp> {
        self.activated
    }

    /// When it signed last.
    #[must_use]
    pub fn retired(&self) -> Option<Timestamp> {
        self.retired
    }

    /// When its last leaf ends, at the latest.
    #[must_use]
    pub fn leaves_end(&self) -> Option<Timestamp> {
        self.leaves_end
    }

    /// How long its leaves may live.
    #[must_use]
    pub fn longest_leaf(&self) -> Length {
        self.longest_leaf
    }

    /// When its key was destroyed.
    #[must_use]
    pub fn removed(&self) -> Option<Timestamp> {
        self.removed
    }

    /// When it was distrusted.
    #[must_use]
    pub fn distrusted(&self) -> Option<Timestamp> {
        self.distrusted
    }

    /// Whether leaves of it are to be accepted.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.state.is_trusted()
    }

    /// Whether a leaf of full length fits into its lifetime now.
    pub(super) fn can_sign(&self, now: Timestamp) -> bool {
        self.lifetime.is_some_and(|lifetime| {
            lifetime.contains(now) && lifetime.contains(after(now, self.longest_leaf))
        })
    }

    /// Whether a leaf of it can be alive.
    pub(super) fn may_have_living_leaves(&self, now: Timestamp, keep: Length) -> bool {
        self.leaves_end.is_some_and(|end| now <= after(end, keep))
    }
}

impl State {
    /// Whether leaves of a CA in this state are to be accepted.
    #[must_use]
    pub const fn is_trusted(self) -> bool {
        matches!(self, Self::Published | Self::Active | Self::Retiring)
    }

    /// Whether it is on its way to sign.
    #[must_use]
    pub const fn is_coming(self) -> bool {
        matches!(self, Self::Prepared | Self::AwaitingRoot | Self::Published)
    }

    /// In a word, as the record has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::AwaitingRoot => "awaiting-root",
            Self::Published => "published",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Removed => "removed",
        }
    }
}

impl Lifetime {
    /// Whether a moment lies within.
    #[must_use]
    pub fn contains(&self, time: Timestamp) -> bool {
        self.not_before <= time && time <= self.not_after
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl CaId {
    /// The first of a record.
    pub const FIRST: Self = Self(1);

    /// The number alone.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for CaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ca-{}", self.0)
    }
}

impl FromStr for CaId {
    type Err = CaIdError;

    fn from_str(text: &str) -> Result<Self, CaIdError> {
        text.strip_prefix("ca-")
            .and_then(|number| number.parse().ok())
            .map(Self)
            .filter(|id| id.0 > 0 && id.to_string() == text)
            .ok_or_else(|| CaIdError(text.chars().take(32).collect()))
    }
}

impl TryFrom<String> for CaId {
    type Error = CaIdError;

    fn try_from(text: String) -> Result<Self, CaIdError> {
        text.parse()
    }
}

impl From<CaId> for String {
    fn from(id: CaId) -> Self {
        id.to_string()
    }
}
