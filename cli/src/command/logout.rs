//! `touchstone logout`: forgets; it cannot revoke.

use super::{exec, management_access, open, status, verified_pin};
use crate::{
    args::Logout,
    card::{KeySlot, signer},
    credential::{Credential, CredentialError, Store},
    error::Error,
    interrupt,
    output::Output,
    proxy::{ProxyError, control, place::Place},
};
use jiff::Timestamp;
use serde::Serialize;
use std::fs;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Forgotten {
    cluster: String,
    user: String,
    not_after: Timestamp,
    still_valid: bool,
    proxy_stopped: bool,
}

/// `touchstone logout`.
pub(super) fn run(args: &Logout, output: Output) -> Result<(), Error> {
    let store = Store::open()?;
    // The proxies first: they would go on with the certificates that they have in memory.
    let asked = match &args.cluster {
        Some(cluster) if is_plain(cluster) => vec![cluster.clone()],
        Some(_) => Vec::new(),
        None if args.all => clusters_with_a_proxy(&store),
        // A software key is known to its proxy alone.
        None => match clusters_with_a_proxy(&store).as_slice() {
            [only] if store.credentials()?.is_empty() => vec![only.clone()],
            _ => Vec::new(),
        },
    };
    let mut proxies = Proxies::new(&store, output);
    for cluster in asked {
        proxies.stop(&cluster);
    }
    let credentials = match &args.cluster {
        Some(cluster) => match the_one(&store, Some(cluster)) {
            Err(Error::Credential(CredentialError::None { .. })) if proxies.found_one() => {
                Vec::new()
            }
            other => vec![other?],
        },
        None if args.all => store.credentials()?,
        None if proxies.found_one() => Vec::new(),
        None => vec![the_one(&store, None)?],
    };
    exec::sweep(Place::new(&store, "").folder());
    let mut forgotten = Vec::new();
    for credential in credentials {
        let proxy_stopped = proxies.stop(&credential.cluster);
        // The card first: it may want a PIN, and what the files say of it is needed to try again.
        if args.clear_card {
            clear_card(&credential, args, output)?;
        }
        store.forget(&credential.cluster)?;
        forgotten.push(Forgotten {
            still_valid: Timestamp::now() <= credential.not_after,
            proxy_stopped,
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
    })?;
    proxies
        .failure
        .map_or(Ok(()), |failure| Err(failure.into()))
}

/// The proxies that are to end.
struct Proxies<'a> {
    store: &'a Store,
    output: Output,
    ended: Vec<String>,
    /// Why the first one did not. The certificates are forgotten all the same.
    failure: Option<ProxyError>,
}

impl<'a> Proxies<'a> {
    fn new(store: &'a Store, output: Output) -> Self {
        Self {
            store,
            output,
            ended: Vec::new(),
            failure: None,
        }
    }

    /// Ends a cluster's proxy, and with it every stream, the PIN and the loopback key in its memory. Whether it has ended.
    fn stop(&mut self, cluster: &str) -> bool {
        if self.ended.iter().any(|ended| ended == cluster) {
            return true;
        }
        let software = control::status(self.store, cluster);
        let software = software.ok().flatten().and_then(|proxy| proxy.software_key);
        match control::stop(self.store, cluster) {
            Ok(false) => return false,
            Ok(true) => {}
            Err(failure) => {
                self.failure.get_or_insert(failure);
                return false;
            }
        }
        self.output
            .progress(&format!("The proxy of {cluster} has ended."));
        if let Some(software) = software {
            self.output.progress(&format!(
                "With it the software key of {} is gone. A copy, had someone made one, works until {}.",
                software.user,
                status::in_local_time(software.not_after)
            ));
        }
        self.ended.push(cluster.to_owned());
        true
    }

    fn found_one(&self) -> bool {
        !self.ended.is_empty() || self.failure.is_some()
    }
}

/// A name that leads to no other folder.
pub(super) fn is_plain(cluster: &str) -> bool {
    !cluster.contains('/') && !cluster.starts_with('.')
}

/// The clusters that a socket stands for, with a certificate or without.
pub(super) fn clusters_with_a_proxy(store: &Store) -> Vec<String> {
    fs::read_dir(Place::new(store, "").folder())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".sock")?.to_owned()))
        .filter(|name| is_plain(name))
        .collect()
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
