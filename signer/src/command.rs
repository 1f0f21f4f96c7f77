//! The command line.

pub mod audit;
pub mod bundle;
pub mod ca;
pub mod cluster;
pub mod crd;
pub mod policy;
pub mod run;
pub mod standalone;

use crate::{
    audit::{AuditLog, FILE_NAME, writer},
    ca::{key::KeyPlace, settings::CaSettings},
    controller::chain,
    data_dir::DataDir,
    error::Error,
    traces::{self, Endpoint, Traces},
};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{FilterExt as _, LevelFilter, filter_fn},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 command line, 3 policy, 4 data directory in use, 5 data directory or CA unusable, \
6 audit log broken, 7 API server unusable, 8 trust bundle not brought up to date, 130 interrupted";

/// Approves, signs and records short-lived client certificates, as a policy says.
#[derive(Debug, Parser)]
#[command(name = "touchstone-signer", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Arguments {
    /// How log messages are written, to stderr; RUST_LOG says which
    #[arg(long, global = true, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// How log messages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve an API of its own with the signer inside: no cluster needed
    Standalone(standalone::Standalone),
    /// Sign for a Kubernetes cluster
    Run(run::Run),
    /// The CA: its quarter, its rotation, its emergencies
    #[command(subcommand)]
    Ca(ca::Ca),
    /// The trust bundle: keep a control-plane node's file up to date, show what is published
    #[command(subcommand)]
    Bundle(bundle::Bundle),
    /// The audit log
    #[command(subcommand)]
    Audit(audit::Audit),
    /// The policy file: check it, explain it
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Print the CustomResourceDefinition of Grants
    Crd,
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    Man {
        /// Into this folder, which must be there
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
}

/// The signer name of Touchstone's CA where nobody says otherwise.
const DEFAULT_SIGNER_NAME: &str = "touchstone.dev/client";

/// What both ways of running the signer need.
#[derive(Debug, clap::Args)]
pub struct SignerOptions {
    /// Where the CA, the audit log and all else is kept; made when missing
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The policy file; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub policy: PathBuf,
    /// A root that attestations may end in beside Yubico's, PEM; for tests with a virtual YubiKey
    #[arg(long, value_name = "FILE")]
    pub attestation_root: Vec<PathBuf>,
    /// A file that is written, as JSON, when everything is ready
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// The settings of the CA, YAML: who signs it, when it rotates, where its keys are made; without it, the usual ones
    #[arg(long, value_name = "FILE")]
    pub ca_settings: Option<PathBuf>,
    /// Where the audit log goes
    #[arg(long, value_name = "WHERE", value_enum, default_value_t)]
    pub audit: AuditTo,
    /// Begin another file when the audit log's has so many bytes, such as 64MiB; without it, never
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub audit_max_size: Option<u64>,
    /// Serve /metrics, /healthz and /readyz here, over plain HTTP; without it, nowhere
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_listen: Option<String>,
    /// Send traces to the OpenTelemetry collector at this address, such as http://127.0.0.1:4318, by OTLP over HTTP; without it,
    /// to the one that OTEL_EXPORTER_OTLP_ENDPOINT names, or nowhere
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<Endpoint>,
}

/// Where the audit log goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AuditTo {
    /// To files in the data directory, and to standard output
    Both,
    /// To files in the data directory
    #[default]
    File,
    /// To standard output alone: what collects it keeps it, and each start begins a chain
    Stdout,
}

/// A size in bytes: `65536`, `64KiB`, `64MiB` or `1GiB`; at least 64 KiB, so that a file holds more than its first record.
fn size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let (digits, shift) = units
        .into_iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))
        .unwrap_or((text, 0));
    let number: Option<u64> = digits.trim_end().parse().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|bytes| *bytes >= 1 << 16)
        .ok_or_else(|| "not a size of 64KiB or more, such as 64MiB".to_owned())
}

impl SignerOptions {
    fn audit_log(&self, data: &DataDir, now: Timestamp) -> Result<AuditLog, Error> {
        let options = writer::Options {
            printed: self.audit == AuditTo::Both,
            max_bytes: self.audit_max_size,
        };
        Ok(match self.audit {
            AuditTo::Both | AuditTo::File => {
                AuditLog::open_with(&data.file(FILE_NAME), now, options)?
            }
            AuditTo::Stdout => AuditLog::on_stdout()?,
        })
    }

    /// The settings of the CA; where they do not say, its keys are made at `keys`.
    fn ca_settings(&self, keys: KeyPlace) -> Result<CaSettings, Error> {
        ca_settings(self.ca_settings.as_deref(), &self.data, keys)
    }

    async fn listen_for_metrics(&self) -> Result<Option<TcpListener>, Error> {
        let Some(address) = &self.metrics_listen else {
            return Ok(None);
        };
        let listener = listen("--metrics-listen", address).await?;
        if let Ok(address) = listener.local_addr() {
            tracing::info!("metrics: http://{address}/metrics");
        }
        Ok(Some(listener))
    }
}

/// The settings of the CA of a data directory; where they do not say, its keys are made at `keys`.
fn ca_settings(file: Option<&Path>, data: &Path, keys: KeyPlace) -> Result<CaSettings, Error> {
    let settings = match file {
        Some(file) => CaSettings::load(file, keys)?,
        None => CaSettings::usual(keys),
    };
    Ok(CaSettings {
        tokens: settings.tokens.remembering_in(data),
        ..settings
    })
}

/// Listens on an address that an option names.
pub(crate) async fn listen(option: &'static str, address: &str) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen {
            option,
            address: address.to_owned(),
            source,
        })
}

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done when even stderr is gone.
            let _ = writeln!(io::stderr(), "{}", error.report());
            error.exit().into()
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<(), Error> {
    match arguments.command {
        Command::Standalone(standalone) => {
            let endpoint = standalone.signer.otlp_endpoint.clone();
            let instance = run::replica(None)?;
            serve(arguments.log_format, endpoint, &instance, standalone.run())
        }
        Command::Run(run) => {
            let endpoint = run.signer.otlp_endpoint.clone();
            let replica = run::replica(run.replica.clone())?;
            let instance = replica.clone();
            serve(arguments.log_format, endpoint, &instance, run.run(replica))
        }
        Command::Ca(ca) => {
            start_log(arguments.log_format, None)?;
            runtime()?.block_on(ca.run())
        }
        Command::Bundle(bundle) => {
            start_log(arguments.log_format, None)?;
            runtime()?.block_on(bundle.run())
        }
        Command::Audit(audit) => audit.run(),
        Command::Policy(policy) => policy.run(),
        Command::Crd => print(&crd::yaml()),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(
                shell,
                &mut Arguments::command(),
                "touchstone-signer",
                &mut text,
            );
            print(&String::from_utf8_lossy(&text))
        }
        Command::Man { folder } => clap_mangen::generate_to(Arguments::command(), &folder)
            .map_err(|source| Error::Man { folder, source }),
    }
}

/// Runs the signer to its end, with its log and, where someone asks for them, its traces.
fn serve(
    format: LogFormat,
    endpoint: Option<Endpoint>,
    instance: &str,
    signer: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    choose_crypto();
    let traces = Traces::open(endpoint, instance);
    start_log(format, traces.as_ref().ok().and_then(Option::as_ref))?;
    let traces = traces.unwrap_or_else(|error| {
        // What stands in the environment may have been meant for others.
        tracing::warn!(error = %chain(&error), remedy = error.remedy(), "no traces are sent");
        None
    });
    let runtime = runtime()?;
    let result = runtime.block_on(signer);
    // Only now: whoever waits for the lease has it already.
    if let Some(traces) = traces {
        traces.finish();
    }
    result
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)
}

fn start_log(format: LogFormat, traces: Option<&Traces>) -> Result<(), Error> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => EnvFilter::try_new(filter).map_err(Error::LogFilter)?,
        _ => EnvFilter::new("info,kube=warn,hyper=warn,rustls=warn"),
    };
    // Spans are for traces: the log's messages say by themselves what they are about.
    let is_for_the_log =
        filter_fn(|it| it.target() != traces::TRACES).with_max_level_hint(LevelFilter::TRACE);
    let log = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let log = match format {
        LogFormat::Text => log
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .boxed(),
        LogFormat::Json => log.json().boxed(),
    };
    // A test that runs two commands in one process keeps the first one's log.
    let _ = tracing_subscriber::registry()
        .with(log.with_filter(filter.and(is_for_the_log)))
        .with(traces.map(Traces::layer))
        .try_init();
    Ok(())
}

/// Prints data to stdout.
fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read it has read enough: `… | head` is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Error::Output),
    }
}

/// Prints data as JSON.
fn print_json(value: &serde_json::Value) -> Result<(), Error> {
    print(&format!("{value:#}\n"))
}

/// Cancelled by SIGTERM and SIGINT.
fn shutdown_by_signal() -> Result<CancellationToken, Error> {
    let shutdown = CancellationToken::new();
    let mut term = signal(SignalKind::terminate()).map_err(Error::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Runtime)?;
    let token = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        token.cancel();
    });
    Ok(shutdown)
}

/// One crypto library for all TLS in the process.
fn choose_crypto() {
    // Chosen already by an earlier command in the same process: it chose the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
