//! What the file is to hold, from what it holds and what is published: pure.
//!
//! A CA leaves the file for one reason: a newer bundle of the same cluster has it no more. Whatever else is missing – an
//! option that was forgotten, a file that is cut off, a bundle that is older than the one before – takes nothing away.

use super::{
    Bundle,
    file::{Content, Existing},
};
use crate::ca::record::Binding;
use std::collections::BTreeSet;
use touchstone_common::certificate::CaCertificate;

/// What is to become of the file.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it is to hold.
    pub content: Content,
    /// Certificates that it does not hold yet.
    pub added: Vec<CaCertificate>,
    /// Certificates that it holds no more then.
    pub removed: Vec<CaCertificate>,
    /// Certificates that it holds and that nothing else names: they stay.
    pub kept: Vec<CaCertificate>,
    /// Whether its text changes.
    pub changed: bool,
}

/// Why the file stays as it is. Each message completes "failed to …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The revision is the one that the file has, and the certificates are others.
    #[error(
        "take the published trust bundle: it says that it is revision {revision}, which had other certificates"
    )]
    Differs {
        /// The revision.
        revision: u64,
    },
    /// The file holds something else.
    #[error("replace the file: it holds something else than certificates of CAs")]
    NotABundle,
    /// There is nothing to write.
    #[error("write the file: nothing is published yet, and nothing is included")]
    Nothing,
    /// An older revision than the one that the file has.
    #[error(
        "take the published trust bundle: it is revision {found}, and the file has {has} already"
    )]
    Older {
        /// The published one.
        found: u64,
        /// The file's.
        has: u64,
    },
    /// Another cluster's.
    #[error("take the published trust bundle: it is the one of cluster {} ({}), and the file is of {} ({})",
        found.cluster, found.uid, has.cluster, has.uid)]
    OtherCluster {
        /// The published one's.
        found: Binding,
        /// The file's.
        has: Binding,
    },
}

impl Refusal {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Differs { .. } | Self::Older { .. } => {
                "find out who changed it; where the CA's record was restored from a backup, take it with \
                 `touchstone-signer bundle sync --once --overwrite`"
                    .into()
            }
            Self::NotABundle => {
                "name the file that `--client-ca-file` names; to replace it all the same, add --once --overwrite".into()
            }
            Self::Nothing => {
                "start the signer, which publishes; name the cluster's own CA with --include, if API servers are to start \
                 before"
                    .into()
            }
            Self::OtherCluster { .. } => {
                "name this cluster's kubeconfig; where the file is another cluster's, replace it with --once --overwrite".into()
            }
        }
    }
}

/// Makes the plan. `published` is nothing while the API is away.
///
/// # Errors
/// When the file has to stay as it is.
pub fn plan(
    existing: &Existing,
    published: Option<&Bundle>,
    included: &[CaCertificate],
) -> Result<Plan, Refusal> {
    let nothing = Content::default();
    let before = match existing {
        Existing::Content(content) => content,
        Existing::Damaged | Existing::Missing => &nothing,
        Existing::Other => return Err(Refusal::NotABundle),
    };
    if let (Some(published), Some(has)) = (published, &before.published) {
        check(published, has)?;
    }
    let published = published.or(before.published.as_ref());
    // In the order in which they stand: two programs that include different files do not write in turns for ever.
    finish(
        before,
        published,
        before.others.iter().chain(included),
        included,
    )
}

/// The plan that takes what is published and included, whatever the file holds.
///
/// # Errors
/// When there is nothing to take.
pub fn overwrite(
    existing: &Existing,
    published: Option<&Bundle>,
    included: &[CaCertificate],
) -> Result<Plan, Refusal> {
    let nothing = Content::default();
    let before = match existing {
        Existing::Content(content) => content,
        Existing::Damaged | Existing::Missing | Existing::Other => &nothing,
    };
    finish(before, published, included, included)
}

fn check(published: &Bundle, has: &Bundle) -> Result<(), Refusal> {
    if published.binding() != has.binding() {
        return Err(Refusal::OtherCluster {
            found: published.binding().clone(),
            has: has.binding().clone(),
        });
    }
    if published.revision() < has.revision() {
        return Err(Refusal::Older {
            found: published.revision(),
            has: has.revision(),
        });
    }
    if published.revision() == has.revision() && published.to_pem() != has.to_pem() {
        return Err(Refusal::Differs {
            revision: has.revision(),
        });
    }
    Ok(())
}

fn finish<'a>(
    before: &Content,
    published: Option<&Bundle>,
    others: impl IntoIterator<Item = &'a CaCertificate>,
    included: &[CaCertificate],
) -> Result<Plan, Refusal> {
    let mut seen = fingerprints(published.into_iter().flat_map(Bundle::certificates));
    let others: Vec<CaCertificate> = others
        .into_iter()
        .filter(|one| seen.insert(one.fingerprint()))
        .cloned()
        .collect();
    let named = fingerprints(included);
    let kept = others
        .iter()
        .filter(|one| !named.contains(&one.fingerprint()))
        .cloned()
        .collect();
    let content = Content {
        published: published.cloned(),
        others,
    };
    let after = fingerprints(content.certificates());
    if after.is_empty() {
        return Err(Refusal::Nothing);
    }
    let had = fingerprints(before.certificates());
    let not_in = |set: &BTreeSet<[u8; 32]>, all: &Content| {
        let missing = all
            .certificates()
            .filter(|one| !set.contains(&one.fingerprint()));
        missing.cloned().collect::<Vec<_>>()
    };
    Ok(Plan {
        added: not_in(&had, &content),
        removed: not_in(&after, before),
        kept,
        changed: before.to_text() != content.to_text(),
        content,
    })
}

fn fingerprints<'a>(
    certificates: impl IntoIterator<Item = &'a CaCertificate>,
) -> BTreeSet<[u8; 32]> {
    certificates
        .into_iter()
        .map(CaCertificate::fingerprint)
        .collect()
}

#[cfg(test)]
mod tests;
