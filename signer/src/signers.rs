//! The signer names that are answered, and who signs under each.

use crate::{ca::authority::Authority, client_ca::ClientCa};
use std::{fmt, str::FromStr, sync::Arc};
use tokio::sync::watch;
use touchstone_common::csr::KUBE_APISERVER_CLIENT;

/// A signer name as an operator gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignerName {
    /// One of Touchstone's own, such as `touchstone.dev/client`: approved and signed here, by its own CA.
    Own(String),
    /// `kubernetes.io/kube-apiserver-client`: approved here, and signed by kube-controller-manager.
    Cluster,
}

impl SignerName {
    /// As Kubernetes has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Own(name) => name,
            Self::Cluster => KUBE_APISERVER_CLIENT,
        }
    }
}

impl FromStr for SignerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == KUBE_APISERVER_CLIENT {
            return Ok(Self::Cluster);
        }
        let (domain, path) = text.split_once('/').unwrap_or_default();
        if domain.is_empty() || path.is_empty() {
            return Err("not DOMAIN/NAME, such as touchstone.dev/client".to_owned());
        }
        if domain == "kubernetes.io" || domain.ends_with(".kubernetes.io") {
            return Err(format!(
                "Kubernetes keeps this name for itself; of those, {KUBE_APISERVER_CLIENT} alone is for people"
            ));
        }
        Ok(Self::Own(text.to_owned()))
    }
}

/// The signer names of one process: at least one, and at most one of each kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerNames {
    own: Option<String>,
    cluster: bool,
}

impl SignerNames {
    /// Those that were given.
    ///
    /// # Errors
    /// The name that is one too many. Each CA of Touchstone has a name, and each process has a CA.
    pub fn of(given: &[SignerName]) -> Result<Self, String> {
        let mut names = Self {
            own: None,
            cluster: false,
        };
        for name in given {
            match name {
                SignerName::Cluster => names.cluster = true,
                SignerName::Own(name) if names.own.as_ref().is_none_or(|own| own == name) => {
                    names.own = Some(name.clone());
                }
                SignerName::Own(name) => return Err(name.clone()),
            }
        }
        Ok(names)
    }

    /// Touchstone's own, under which its CA signs.
    #[must_use]
    pub fn own(&self) -> Option<&str> {
        self.own.as_deref()
    }

    /// Whether kube-controller-manager signs what is approved under its name.
    #[must_use]
    pub fn has_cluster(&self) -> bool {
        self.cluster
    }

    /// All of them, Touchstone's own first.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let cluster = self.cluster.then_some(KUBE_APISERVER_CLIENT);
        self.own().into_iter().chain(cluster)
    }
}

impl fmt::Display for SignerNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iter().collect::<Vec<_>>().join(", "))
    }
}

/// Who signs what is approved, by signer name.
#[derive(Clone, Debug, Default)]
pub struct Signers {
    /// Touchstone's own name and CA.
    pub own: Option<OwnCa>,
    /// The cluster's CA, with which kube-controller-manager signs.
    pub cluster: Option<Arc<ClientCa>>,
}

/// Touchstone's CA.
#[derive(Clone, Debug)]
pub struct OwnCa {
    /// The signer name that it signs under.
    pub name: String,
    /// What signs now.
    pub authority: watch::Receiver<Arc<Authority>>,
}

/// Who signs under one name.
#[derive(Clone, Copy, Debug)]
pub enum Signer<'a> {
    /// Touchstone.
    Own(&'a OwnCa),
    /// kube-controller-manager.
    Cluster(&'a ClientCa),
}

impl Signers {
    /// Who signs under this name; `None`: its requests are none of ours.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Signer<'_>> {
        match (&self.own, &self.cluster) {
            (Some(own), _) if own.name == name => Some(Signer::Own(own)),
            (_, Some(cluster)) if name == KUBE_APISERVER_CLIENT => Some(Signer::Cluster(cluster)),
            _ => None,
        }
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let own = self.own.as_ref().map(|own| own.name.as_str());
        let cluster = self.cluster.as_ref().map(|_| KUBE_APISERVER_CLIENT);
        own.into_iter().chain(cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_who_signs() {
        let own = |name: &str| Ok(SignerName::Own(name.to_owned()));
        assert_eq!(
            "touchstone.dev/client".parse(),
            own("touchstone.dev/client")
        );
        assert_eq!(KUBE_APISERVER_CLIENT.parse(), Ok(SignerName::Cluster));
        for refused in [
            "",
            "client",
            "/client",
            "touchstone.dev/",
            "kubernetes.io/kubelet-serving",
            "kubernetes.io/kube-apiserver-client-kubelet",
            "kubernetes.io/legacy-unknown",
            "x.kubernetes.io/y",
        ] {
            assert!(refused.parse::<SignerName>().is_err(), "{refused}");
        }
    }

    #[test]
    fn one_name_of_each_kind_is_taken() {
        let own = |name: &str| SignerName::Own(name.to_owned());
        let both = SignerNames::of(&[SignerName::Cluster, own("a.example/b"), own("a.example/b")]);
        let both = both.unwrap();
        assert_eq!(
            both.to_string(),
            format!("a.example/b, {KUBE_APISERVER_CLIENT}")
        );
        let two = SignerNames::of(&[own("a.example/b"), own("a.example/c")]);
        assert_eq!(two, Err("a.example/c".to_owned()));
    }
}
