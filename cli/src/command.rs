//! The commands, one file each, and what several of them share.

mod approve;
mod approver;
pub mod ca;
pub mod completions;
pub mod config;
pub mod credential;
pub mod doctor;
pub mod exec;
mod grants;
pub mod key;
pub mod login;
pub mod logout;
pub mod man;
pub mod proxy;
mod requests;
pub(crate) mod revoke;
pub mod setup;
pub mod status;
pub mod whoami;

use crate::{
    args::{CaCommand, CaRootCommand, Cli, Command, KeyCommand, ManagementArgs, PinArgs},
    card::{Card, CardError, ManagementAccess, signer::SharedCard, yubikey},
    error::Error,
    interrupt,
    output::Output,
    pin::{ManagementKey, Pin, PinError, PinSource},
    talk::{self, Person},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use touchstone_common::attestation::{AttestationError, Roots};

/// Does what the command line says.
///
/// # Errors
/// Why it could not be done.
pub fn run(cli: Cli) -> Result<(), Error> {
    let output = Output::new(&cli.global);
    match cli.command {
        // Fast ones, which hold nothing that an interruption could leave half done.
        Command::Status(args) => status::run(&args, output),
        Command::Completions { shell } => completions::run(shell, output),
        // It has its own way to end.
        Command::Proxy(args) => proxy::run(args, output),
        // They become another program.
        Command::Kubectl(args) => exec::kubectl(&args),
        Command::Exec(args) => exec::run(&args),
        // It only looks.
        Command::Doctor(args) => doctor::run(&args, output),
        command => {
            interrupt::install();
            match command {
                Command::Ca(CaCommand::Root(CaRootCommand::Init(args))) => {
                    ca::root::init(&args, output)
                }
                Command::Ca(CaCommand::Schema) => ca::schema(output),
                Command::Ca(CaCommand::Sign(args)) => ca::sign::run(&args, output),
                Command::Ca(CaCommand::Verify(args)) => ca::verify::run(&args, output),
                Command::Key(KeyCommand::Attest(args)) => key::attest(&args, output),
                Command::Key(KeyCommand::Enrol(args)) => key::enrol(&args, output),
                Command::Key(KeyCommand::Generate(args)) => key::generate::run(&args, output),
                Command::Key(KeyCommand::List(args)) => key::list::run(&args, output),
                Command::Key(KeyCommand::Setup(args)) => key::setup::run(&args, output),
                Command::Key(KeyCommand::Unblock(args)) => key::setup::unblock(&args, output),
                Command::Login(args) => login::run(&args, output),
                Command::Requests(args) => requests::run(&args, output),
                Command::Approve(args) => approve::approve(&args, output),
                Command::Deny(args) => approve::deny(&args, output),
                Command::Revoke(args) => revoke::run(&args, output),
                Command::Grants(args) => grants::run(&args, output),
                Command::Whoami(args) => whoami::run(&args, output),
                Command::Logout(args) => logout::run(&args, output),
                Command::Config(command) => config::run(command, output),
                Command::Credential(args) => credential::run(&args, output),
                Command::Setup(args) => setup::run(&args, output),
                Command::Man { folder } => man::run(&folder, output),
                Command::Completions { .. }
                | Command::Doctor(_)
                | Command::Exec(_)
                | Command::Kubectl(_)
                | Command::Proxy(_)
                | Command::Status(_) => Ok(()),
            }
        }
    }
}

/// Opens the card for signing.
fn open(serial: Option<u32>) -> Result<SharedCard, CardError> {
    Ok(Arc::new(Mutex::new(yubikey::open(serial)?)))
}

/// Asks for the PIN and spends one try on it.
fn verified_pin(card: &mut dyn Card, args: &PinArgs) -> Result<Pin, Error> {
    let source = PinSource::new(args.pin_file.clone());
    talk::verified_pin(card, &Person::new(Output::silent(), source))
}

/// The management key that was named, or the one behind the PIN.
fn management_access(args: &ManagementArgs) -> Result<ManagementAccess, PinError> {
    Ok(match &args.management_key_file {
        Some(path) => ManagementAccess::Given(ManagementKey::from_file(path)?),
        None => ManagementAccess::PinProtected,
    })
}

/// Yubico's attestation roots and those that were named.
fn roots(files: &[PathBuf], configured: &[Vec<u8>]) -> Result<Roots, Error> {
    let mut roots = Roots::yubico();
    for pem in configured {
        roots = roots.with_test_root(pem)?;
    }
    for path in files {
        let pem = read(path)?;
        roots = roots
            .with_test_root(&pem)
            .map_err(|error: AttestationError| {
                Error::Usage(format!(
                    "{} is no attestation root: {error}",
                    path.display()
                ))
            })?;
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::File {
        verb: "read",
        path: path.to_owned(),
        source,
    })
}
