//! `touchstone config`.

use crate::{
    args::{ConfigCommand, SetCluster},
    config::{Cluster, Config, ConfigError, DEFAULT_SIGNER_NAME, WireCluster, WireFrontDoor},
    error::Error,
    output::{Output, pairs, table},
};
use serde::Serialize;
use std::path::{Path, PathBuf};
use touchstone_common::attestation::Roots;

/// A cluster, as `--output json` has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    name: &'a str,
    #[serde(flatten)]
    cluster: &'a WireCluster,
}

#[derive(Serialize)]
struct Removed {
    name: String,
}

/// `touchstone config …`.
pub(super) fn run(command: ConfigCommand, output: Output) -> Result<(), Error> {
    let mut config = Config::load()?;
    match command {
        ConfigCommand::SetCluster(args) => set(&mut config, &args, output),
        ConfigCommand::List => list(&config, output),
        ConfigCommand::Show { name } => show(&config, &name, output),
        ConfigCommand::Remove { name } => {
            config.remove(&name)?;
            output.progress(&format!("Cluster {name} removed."));
            output.data(&Removed { name }, |_| String::new())
        }
    }
}

fn set(config: &mut Config, args: &SetCluster, output: Output) -> Result<(), Error> {
    let cluster = WireCluster {
        server: args.server.as_deref().map(without_slash),
        ca: optional(args.ca.as_deref())?,
        kubeconfig: args.kubeconfig.as_deref().map(absolute).transpose()?,
        context: args.context.clone(),
        front_door: front_door(args)?,
        trust_bundle: text(&args.trust_bundle)?,
        signer_name: args.signer_name.clone(),
        user: args.user.clone(),
        attestation_roots: args
            .roots
            .attestation_root
            .iter()
            .map(|path| text(path))
            .collect::<Result<_, _>>()?,
    };
    let checked = Cluster::check(&args.name, &cluster)?;
    for root in checked.attestation_roots() {
        Roots::yubico()
            .with_test_root(root)
            .map_err(|error| ConfigError::Field {
                cluster: args.name.clone(),
                field: "attestationRoots",
                why: error.to_string(),
            })?;
    }
    config.set(&args.name, cluster)?;
    output.progress(&format!(
        "Cluster {} written to {}.",
        args.name,
        config.path().display()
    ));
    let shown = Shown {
        name: &args.name,
        cluster: config.wire(&args.name)?,
    };
    output.data(&shown, |_| String::new())
}

/// The command line has both or neither.
fn front_door(args: &SetCluster) -> Result<Option<WireFrontDoor>, Error> {
    let (Some(url), Some(ca)) = (&args.front_door, &args.front_door_ca) else {
        return Ok(None);
    };
    Ok(Some(WireFrontDoor {
        server: without_slash(url),
        ca: text(ca)?,
    }))
}

fn without_slash(url: &str) -> String {
    url.trim_end_matches('/').to_owned()
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|source| Error::File {
        verb: "find",
        path: path.to_owned(),
        source,
    })
}

fn text(path: &Path) -> Result<String, Error> {
    absolute(path)?
        .into_os_string()
        .into_string()
        .map_err(|path| Error::Usage(format!("the path {} is not UTF-8", path.display())))
}

fn optional(path: Option<&Path>) -> Result<Option<String>, Error> {
    path.map(text).transpose()
}

fn list(config: &Config, output: Output) -> Result<(), Error> {
    let shown: Vec<Shown<'_>> = config
        .clusters()
        .map(|(name, cluster)| Shown { name, cluster })
        .collect();
    output.data(&shown, |shown| {
        if shown.is_empty() {
            return "no clusters yet: touchstone config set-cluster NAME …\n".to_owned();
        }
        let rows: Vec<Vec<String>> = shown
            .iter()
            .map(|shown| {
                vec![
                    shown.name.to_owned(),
                    reach(shown.cluster),
                    signer_name(shown.cluster).to_owned(),
                    shown.cluster.user.clone().unwrap_or_default(),
                ]
            })
            .collect();
        table(&["NAME", "REACHED BY", "SIGNER", "USER"], &rows)
    })
}

fn show(config: &Config, name: &str, output: Output) -> Result<(), Error> {
    let cluster = config.wire(name)?;
    output.data(&Shown { name, cluster }, |shown| {
        let cluster = shown.cluster;
        let mut rows = vec![
            ("name", shown.name.to_owned()),
            ("reached by", reach(cluster)),
        ];
        if let Some(ca) = &cluster.ca {
            rows.push(("server CA", file_or_inline(ca)));
        }
        if let Some(door) = &cluster.front_door {
            rows.push(("front door", door.server.clone()));
            rows.push(("front door's CA", file_or_inline(&door.ca)));
        }
        rows.push(("trust bundle", file_or_inline(&cluster.trust_bundle)));
        rows.push(("signer", signer_name(cluster).to_owned()));
        if let Some(user) = &cluster.user {
            rows.push(("user", user.clone()));
        }
        for root in &cluster.attestation_roots {
            rows.push(("attestation root", file_or_inline(root)));
        }
        pairs(&rows)
    })?;
    // Shown also when it will not do; then the exit code says so.
    Cluster::check(name, cluster)?;
    Ok(())
}

fn signer_name(cluster: &WireCluster) -> &str {
    cluster
        .signer_name
        .as_deref()
        .unwrap_or(DEFAULT_SIGNER_NAME)
}

fn reach(cluster: &WireCluster) -> String {
    match (&cluster.server, &cluster.kubeconfig, &cluster.context) {
        (Some(server), _, _) => server.clone(),
        (None, Some(path), Some(context)) => format!("{} ({context})", path.display()),
        (None, Some(path), None) => path.display().to_string(),
        (None, None, _) => "nothing: server or kubeconfig is missing".to_owned(),
    }
}

fn file_or_inline(text: &str) -> String {
    if text.contains('\n') {
        "in the configuration itself".to_owned()
    } else {
        text.to_owned()
    }
}
