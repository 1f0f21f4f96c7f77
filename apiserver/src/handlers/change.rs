//! Changing what is there: update, patch, delete.

use std::sync::{Arc, Mutex, PoisonError};

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Call, json_response, read, read_document};
use crate::{
    authorization::Owner,
    config::Approvers,
    decode, negotiation, object,
    patch::Patch,
    request::{Attributes, Parameters},
    resource::{Resource, Subresource},
    status::{ApiError, FieldError},
    store::{Change, Key, PageRequest},
};

/// Namespaces that stay.
const KEPT_NAMESPACES: &[&str] = &["default", "kube-system"];

/// How an object is changed, by whatever verb.
struct Edit {
    resource: &'static Resource,
    subresource: Option<Subresource>,
    name: String,
    dry_run: bool,
    /// For those who may set their own statement and nothing else.
    statement: Option<StatementEdit>,
}

/// The change that an approver may make.
struct StatementEdit {
    owner: Owner,
    approver: String,
    attributes: Attributes,
    approvers: Arc<dyn Approvers>,
}

impl StatementEdit {
    fn of(call: &Call) -> Option<Self> {
        Some(Self {
            // What is one's own to read is not one's own to write.
            owner: match call.owner.clone()? {
                Owner::Approvers { signer_name, .. } => Owner::Approvers {
                    signer_name,
                    reader: None,
                },
                other => other,
            },
            approver: call.identity.name().to_owned(),
            attributes: call.attributes.clone(),
            approvers: Arc::clone(&call.app.approvers),
        })
    }

    fn forbidden(&self, why: &str) -> ApiError {
        ApiError::forbidden(&self.approver, &self.attributes, why)
    }

    /// Whether `new` is `old` with the approver's statement on it, and that one is taken.
    fn check(&self, new: &Value, old: &Value) -> Result<(), ApiError> {
        let key = self.approvers.annotation(&self.approver);
        let without = |object: &Value| {
            let mut object = object.clone();
            let metadata = object::metadata_mut(&mut object);
            let mut left = metadata.remove("annotations").unwrap_or_default();
            let statement = left.as_object_mut().and_then(|all| all.remove(&key));
            if left.as_object().is_some_and(|all| !all.is_empty()) {
                metadata.insert("annotations".to_owned(), left);
            }
            (object, statement)
        };
        let ((new_rest, statement), (old_rest, _)) = (without(new), without(old));
        let Some(statement) = statement.as_ref().and_then(Value::as_str) else {
            return Err(self.forbidden(&format!("an approver sets the annotation {key}")));
        };
        if new_rest != old_rest {
            return Err(self.forbidden(&format!(
                "an approver sets the annotation {key} and changes nothing else"
            )));
        }
        self.approvers
            .admit(&self.approver, object::uid(old), statement)
            .map_err(|refusal| self.forbidden(&refusal.message))
    }
}

impl Edit {
    fn of(call: &Call) -> Result<Self, ApiError> {
        Ok(Self {
            statement: StatementEdit::of(call),
            resource: call.resource,
            subresource: call.subresource,
            name: call.attributes.name.clone(),
            dry_run: call.parameters.dry_run()?,
        })
    }

    /// Settles what becomes of `stored` when a client wants `wanted` of it.
    fn settle(
        &self,
        stored: Option<&Value>,
        now: Timestamp,
        wanted: impl FnOnce(&Value) -> Result<Value, ApiError>,
    ) -> Result<Change, ApiError> {
        let resource = self.resource;
        // Whether it is there is not told to whom it does not belong.
        if let Some(edit) = &self.statement
            && !stored.is_some_and(|stored| edit.owner.owns(stored))
        {
            return Err(edit.forbidden("no request of this name waits for approval"));
        }
        let stored = stored.ok_or_else(|| ApiError::not_found(resource, &self.name))?;
        let mut old = stored.clone();
        resource.present(&mut old);
        let mut new = wanted(&old)?;
        self.check_identity(&new, &old)?;
        object::keep_identity(&mut new, &old);
        let mut errors = (resource.prepare_update)(&mut new, &old, self.subresource, now);
        errors.extend(object::check(&new, resource));
        if !errors.is_empty() {
            return Err(ApiError::invalid(resource, &self.name, &errors));
        }
        if let Some(edit) = &self.statement {
            edit.check(&new, &old)?;
        }
        if resource.counts_generations && new.get("spec") != old.get("spec") {
            let generation = old
                .pointer("/metadata/generation")
                .and_then(Value::as_i64)
                .unwrap_or(0);
            object::metadata_mut(&mut new).insert("generation".to_owned(), json!(generation + 1));
        }
        let is_same = new == old;
        resource.keep(&mut new);
        // What changes nothing gets no new version and wakes no watcher.
        Ok(if is_same || self.dry_run {
            Change::Keep(new)
        } else {
            Change::Put(new, None)
        })
    }

    fn check_identity(&self, new: &Value, old: &Value) -> Result<(), ApiError> {
        let resource = self.resource;
        match object::text(new, "resourceVersion") {
            "" | "0" if resource.built_in => {}
            "" | "0" => {
                let error = FieldError::invalid(
                    "metadata.resourceVersion",
                    &json!(0),
                    "must be specified for an update",
                );
                return Err(ApiError::invalid(resource, &self.name, &[error]));
            }
            version if version == object::text(old, "resourceVersion") => {}
            _ => return Err(modified(resource, &self.name)),
        }
        match object::uid(new) {
            "" => Ok(()),
            uid => same_uid(resource, &self.name, uid, object::uid(old)),
        }
    }
}

fn modified(resource: &Resource, name: &str) -> ApiError {
    ApiError::conflict(
        resource,
        name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

fn same_uid(resource: &Resource, name: &str, wanted: &str, found: &str) -> Result<(), ApiError> {
    if wanted == found {
        return Ok(());
    }
    let why =
        format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
    Err(ApiError::conflict(resource, name, &why))
}

pub(super) async fn update(
    call: &Call,
    store: &'static str,
    body: &[u8],
) -> Result<Response, ApiError> {
    let edit = Edit::of(call)?;
    let sent = read_document(&call.headers, body)?;
    let mut decoded = decode::decode(call.resource, sent, &call.parameters)?;
    let attributes = &call.attributes;
    decode::fit_to_path(
        &mut decoded.object,
        call.resource,
        &attributes.name,
        &attributes.namespace,
    )?;
    let new = decoded.object;
    let outcome = call
        .app
        .store
        .write(
            call.key(store),
            Box::new(move |stored, context| edit.settle(stored, context.now, |_| Ok(new))),
        )
        .await?;
    log(call, "updated", &outcome.object);
    call.answer(StatusCode::OK, outcome.object, &decoded.warnings)
}

pub(super) async fn patch(
    call: &Call,
    store: &'static str,
    body: &[u8],
) -> Result<Response, ApiError> {
    let edit = Edit::of(call)?;
    let media_type = negotiation::content_type(&call.headers);
    let patch = Patch::read(call.resource, &media_type, body)?;
    let parameters: Parameters = call.parameters.clone();
    let (name, namespace) = (
        call.attributes.name.clone(),
        call.attributes.namespace.clone(),
    );
    let resource = call.resource;
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let found = warnings.clone();
    let outcome = call
        .app
        .store
        .write(
            call.key(store),
            // Applied in the writer's turn, to what is there then: a patch has no version to be out of date.
            Box::new(move |stored, context| {
                edit.settle(stored, context.now, |old| {
                    let mut decoded = decode::decode(resource, patch.apply(old)?, &parameters)?;
                    decode::fit_to_path(&mut decoded.object, resource, &name, &namespace)?;
                    *found.lock().unwrap_or_else(PoisonError::into_inner) = decoded.warnings;
                    Ok(decoded.object)
                })
            }),
        )
        .await?;
    log(call, "patched", &outcome.object);
    let warnings = warnings
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    call.answer(StatusCode::OK, outcome.object, &warnings)
}

/// meta.k8s.io/v1 DeleteOptions, as far as it matters here: nothing depends on anything, so nothing is propagated.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeleteOptions {
    preconditions: Option<Preconditions>,
    dry_run: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

pub(super) async fn delete(
    call: &Call,
    store: &'static str,
    body: &[u8],
) -> Result<Response, ApiError> {
    let options = if body.iter().all(u8::is_ascii_whitespace) {
        DeleteOptions::default()
    } else {
        serde_json::from_value(read_document(&call.headers, body)?).map_err(|error| {
            ApiError::bad_request(format!("the delete options can't be read: {error}"))
        })?
    };
    let dry_run = call.parameters.dry_run()?
        || match options.dry_run.as_deref() {
            None | Some([]) => false,
            Some([all]) if all == "All" => true,
            Some(_) => return Err(ApiError::bad_request("dryRun must be [\"All\"]")),
        };
    let object = remove(
        call,
        call.key(store),
        options.preconditions.unwrap_or_default(),
        dry_run,
    )
    .await?;
    let mut details = json!({
        "name": object::name(&object), "kind": call.resource.plural, "uid": object::uid(&object),
    });
    if !call.resource.group.is_empty() {
        object::members_mut(&mut details).insert("group".to_owned(), json!(call.resource.group));
    }
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    });
    Ok(json_response(StatusCode::OK, status.to_string()))
}

async fn remove(
    call: &Call,
    key: Key,
    preconditions: Preconditions,
    dry_run: bool,
) -> Result<Value, ApiError> {
    let resource = call.resource;
    let name = key.name.clone();
    let is_namespace = key.store == "namespaces";
    if is_namespace && KEPT_NAMESPACES.contains(&name.as_str()) {
        return Err(call.forbidden("this namespace may not be deleted"));
    }
    let outcome = call
        .app
        .store
        .write(
            key,
            Box::new(move |stored, _| {
                let stored = stored.ok_or_else(|| ApiError::not_found(resource, &name))?;
                if let Some(uid) = &preconditions.uid {
                    same_uid(resource, &name, uid, object::uid(stored))?;
                }
                if let Some(version) = &preconditions.resource_version
                    && version != object::text(stored, "resourceVersion")
                {
                    return Err(modified(resource, &name));
                }
                Ok(match (dry_run, is_namespace) {
                    (true, _) => Change::Keep(stored.clone()),
                    (false, true) => Change::DeleteNamespace,
                    (false, false) => Change::Delete,
                })
            }),
        )
        .await?;
    log(call, "deleted", &outcome.object);
    Ok(outcome.object)
}

pub(super) async fn delete_collection(
    call: &Call,
    store: &'static str,
) -> Result<Response, ApiError> {
    let selection = read::selection(call)?;
    let dry_run = call.parameters.dry_run()?;
    let page = call
        .app
        .store
        .page(PageRequest {
            store,
            namespace: selection.namespace.clone(),
            name: selection.fields.name().map(str::to_owned),
            after: None,
            limit: None,
        })
        .await?;
    let mut items = Vec::new();
    for stored in page.objects {
        let mut object = read::parse(&stored)?;
        call.resource.present(&mut object);
        if !selection.labels.matches(object::labels(&object))
            || !selection.fits_fields(call.resource, &object)
        {
            continue;
        }
        let key = Key {
            store,
            namespace: stored.namespace,
            name: stored.name,
        };
        let preconditions = Preconditions {
            uid: Some(stored.uid),
            resource_version: None,
        };
        match remove(call, key, preconditions, dry_run).await {
            Ok(mut object) => {
                call.resource.present(&mut object);
                items.push(object);
            }
            // Gone, or another by now: not one of those that were to go.
            Err(error) if matches!(error.code(), StatusCode::NOT_FOUND | StatusCode::CONFLICT) => {}
            Err(error) => return Err(error),
        }
    }
    let list = json!({
        "kind": format!("{}List", call.resource.kind),
        "apiVersion": call.resource.api_version(),
        "metadata": {"resourceVersion": page.revision.to_string()},
        "items": items,
    });
    Ok(json_response(StatusCode::OK, list.to_string()))
}

fn log(call: &Call, what: &str, object: &Value) {
    tracing::info!(
        user = call.identity.name(),
        resource = call.resource.qualified(),
        subresource = call.attributes.subresource,
        namespace = call.attributes.namespace,
        name = object::name(object),
        "{what}"
    );
}
