//! Reviews: who am I, may I, what may I. Nothing is stored.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Call, json_response, read_document};
use crate::{
    authorization::{self, Decision},
    decode, object,
    request::Attributes,
    resource,
    status::ApiError,
    store::Key,
};

pub(super) fn subject(call: &Call, body: &[u8]) -> Result<Response, ApiError> {
    let mut review = read_review(call, body)?;
    let user = serde_json::to_value(&call.identity.user)
        .map_err(|_| ApiError::internal("the user can't be shown"))?;
    set_status(&mut review, json!({"userInfo": user}));
    Ok(json_response(StatusCode::CREATED, review.to_string()))
}

pub(super) async fn access(call: &Call, body: &[u8]) -> Result<Response, ApiError> {
    let mut review = read_review(call, body)?;
    let spec = review.get("spec").cloned().unwrap_or_default();
    let text = |at: &str| {
        spec.pointer(at)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let attributes = match (
        spec.get("resourceAttributes"),
        spec.get("nonResourceAttributes"),
    ) {
        (Some(_), None) => Attributes {
            verb: text("/resourceAttributes/verb"),
            path: None,
            group: text("/resourceAttributes/group"),
            version: text("/resourceAttributes/version"),
            resource: text("/resourceAttributes/resource"),
            subresource: text("/resourceAttributes/subresource"),
            namespace: text("/resourceAttributes/namespace"),
            name: text("/resourceAttributes/name"),
        },
        (None, Some(_)) => Attributes {
            verb: text("/nonResourceAttributes/verb").to_ascii_lowercase(),
            path: Some(text("/nonResourceAttributes/path")),
            ..Attributes::default()
        },
        _ => {
            return Err(ApiError::bad_request(
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    let allowed = match authorization::decide(
        &call.identity,
        &attributes,
        call.app.approvers.signer_name(),
    ) {
        Decision::Allowed => true,
        Decision::Denied => false,
        // Whoever lists sees what is theirs to see.
        Decision::AllowedFor(_) if attributes.name.is_empty() => true,
        Decision::AllowedFor(owner) => {
            let store = resource::RESOURCES
                .iter()
                .find(|one| one.group == attributes.group && one.plural == attributes.resource)
                .and_then(resource::Resource::store);
            match store {
                None => false,
                Some(store) => call
                    .app
                    .store
                    .read(Key {
                        store,
                        namespace: attributes.namespace.clone(),
                        name: attributes.name.clone(),
                    })
                    .await?
                    .map(|stored| super::read::parse(&stored))
                    .transpose()?
                    .is_some_and(|object| owner.owns(&object)),
            }
        }
    };
    set_status(&mut review, json!({"allowed": allowed}));
    Ok(json_response(StatusCode::CREATED, review.to_string()))
}

pub(super) fn rules(call: &Call, body: &[u8]) -> Result<Response, ApiError> {
    let mut review = read_review(call, body)?;
    let (resource_rules, path_rules) = authorization::rules(&call.identity);
    set_status(
        &mut review,
        json!({
            "resourceRules": resource_rules,
            "nonResourceRules": path_rules,
            "incomplete": true,
            "evaluationError": "certificate signing requests can also be read by those who made them",
        }),
    );
    Ok(json_response(StatusCode::CREATED, review.to_string()))
}

fn read_review(call: &Call, body: &[u8]) -> Result<Value, ApiError> {
    let sent = read_document(&call.headers, body)?;
    Ok(decode::decode(call.resource, sent, &call.parameters)?.object)
}

fn set_status(review: &mut Value, status: Value) {
    object::members_mut(review).insert("status".to_owned(), status);
}
