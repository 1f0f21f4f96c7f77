//! `bundle`: the trust bundle on a control-plane node, and as it is published.

use super::{Output, cluster::ClusterOptions, print, print_json};
use crate::{
    bundle::{
        Bundle as TrustBundle,
        merge::Plan,
        source::Source,
        sync::{Effect, Keeper, SyncError, Take},
    },
    ca::{days_left, fingerprint},
    clock::{Clock, SystemClock},
    error::Error,
};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::{fmt::Write as _, path::PathBuf};
use touchstone_common::certificate::CaCertificate;

/// The trust bundle that API servers take as `--client-ca-file`.
#[derive(Debug, Subcommand)]
pub enum Bundle {
    /// Keep a file as the cluster has the trust bundle published; runs until it is stopped
    Sync(Sync),
    /// Print what is published
    Show {
        /// Where it is published
        #[command(flatten)]
        cluster: ClusterOptions,
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

/// `bundle sync`.
#[derive(Debug, Args)]
pub struct Sync {
    /// The file that API servers read as --client-ca-file; replaced by rename, so mount its folder, not the file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// CAs that stand in the file beside the published ones, such as the cluster's own, PEM; read again when it changes
    #[arg(long, value_name = "FILE")]
    include: Vec<PathBuf>,
    #[command(flatten)]
    cluster: ClusterOptions,
    /// Bring the file up to date and end
    #[arg(long)]
    once: bool,
    /// Only print what would change
    #[arg(long, requires = "once")]
    dry_run: bool,
    /// Take out CAs that are neither published nor included, and take a bundle that is older than the file's or of another
    /// cluster: who depends on what goes is locked out
    #[arg(long, requires = "once")]
    overwrite: bool,
    /// How to print what changed
    #[arg(long, value_enum, default_value_t, requires = "once")]
    output: Output,
}

impl Bundle {
    pub(super) async fn run(self) -> Result<(), Error> {
        super::choose_crypto();
        match self {
            Self::Sync(sync) => sync.run().await,
            Self::Show { cluster, output } => {
                let source = Source::open(&cluster.credentials(), cluster.namespace()).await;
                let bundle = match source {
                    Ok(source) => source.read().await,
                    Err(error) => Err(error),
                };
                let bundle = bundle.map_err(SyncError::from)?;
                let now = SystemClock.now();
                match output {
                    Output::Json => print_json(&shown(&bundle, now)),
                    Output::Table => print(&table(&bundle, now)),
                }
            }
        }
    }
}

impl Sync {
    async fn run(self) -> Result<(), Error> {
        let keeper = Keeper {
            out: self.out,
            include: self.include,
            credentials: self.cluster.credentials(),
            namespace: self.cluster.namespace().map(str::to_owned),
        };
        let shutdown = super::shutdown_by_signal()?;
        if !self.once {
            keeper.run(&shutdown).await;
            return Ok(());
        }
        let take = if self.overwrite {
            Take::Overwrite
        } else {
            Take::Update
        };
        let effect = if self.dry_run {
            Effect::DryRun
        } else {
            Effect::Write
        };
        let plan = tokio::select! {
            () = shutdown.cancelled() => return Err(Error::Interrupted),
            plan = keeper.once(take, effect) => plan?,
        };
        let now = SystemClock.now();
        match self.output {
            Output::Json => print_json(&json!({
                "file": keeper.out,
                "dryRun": effect == Effect::DryRun,
                "changed": plan.changed,
                "revision": plan.content.published.as_ref().map(TrustBundle::revision),
                "added": all(&plan.added, now),
                "removed": all(&plan.removed, now),
                "kept": all(&plan.kept, now),
                "certificates": plan.content.certificates().map(|ca| one(ca, now)).collect::<Value>(),
            })),
            Output::Table => print(&changes(&plan, effect, now)),
        }
    }
}

fn one(ca: &CaCertificate, now: Timestamp) -> Value {
    json!({
        "commonName": ca.common_name(),
        "fingerprint": fingerprint(ca.der()),
        "notAfter": ca.validity().not_after,
        "daysLeft": days_left(ca, now),
    })
}

fn all(cas: &[CaCertificate], now: Timestamp) -> Value {
    cas.iter().map(|ca| one(ca, now)).collect()
}

fn shown(bundle: &TrustBundle, now: Timestamp) -> Value {
    json!({
        "cluster": bundle.binding().cluster,
        "clusterUid": bundle.binding().uid,
        "revision": bundle.revision(),
        "sha256": bundle.sha256(),
        "certificates": all(bundle.certificates(), now),
    })
}

fn table(bundle: &TrustBundle, now: Timestamp) -> String {
    let binding = bundle.binding();
    let mut text = format!(
        "cluster   {} ({})\nrevision  {}\nsha256    {}\n\n{:<22}{:<11}{:<66}{}\n",
        binding.cluster,
        binding.uid,
        bundle.revision(),
        bundle.sha256(),
        "EXPIRES",
        "DAYS LEFT",
        "FINGERPRINT",
        "NAME"
    );
    for ca in bundle.certificates() {
        let _ = writeln!(text, "{}", line(ca, now));
    }
    text
}

fn line(ca: &CaCertificate, now: Timestamp) -> String {
    format!(
        "{:<22}{:<11}{:<66}{:?}",
        ca.validity().not_after.to_string(),
        days_left(ca, now),
        fingerprint(ca.der()),
        ca.common_name()
    )
}

fn changes(plan: &Plan, effect: Effect, now: Timestamp) -> String {
    let mut text = match (plan.changed, effect) {
        (false, _) => "nothing changes: the file is up to date\n".to_owned(),
        (true, Effect::DryRun) => "would change:\n".to_owned(),
        (true, Effect::Write) => "changed:\n".to_owned(),
    };
    for (sign, cas) in [("+", &plan.added), ("-", &plan.removed), ("?", &plan.kept)] {
        for ca in cas {
            let _ = writeln!(text, "{sign} {}", line(ca, now));
        }
    }
    if !plan.kept.is_empty() {
        text.push_str(
            "? stays in the file, and is neither published nor included: name its file with --include, or take it out with --overwrite\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::command::Arguments;
    use clap::Parser as _;
    use serde_json::Value;

    fn deployed(name: &str) -> String {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/bundle-sync");
        std::fs::read_to_string(folder.join(name)).unwrap()
    }

    #[test]
    fn what_is_deployed_is_a_command_line_that_is_understood() {
        let unit = deployed("touchstone-bundle-sync.service").replace("\\\n", " ");
        let line = unit
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="))
            .unwrap();
        Arguments::try_parse_from(line.split_whitespace()).unwrap();

        let pod: Value = serde_saphyr::from_str(&deployed("static-pod.yaml")).unwrap();
        let arguments = pod
            .pointer("/spec/containers/0/args")
            .unwrap()
            .as_array()
            .unwrap();
        let arguments = arguments.iter().map(|one| one.as_str().unwrap());
        Arguments::try_parse_from(std::iter::once("touchstone-signer").chain(arguments)).unwrap();
    }
}
