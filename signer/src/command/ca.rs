//! `ca`: making and showing the CA in a data directory.

use super::{Output, print, print_json};
use crate::{
    ca::{Authority, bootstrap, days_left, fingerprint},
    clock::{Clock, SystemClock},
    data_dir::DataDir,
    error::Error,
};
use clap::Subcommand;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::path::PathBuf;
use touchstone_common::certificate::CaCertificate;

/// The CA in the data directory.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Make a root and an issuing CA, once; prints the trust bundle's path
    Init {
        /// Where it is kept
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
    /// Show the CA and how long it lasts
    Status {
        /// Where it is kept
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

impl Ca {
    pub(super) fn run(self) -> Result<(), Error> {
        match self {
            Self::Init { data } => {
                let data = DataDir::open(&data)?;
                bootstrap::open(&data, SystemClock.now())?;
                print(&format!(
                    "{}\n",
                    data.file(bootstrap::TRUST_BUNDLE).display()
                ))
            }
            Self::Status { data, output } => {
                let authority = bootstrap::load(&data)?;
                let now = SystemClock.now();
                match output {
                    Output::Json => {
                        print_json(&json(&authority, &data.join(bootstrap::TRUST_BUNDLE), now))
                    }
                    Output::Table => print(&table(&authority, now)),
                }
            }
        }
    }
}

fn json(authority: &Authority, bundle: &std::path::Path, now: Timestamp) -> Value {
    let one = |certificate: &CaCertificate| {
        let validity = certificate.validity();
        json!({
            "fingerprint": fingerprint(certificate.der()),
            "notBefore": validity.not_before,
            "notAfter": validity.not_after,
            "daysLeft": days_left(certificate, now),
        })
    };
    json!({
        "root": one(authority.root()),
        "issuing": one(authority.issuing().certificate()),
        "trustBundle": bundle,
    })
}

fn table(authority: &Authority, now: Timestamp) -> String {
    let mut text = format!(
        "{:<9}{:<22}{:<11}{}\n",
        "CA", "EXPIRES", "DAYS LEFT", "FINGERPRINT"
    );
    for (name, certificate) in [
        ("root", authority.root()),
        ("issuing", authority.issuing().certificate()),
    ] {
        text.push_str(&format!(
            "{name:<9}{:<22}{:<11}{}\n",
            certificate.validity().not_after.to_string(),
            days_left(certificate, now),
            fingerprint(certificate.der())
        ));
    }
    text
}
