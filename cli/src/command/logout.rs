//! `touchstone logout`: forgets; it cannot revoke.

use super::{management_access, open, status, verified_pin};
use crate::{
    args::Logout,
    card::{KeySlot, signer},
    credential::{Credential, CredentialError, Store},
    error::Error,
    interrupt,
    output::Output,
};
use jiff::Timestamp;
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Forgotten {
    cluster: String,
    user: String,
    not_after: Timestamp,
    still_valid: bool,
}

/// `touchstone logout`.
pub(super) fn run(args: &Logout, output: Output) -> Result<(), Error> {
    let store = Store::open()?;
    let credentials = match &args.cluster {
        Some(_) => vec![the_one(&store, args.cluster.as_deref())?],
        None if args.all => store.credentials()?,
        None => vec![the_one(&store, None)?],
    };
    let mut forgotten = Vec::new();
    for credential in credentials {
        // The card first: it may want a PIN, and what the files say of it is needed to try again.
        if args.clear_card {
            clear_card(&credential, args, output)?;
        }
        store.forget(&credential.cluster)?;
        forgotten.push(Forgotten {
            still_valid: Timestamp::now() <= credential.not_after,
            cluster: credential.cluster,
            user: credential.user,
            not_after: credential.not_after,
        });
    }
    output.data(&forgotten, |forgotten| {
        forgotten
            .iter()
            .map(|one| {
                let mut text = format!("Forgotten: the certificate of {} for {}.\n", one.user, one.cluster);
                if one.still_valid {
                    text.push_str(&format!(
                        "A certificate cannot be revoked: a copy, with your YubiKey, works until {}.\n",
                        status::in_local_time(one.not_after)
                    ));
                }
                text
            })
            .collect()
    })
}

/// The certificate of the named cluster, or the only one there is.
pub(super) fn the_one(store: &Store, cluster: Option<&str>) -> Result<Credential, Error> {
    let none = |cluster: Option<&str>| CredentialError::None {
        what: "certificate",
        cluster: cluster.map(ToOwned::to_owned),
    };
    if let Some(cluster) = cluster {
        return Ok(store
            .credential(cluster)?
            .ok_or_else(|| none(Some(cluster)))?);
    }
    let mut credentials = store.credentials()?;
    match (credentials.pop(), credentials.as_slice()) {
        (Some(only), []) => Ok(only),
        (None, _) => Err(none(None).into()),
        (Some(last), others) => {
            let names: Vec<&str> = others
                .iter()
                .chain(std::iter::once(&last))
                .map(|credential| credential.cluster.as_str())
                .collect();
            Err(Error::Usage(format!(
                "you hold certificates for {}: say which with --cluster",
                names.join(", ")
            )))
        }
    }
}

fn clear_card(credential: &Credential, args: &Logout, output: Output) -> Result<(), Error> {
    let Some(slot) = KeySlot::all().find(|slot| slot.to_string() == credential.slot) else {
        return Ok(());
    };
    let card = open(Some(credential.yubikey))?;
    let mut card = signer::lock(&card);
    let ours = pem::parse(&credential.chain_pem)
        .map(pem::Pem::into_contents)
        .ok();
    if ours.is_none() || card.certificate(slot)? != ours {
        output.progress("The YubiKey's slot holds another certificate; it was left alone.");
        return Ok(());
    }
    if args.management.management_key_file.is_none() {
        verified_pin(&mut *card, &args.pin)?;
    }
    card.authenticate(&management_access(&args.management)?)?;
    let _whole = interrupt::shield();
    card.write_certificate(slot, None)?;
    Ok(())
}
