//! What the approver's commands work with: the cluster, a connection to it, and the approver's key.

use super::{key, open, verified_pin};
use crate::{
    api::Connection,
    args::ApproverArgs,
    card::signer::{self, CardKey},
    config::{Cluster, Config, Reach},
    error::Error,
    output::Output,
};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use tokio::runtime::Runtime;
use touchstone_common::{
    approval::{Pass, SignError},
    attestation::PinPolicy,
    evidence::Evidence,
    name::UserName,
};

/// An approver at work.
pub(super) struct Approver<'a> {
    args: &'a ApproverArgs,
    cluster: Cluster,
    connection: Connection,
    runtime: Runtime,
    output: Output,
    name: Option<UserName>,
}

/// The approver's key, and the proof of where it is.
pub(super) struct Signing {
    pub(super) key: Arc<CardKey>,
    pub(super) evidence: Evidence,
}

impl<'a> Approver<'a> {
    pub(super) fn open(args: &'a ApproverArgs, output: Output) -> Result<Self, Error> {
        let config = Config::load()?;
        let cluster = match &args.cluster {
            Some(name) => config.cluster(name)?,
            None => config.cluster(the_one(&config)?)?,
        };
        let cluster = cluster.with_signer(args.signer.as_deref())?;
        let name = match &args.user {
            None => cluster.user().cloned(),
            Some(text) => Some(UserName::parse(text).map_err(|source| Error::Name {
                what: "user name",
                text: text.clone(),
                source,
            })?),
        };
        let runtime = super::login::runtime()?;
        let connection = runtime.block_on(Connection::new(cluster.reach()))?;
        Ok(Self {
            args,
            cluster,
            connection,
            runtime,
            output,
            name,
        })
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The approver's name.
    pub(super) fn name(&self) -> Result<&UserName, Error> {
        self.name.as_ref().ok_or_else(|| {
            Error::Usage(format!(
                "who are you in {}? Add --user NAME here, or user: NAME to the cluster's entry in the configuration",
                self.cluster.name()
            ))
        })
    }

    pub(super) fn wait_for<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.runtime.block_on(work)
    }

    /// Opens the card and asks for the PIN.
    pub(super) fn signing(&self) -> Result<Signing, Error> {
        let card = open(self.args.card.serial)?;
        let (key, public_key, evidence, pin) = {
            let mut card = signer::lock(&card);
            let (key, public_key) = signer::usable_key(&mut *card, self.args.slot)?;
            let evidence = key::evidence(&mut *card, self.args.slot)?;
            let pin = match key.pin_policy {
                Some(PinPolicy::Never) => None,
                _ => Some(verified_pin(&mut *card, &self.args.pin)?),
            };
            (key, public_key, evidence, pin)
        };
        let notice = Arc::new(self.output);
        let key = CardKey::new(card, self.args.slot, public_key, &key, pin, notice);
        Ok(Signing {
            key: Arc::new(key),
            evidence,
        })
    }

    /// Where no credential is configured, signs a pass for the API: a touch of its own. With a kubeconfig, its credential
    /// is used, and no card is needed to look.
    pub(super) fn pass(&self, validity: SignedDuration) -> Result<Option<Signing>, Error> {
        if matches!(self.cluster.reach(), Reach::Kubeconfig { .. }) {
            return Ok(None);
        }
        let name = self.name()?.clone();
        // A wrong CA or a server that is not there costs neither try nor touch.
        self.wait_for(async { Ok(self.connection.server_time().await?) })?;
        let signing = self.signing()?;
        self.output
            .progress("To see what waits, your key has to say who you are.");
        let pass = Pass::new(
            name,
            self.cluster.name().clone(),
            Timestamp::now(),
            validity,
            super::login::random()?,
        );
        let pass =
            pass.sign(&*signing.key, Some(&signing.evidence))
                .map_err(|error| match error {
                    SignError::Key(error) => error,
                    SignError::Signature => crate::card::CardError::Malformed("the signature"),
                })?;
        self.connection.show_pass(&pass);
        Ok(Some(signing))
    }
}

/// The name of the only cluster that is configured.
fn the_one(config: &Config) -> Result<&str, Error> {
    let mut names = config.clusters().map(|(name, _)| name);
    match (names.next(), names.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Error::Usage(
            "no cluster is configured: touchstone config set-cluster --help".to_owned(),
        )),
        (Some(_), Some(_)) => Err(Error::Usage(
            "several clusters are configured: say which with --cluster NAME".to_owned(),
        )),
    }
}
