//! `touchstone whoami`: asks the API server, over mutual TLS whose client signature the YubiKey makes.

use super::{logout::the_one, open, verified_pin};
use crate::{
    args::Whoami,
    card::{
        CardError,
        signer::{self, CardKey},
    },
    config::Config,
    credential::{CredentialError, Store},
    error::Error,
    output::{Output, pairs},
    tls,
};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{Api, api::PostParams};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};
use touchstone_common::attestation::{PinPolicy, Slot};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Who {
    cluster: String,
    server: String,
    user: String,
    uid: Option<String>,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// `touchstone whoami`.
pub(super) fn run(args: &Whoami, output: Output) -> Result<(), Error> {
    let store = Store::open()?;
    let credential = the_one(&store, args.cluster.as_deref())?;
    if credential.not_after < Timestamp::now() {
        return Err(CredentialError::Ended {
            cluster: credential.cluster,
            ended: credential.not_after,
        }
        .into());
    }
    let cluster = Config::load()?.cluster(&credential.cluster)?;
    let slot = credential
        .slot
        .parse::<Slot>()
        .map_err(|_| CardError::Malformed("the slot of the kept certificate"))?;

    let card = open(Some(credential.yubikey))?;
    let (key, public_key, pin) = {
        let mut card = signer::lock(&card);
        let (key, public_key) = signer::usable_key(&mut *card, slot)?;
        let pin = match key.pin_policy {
            Some(PinPolicy::Never) => None,
            _ => Some(verified_pin(&mut *card, &args.pin)?),
        };
        (key, public_key, pin)
    };
    let card_key = CardKey::new(card, slot, public_key, &key, pin, Arc::new(output));
    let identity = tls::Identity::new(Arc::new(card_key), &credential.chain_pem)?;

    let runtime = super::login::runtime()?;
    let (server, review) = runtime.block_on(async {
        let connection = tls::Connector::new(cluster.reach(), Arc::new(identity)).await?;
        let api: Api<SelfSubjectReview> = Api::all(connection.client());
        let review = connection
            .answer(api.create(&PostParams::default(), &SelfSubjectReview::default()))
            .await?;
        Ok::<_, Error>((connection.server().to_owned(), review))
    })?;
    let info = review
        .status
        .and_then(|status| status.user_info)
        .unwrap_or_default();
    let who = Who {
        cluster: credential.cluster,
        server,
        user: info.username.unwrap_or_default(),
        uid: info.uid,
        groups: info.groups.unwrap_or_default(),
        extra: info.extra.unwrap_or_default(),
    };
    output.data(&who, |who| {
        pairs(&[
            ("cluster", format!("{} ({})", who.cluster, who.server)),
            ("user", who.user.clone()),
            ("groups", who.groups.join(", ")),
        ])
    })
}
