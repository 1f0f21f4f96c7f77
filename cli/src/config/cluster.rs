//! A cluster: as it is written, and checked.

use super::{ConfigError, DEFAULT_SIGNER_NAME};
use serde::{Deserialize, Serialize};
use std::{fs, path::PathBuf};
use touchstone_common::{
    certificate::CaCertificate,
    name::{ClusterName, UserName},
};

/// A cluster as it is written. Files are named by absolute path, or stand there as PEM.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WireCluster {
    /// URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The CA of the server's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Path of a kubeconfig.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// Its context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Where certificates are asked for, if not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub front_door: Option<WireFrontDoor>,
    /// What issued certificates chain to.
    pub trust_bundle: String,
    /// The signer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer_name: Option<String>,
    /// The user's name there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Attestation roots beside Yubico's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attestation_roots: Vec<String>,
}

/// A front door as it is written.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WireFrontDoor {
    /// URL.
    pub server: String,
    /// The CA of its certificate.
    pub ca: String,
}

/// How a cluster's API is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// As a kubeconfig says, with its credential.
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The context, or the current one.
        context: Option<String>,
    },
    /// Without a credential: the attested request is the credential.
    Server {
        /// `https://host:port`.
        url: String,
        /// The CA of the server's certificate, PEM.
        ca_pem: Vec<u8>,
    },
}

/// A cluster, checked.
#[derive(Clone, Debug)]
pub struct Cluster {
    name: ClusterName,
    reach: Reach,
    front_door: Option<Reach>,
    trust_bundle: Vec<u8>,
    signer_name: String,
    user: Option<UserName>,
    attestation_roots: Vec<Vec<u8>>,
}

impl Cluster {
    /// Checks a cluster as it is written, and reads the files it names.
    ///
    /// # Errors
    /// The first field that will not do.
    pub fn check(name: &str, wire: &WireCluster) -> Result<Self, ConfigError> {
        let field = |field, why: String| ConfigError::Field {
            cluster: name.to_owned(),
            field,
            why,
        };
        let checked_name = ClusterName::parse(name).map_err(|source| ConfigError::Name {
            text: name.to_owned(),
            source,
        })?;
        // The name is also a folder's.
        if name.contains('/') || name.starts_with('.') {
            return Err(field(
                "name",
                "must not contain '/' or begin with '.'".to_owned(),
            ));
        }
        let reach = match (&wire.server, &wire.kubeconfig) {
            (Some(server), None) => {
                let url = url_of(server).map_err(|why| field("server", why))?;
                let ca = wire.ca.as_deref().ok_or_else(|| {
                    field(
                        "ca",
                        "missing: the CA of the server's certificate".to_owned(),
                    )
                })?;
                let ca_pem = pem_of(ca).map_err(|why| field("ca", why))?;
                Reach::Server { url, ca_pem }
            }
            (None, Some(path)) => Reach::Kubeconfig {
                path: path.clone(),
                context: wire.context.clone(),
            },
            (Some(_), Some(_)) => {
                return Err(field(
                    "server",
                    "stands beside kubeconfig; give one".to_owned(),
                ));
            }
            (None, None) => {
                return Err(field("server", "missing (or give a kubeconfig)".to_owned()));
            }
        };
        let front_door = wire
            .front_door
            .as_ref()
            .map(|door| {
                let url = url_of(&door.server).map_err(|why| field("frontDoor.server", why))?;
                let ca_pem = pem_of(&door.ca).map_err(|why| field("frontDoor.ca", why))?;
                Ok(Reach::Server { url, ca_pem })
            })
            .transpose()?;
        let trust_bundle = pem_of(&wire.trust_bundle).map_err(|why| field("trustBundle", why))?;
        for block in pem::parse_many(&trust_bundle).unwrap_or_default() {
            CaCertificate::from_pem(pem::encode(&block).as_bytes())
                .map_err(|error| field("trustBundle", error.to_string()))?;
        }
        let signer_name = wire.signer_name.as_deref().unwrap_or(DEFAULT_SIGNER_NAME);
        let signer_name = checked_signer_name(name, signer_name)?;
        let user = wire
            .user
            .as_deref()
            .map(UserName::parse)
            .transpose()
            .map_err(|error| field("user", error.to_string()))?;
        let attestation_roots = wire
            .attestation_roots
            .iter()
            .map(|root| pem_of(root))
            .collect::<Result<_, _>>()
            .map_err(|why| field("attestationRoots", why))?;
        Ok(Self {
            name: checked_name,
            reach,
            front_door,
            trust_bundle,
            signer_name,
            user,
            attestation_roots,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &ClusterName {
        &self.name
    }

    /// How its API is reached.
    #[must_use]
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// The front door, if it has one of its own.
    #[must_use]
    pub fn front_door(&self) -> Option<&Reach> {
        self.front_door.as_ref()
    }

    /// What issued certificates chain to, PEM.
    #[must_use]
    pub fn trust_bundle(&self) -> &[u8] {
        &self.trust_bundle
    }

    /// The signer.
    #[must_use]
    pub fn signer_name(&self) -> &str {
        &self.signer_name
    }

    /// The same, with another signer that is asked for certificates; they chain to the same trust bundle.
    ///
    /// # Errors
    /// When it is no name of a signer.
    pub fn with_signer(self, signer: Option<&str>) -> Result<Self, ConfigError> {
        match signer {
            None => Ok(self),
            Some(signer) => Ok(Self {
                signer_name: checked_signer_name(self.name.as_str(), signer)?,
                ..self
            }),
        }
    }

    /// The user's name there.
    #[must_use]
    pub fn user(&self) -> Option<&UserName> {
        self.user.as_ref()
    }

    /// Attestation roots beside Yubico's, PEM.
    #[must_use]
    pub fn attestation_roots(&self) -> &[Vec<u8>] {
        &self.attestation_roots
    }
}

/// A server's URL.
fn url_of(text: &str) -> Result<String, String> {
    let uri: http::Uri = text.parse().map_err(|_| format!("{text:?} is not a URL"))?;
    if uri.scheme_str() != Some("https") || uri.host().is_none() {
        return Err(format!("{text:?} is not https://HOST:PORT"));
    }
    Ok(text.to_owned())
}

fn checked_signer_name(cluster: &str, signer_name: &str) -> Result<String, ConfigError> {
    let (domain, path) = signer_name.split_once('/').unwrap_or_default();
    if domain.is_empty() || path.is_empty() || path.contains('/') {
        return Err(ConfigError::Field {
            cluster: cluster.to_owned(),
            field: "signerName",
            why: format!("{signer_name:?} is not domain/path"),
        });
    }
    Ok(signer_name.to_owned())
}

/// PEM that stands there itself, or in the file that is named. At least one block.
fn pem_of(text: &str) -> Result<Vec<u8>, String> {
    let bytes = if text.trim_start().starts_with("-----BEGIN ") {
        text.as_bytes().to_vec()
    } else {
        fs::read(text).map_err(|error| format!("cannot read {text}: {error}"))?
    };
    match pem::parse_many(&bytes) {
        Ok(blocks) if blocks.iter().any(|block| block.tag() == "CERTIFICATE") => Ok(bytes),
        Ok(_) => Err("holds no PEM certificate".to_owned()),
        Err(error) => Err(format!("is not PEM: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_tls_is_refused() {
        let wire = WireCluster {
            server: Some("http://127.0.0.1:6443".to_owned()),
            ..WireCluster::default()
        };
        let error = Cluster::check("prod", &wire).unwrap_err();
        assert!(
            matches!(
                error,
                ConfigError::Field {
                    field: "server",
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_front_door_is_held_to_what_a_server_is() {
        let ca = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        let refused = |server: &str, ca: &str| {
            let wire = WireCluster {
                kubeconfig: Some("/nonexistent".into()),
                front_door: Some(WireFrontDoor {
                    server: server.to_owned(),
                    ca: ca.to_owned(),
                }),
                ..WireCluster::default()
            };
            match Cluster::check("prod", &wire).unwrap_err() {
                ConfigError::Field { field, .. } => field,
                error => panic!("{error}"),
            }
        };
        for server in ["http://h:8443", "h:8443", "https://", "", "https://h h"] {
            assert_eq!(refused(server, ca), "frontDoor.server", "{server}");
        }
        assert_eq!(refused("https://h:8443", "/nonexistent"), "frontDoor.ca");
        // Nothing is wrong with this one; the trust bundle is missing.
        assert_eq!(refused("https://[::1]:8443", ca), "trustBundle");
    }
}
