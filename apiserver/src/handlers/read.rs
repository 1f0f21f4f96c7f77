//! Reading: get, list, watch.

use std::time::Duration;

use axum::{body::Body, response::Response};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Call, json_response};
use crate::{
    negotiation::{self, Form},
    object,
    selector::LabelSelector,
    status::ApiError,
    store::{Page, PageRequest, Stored},
    table::{self, IncludeObject},
    watch::{self, Begin, Selection, WatchRequest},
};

/// The longest watch, and the shortest that the server chooses itself.
const WATCH_SECONDS: (u64, u64) = (1800, 3600);

pub(super) async fn get(call: &Call, store: &'static str) -> Result<Response, ApiError> {
    let stored = call.app.store.read(call.key(store)).await?;
    let object = stored.map(|stored| parse(&stored)).transpose()?;
    match (object, &call.owner) {
        (Some(object), Some(owner)) if owner.owns(&object) => {
            call.answer(StatusCode::OK, object, &[])
        }
        // Whether it is there is not told to whom it does not belong.
        (_, Some(_)) => Err(call.forbidden("")),
        (Some(object), None) => call.answer(StatusCode::OK, object, &[]),
        (None, None) => Err(ApiError::not_found(call.resource, &call.attributes.name)),
    }
}

/// Where a list goes on.
#[derive(Deserialize, Serialize)]
struct Continue {
    revision: u64,
    namespace: String,
    name: String,
}

pub(super) async fn list(call: &Call, store: &'static str) -> Result<Response, ApiError> {
    let form = negotiation::form(&call.headers)?;
    let selection = selection(call)?;
    let limit = call.parameters.number("limit")?.filter(|limit| *limit > 0);
    let resumed = call
        .parameters
        .value("continue")
        .map(read_continue)
        .transpose()?;
    let request = PageRequest {
        store,
        namespace: selection.namespace.clone(),
        name: selection.fields.name().map(str::to_owned),
        after: resumed
            .as_ref()
            .map(|at| (at.namespace.clone(), at.name.clone())),
        limit,
    };
    let page = call.app.store.page(request).await?;
    let revision = match &resumed {
        Some(at) if at.revision < page.compacted => {
            return Err(ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. You must start a \
                 new list without the continue parameter.",
            ));
        }
        // Pages show the present; whoever watches from the version of the first one hears what changed between them.
        Some(at) => at.revision,
        None => {
            check_revision(call, page.revision)?;
            page.revision
        }
    };
    let metadata = list_metadata(&page, revision)?;
    let objects = selected(call, &selection, page.objects)?;
    let body = match form {
        Form::Object => {
            let resource = call.resource;
            // Joined as text: parsing and writing thousands of objects again would be most of the work.
            format!(
                "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[{}]}}",
                resource.kind,
                resource.api_version(),
                objects.join(",")
            )
        }
        Form::Metadata => {
            let items: Vec<Value> = parse_all(&objects)?
                .iter()
                .map(table::metadata_only)
                .collect();
            json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata, "items": items,
            })
            .to_string()
        }
        Form::Table => {
            let include = IncludeObject::read(&call.parameters)?;
            table::table(
                call.resource,
                &parse_all(&objects)?,
                &metadata,
                include,
                true,
                call.now,
            )
            .to_string()
        }
    };
    Ok(json_response(StatusCode::OK, body))
}

/// What of a page is selected, each as JSON in the shape of its kind.
fn selected(
    call: &Call,
    selection: &Selection,
    page: Vec<Stored>,
) -> Result<Vec<String>, ApiError> {
    let resource = call.resource;
    let is_as_stored = resource.conversion.is_none();
    if selection.is_by_key() && is_as_stored {
        return Ok(page.into_iter().map(|stored| stored.json).collect());
    }
    let mut objects = Vec::new();
    for stored in page {
        let mut object = parse(&stored)?;
        resource.present(&mut object);
        if selection.labels.matches(object::labels(&object))
            && selection.fits_fields(resource, &object)
        {
            objects.push(if is_as_stored {
                stored.json
            } else {
                object.to_string()
            });
        }
    }
    Ok(objects)
}

pub(super) async fn watch(call: Call) -> Result<Response, ApiError> {
    let form = negotiation::form(&call.headers)?;
    let parameters = &call.parameters;
    let revision = parameters.number("resourceVersion")?.unwrap_or(0);
    let sends_objects = parameters
        .value("sendInitialEvents")
        .map(|_| parameters.flag("sendInitialEvents"));
    let matching = parameters.value("resourceVersionMatch");
    let bookmarks = parameters.flag("allowWatchBookmarks");
    match (sends_objects, matching) {
        (None, None) | (Some(_), Some("NotOlderThan")) => {}
        (None, Some(_)) => {
            return Err(ApiError::bad_request(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        (Some(_), _) => {
            return Err(ApiError::bad_request(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
    }
    let begin = match (sends_objects, revision) {
        (Some(true), _) => Begin::Objects {
            mark_end: bookmarks,
        },
        (None, 0) => Begin::Objects { mark_end: false },
        (Some(false), 0) => {
            let store = call.resource.store().ok_or_else(ApiError::path_not_found)?;
            let nothing = PageRequest {
                store,
                namespace: None,
                name: None,
                after: None,
                limit: Some(0),
            };
            Begin::After(call.app.store.page(nothing).await?.revision)
        }
        (_, revision) => Begin::After(revision),
    };
    let request = WatchRequest {
        resource: call.resource,
        selection: selection(&call)?,
        begin,
        bookmarks,
        form,
        include: IncludeObject::read(parameters)?,
        duration: duration(&call)?,
    };
    if let Some(owner) = call
        .owner
        .as_ref()
        .filter(|_| !call.attributes.name.is_empty())
    {
        let store = call.resource.store().ok_or_else(ApiError::path_not_found)?;
        let stored = call.app.store.read(call.key(store)).await?;
        let is_own = stored
            .map(|stored| parse(&stored))
            .transpose()?
            .is_some_and(|object| owner.owns(&object));
        if !is_own {
            return Err(call.forbidden(""));
        }
    }
    let app = &call.app;
    let lines = watch::start(
        app.store.clone(),
        app.clock.clone(),
        app.shutdown.clone(),
        request,
    )
    .await?;
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from_stream(lines))
        .map_err(|_| ApiError::internal("the answer could not be made"))
}

/// As long as asked, at most an hour, and never past the end of the credential.
fn duration(call: &Call) -> Result<Duration, ApiError> {
    let (shortest, longest) = WATCH_SECONDS;
    let asked = call
        .parameters
        .number("timeoutSeconds")?
        .filter(|seconds| *seconds > 0);
    // Spread out, so that watchers who came together don't come back together.
    let chosen = || {
        let spread = object::random::<2>().map_or(0, u16::from_le_bytes);
        shortest + u64::from(spread) % (longest - shortest)
    };
    let seconds = asked.unwrap_or_else(chosen).min(longest);
    let left = call.identity.ends.map(|ends| {
        let left = ends.duration_since(call.now).as_secs();
        u64::try_from(left).unwrap_or(0)
    });
    Ok(Duration::from_secs(
        left.map_or(seconds, |left| seconds.min(left)),
    ))
}

pub(super) fn selection(call: &Call) -> Result<Selection, ApiError> {
    let fields = call.parameters.field_selector()?;
    fields.check(call.resource)?;
    let namespace = match call.attributes.namespace.as_str() {
        "" => fields.namespace(),
        namespace => Some(namespace),
    };
    Ok(Selection {
        namespace: namespace.map(str::to_owned),
        labels: LabelSelector::parse(call.parameters.value("labelSelector").unwrap_or_default())?,
        fields,
        owner: call.owner.clone(),
    })
}

/// A list shows the present. Who asks for another moment exactly is told that it is gone.
fn check_revision(call: &Call, now: u64) -> Result<(), ApiError> {
    let Some(asked) = call
        .parameters
        .number("resourceVersion")?
        .filter(|asked| *asked > 0)
    else {
        return Ok(());
    };
    if asked > now {
        return Err(ApiError::timeout(format!(
            "Too large resource version: {asked}, current: {now}"
        )));
    }
    if call.parameters.value("resourceVersionMatch") == Some("Exact") && asked < now {
        return Err(ApiError::expired(
            "The resourceVersion for the provided list is too old.",
        ));
    }
    Ok(())
}

fn list_metadata(page: &Page, revision: u64) -> Result<Value, ApiError> {
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let (true, Some(last)) = (page.more, page.objects.last()) {
        let next = serde_json::to_vec(&Continue {
            revision,
            namespace: last.namespace.clone(),
            name: last.name.clone(),
        })
        .map_err(|_| ApiError::internal("the list could not be cut"))?;
        let members = object::members_mut(&mut metadata);
        members.insert("continue".to_owned(), json!(URL_SAFE_NO_PAD.encode(next)));
        if let Some(remaining) = page.remaining {
            members.insert("remainingItemCount".to_owned(), json!(remaining));
        }
    }
    Ok(metadata)
}

fn read_continue(token: &str) -> Result<Continue, ApiError> {
    URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| ApiError::bad_request("continue key is not valid"))
}

pub(super) fn parse(stored: &Stored) -> Result<Value, ApiError> {
    parse_text(&stored.json)
}

fn parse_all(objects: &[String]) -> Result<Vec<Value>, ApiError> {
    objects.iter().map(|object| parse_text(object)).collect()
}

fn parse_text(json: &str) -> Result<Value, ApiError> {
    serde_json::from_str(json)
        .map_err(|error| ApiError::internal(format!("a stored object can't be read: {error}")))
}
