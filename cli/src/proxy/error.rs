//! Why there is no proxy, or none that helps.

use super::local::LocalError;
use crate::error::Exit;
use std::{io, net::SocketAddr, path::PathBuf};

/// What goes wrong with the proxy, and in its place.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Another one serves the cluster.
    #[error("a proxy for {cluster} runs already")]
    AlreadyRuns {
        /// Which cluster.
        cluster: String,
    },
    /// The proxy was asked, and ended before its first word: someone ended it, or killed it.
    #[error("the proxy of {cluster} ended before it answered")]
    Ended {
        /// Which cluster.
        cluster: String,
    },
    /// The proxy was asked, and says why not.
    #[error("{message}")]
    Failed {
        /// Its words.
        message: String,
        /// Its advice.
        remedy: Option<String>,
        /// How a command that fails for this ends.
        exit: Exit,
    },
    /// The listener.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
        /// The cluster, for the remedy.
        cluster: String,
    },
    /// The local identity.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// A proxy that was started and did not get ready.
    #[error("the proxy did not start: {why}")]
    NotStarted {
        /// Its last words.
        why: String,
        /// Where it writes them.
        log: PathBuf,
    },
    /// A folder or socket that could be someone else's.
    #[error("{} cannot be used for the proxy: {why}", .path.display())]
    Place {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The socket is held by a process of another user.
    #[error("{} is answered by a process of user {uid}, not by yours", .path.display())]
    Stranger {
        /// Which.
        path: PathBuf,
        /// Whose.
        uid: u32,
    },
    /// The proxy does not speak as expected.
    #[error("the proxy of {cluster} {why}")]
    Talk {
        /// Which cluster.
        cluster: String,
        /// What it does.
        why: String,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl ProxyError {
    /// How a command that fails for this ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Failed { exit, .. } => *exit,
            _ => Exit::Proxy,
        }
    }

    /// What the user can do.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::AlreadyRuns { cluster } => Some(format!(
                "use it (touchstone status), or end it: touchstone logout --cluster {cluster}"
            )),
            Self::Failed { remedy, .. } => remedy.clone(),
            Self::Listen {
                source, cluster, ..
            } if source.kind() == io::ErrorKind::AddrInUse => Some(format!(
                "another program has this port; choose one: touchstone proxy --cluster {cluster} --port N, then touchstone setup --cluster {cluster}"
            )),
            Self::Local(error) => error.remedy(),
            Self::NotStarted { log, .. } => Some(format!("read {}", log.display())),
            Self::Place { path, .. } => Some(format!(
                "see to it that {} is yours alone (chmod 700), or remove it",
                path.display()
            )),
            Self::Stranger { path, .. } => Some(format!(
                "someone else put it there: remove {} and tell your administrator",
                path.display()
            )),
            Self::Ended { .. } | Self::Talk { .. } => {
                Some(
                    "end it and let it be started again: touchstone logout; one that does not end so: pkill -f 'touchstone proxy'"
                        .to_owned(),
                )
            }
            Self::Listen { .. } | Self::Tls(_) => None,
        }
    }
}
