//! Creating objects, and the requests that come without a credential.

use axum::response::Response;
use http::StatusCode;
use k8s_openapi::api::{
    authentication::v1::UserInfo, certificates::v1::CertificateSigningRequestSpec,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Call, read_document};
use crate::{
    authentication::Scope,
    config::{AttestedCreator, Refusal},
    decode, object,
    resource::Resource,
    status::ApiError,
    store::{Change, Key, Outcome},
};

/// How often another name is tried when a generated one is taken.
const NAME_TRIES: u32 = 8;

pub(super) async fn create(
    call: Call,
    store: &'static str,
    body: &[u8],
) -> Result<Response, ApiError> {
    let resource = call.resource;
    let sent = read_document(&call.headers, body)?;
    let decoded = decode::decode(resource, sent, &call.parameters)?;
    let mut new = decoded.object;
    decode::fit_to_path(&mut new, resource, "", &call.attributes.namespace)?;
    if !object::text(&new, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let random = |_| ApiError::internal("there is no randomness");
    let (creator, token) = match call.identity.scope {
        Scope::Anonymous => {
            let admitted = admit(&call, &new).await?;
            let creator = UserInfo {
                username: Some(admitted.username),
                groups: Some(admitted.groups),
                extra: Some(admitted.extra),
                uid: None,
            };
            (creator, Some(admitted.read_token_sha256))
        }
        Scope::Approver | Scope::Groups | Scope::Requests(_) => (call.identity.user.clone(), None),
    };
    let uid = object::new_uid().map_err(random)?;
    object::stamp_new(&mut new, &uid, call.now, resource.counts_generations);
    let prefix = object::text(&new, "generateName").to_owned();
    let is_generated = object::name(&new).is_empty() && !prefix.is_empty();
    let mut errors = Vec::new();
    if is_generated {
        set_name(&mut new, &object::generate_name(&prefix).map_err(random)?);
    }
    errors.extend(object::check(&new, resource));
    errors.extend((resource.prepare_create)(&mut new, &creator));
    if !errors.is_empty() {
        return Err(ApiError::invalid(resource, object::name(&new), &errors));
    }
    let dry_run = call.parameters.dry_run()?;
    let mut tries = 1;
    let outcome = loop {
        match put(&call, store, new.clone(), token, dry_run).await {
            Err(error) if is_generated && error.is_already_exists() && tries < NAME_TRIES => {
                tries += 1;
                set_name(&mut new, &object::generate_name(&prefix).map_err(random)?);
            }
            result => break result?,
        }
    };
    tracing::info!(
        user = call.identity.name(),
        resource = resource.qualified(),
        namespace = call.attributes.namespace,
        name = object::name(&outcome.object),
        dry_run,
        "created"
    );
    call.answer(StatusCode::CREATED, outcome.object, &decoded.warnings)
}

fn set_name(object: &mut Value, name: &str) {
    object::metadata_mut(object).insert("name".to_owned(), Value::String(name.to_owned()));
}

async fn put(
    call: &Call,
    store: &'static str,
    mut new: Value,
    token: Option<[u8; 32]>,
    dry_run: bool,
) -> Result<Outcome, ApiError> {
    let resource: &'static Resource = call.resource;
    let key = Key {
        store,
        namespace: call.attributes.namespace.clone(),
        name: object::name(&new).to_owned(),
    };
    let name = key.name.clone();
    let namespace = key.namespace.clone();
    resource.keep(&mut new);
    call.app
        .store
        .write(
            key,
            Box::new(move |current, context| {
                if !context.namespace_exists {
                    return Err(missing_namespace(&namespace));
                }
                if current.is_some() {
                    return Err(ApiError::already_exists(resource, &name));
                }
                Ok(if dry_run {
                    Change::Keep(new)
                } else {
                    Change::Put(new, token)
                })
            }),
        )
        .await
}

fn missing_namespace(name: &str) -> ApiError {
    match crate::resource::find_stored("namespaces") {
        Some(namespaces) => ApiError::not_found(namespaces, name),
        None => ApiError::path_not_found(),
    }
}

/// Asks the embedder whether a request without a credential is taken.
async fn admit(call: &Call, new: &Value) -> Result<AttestedCreator, ApiError> {
    let spec = new
        .get("spec")
        .map(CertificateSigningRequestSpec::deserialize)
        .transpose()
        .ok()
        .flatten()
        .ok_or_else(|| call.forbidden("the request can't be read"))?;
    let anonymous = call.app.anonymous.clone();
    let judged = call.app.judging.run(move || anonymous.admit(&spec)).await?;
    judged.map_err(|Refusal { message }| call.forbidden(&message))
}
