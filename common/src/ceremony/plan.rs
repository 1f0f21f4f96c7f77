//! The ceremony file: what will be made, reviewed before anyone touches the root's key.

use crate::{
    certificate::Validity,
    key::{self, KeyAlgorithm},
    name::{AuthorityName, check_text},
    policy::{
        Finding, LoadError,
        at::{At, Given},
        check::parse_spki,
        load::read_document,
        wire::ApiVersion,
    },
};
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// How far back a CA begins: its certificates must not begin before it does, wherever they are checked.
const BACKDATE: SignedDuration = SignedDuration::from_mins(10);
const ROOT_DAYS: RangeInclusive<u32> = 365..=9132;
const ISSUING_DAYS: RangeInclusive<u32> = 1..=MOST_ISSUING_DAYS;
const MOST_ISSUING_DAYS: u32 = 366;
/// No ceremony makes an issuing certificate that lives longer.
pub(super) const LONGEST_ISSUING: SignedDuration =
    SignedDuration::from_secs(MOST_ISSUING_DAYS as i64 * 86_400 + BACKDATE.as_secs());
const DIGEST_FORM: &str = "a SHA-256 is written \"sha256:\" and 64 lower-case hexadecimal digits";

/// A ceremony as it was reviewed.
#[derive(Clone, Debug)]
pub struct Plan {
    makes: Makes,
    name: AuthorityName,
    days: u32,
    present: Vec<Person>,
    sha256: [u8; 32],
}

/// What a ceremony makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Makes {
    /// A certificate for an issuing CA.
    IssuingCa {
        /// SHA-256 of the root's certificate.
        root: [u8; 32],
        /// SHA-256 of the issuing CA's SubjectPublicKeyInfo, when it was known beforehand.
        key: Option<[u8; 32]>,
    },
    /// A root.
    Root {
        /// The kind of its key.
        algorithm: KeyAlgorithm,
    },
}

/// Who takes part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// The person's name.
    pub name: String,
    /// What the person is there for, such as "key holder" or "witness".
    pub role: String,
}

/// What is made in a ceremony of the root, how long it lives, and who is there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Touchstone ceremony")]
struct Wire {
    #[expect(dead_code, reason = "reading it is checking it")]
    api_version: ApiVersion,
    #[expect(dead_code, reason = "reading it is checking it")]
    kind: Kind,
    /// What is made: the root, or the certificate of an issuing CA.
    makes: At<WireMakes>,
    /// The common name of what is made.
    #[schemars(with = "AuthorityName")]
    subject: At<String>,
    /// How many days it is valid: 1 to 366 for an issuing CA, 365 to 9132 for a root.
    validity_days: At<u32>,
    /// How many CAs may stand below it: 1 for a root, 0 for an issuing CA.
    path_length: At<u32>,
    /// What its certificates are for: [clientAuth] for an issuing CA. A root has none.
    #[serde(default)]
    extended_key_usage: Given<At<Vec<Purpose>>>,
    /// Who takes part.
    #[schemars(length(min = 1))]
    present: At<Vec<Person>>,
    /// SHA-256 of the root's certificate, for an issuing CA: "sha256:" and 64 digits.
    #[serde(default)]
    #[schemars(with = "String")]
    root: Given<At<String>>,
    /// SHA-256 of the issuing CA's public key (SubjectPublicKeyInfo), when it is known: "sha256:" and 64 digits.
    #[serde(default)]
    #[schemars(with = "String")]
    key: Given<At<String>>,
    /// The kind of a root's key. Default: p384.
    #[serde(default)]
    algorithm: Given<At<RootKey>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
enum Kind {
    Ceremony,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum WireMakes {
    IssuingCa,
    Root,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Purpose {
    ClientAuth,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum RootKey {
    P256,
    P384,
}

/// The JSON Schema of ceremony files, for editors and other programs.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::generate::SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<Wire>()
        .into()
}

impl Plan {
    /// Reads a ceremony file, YAML or JSON. `file` names it in errors.
    ///
    /// # Errors
    /// Every finding, with its place in the file.
    pub fn parse(file: &str, source: &[u8]) -> Result<Self, LoadError> {
        let wire: Wire = read_document(file, source, "a ceremony")?;
        let mut check = Check(Vec::new());
        let plan = check.plan(&wire, key::sha256(source));
        match plan {
            Some(plan) if check.0.is_empty() => Ok(plan),
            _ => Err(LoadError::of(file, check.0)),
        }
    }

    /// What is made.
    #[must_use]
    pub fn makes(&self) -> Makes {
        self.makes
    }

    /// Its common name.
    #[must_use]
    pub fn name(&self) -> &AuthorityName {
        &self.name
    }

    /// How many days it is valid.
    #[must_use]
    pub fn days(&self) -> u32 {
        self.days
    }

    /// Who takes part.
    #[must_use]
    pub fn present(&self) -> &[Person] {
        &self.present
    }

    /// SHA-256 of the file.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// The dates of what is made at `now`, not before its root's (`not_before`); `None` past the calendar's end.
    #[must_use]
    pub fn validity(&self, now: Timestamp, not_before: Option<Timestamp>) -> Option<Validity> {
        let back = now.checked_sub(BACKDATE).ok()?;
        let days = SignedDuration::from_hours(24 * i64::from(self.days));
        Some(
            Validity {
                not_before: not_before.map_or(back, |root| root.max(back)),
                not_after: now.checked_add(days).ok()?,
            }
            .whole_seconds(),
        )
    }
}

/// Collects what is wrong.
struct Check(Vec<Finding>);

impl Check {
    fn find<T>(&mut self, at: &At<T>, message: impl Into<String>) {
        self.0.push(Finding {
            position: Some(at.position),
            message: message.into(),
        });
    }

    fn plan(&mut self, wire: &Wire, sha256: [u8; 32]) -> Option<Plan> {
        let name = AuthorityName::parse(&wire.subject.value)
            .map_err(|error| self.find(&wire.subject, format!("the subject {error}")))
            .ok();
        self.people(&wire.present);
        let makes = match wire.makes.value {
            WireMakes::Root => self.root(wire),
            WireMakes::IssuingCa => self.issuing(wire),
        };
        Some(Plan {
            makes: makes?,
            name: name?,
            days: wire.validity_days.value,
            present: wire.present.value.clone(),
            sha256,
        })
    }

    fn root(&mut self, wire: &Wire) -> Option<Makes> {
        self.numbers(wire, "a root", &ROOT_DAYS, 1);
        for digest in [&wire.root, &wire.key] {
            if let Some(at) = digest.as_ref() {
                self.find(at, "only an issuing CA's ceremony names a root and a key");
            }
        }
        if let Some(at) = wire.extended_key_usage.as_ref() {
            self.find(at, "a root has no extended key usage: leave the key out");
        }
        Some(Makes::Root {
            algorithm: match wire.algorithm.as_ref().map(|at| at.value) {
                Some(RootKey::P256) => KeyAlgorithm::P256,
                Some(RootKey::P384) | None => KeyAlgorithm::P384,
            },
        })
    }

    fn issuing(&mut self, wire: &Wire) -> Option<Makes> {
        self.numbers(wire, "an issuing CA", &ISSUING_DAYS, 0);
        if let Some(at) = wire.algorithm.as_ref() {
            self.find(at, "an issuing CA's key was made before: leave the key out");
        }
        match wire.extended_key_usage.as_ref() {
            Some(at) if at.value == [Purpose::ClientAuth] => {}
            Some(at) => self.find(at, "extendedKeyUsage of an issuing CA is [clientAuth]"),
            None => self.find(
                &wire.makes,
                "an issuing CA needs extendedKeyUsage: [clientAuth]",
            ),
        }
        let key = wire.key.as_ref().and_then(|at| self.digest(at));
        let Some(root) = wire.root.as_ref() else {
            self.find(
                &wire.makes,
                "an issuing CA needs `root`: the SHA-256 of the root's certificate",
            );
            return None;
        };
        Some(Makes::IssuingCa {
            root: self.digest(root)?,
            key,
        })
    }

    fn numbers(&mut self, wire: &Wire, what: &str, days: &RangeInclusive<u32>, length: u32) {
        if !days.contains(&wire.validity_days.value) {
            let (least, most) = (days.start(), days.end());
            self.find(
                &wire.validity_days,
                format!("{what} is valid for {least} to {most} days"),
            );
        }
        if wire.path_length.value != length {
            self.find(
                &wire.path_length,
                format!("the path length of {what} is {length}"),
            );
        }
    }

    fn digest(&mut self, at: &At<String>) -> Option<[u8; 32]> {
        let digest = parse_spki(&at.value);
        if digest.is_none() {
            self.find(at, DIGEST_FORM);
        }
        digest
    }

    fn people(&mut self, present: &At<Vec<Person>>) {
        if present.value.is_empty() {
            self.find(present, "someone must be present");
        }
        for Person { name, role } in &present.value {
            for text in [name, role] {
                if let Err(error) = check_text(text, 128) {
                    self.find(present, format!("a name or role in `present` {error}"));
                } else if text.is_empty() {
                    self.find(present, "a name or role in `present` is empty");
                }
            }
        }
    }
}
