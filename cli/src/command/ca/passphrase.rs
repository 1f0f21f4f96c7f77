//! The passphrase of a root's key in a file.

use super::{CeremonyError, private_document};
use crate::{
    args::CeremonyArgs,
    error::Error,
    output::Output,
    pin::{PinError, secret_from_file},
    terminal::Terminal,
};
use std::path::Path;
use touchstone_common::key::{SoftwareKey, SoftwareKeyError};
use zeroize::Zeroizing;

const OPTION: &str = "--passphrase-file FILE";

/// A new passphrase, asked twice; nothing where none is wanted.
pub(super) fn new(
    args: &CeremonyArgs,
    is_unwanted: bool,
    output: Output,
) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    if is_unwanted {
        output.warn("the root's key is under no passphrase: whoever reads the file has it.");
        return Ok(None);
    }
    if let Some(file) = &args.passphrase_file {
        return Ok(Some(secret_from_file(file)?));
    }
    let mut terminal = Terminal::open("--passphrase-file FILE, or --no-passphrase")?;
    loop {
        let first = terminal.secret("New passphrase of the root's key (8 characters or more): ")?;
        if first.len() < SoftwareKey::MIN_PASSPHRASE {
            terminal.complain(&SoftwareKeyError::ShortPassphrase)?;
        } else if *terminal.secret("The new passphrase again: ")? == *first {
            return Ok(Some(first));
        } else {
            terminal.complain(&PinError::Differ)?;
        }
    }
}

/// The key of a root in a file, which is asked for its passphrase if it is under one.
pub(super) fn open(path: &Path, args: &CeremonyArgs) -> Result<SoftwareKey, Error> {
    let pem = private_document(path)?;
    let failed = |source| CeremonyError::Key {
        path: path.to_owned(),
        source,
    };
    match SoftwareKey::from_pem(&pem, None) {
        Err(SoftwareKeyError::Encrypted) => {}
        read => return Ok(read.map_err(failed)?),
    }
    let passphrase = match &args.passphrase_file {
        Some(file) => secret_from_file(file)?,
        None => Terminal::open(OPTION)?.secret("Passphrase of the root's key: ")?,
    };
    Ok(SoftwareKey::from_pem(&pem, Some(&passphrase)).map_err(failed)?)
}
