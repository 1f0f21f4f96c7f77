//! The engineer's kubeconfig: three entries for each cluster, by which plain kubectl finds the local proxy.
//!
//! [`Kubeconfig`] edits text and knows nothing of files; [`mod@file`] finds the file, locks it as kubectl does, and replaces
//! it in one step.

mod document;
pub mod file;
#[cfg(test)]
mod tests;
mod tree;

pub use tree::ShapeError;

use document::{Document, scalar};
use touchstone_common::ttl::Ttl;
use tree::Node;

/// Said by kubectl where it finds no `touchstone`.
const INSTALL_HINT: &str = "touchstone is not where this kubeconfig says. Install it, or run touchstone setup again (touchstone doctor says more)";

/// What a kubeconfig is to say of a cluster.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The cluster, as Touchstone's configuration names it.
    pub cluster: String,
    /// Name of the context; by default the one that is there, or [`entry_name`].
    pub context: Option<String>,
    /// The context's namespace; by default the one that is there.
    pub namespace: Option<String>,
    /// The proxy's URL on loopback.
    pub server: String,
    /// The CA that signs for it, in base64 as kubeconfigs have it.
    pub ca: String,
    /// What kubectl runs.
    pub command: String,
    /// How long a certificate shall live; by default as it is there, or thirty minutes.
    pub ttl: Option<Ttl>,
    /// Whether kubectl gets a key in memory, for the server itself.
    pub software_key: bool,
}

/// Why a kubeconfig's text was left as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// An entry of the name is there, and not ours.
    #[error("has the {kind} {name:?}, which is not touchstone's")]
    Foreign {
        /// Cluster, user or context.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The file.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// The name of a cluster's entries.
#[must_use]
pub fn entry_name(cluster: &str) -> String {
    format!("touchstone-{cluster}")
}

/// A kubeconfig's text.
#[derive(Clone, Debug)]
pub struct Kubeconfig {
    document: Document,
}

impl Kubeconfig {
    /// Reads a file's text.
    ///
    /// # Errors
    /// When it is none, or one that cannot be edited without the risk of changing what else is in it.
    pub fn read(text: &str) -> Result<Self, ShapeError> {
        Ok(Self {
            document: Document::read(text)?,
        })
    }

    /// The text as it is now.
    #[must_use]
    pub fn text(&self) -> &str {
        self.document.text()
    }

    /// The current context, when there is one.
    #[must_use]
    pub fn current_context(&self) -> Option<&str> {
        self.document.current_context()
    }

    /// Whether there is a context of this name.
    #[must_use]
    pub fn has_context(&self, name: &str) -> bool {
        self.document
            .entries("contexts")
            .iter()
            .any(|context| context.text("name") == Some(name))
    }

    /// Whether the user entry of a cluster is there.
    #[must_use]
    pub fn knows(&self, cluster: &str) -> bool {
        let name = entry_name(cluster);
        self.document
            .entries("users")
            .iter()
            .any(|user| user.text("name") == Some(&name))
    }

    /// The contexts that lead to a cluster's proxy.
    #[must_use]
    pub fn contexts(&self, cluster: &str) -> Vec<String> {
        let name = entry_name(cluster);
        self.document
            .entries("contexts")
            .iter()
            .filter(|context| is_our_context(context, &name))
            .filter_map(|context| context.text("name").map(ToOwned::to_owned))
            .collect()
    }

    /// What kubectl runs for a cluster, and the server that it then talks to.
    #[must_use]
    pub fn command_and_server(&self, cluster: &str) -> Option<(String, String)> {
        let name = entry_name(cluster);
        let user = self.document.entry("users", &name).ok()??;
        let entry = self.document.entry("clusters", &name).ok()??;
        let command = user.get("user")?.get("exec")?.text("command")?;
        let server = entry.get("cluster")?.text("server")?;
        Some((command.to_owned(), server.to_owned()))
    }

    /// Whether a context's user runs `touchstone credential`.
    #[must_use]
    pub fn runs_touchstone(&self, context: &str) -> bool {
        let find = |list, name: &str| self.document.entry(list, name).ok().flatten();
        find("contexts", context)
            .and_then(|context| context.get("context")?.text("user"))
            .and_then(|user| find("users", user))
            .is_some_and(is_our_user)
    }

    /// Adds or corrects a cluster's entries; what is right already stays as it is. The context's name.
    ///
    /// # Errors
    /// When entries of these names are someone else's.
    pub fn add(&mut self, wanted: &Wanted) -> Result<String, EditError> {
        let name = entry_name(&wanted.cluster);
        let context = match &wanted.context {
            Some(context) => context.clone(),
            None => self
                .contexts(&wanted.cluster)
                .into_iter()
                .next()
                .unwrap_or_else(|| name.clone()),
        };
        self.refuse_foreign(&name, &context)?;

        let lines = cluster_lines(wanted, &name);
        self.put("clusters", &name, &lines)?;
        let namespace = wanted.namespace.clone().or_else(|| {
            let there = self.document.entry("contexts", &context).ok()??;
            Some(there.get("context")?.text("namespace")?.to_owned())
        });
        let lines = context_lines(&context, &name, namespace.as_deref());
        self.put("contexts", &context, &lines)?;
        let arguments = self.arguments(wanted, &name)?;
        self.put("users", &name, &user_lines(wanted, &name, &arguments))?;
        Ok(context)
    }

    fn refuse_foreign(&self, name: &str, context: &str) -> Result<(), EditError> {
        let document = &self.document;
        let foreign = |kind, name: &str| {
            let name = name.to_owned();
            Err(EditError::Foreign { kind, name })
        };
        if document
            .entry("clusters", name)?
            .is_some_and(|there| !is_our_cluster(there))
        {
            return foreign("cluster", name);
        }
        if document
            .entry("users", name)?
            .is_some_and(|there| !is_our_user(there))
        {
            return foreign("user", name);
        }
        if document
            .entry("contexts", context)?
            .is_some_and(|there| !is_our_context(there, name))
        {
            return foreign("context", context);
        }
        Ok(())
    }

    /// Those that are there, when nothing else is asked for: an engineer may have added some.
    fn arguments(&self, wanted: &Wanted, name: &str) -> Result<Vec<String>, ShapeError> {
        let there: Vec<String> = self
            .document
            .entry("users", name)?
            .and_then(|user| user.get("user")?.get("exec")?.get("args"))
            .map_or(&[][..], Node::items)
            .iter()
            .filter_map(Node::as_text)
            .map(ToOwned::to_owned)
            .collect();
        let cluster = format!("--cluster={}", wanted.cluster);
        if there.contains(&cluster) {
            let Some(ttl) = &wanted.ttl else {
                return Ok(there);
            };
            let mut arguments: Vec<String> = there
                .into_iter()
                .filter(|argument| !argument.starts_with("--ttl="))
                .collect();
            arguments.push(format!("--ttl={ttl}"));
            return Ok(arguments);
        }
        let ttl = wanted
            .ttl
            .map_or_else(|| "30m".to_owned(), |ttl| ttl.to_string());
        Ok(vec![
            "credential".to_owned(),
            cluster,
            format!("--ttl={ttl}"),
        ])
    }

    fn put(&mut self, list: &'static str, name: &str, lines: &str) -> Result<(), ShapeError> {
        let wanted = Node::read(lines)?.map(|node| node.meaning());
        let there = self.document.entry(list, name)?.map(Node::meaning);
        if there == wanted {
            return Ok(());
        }
        self.document.put(list, name, lines)
    }

    /// Removes a cluster's entries and the contexts that would lead nowhere. Whether any was there.
    ///
    /// # Errors
    /// When entries of these names are someone else's.
    pub fn remove(&mut self, cluster: &str) -> Result<bool, EditError> {
        let name = entry_name(cluster);
        self.refuse_foreign(&name, &name)?;
        let before = self.text().len();
        for context in self.contexts(cluster) {
            if self.current_context() == Some(&context) {
                self.document.set_current_context("")?;
            }
            self.document.remove("contexts", &context)?;
        }
        self.document.remove("clusters", &name)?;
        self.document.remove("users", &name)?;
        Ok(self.text().len() != before)
    }

    /// Sets the current context.
    ///
    /// # Errors
    /// When it cannot be done without changing something else.
    pub fn set_current_context(&mut self, name: &str) -> Result<(), ShapeError> {
        if self.current_context() == Some(name) {
            return Ok(());
        }
        self.document.set_current_context(name)
    }
}

/// The entries as a kubeconfig of their own: for a command's private one, and to be pasted by hand.
#[must_use]
pub fn whole(wanted: &Wanted) -> String {
    let name = entry_name(&wanted.cluster);
    let context = wanted.context.clone().unwrap_or_else(|| name.clone());
    let ttl = wanted
        .ttl
        .map_or_else(|| "30m".to_owned(), |ttl| ttl.to_string());
    let mut arguments = vec![
        "credential".to_owned(),
        format!("--cluster={}", wanted.cluster),
        format!("--ttl={ttl}"),
    ];
    if wanted.software_key {
        arguments.push("--software-key".to_owned());
    }
    let item = |lines: String| {
        let lines: Vec<&str> = lines.lines().collect();
        format!("- {}\n", lines.join("\n  "))
    };
    format!(
        "apiVersion: v1\nclusters:\n{}contexts:\n{}current-context: {}\nkind: Config\npreferences: {{}}\nusers:\n{}",
        item(cluster_lines(wanted, &name)),
        item(context_lines(&context, &name, wanted.namespace.as_deref())),
        scalar(&context),
        item(user_lines(wanted, &name, &arguments)),
    )
}

fn cluster_lines(wanted: &Wanted, name: &str) -> String {
    format!(
        "cluster:\n  certificate-authority-data: {}\n  server: {}\nname: {}\n",
        scalar(&wanted.ca),
        scalar(&wanted.server),
        scalar(name)
    )
}

fn context_lines(context: &str, name: &str, namespace: Option<&str>) -> String {
    let namespace = namespace.map_or_else(String::new, |namespace| {
        format!("  namespace: {}\n", scalar(namespace))
    });
    let name = scalar(name);
    format!(
        "context:\n  cluster: {name}\n{namespace}  user: {name}\nname: {}\n",
        scalar(context)
    )
}

fn user_lines(wanted: &Wanted, name: &str, arguments: &[String]) -> String {
    let arguments: String = arguments
        .iter()
        .map(|argument| format!("    - {}\n", scalar(argument)))
        .collect();
    format!(
        "name: {}\nuser:\n  exec:\n    apiVersion: client.authentication.k8s.io/v1\n    args:\n{arguments}    command: {}\n    env: null\n    installHint: {}\n    interactiveMode: IfAvailable\n    provideClusterInfo: false\n",
        scalar(name),
        scalar(&wanted.command),
        scalar(INSTALL_HINT),
    )
}

fn is_our_cluster(entry: &Node) -> bool {
    entry
        .get("cluster")
        .and_then(|cluster| cluster.text("server"))
        .is_some_and(|server| server.starts_with("https://127.0.0.1:"))
}

fn is_our_context(entry: &Node, name: &str) -> bool {
    entry.get("context").is_some_and(|context| {
        context.text("cluster") == Some(name) && context.text("user") == Some(name)
    })
}

fn is_our_user(entry: &Node) -> bool {
    entry
        .get("user")
        .and_then(|user| user.get("exec")?.get("args"))
        .and_then(|arguments| arguments.items().first())
        .and_then(Node::as_text)
        == Some("credential")
}
