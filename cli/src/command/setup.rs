//! `touchstone setup`: the kubeconfig, so that plain kubectl uses the YubiKey.

use super::exec::{find_program, own_program};
use crate::{
    args,
    config::{Config, ConfigError, Reach},
    credential::Store,
    error::Error,
    kubeconfig::{
        self, EditError, Kubeconfig, Wanted,
        file::{self, KubeconfigError, Written},
    },
    output::Output,
    proxy::{ProxyError, control, local::LocalEndpoint},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use similar::TextDiff;
use std::{
    env, fs, io,
    path::{Path, PathBuf},
};
use touchstone_common::name::ClusterName;

/// What was done, as `--output json` has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    kubeconfig: PathBuf,
    changed: bool,
    dry_run: bool,
    backup: Option<PathBuf>,
    contexts: Vec<DoneContext>,
    current_context: Option<String>,
    diff: String,
    plugin: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DoneContext {
    cluster: String,
    context: String,
    server: String,
}

/// `touchstone setup`.
pub(super) fn run(args: &args::Setup, output: Output) -> Result<(), Error> {
    if args.remove {
        return remove(args, output);
    }
    let config = Config::load()?;
    let names: Vec<String> = match args.cluster.as_slice() {
        [] => config.clusters().map(|(name, _)| name.to_owned()).collect(),
        named => named.to_vec(),
    };
    let clusters = names
        .iter()
        .map(|name| config.cluster(name))
        .collect::<Result<Vec<_>, ConfigError>>()?;
    let [first, others @ ..] = names.as_slice() else {
        return Err(Error::Usage(
            "no cluster is configured yet: touchstone config set-cluster NAME …".to_owned(),
        ));
    };
    let only_one = [
        (args.context_name.is_some(), "--context-name"),
        (args.port.is_some(), "--port"),
        (args.set_current, "--set-current"),
    ];
    if let Some((_, option)) = only_one
        .iter()
        .find(|(given, _)| *given && !others.is_empty())
    {
        return Err(Error::Usage(format!(
            "{option} is for one cluster: say which with --cluster"
        )));
    }

    let (path, rest) = the_file(args.kubeconfig.as_deref(), first)?;
    let store = Store::open()?;
    let command = own_program()?;
    let wanted = names
        .iter()
        .map(|cluster| wanted(args, &store, cluster, &command))
        .collect::<Result<Vec<_>, Error>>()?;
    refuse_shadowed(&rest, &wanted)?;
    let mut contexts = Vec::new();
    let edit = |file: &mut Kubeconfig| {
        for wanted in &wanted {
            let context = file.add(wanted)?;
            contexts.push(DoneContext {
                cluster: wanted.cluster.clone(),
                context,
                server: wanted.server.clone(),
            });
        }
        if let [only] = contexts.as_slice()
            && (args.set_current || file.current_context().is_none())
        {
            file.set_current_context(&only.context)?;
        }
        Ok(())
    };
    let written =
        file::change(&path, args.dry_run, edit).map_err(|error| with_lines(error, &wanted))?;
    let current = current_context(&written.after);
    for cluster in &clusters {
        // The cluster would then be reached through its own proxy.
        if let Reach::Kubeconfig {
            path: reached_by,
            context: None,
        } = cluster.reach()
            && same_file(reached_by, &path)
            && contexts
                .iter()
                .any(|done| Some(&done.context) == current.as_ref())
        {
            output.warn(&format!(
                "touchstone asks for certificates of {} by the current context of {}, and that is now touchstone's own: name the context that has your other credential (touchstone config set-cluster {} --kubeconfig {} --context NAME …)",
                cluster.name().as_str(), path.display(), cluster.name().as_str(), path.display(),
            ));
        }
    }
    for done in contexts.iter().filter(|_| !args.dry_run) {
        if let Ok(Some(running)) = control::status(&store, &done.cluster)
            && running.listens != done.server
        {
            output.warn(&format!(
                "the proxy of {} still listens at {}: end it with touchstone logout --cluster {}, and log in again",
                done.cluster, running.listens, done.cluster
            ));
        }
    }
    let plugin = match &args.plugin {
        Some(folder) if !args.dry_run => Some(link_plugin(folder, output)?),
        _ => None,
    };
    let done = done(args, path, written, contexts, current, plugin);
    tell(&done, output)?;
    output.data(&done, |done| {
        if done.dry_run {
            done.diff.clone()
        } else {
            String::new()
        }
    })
}

/// The file to change, and the others that kubectl reads.
fn the_file(named: Option<&Path>, cluster: &str) -> Result<(PathBuf, Vec<PathBuf>), Error> {
    if let Some(path) = named {
        return Ok((path.to_owned(), Vec::new()));
    }
    let files = file::files()?;
    let path = file::chosen(&files, cluster).ok_or(KubeconfigError::Nowhere)?;
    let rest = files.into_iter().filter(|other| *other != path).collect();
    Ok((path, rest))
}

fn wanted(
    args: &args::Setup,
    store: &Store,
    cluster: &str,
    command: &str,
) -> Result<Wanted, Error> {
    let endpoint = if args.dry_run {
        LocalEndpoint::kept(store, cluster)
    } else {
        LocalEndpoint::at(store, cluster, args.port).map(Some)
    };
    let endpoint = endpoint.map_err(ProxyError::from)?;
    Ok(Wanted {
        cluster: cluster.to_owned(),
        context: args.context_name.clone(),
        namespace: args.namespace.clone(),
        server: match (&endpoint, args.port) {
            (_, Some(port)) => format!("https://127.0.0.1:{port}"),
            (Some(endpoint), None) => endpoint.server_url(),
            (None, None) => "https://127.0.0.1:PORT".to_owned(),
        },
        ca: endpoint.map_or_else(
            || "MADE-WHEN-IT-IS-NOT-A-DRY-RUN".to_owned(),
            |endpoint| STANDARD.encode(endpoint.ca_pem()),
        ),
        command: command.to_owned(),
        ttl: args.ttl,
        software_key: false,
    })
}

/// Where several files have an entry of one name, kubectl takes the first: another's could stand before ours.
fn refuse_shadowed(others: &[PathBuf], wanted: &[Wanted]) -> Result<(), Error> {
    for path in others {
        // What cannot be read here is for kubectl to say.
        let Some(file) = file::read(path)
            .ok()
            .flatten()
            .and_then(|text| Kubeconfig::read(&text).ok())
        else {
            continue;
        };
        for wanted in wanted {
            let name = wanted
                .context
                .clone()
                .unwrap_or_else(|| kubeconfig::entry_name(&wanted.cluster));
            if file.has_context(&name) && !file.contexts(&wanted.cluster).contains(&name) {
                return Err(KubeconfigError::Edit {
                    path: path.clone(),
                    error: EditError::Foreign {
                        kind: "context",
                        name,
                    },
                    lines: None,
                }
                .into());
            }
        }
    }
    Ok(())
}

/// A file that cannot be edited can still be written by hand.
fn with_lines(error: KubeconfigError, wanted: &[Wanted]) -> Error {
    match error {
        KubeconfigError::Edit {
            path,
            error: error @ EditError::Shape(_),
            ..
        } => KubeconfigError::Edit {
            path,
            error,
            lines: wanted.first().map(kubeconfig::whole),
        },
        error => error,
    }
    .into()
}

fn current_context(text: &str) -> Option<String> {
    Kubeconfig::read(text)
        .ok()?
        .current_context()
        .map(ToOwned::to_owned)
}

/// Whether two paths lead to one file.
pub(in crate::command) fn same_file(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

fn done(
    args: &args::Setup,
    path: PathBuf,
    written: Written,
    contexts: Vec<DoneContext>,
    current_context: Option<String>,
    plugin: Option<PathBuf>,
) -> Done {
    let name = path.display().to_string();
    Done {
        changed: written.changed(),
        dry_run: args.dry_run,
        diff: TextDiff::from_lines(&written.before, &written.after)
            .unified_diff()
            .header(&name, &name)
            .to_string(),
        backup: written.backup,
        kubeconfig: path,
        contexts,
        current_context,
        plugin,
    }
}

/// What was done and what to type next.
fn tell(done: &Done, output: Output) -> Result<(), Error> {
    let file = done.kubeconfig.display();
    if done.dry_run {
        output.progress(&if done.changed {
            format!("{file} would change:")
        } else {
            format!("{file} would stay as it is.")
        });
        return Ok(());
    }
    match (done.changed, &done.backup) {
        (false, _) => output.progress(&format!("{file} is right already.")),
        (true, None) => output.progress(&format!("{file} written.")),
        (true, Some(backup)) => output.progress(&format!(
            "{file} changed; as it was before: {}",
            backup.display()
        )),
    }
    for DoneContext {
        cluster,
        context,
        server,
    } in &done.contexts
    {
        let current = if done.current_context.as_ref() == Some(context) {
            "the current context"
        } else {
            "a context"
        };
        output.progress(&format!(
            "Cluster {cluster}: context {context} ({current}), by the proxy at {server}."
        ));
    }
    if let Some(first) = done.contexts.first() {
        let context = if done.current_context.as_ref() == Some(&first.context) {
            String::new()
        } else {
            format!(" --context {}", first.context)
        };
        output.progress(&format!(
            "Next:\n  touchstone login --cluster {} --group GROUP --reason \"WHY\"\n  kubectl{context} auth whoami",
            first.cluster
        ));
    }
    if let Some(plugin) = &done.plugin {
        output.progress(&format!(
            "{} leads here: kubectl touchstone status",
            plugin.display()
        ));
    }
    Ok(())
}

/// `touchstone setup --remove`.
fn remove(args: &args::Setup, output: Output) -> Result<(), Error> {
    let names: Vec<String> = match args.cluster.as_slice() {
        [] => Config::load()?
            .clusters()
            .map(|(name, _)| name.to_owned())
            .collect(),
        // Those that the configuration no longer has may still stand in the kubeconfig.
        named => named.to_vec(),
    };
    for name in &names {
        ClusterName::parse(name).map_err(|source| Error::Name {
            what: "cluster",
            text: name.clone(),
            source,
        })?;
    }
    let first = names.first().map_or("", String::as_str);
    let (path, _) = the_file(args.kubeconfig.as_deref(), first)?;
    if file::read(&path)?.is_none() {
        output.progress(&format!(
            "{} is not there: nothing to remove.",
            path.display()
        ));
        let nothing = Written {
            before: String::new(),
            after: String::new(),
            backup: None,
        };
        let done = done(args, path, nothing, Vec::new(), None, None);
        return output.data(&done, |_| String::new());
    }
    let written = file::change(&path, args.dry_run, |file| {
        for name in &names {
            file.remove(name)?;
        }
        Ok(())
    })?;
    let current = current_context(&written.after);
    if current.is_none() && current_context(&written.before).is_some() {
        output.warn("the current context was touchstone's: choose another with kubectl config use-context NAME");
    }
    let done = done(args, path, written, Vec::new(), current, None);
    tell(&done, output)?;
    output.data(&done, |done| {
        if done.dry_run {
            done.diff.clone()
        } else {
            String::new()
        }
    })
}

/// A link by which kubectl finds this program as its plug-in.
fn link_plugin(folder: &Path, output: Output) -> Result<PathBuf, Error> {
    let path = folder.join("kubectl-touchstone");
    let failed = |source| Error::File {
        verb: "write",
        path: path.clone(),
        source,
    };
    let own = env::current_exe().map_err(failed)?;
    match std::os::unix::fs::symlink(&own, &path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !same_file(&path, &own) {
                return Err(failed(error));
            }
        }
        Err(error) => return Err(failed(error)),
    }
    if find_program("kubectl-touchstone".as_ref()).is_none() {
        output.warn(&format!(
            "{} is not on the PATH, where kubectl looks for it",
            folder.display()
        ));
    }
    Ok(path)
}
