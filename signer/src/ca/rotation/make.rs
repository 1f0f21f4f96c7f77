//! A new issuing CA: its key, and its certificate or the request for one.

use super::{Event, Read, Rotation, RotationError};
use crate::{
    ca::{
        CaError,
        bootstrap::{self, BACKDATE},
        key::{self, CaKey, CaKeyError, KeyPlan, TokenError},
        lifecycle::{Lifetime, Root, Schedule},
        record::{Material, Planned},
        settings::CaSettings,
    },
    data_dir::DataDir,
};
use jiff::Timestamp;
use std::sync::Arc;
use touchstone_common::{
    ceremony::IssuingRequest,
    certificate::{CaCertificate, CertificateError, Prepared, Profile, SerialNumber, Validity},
    csr,
    key::PublicKey,
    name::AuthorityName,
};

impl Rotation {
    /// Makes the next CA's key and all that can be made without a ceremony. Where the key will be stands in the record
    /// before it is made, and the key is on disk before the record tells of the CA: whoever dies on the way leaves no key
    /// that nobody knows of. Nothing while somebody else is at it.
    pub(super) async fn prepare(
        &self,
        read: &Read,
        now: Timestamp,
    ) -> Result<Option<Read>, RotationError> {
        if read.record.planned().is_some() {
            return Ok(None);
        }
        let settings = &self.parts.settings;
        if settings.schedule.settings().root == Root::Own {
            let (root, _) = bootstrap::own_root(&self.parts.data)?;
            let is_known = |known: &CaCertificate| known.der() == root.der();
            if !read.record.roots().iter().any(is_known) {
                return Err(RotationError::RootElsewhere);
            }
        }
        let id = read.record.lifecycle().next_id();
        let (keys, tokens) = (settings.keys.clone(), settings.tokens.clone());
        let plan = key::apart(move || keys.plan(id, &tokens)).await?;
        let planned = match &plan {
            KeyPlan::Inline => None,
            KeyPlan::Elsewhere(key) => {
                let planned = Planned {
                    key: key.clone(),
                    since: now,
                };
                let record = read.record.clone().with_planned(planned);
                Some(self.store.replace(read, &record).await?)
            }
        };
        let read = planned.as_ref().unwrap_or(read);
        let (settings, data) = (settings.clone(), Arc::clone(&self.parts.data));
        let made = key::apart(move || make(&plan, &settings, &data, now)).await;
        let material = match made {
            Ok(material) => material,
            Err(error) => {
                // Whatever was made is destroyed, and the next try need not wait until this one is taken for dead. A token that
                // is silent may yet make it.
                let may_come = matches!(
                    error,
                    RotationError::Key(CaKeyError::Token(TokenError::Silent { .. }))
                );
                if read.record.planned().is_some() && !may_come {
                    let record = read.record.clone().without_plan();
                    self.store.replace(read, &record).await?;
                }
                return Err(error);
            }
        };
        let key = material.key.clone();
        let lifetime = material.certificate.as_ref().map(|certificate| {
            let validity = certificate.validity();
            Lifetime {
                not_before: validity.not_before,
                not_after: validity.not_after,
            }
        });
        let mut lifecycle = read.record.lifecycle().clone();
        lifecycle.apply(Event::Prepared(lifetime), now)?;
        let record = read.record.clone().with_material(lifecycle, id, material)?;
        match self.replace(read, &record).await {
            Err(error) if error.is_conflict() => {
                // Another signer gave up on this one.
                if let Some(key) = &key {
                    self.destroy_key(key).await?;
                }
                Err(error)
            }
            written => written.map(Some),
        }
    }
}

/// A planned key, made, and what it signs first.
fn make(
    plan: &KeyPlan,
    settings: &CaSettings,
    data: &DataDir,
    now: Timestamp,
) -> Result<Material, RotationError> {
    let source = plan.generate(settings.algorithm, &settings.tokens)?;
    let key = source.open(&settings.tokens)?;
    let material = material(&settings.schedule, data, &*key, now)?;
    Ok(Material {
        key: Some(source),
        ..material
    })
}

fn material(
    schedule: &Schedule,
    data: &DataDir,
    key: &dyn CaKey,
    now: Timestamp,
) -> Result<Material, RotationError> {
    let settings = schedule.settings();
    // Two CAs must not have one name: clients look issuers up by it.
    let mark = hex::encode(bootstrap::random::<4>()?);
    let name = format!("Touchstone issuing CA {mark}");
    let lifetime = settings.lifetime.as_duration();
    let validity = || bootstrap::validity(now, BACKDATE, lifetime);
    match settings.root {
        Root::Ceremony => {
            let name = AuthorityName::parse(&name)
                .map_err(|error| CaError::Make(CertificateError::Name(error)))?;
            let der = IssuingRequest::sign(&name, key)?;
            Ok(Material {
                request: Some(csr::to_pem(&der)),
                ..Material::default()
            })
        }
        Root::None => certified(&name, key.public_key(), validity()?, None, key),
        Root::Own => {
            let (root, root_key) = bootstrap::own_root(data)?;
            certified(
                &name,
                key.public_key(),
                validity()?,
                Some(&root),
                &*root_key,
            )
        }
    }
}

fn certified(
    name: &str,
    public_key: &PublicKey,
    validity: Validity,
    issuer: Option<&CaCertificate>,
    key: &dyn CaKey,
) -> Result<Material, RotationError> {
    let profile = Profile::IssuingCa { common_name: name };
    let serial = SerialNumber::from_random(bootstrap::random()?);
    let der = Prepared::new(&profile, public_key, validity, serial, issuer)
        .map_err(CaError::Make)?
        .sign(key)?;
    Ok(Material {
        certificate: Some(CaCertificate::from_der(&der).map_err(CaError::Make)?),
        ..Material::default()
    })
}
