//! The policy as it is written: YAML or JSON, unknown and repeated keys refused. The published schema is made from here.
//!
//! Nothing outside this folder sees these types; [`super::load`] turns them into checked ones. The comments on the
//! fields are what editors show who use the schema.

use super::at::{At, Given};
use crate::{
    attestation::{Firmware, Slot},
    name::{ClusterName, UserName},
    ttl::{Ttl, WaitLimit},
};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use std::fmt;

/// Who may have which Kubernetes groups, for how long, on what key and why. What no rule grants is denied.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Touchstone policy")]
pub(crate) struct Policy {
    #[expect(dead_code, reason = "reading it is checking it")]
    pub(crate) api_version: ApiVersion,
    #[expect(dead_code, reason = "reading it is checking it")]
    pub(crate) kind: Kind,
    /// The cluster that this policy is for. A request for another cluster is denied.
    #[schemars(with = "ClusterName")]
    pub(crate) cluster: At<String>,
    /// What holds where a rule does not say otherwise.
    #[serde(default)]
    pub(crate) defaults: Given<Defaults>,
    /// The engineers and their keys.
    #[serde(default)]
    pub(crate) users: Vec<User>,
    /// Who may have what. The order does not matter.
    #[serde(default)]
    pub(crate) rules: Vec<Rule>,
}

/// The version of this language.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) enum ApiVersion {
    #[serde(rename = "touchstone.dev/v1")]
    V1,
}

/// The kind of document.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) enum Kind {
    Policy,
}

/// What holds where a rule does not say otherwise.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Defaults {
    /// The lifetime of a certificate whose request names none, such as 30m. Default: 30m.
    #[serde(default)]
    #[schemars(with = "Ttl")]
    pub(crate) ttl: Given<At<String>>,
    /// The longest lifetime that any rule may grant. Default: 1h.
    #[serde(default, rename = "maxTTL")]
    #[schemars(with = "Ttl")]
    pub(crate) max_ttl: Given<At<String>>,
    /// What is asked of the key.
    #[serde(default)]
    pub(crate) key: Given<Key>,
    /// How long a request waits for approvals before it is denied, from 10s to 24h. Default: 1h.
    #[serde(default)]
    #[schemars(with = "WaitLimit")]
    pub(crate) wait_for: Given<At<String>>,
}

/// What is asked of the key that signs the request.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Key {
    /// Whether the key must be proven to live in a YubiKey. Default: true.
    #[serde(default)]
    pub(crate) attested: Given<At<bool>>,
    /// Whether the key must be one of the user's `keys`. Default: true. With false, beside `attested: false` and in a rule
    /// alone, any key will do, such as one that was made in memory for one login: then only Kubernetes says who asks, under
    /// one of the user's `usernames`.
    #[serde(default)]
    pub(crate) enrolled: Given<At<bool>>,
    /// The least touch policy of the key. Default: always.
    #[serde(default)]
    pub(crate) touch: Given<At<Touch>>,
    /// The least PIN policy of the key. Default: once.
    #[serde(default)]
    pub(crate) pin: Given<At<Pin>>,
    /// The oldest firmware, such as "5.7.0". Default: 5.7.0 for elliptic curves, whose keys can be cloned on older
    /// firmware by who holds the YubiKey (EUCLEAK), and none for RSA.
    #[serde(default)]
    #[schemars(with = "Firmware")]
    pub(crate) min_firmware: Given<At<String>>,
    /// The kinds of key. Default: all that Touchstone takes.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(crate) algorithms: Given<At<Vec<Algorithm>>>,
    /// The PIV slots, such as "9a". Default: 9a, 9c and 82 to 95.
    #[serde(default)]
    #[schemars(with = "Vec<Slot>", length(min = 1))]
    pub(crate) slots: Given<At<Vec<At<String>>>>,
}

/// A touch policy. A key with a stricter one will do.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Touch {
    /// A touch for every signature.
    Always,
    /// A touch, remembered for 15 seconds.
    Cached,
    /// No touch is asked for.
    Never,
}

/// A PIN policy. A key with a stricter one will do; a fingerprint match counts as the PIN.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pin {
    /// The PIN for every signature.
    Always,
    /// No PIN is asked for.
    Never,
    /// The PIN once a session.
    Once,
}

/// A kind of key.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Algorithm {
    Ed25519,
    P256,
    P384,
    Rsa2048,
    Rsa3072,
    Rsa4096,
}

impl Algorithm {
    pub(crate) fn is_rsa(self) -> bool {
        match self {
            Self::Ed25519 | Self::P256 | Self::P384 => false,
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => true,
        }
    }
}

/// An engineer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct User {
    /// The name that the certificate carries as its CN.
    #[schemars(with = "UserName")]
    pub(crate) name: At<String>,
    /// The teams the user is in.
    #[serde(default)]
    pub(crate) teams: Vec<At<String>>,
    /// The keys that are enrolled for the user. `touchstone key enrol` prints an entry.
    #[serde(default)]
    pub(crate) keys: Vec<EnrolledKey>,
    /// The names under which Kubernetes knows the user, where they differ from `name`.
    #[serde(default)]
    pub(crate) usernames: Vec<At<String>>,
}

/// An enrolled key: a YubiKey, one key in it, or one key that no YubiKey vouches for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EnrolledKey {
    /// The YubiKey's serial number. Without it, the key counts only where a rule says `attested: false`.
    #[serde(default)]
    pub(crate) serial: Given<At<u32>>,
    /// SHA-256 of the key's SubjectPublicKeyInfo: "sha256:" and 64 hexadecimal digits. Without it, any key that was made
    /// in that YubiKey counts.
    #[serde(default)]
    #[schemars(regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub(crate) spki: Given<At<String>>,
    /// For the reader: which key this is.
    #[serde(default)]
    #[expect(dead_code, reason = "for who reads the file")]
    pub(crate) comment: Given<String>,
}

/// Who may have which groups, under which conditions. All conditions must hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Rule {
    /// A name, for people and for the record of each grant.
    pub(crate) name: At<String>,
    /// Who the rule is for. A rule that denies may leave it out: then it is for everyone.
    #[serde(default)]
    pub(crate) who: Given<At<Who>>,
    /// The groups: `*` stands for any characters but a colon, `**` for any characters, `{namespace}` for one of
    /// `namespaces`.
    #[schemars(length(min = 1))]
    pub(crate) groups: At<Vec<At<String>>>,
    /// The namespaces that `{namespace}` in `groups` stands for; `*` stands for any characters of one.
    #[serde(default)]
    #[schemars(with = "Vec<NamespacePattern>", length(min = 1))]
    pub(crate) namespaces: Given<At<Vec<At<String>>>>,
    /// Only for these clusters; `*` and `**` as in groups. Default: the policy's cluster.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(crate) clusters: Given<At<Vec<At<String>>>>,
    /// The longest lifetime this rule grants.
    #[serde(default, rename = "maxTTL")]
    #[schemars(with = "Ttl")]
    pub(crate) max_ttl: Given<At<String>>,
    /// What is asked of the reason that the engineer gives.
    #[serde(default)]
    pub(crate) reason: Given<At<Reason>>,
    /// The hours in which the rule holds. Default: always.
    #[serde(default)]
    pub(crate) hours: Given<At<Hours>>,
    /// What is asked of the key, where it differs from the defaults.
    #[serde(default)]
    pub(crate) key: Given<At<Key>>,
    /// Whether the groups are granted at once, after others approved, or never.
    pub(crate) decision: Decision,
    /// Who must approve, for `decision: manual`: stages, each of which must be met; or `kubernetes`.
    #[serde(default)]
    pub(crate) approvals: Given<At<Approvals>>,
    /// How long a request waits for these approvals, for `decision: manual`. Default: as in defaults.
    #[serde(default)]
    #[schemars(with = "WaitLimit")]
    pub(crate) wait_for: Given<At<String>>,
    /// What the certificate's own group is bound to for as long as it is valid.
    #[serde(default)]
    pub(crate) binding: Given<At<Binding>>,
}

/// What a certificate's own group is bound to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Binding {
    /// Each certificate carries a group of its own, `touchstone:grant:` and the grant's number, and the signer binds it to
    /// this role in these namespaces, until the certificate ends or the grant is revoked.
    pub(crate) per_grant: PerGrant,
}

/// A role and where it is bound: `clusterRole` or `role`, one of the two.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PerGrant {
    /// A ClusterRole.
    #[serde(default)]
    #[schemars(length(min = 1, max = 253))]
    pub(crate) cluster_role: Given<At<String>>,
    /// A Role, one of this name in each of the namespaces.
    #[serde(default)]
    #[schemars(length(min = 1, max = 253))]
    pub(crate) role: Given<At<String>>,
    /// The namespaces, by name.
    #[schemars(with = "Vec<Namespace>", length(min = 1, max = 16))]
    pub(crate) namespaces: At<Vec<At<String>>>,
}

/// The name of a namespace.
#[derive(Debug, JsonSchema)]
#[schemars(inline)]
struct Namespace(
    #[expect(dead_code, reason = "a name for the schema")]
    #[schemars(regex(pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"))]
    String,
);

/// A namespace, or a pattern of namespaces such as `team-*`.
#[derive(Debug, JsonSchema)]
#[schemars(inline)]
struct NamespacePattern(
    #[expect(dead_code, reason = "a name for the schema")]
    #[schemars(regex(pattern = "^[a-z0-9*]([a-z0-9*-]{0,61}[a-z0-9*])?$"))]
    String,
);

/// Who a rule is for: anyone who is named, in a team, or in a Kubernetes group.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Who {
    /// Users, by name.
    #[serde(default)]
    pub(crate) users: Vec<At<String>>,
    /// Teams.
    #[serde(default)]
    pub(crate) teams: Vec<At<String>>,
    /// Groups that Kubernetes knows the creator of the request in.
    #[serde(default)]
    pub(crate) groups: Vec<At<String>>,
}

/// What is asked of the reason.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Reason {
    /// A regular expression that must match somewhere in the reason; `^` and `$` stand for its ends.
    #[serde(default)]
    pub(crate) pattern: Given<At<String>>,
    /// The least number of characters.
    #[serde(default)]
    #[schemars(range(max = 512))]
    pub(crate) min_length: Given<At<u16>>,
}

/// A weekly window, by the wall clock of a time zone.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Hours {
    /// The days on which the window begins. Default: every day.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(crate) days: Given<At<Vec<Day>>>,
    /// The first minute, such as "08:00".
    #[schemars(regex(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$"))]
    pub(crate) from: At<String>,
    /// The first minute that is outside again, such as "20:00" or "24:00". Where it is before `from`, it is of the next day.
    #[schemars(regex(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$"))]
    pub(crate) to: At<String>,
    /// An IANA time zone, such as Europe/Berlin.
    pub(crate) zone: At<String>,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// What a rule decides.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Decision {
    /// Granted at once.
    Auto,
    /// Denied, whatever other rules grant.
    Deny,
    /// Granted when the approvals are there.
    Manual,
}

/// Who must approve.
#[derive(Debug, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Approvals {
    /// A `kubectl certificate approve` counts, by whoever Kubernetes lets do it. The API does not record who did it.
    Kubernetes(KubernetesApprovals),
    /// Stages, each of which must be met.
    Stages(Vec<Stage>),
}

/// The word `kubernetes`.
#[derive(Debug, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KubernetesApprovals {
    Kubernetes,
}

/// One stage: so many approvals from these. Nobody counts in two stages of a request.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Stage {
    /// Who may approve. Never the engineer who asks.
    pub(crate) from: At<Approvers>,
    /// How many must. Default: 1.
    #[serde(default)]
    #[schemars(range(min = 1, max = 16))]
    pub(crate) count: Given<At<u16>>,
}

/// Who may approve: anyone who is named or in a team.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Approvers {
    /// Users, by name.
    #[serde(default)]
    pub(crate) users: Vec<At<String>>,
    /// Teams.
    #[serde(default)]
    pub(crate) teams: Vec<At<String>>,
}

impl<'de> Deserialize<'de> for Approvals {
    // By hand: serde's untagged enums lose the place and the cause of an error inside a stage.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrStages;
        impl<'de> Visitor<'de> for WordOrStages {
            type Value = Approvals;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of stages or the word kubernetes")
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Approvals, E> {
                if word == "kubernetes" {
                    Ok(Approvals::Kubernetes(KubernetesApprovals::Kubernetes))
                } else {
                    Err(E::unknown_variant(word, &["kubernetes"]))
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Approvals, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Approvals::Stages)
            }
        }
        deserializer.deserialize_any(WordOrStages)
    }
}
