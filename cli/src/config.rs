//! The clusters: `config.yaml`, read strictly.

mod cluster;

pub use cluster::{Cluster, Reach, WireCluster, WireFrontDoor};

use crate::file;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
};
use touchstone_common::name::NameError;

/// The signer that is asked unless a cluster says otherwise.
pub const DEFAULT_SIGNER_NAME: &str = "touchstone.dev/client";
/// Overrides where the configuration is.
pub const CONFIG_VARIABLE: &str = "TOUCHSTONE_CONFIG";

/// Why the configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file it names.
    #[error("cluster {cluster:?}: {field}: {why}")]
    Field {
        /// Which cluster.
        cluster: String,
        /// Which field.
        field: &'static str,
        /// Why.
        why: String,
    },
    /// Neither `HOME` nor `XDG_CONFIG_HOME` is set.
    #[error("neither HOME nor {0} is set, so there is no place for Touchstone's files")]
    NoHome(&'static str),
    /// The file cannot be read or written.
    #[error("cannot {verb} {}: {source}", .path.display())]
    Io {
        /// Read or write.
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A cluster's name.
    #[error("cluster name {text:?} {source}")]
    Name {
        /// The name.
        text: String,
        /// Why not.
        source: NameError,
    },
    /// Not the YAML that is expected.
    #[error("{}{}: {message}", .path.display(), .at.map_or_else(String::new, |(line, column)| format!(":{line}:{column}")))]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Line and column, counted from one.
        at: Option<(u64, u64)>,
        /// What is wrong.
        message: String,
    },
    /// A cluster that is not there.
    #[error("there is no cluster {name:?} in {}{}", .path.display(), only(.known))]
    Unknown {
        /// The name.
        name: String,
        /// Which file.
        path: PathBuf,
        /// What is there.
        known: Vec<String>,
    },
}

fn only(names: &[String]) -> String {
    if names.is_empty() {
        String::new()
    } else {
        format!(", only {}", names.join(", "))
    }
}

impl ConfigError {
    /// What the user can do.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Field { cluster, .. } => Some(format!(
                "touchstone config set-cluster {cluster} … (see touchstone config set-cluster --help)"
            )),
            Self::Syntax { .. } => Some(
                "correct the file; touchstone config set-cluster writes it as it should be"
                    .to_owned(),
            ),
            Self::Unknown { name, .. } => Some(format!(
                "touchstone config set-cluster {name} --server https://HOST:PORT --ca FILE --trust-bundle FILE"
            )),
            Self::Io { .. } => Some(format!(
                "name a file that can be read and written with {CONFIG_VARIABLE}"
            )),
            Self::Name { .. } => Some(
                "choose a name of ASCII letters and digits, with -, _ and . inside: the one that the policy has"
                    .to_owned(),
            ),
            Self::NoHome(variable) => Some(format!("set HOME, or {variable} to an absolute path")),
        }
    }
}

/// The file as it is written.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireConfig {
    #[serde(default)]
    clusters: BTreeMap<String, WireCluster>,
}

/// The configuration file.
#[derive(Clone, Debug)]
pub struct Config {
    path: PathBuf,
    wire: WireConfig,
}

impl Config {
    /// Reads the file; one that is not there is empty.
    ///
    /// # Errors
    /// When it cannot be read or is not as expected: with line and column.
    pub fn load() -> Result<Self, ConfigError> {
        Self::load_from(path()?)
    }

    fn load_from(path: PathBuf) -> Result<Self, ConfigError> {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => {
                return Err(ConfigError::Io {
                    verb: "read",
                    path,
                    source,
                });
            }
        };
        if text.trim().is_empty() {
            return Ok(Self {
                path,
                wire: WireConfig::default(),
            });
        }
        match serde_saphyr::from_str(&text) {
            Ok(wire) => Ok(Self { path, wire }),
            Err(error) => Err(ConfigError::Syntax {
                path,
                at: error
                    .location()
                    .map(|location| (location.line(), location.column())),
                message: message(error.without_snippet()),
            }),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The clusters as they are written, by name.
    pub fn clusters(&self) -> impl Iterator<Item = (&str, &WireCluster)> {
        self.wire
            .clusters
            .iter()
            .map(|(name, cluster)| (name.as_str(), cluster))
    }

    /// A cluster as it is written.
    ///
    /// # Errors
    /// When it is not there.
    pub fn wire(&self, name: &str) -> Result<&WireCluster, ConfigError> {
        self.wire
            .clusters
            .get(name)
            .ok_or_else(|| ConfigError::Unknown {
                name: name.to_owned(),
                path: self.path.clone(),
                known: self.wire.clusters.keys().cloned().collect(),
            })
    }

    /// A cluster, checked.
    ///
    /// # Errors
    /// When it is not there or will not do.
    pub fn cluster(&self, name: &str) -> Result<Cluster, ConfigError> {
        Cluster::check(name, self.wire(name)?)
    }

    /// Adds or replaces a cluster and writes the file.
    ///
    /// # Errors
    /// When another differs from it in nothing but case, or the file cannot be written.
    pub fn set(&mut self, name: &str, cluster: WireCluster) -> Result<(), ConfigError> {
        // The name is also a folder's, and some file systems take `Prod` and `prod` for one.
        let mut others = self.wire.clusters.keys().filter(|other| *other != name);
        if let Some(twin) = others.find(|other| other.eq_ignore_ascii_case(name)) {
            return Err(ConfigError::Field {
                cluster: name.to_owned(),
                field: "name",
                why: format!("differs from cluster {twin:?} in nothing but case"),
            });
        }
        self.wire.clusters.insert(name.to_owned(), cluster);
        self.save()
    }

    /// Removes a cluster and writes the file.
    ///
    /// # Errors
    /// When it is not there or the file cannot be written.
    pub fn remove(&mut self, name: &str) -> Result<(), ConfigError> {
        self.wire(name)?;
        self.wire.clusters.remove(name);
        self.save()
    }

    fn save(&self) -> Result<(), ConfigError> {
        let failed = |source| ConfigError::Io {
            verb: "write",
            path: self.path.clone(),
            source,
        };
        let text = serde_saphyr::to_string(&self.wire)
            .map_err(|error| failed(io::Error::other(error.to_string())))?;
        file::replace(&self.path, text.as_bytes()).map_err(failed)
    }
}

/// The message without the place at its end, which stands before it already.
fn without_place(message: &str) -> &str {
    message
        .rsplit_once(" at line ")
        .filter(|(_, place)| place.len() < 40)
        .map_or(message, |(message, _)| message)
}

/// An unknown key is shown with the one that was meant.
fn message(error: &serde_saphyr::Error) -> String {
    let serde_saphyr::Error::SerdeUnknownField {
        field, expected, ..
    } = error
    else {
        return without_place(&error.to_string()).to_owned();
    };
    let likeness = |key: &&&str| strsim::jaro_winkler(&field.to_lowercase(), &key.to_lowercase());
    let nearest = expected
        .iter()
        .filter(|key| likeness(key) >= 0.8)
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest {
        Some(nearest) => format!("unknown key {field:?}; did you mean {nearest:?}?"),
        None => format!(
            "unknown key {field:?}; it must be one of {}",
            expected.join(", ")
        ),
    }
}

fn path() -> Result<PathBuf, ConfigError> {
    match env::var_os(CONFIG_VARIABLE) {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => Ok(base_directory("XDG_CONFIG_HOME", ".config")?.join("touchstone/config.yaml")),
    }
}

/// A directory of the XDG Base Directory Specification; relative paths are to be ignored.
pub(crate) fn base_directory(
    variable: &'static str,
    below_home: &str,
) -> Result<PathBuf, ConfigError> {
    env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| {
            env::var_os("HOME")
                .map(PathBuf::from)
                .filter(|home| home.is_absolute())
                .map(|home| home.join(below_home))
        })
        .ok_or(ConfigError::NoHome(variable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        fs::write(&path, text).unwrap();
        Config::load_from(path)
    }

    #[test]
    fn an_unknown_key_is_refused_with_line_and_column() {
        let error =
            load("clusters:\n  prod:\n    sever: https://h\n    trustBundle: /x\n").unwrap_err();
        let ConfigError::Syntax {
            at: Some((3, _)),
            message,
            ..
        } = &error
        else {
            panic!("{error}");
        };
        assert!(message.contains("sever"), "{message}");
        assert!(!message.contains(" line "), "{message}");
    }

    #[test]
    fn a_file_that_is_not_there_is_an_empty_configuration() {
        let config = Config::load_from(PathBuf::from("/nonexistent/config.yaml")).unwrap();
        assert_eq!(config.clusters().count(), 0);
    }

    #[test]
    fn an_unknown_cluster_is_answered_with_those_there_are() {
        let config =
            load("clusters: { prod: { trustBundle: /x }, dev: { trustBundle: /x } }").unwrap();
        let error = config.wire("stage").unwrap_err().to_string();
        assert!(error.ends_with("only dev, prod"), "{error}");
    }

    #[test]
    fn two_clusters_whose_names_differ_in_case_alone_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::load_from(directory.path().join("config.yaml")).unwrap();
        config.set("prod", WireCluster::default()).unwrap();
        config.set("prod", WireCluster::default()).unwrap();
        let error = config.set("Prod", WireCluster::default()).unwrap_err();
        assert!(error.to_string().contains("case"), "{error}");
        assert_eq!(config.clusters().count(), 1);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/config.yaml");
        let mut config = Config::load_from(path.clone()).unwrap();
        let cluster = WireCluster {
            server: Some("https://[::1]:6443".to_owned()),
            ca: Some("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".to_owned()),
            trust_bundle: "/etc/touchstone/root: 1.pem".to_owned(),
            front_door: Some(WireFrontDoor {
                server: "https://front.example.com".to_owned(),
                ca: "/etc/touchstone/front-ca.pem".to_owned(),
            }),
            user: Some("alice@example.com".to_owned()),
            ..WireCluster::default()
        };
        config.set("prod", cluster.clone()).unwrap();
        assert_eq!(
            Config::load_from(path).unwrap().wire("prod").unwrap(),
            &cluster
        );
    }
}
