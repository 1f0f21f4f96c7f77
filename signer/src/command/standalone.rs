//! `standalone`: the embedded API and the signer in one process.

use super::SignerOptions;
use crate::error::Error;
use clap::Args;

/// `standalone`.
#[derive(Debug, Args)]
pub struct Standalone {
    #[command(flatten)]
    signer: SignerOptions,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    listen: String,
    /// A further name or address of this machine, for the server's certificate
    #[arg(long, value_name = "NAME")]
    tls_san: Vec<String>,
}

impl Standalone {
    pub(super) async fn run(self) -> Result<(), Error> {
        std::future::pending().await
    }
}
