//! The first record: of the CA in the data directory where there is one, empty otherwise. And never a second first one.

use super::{Parts, RotationError};
use crate::{
    bundle::publish::Publisher,
    ca::{
        bootstrap::{self, Founded},
        lifecycle::{Lifecycle, Lifetime, Root},
        record::{Material, Record, RecordError},
        settings::CaSettings,
        store::{Read, Store, StoreError},
    },
    data_dir::{self, DataDir},
};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// In the data directory: which cluster's record was seen here.
const TRACE: &str = "ca-record.json";

/// The CA that a data directory begins with, made where nothing was ever issued. Nothing where a record was seen here
/// already, or where its first CA comes another way. To be called before the audit log is begun, which is a trace of a CA.
///
/// # Errors
/// When it cannot be made, or is gone.
pub fn found(
    data: &DataDir,
    settings: &CaSettings,
    now: Timestamp,
) -> Result<Option<Founded>, RotationError> {
    let is_known = data_dir::read_optional(&data.file(TRACE))?.is_some();
    match settings.schedule.settings().root {
        Root::Own if !is_known => Ok(Some(bootstrap::open_as(data, settings, now)?)),
        Root::Own | Root::Ceremony | Root::None => Ok(None),
    }
}

/// Reads the record, or makes the first one.
pub(super) async fn open(
    store: &Store,
    publisher: &Publisher,
    parts: &Parts,
    now: Timestamp,
) -> Result<Read, RotationError> {
    let trace = parts.data.file(TRACE);
    let read = match store.load().await? {
        Some(read) => read,
        None => {
            if data_dir::read_optional(&trace)?.is_some() {
                return Err(RotationError::Gone {
                    trace: trace.display().to_string(),
                });
            }
            if publisher.is_published().await? {
                return Err(RotationError::Gone {
                    trace: "the published trust bundle".into(),
                });
            }
            let record = first(parts, now)?;
            match store.create(&record).await {
                Ok(read) => read,
                // Another signer was first.
                Err(StoreError::Conflict) => store.load().await?.ok_or(StoreError::Gone)?,
                Err(error) => return Err(error.into()),
            }
        }
    };
    let known = serde_json::to_vec(read.record.binding()).map_err(RecordError::Malformed)?;
    if data_dir::read_optional(&trace)?.as_deref() != Some(&*known) {
        data_dir::write_atomic(&trace, &known)?;
    }
    Ok(read)
}

fn first(parts: &Parts, now: Timestamp) -> Result<Record, RotationError> {
    let schedule = parts.settings.schedule;
    let binding = parts.binding.clone();
    let Some(founded) = &parts.founded else {
        let lifecycle = Lifecycle::new(schedule, now);
        let record = Record::new(binding, lifecycle, Vec::new(), BTreeMap::new())?;
        return Ok(record);
    };
    let certificate = founded.issuing().certificate().clone();
    let validity = certificate.validity();
    let lifetime = Lifetime {
        not_before: validity.not_before,
        not_after: validity.not_after,
    };
    let lifecycle = Lifecycle::adopt(schedule, Root::Own, lifetime, now);
    let material = Material {
        certificate: Some(certificate),
        key: Some(bootstrap::issuing_key(parts.data.path())?),
        request: None,
    };
    let ids = lifecycle.cas().iter().map(|ca| (ca.id(), material.clone()));
    let material = ids.collect();
    let roots = vec![founded.root().clone()];
    Ok(Record::new(binding, lifecycle, roots, material)?)
}
