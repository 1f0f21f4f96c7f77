//! `ca`: making the CA, showing its quarter, and what an operator may ask of it.
//!
//! Operators' commands write what is wished into the CA's record, by compare-and-swap like everyone; the running signers
//! make the steps.

mod act;
mod picture;
mod place;
mod status;

use super::{Output, print};
use crate::{
    ca::{bootstrap, key::KeyPlace, lifecycle::CaId},
    clock::{Clock, SystemClock},
    data_dir::DataDir,
    error::Error,
};
use clap::Subcommand;
use place::Place;
use std::path::PathBuf;

/// The CA.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Make a root and an issuing CA in a data directory, once; prints the trust bundle's path
    Init {
        /// Where it is kept
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// The settings of the CA, YAML: where the issuing CA's key is made, and of what kind
        #[arg(long, value_name = "FILE")]
        ca_settings: Option<PathBuf>,
    },
    /// Show every CA, the quarter as a picture, and what is due
    Status {
        /// Where the record is
        #[command(flatten)]
        place: Place,
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Have the rotation go on, each step as soon as it is safe; can be repeated after any interruption
    Rotate {
        /// Where the record is
        #[command(flatten)]
        place: Place,
        /// Only the next step
        #[arg(long)]
        step: bool,
        /// Only say what would happen, and when
        #[arg(long)]
        dry_run: bool,
    },
    /// Go back one step, and hold everything until `rotate`
    Rollback {
        /// Where the record is
        #[command(flatten)]
        place: Place,
        /// Only say what would happen
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the request that the security team is to sign
    Request {
        /// Where the record is
        #[command(flatten)]
        place: Place,
    },
    /// Take the certificate that the security team signed
    Import {
        /// Where the record is
        #[command(flatten)]
        place: Place,
        /// The certificate, PEM
        #[arg(value_name = "FILE")]
        certificate: PathBuf,
        /// The root that signed it, PEM, where the record does not have it yet: it is trusted from then on
        #[arg(long, value_name = "FILE")]
        root: Option<PathBuf>,
        /// Only say whether it would be taken
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the trust bundle: what `--client-ca-file` takes
    ExportBundle {
        /// Where the record is
        #[command(flatten)]
        place: Place,
    },
    /// A CA's key leaked: another CA now, this one out of the bundle, its living certificates listed and marked
    Distrust {
        /// Where the record is
        #[command(flatten)]
        place: Place,
        /// Which, such as ca-3
        #[arg(value_name = "CA")]
        ca: CaId,
        /// Only list what would be hit
        #[arg(long)]
        dry_run: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

impl Ca {
    pub(super) async fn run(self) -> Result<(), Error> {
        let now = SystemClock.now();
        match self {
            Self::Init { data, ca_settings } => {
                let settings = super::ca_settings(ca_settings.as_deref(), &data, KeyPlace::Secret)?;
                let data = DataDir::open(&data)?;
                bootstrap::open_as(&data, &settings, now)?;
                print(&format!(
                    "{}\n",
                    data.file(bootstrap::TRUST_BUNDLE).display()
                ))
            }
            Self::Status { place, output } => status::run(&place, output, now).await,
            Self::Rotate {
                place,
                step,
                dry_run,
            } => act::rotate(&place.open().await?, step, dry_run, now).await,
            Self::Rollback { place, dry_run } => {
                act::roll_back(&place.open().await?, dry_run, now).await
            }
            Self::Request { place } => act::request(&place.open().await?).await,
            Self::Import {
                place,
                certificate,
                root,
                dry_run,
            } => {
                let open = place.open().await?;
                act::import(&open, &certificate, root.as_deref(), dry_run, now).await
            }
            Self::ExportBundle { place } => act::export_bundle(&place.open().await?).await,
            Self::Distrust {
                place,
                ca,
                dry_run,
                yes,
                output,
            } => {
                let how = act::Distrust {
                    ca,
                    dry_run,
                    yes,
                    output,
                };
                how.run(&place.open().await?, now).await
            }
        }
    }
}
