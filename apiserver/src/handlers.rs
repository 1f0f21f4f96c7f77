//! From a request to its answer: who asks, whether they may, and then the one handler whose business it is.

mod change;
mod create;
mod read;
mod review;

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    authentication::{self, Identity, Scope, Source},
    authorization::{self, Decision, Owner},
    client_certificate::ClientCas,
    config::{AnonymousCreate, Approvers, Clock},
    discovery,
    judging::Judging,
    negotiation::{self, Form},
    object, openapi,
    protobuf::{self, ProtobufError},
    quota::{Quota, Rate},
    request::{Attributes, Parameters},
    resource::{self, Nature, Resource, Subresource},
    status::ApiError,
    store::{Key, PageRequest, Store},
    table::{self, IncludeObject},
};

/// The most bytes a body may have.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// The most bytes a body may have of anyone who is neither an administrator nor in this process: a request of 16 KiB in
/// base64, and its frame. What they create is kept for up to a day.
pub(crate) const MAX_SMALL_BODY_BYTES: usize = 64 * 1024;
/// How long a body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an answer may take that is not a watch.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests of holders of a good certificate that are worked on at once, watches aside.
const HOLDERS_IN_FLIGHT: usize = 400;
/// Requests of strangers that are worked on at once: they can keep only one another waiting.
const STRANGERS_IN_FLIGHT: usize = 64;
/// Of what strangers show, judged at once: two cores' worth at most.
const JUDGED: usize = 2;

/// How often one engineer may create something: what they create is kept for a day, on one disk that the signer needs too.
const CREATES: Rate = Rate {
    at_once: 60,
    every: Duration::from_secs(10),
};

/// What all handlers share.
pub(crate) struct App {
    pub(crate) store: Arc<Store>,
    pub(crate) cas: Arc<ClientCas>,
    pub(crate) anonymous: Arc<dyn AnonymousCreate>,
    pub(crate) approvers: Arc<dyn Approvers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) shutdown: CancellationToken,
    holders: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    quota: Quota<String>,
    /// Of evidence and passes.
    pub(crate) judging: Judging,
}

impl App {
    pub(crate) fn new(
        store: Arc<Store>,
        cas: Arc<ClientCas>,
        anonymous: Arc<dyn AnonymousCreate>,
        approvers: Arc<dyn Approvers>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            store,
            cas,
            anonymous,
            approvers,
            clock,
            shutdown: CancellationToken::new(),
            holders: Arc::new(Semaphore::new(HOLDERS_IN_FLIGHT)),
            strangers: Arc::new(Semaphore::new(STRANGERS_IN_FLIGHT)),
            quota: Quota::new(CREATES),
            judging: Judging::new(JUDGED),
        }
    }
}

/// A request that was allowed, on its way to its handler.
struct Call {
    app: Arc<App>,
    identity: Identity,
    attributes: Attributes,
    parameters: Parameters,
    headers: HeaderMap,
    resource: &'static Resource,
    subresource: Option<Subresource>,
    /// Objects are shown only if they belong to this one.
    owner: Option<Owner>,
    now: Timestamp,
}

impl Call {
    fn key(&self, store: &'static str) -> Key {
        Key {
            store,
            namespace: self.attributes.namespace.clone(),
            name: self.attributes.name.clone(),
        }
    }

    fn forbidden(&self, why: &str) -> ApiError {
        ApiError::forbidden(self.identity.name(), &self.attributes, why)
    }

    /// One object as the client wants to see it.
    fn answer(
        &self,
        code: StatusCode,
        mut object: Value,
        warnings: &[String],
    ) -> Result<Response, ApiError> {
        self.resource.present(&mut object);
        let shown = match negotiation::form(&self.headers)? {
            Form::Object => object,
            Form::Metadata => table::metadata_only(&object),
            Form::Table => {
                let metadata = json!({"resourceVersion": object::text(&object, "resourceVersion")});
                let include = IncludeObject::read(&self.parameters)?;
                table::table(self.resource, &[object], &metadata, include, true, self.now)
            }
        };
        let mut response = json_response(code, shown.to_string());
        for warning in warnings {
            if let Some(value) = warning_header(warning) {
                response.headers_mut().append(header::WARNING, value);
            }
        }
        Ok(response)
    }
}

/// Answers any request.
pub(crate) async fn handle(State(app): State<Arc<App>>, mut request: Request) -> Response {
    let head_only = request.method() == Method::HEAD;
    if head_only {
        *request.method_mut() = Method::GET;
    }
    // A panic is a bug; it costs this request and no other.
    let answer = AssertUnwindSafe(limited(app, request)).catch_unwind().await;
    let response = match answer {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            tracing::debug!(
                code = error.code().as_u16(),
                message = error.message(),
                "refused"
            );
            error.into_response()
        }
        Err(_) => {
            tracing::error!("a handler panicked; its request failed");
            ApiError::internal("the request failed").into_response()
        }
    };
    if head_only {
        response.map(|_| Body::empty())
    } else {
        response
    }
}

async fn limited(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let turns = match request.extensions().get::<Source>() {
        Some(Source::InProcess(_)) => return in_time(app, request).await,
        Some(Source::Network(peer)) if peer.is_holder(app.clock.now()) => &app.holders,
        Some(Source::Network(_)) | None => &app.strangers,
    };
    let turn = Arc::clone(turns).try_acquire_owned();
    let turn = turn.map_err(|_| ApiError::too_many_requests())?;
    // A task of its own: whoever takes a request back, or is gone, keeps their turn until what it began is done. It ends
    // when the answer begins, and so does not last as long as a watch.
    let answering = tokio::spawn(async move {
        let answer = in_time(app, request).await;
        drop(turn);
        answer
    });
    answering
        .await
        .unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ApiError::internal("the server is closing")),
        })
}

async fn in_time(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    tokio::time::timeout(ANSWER_TIMEOUT, answer(app, request))
        .await
        .map_err(|_| ApiError::timeout("the request did not complete within 60 seconds"))?
}

async fn answer(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let now = app.clock.now();
    let source = parts
        .extensions
        .get::<Source>()
        .ok_or_else(|| ApiError::internal("the request has no source"))?;
    let identity = authentication::authenticate(source, &parts.headers, &app, now).await?;
    let parameters = Parameters::read(&parts.uri)?;
    let attributes = Attributes::read(&parts.method, &parts.uri, &parameters)
        .ok_or_else(ApiError::path_not_found)?;
    if parts
        .headers
        .keys()
        .any(|name| name.as_str().starts_with("impersonate-"))
    {
        return Err(ApiError::forbidden(
            identity.name(),
            &attributes,
            "this API serves no impersonation",
        ));
    }
    let owner = match authorization::decide(&identity, &attributes, app.approvers.signer_name()) {
        Decision::Allowed => None,
        Decision::AllowedFor(owner) => Some(owner),
        Decision::Denied => return Err(ApiError::forbidden(identity.name(), &attributes, "")),
    };
    if let Some(path) = &attributes.path {
        return plain_path(&app, &attributes.verb, path, &parts.headers).await;
    }
    let resource = resource::find(&attributes.group, &attributes.version, &attributes.resource)
        .ok_or_else(ApiError::path_not_found)?;
    let subresource = match attributes.subresource.as_str() {
        "" => None,
        name => Some(
            resource
                .subresource(name)
                .ok_or_else(ApiError::path_not_found)?,
        ),
    };
    let is_placed = resource.namespaced != attributes.namespace.is_empty();
    let is_everywhere = resource.namespaced && matches!(attributes.verb.as_str(), "list" | "watch");
    if !is_placed && !is_everywhere {
        return Err(ApiError::path_not_found());
    }
    let is_trusted = matches!(source, Source::InProcess(_))
        || identity.scope == Scope::Groups && authorization::is_administrator(&identity);
    let limit = if is_trusted {
        MAX_BODY_BYTES
    } else {
        MAX_SMALL_BODY_BYTES
    };
    let call = Call {
        app,
        identity,
        attributes,
        parameters,
        headers: parts.headers,
        resource,
        subresource,
        owner,
        now,
    };
    let not_allowed = || {
        ApiError::method_not_allowed(
            "the server does not allow this method on the requested resource",
        )
    };
    match (call.attributes.verb.as_str(), resource.nature) {
        ("create", nature) => {
            if !call.attributes.name.is_empty() {
                return Err(not_allowed());
            }
            let body = collect(body, limit, BODY_TIMEOUT).await?;
            // Those without a credential are held back by what a signature costs, and by the embedder.
            let is_limited = !is_trusted
                && call.identity.scope == Scope::Groups
                && matches!(nature, Nature::Stored(_));
            if is_limited {
                take_turn(&call, "creates more than one person may")?;
            }
            match nature {
                Nature::Stored(store) => create::create(call, store, &body).await,
                Nature::SubjectReview => review::subject(&call, &body),
                Nature::AccessReview => review::access(&call, &body).await,
                Nature::RulesReview => review::rules(&call, &body),
            }
        }
        ("get", Nature::Stored(store)) => read::get(&call, store).await,
        ("list", Nature::Stored(store)) => read::list(&call, store).await,
        ("watch", Nature::Stored(_)) => read::watch(call).await,
        ("update" | "patch" | "delete", Nature::Stored(_)) if call.attributes.name.is_empty() => {
            Err(not_allowed())
        }
        ("update", Nature::Stored(store)) => {
            let body = collect(body, limit, BODY_TIMEOUT).await?;
            change::update(&call, store, &body).await
        }
        ("patch", Nature::Stored(store)) => {
            let body = collect(body, limit, BODY_TIMEOUT).await?;
            if call.owner.is_some() {
                take_turn(&call, "says more of requests than one person may")?;
            }
            change::patch(&call, store, &body).await
        }
        ("delete", Nature::Stored(store)) if call.subresource.is_none() => {
            let body = collect(body, limit, BODY_TIMEOUT).await?;
            change::delete(&call, store, &body).await
        }
        ("deletecollection", Nature::Stored(store)) => {
            change::delete_collection(&call, store).await
        }
        _ => Err(not_allowed()),
    }
}

fn take_turn(call: &Call, why_not: &'static str) -> Result<(), ApiError> {
    let user = call.identity.name();
    let turn = call.app.quota.take(user.to_owned(), Instant::now());
    turn.map_err(|left| {
        tracing::warn!(user, "{why_not}");
        ApiError::too_many_requests_for(left)
    })
}

async fn plain_path(
    app: &App,
    verb: &str,
    path: &str,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    if !matches!(verb, "get" | "head") {
        return Err(ApiError::method_not_allowed(
            "the server does not allow this method on the requested resource",
        ));
    }
    if matches!(path, "/healthz" | "/livez" | "/readyz") {
        // The store must answer; an empty page of something small is an answer.
        app.store
            .page(PageRequest {
                store: "namespaces",
                namespace: None,
                name: None,
                after: None,
                limit: Some(1),
            })
            .await?;
        let text = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        return Ok((text, "ok").into_response());
    }
    let accepts_json = negotiation::form(headers).is_ok();
    if path == "/openapi/v2" && !accepts_json {
        let content_type = [(header::CONTENT_TYPE, openapi::V2_PROTOBUF_TYPE)];
        return Ok((content_type, openapi::V2_PROTOBUF).into_response());
    }
    let document = discovery::document(path)
        .or_else(|| openapi::document(path))
        .ok_or_else(ApiError::path_not_found)?;
    Ok(json_response(StatusCode::OK, document.to_string()))
}

/// The body of a request, if it comes in time and is not too large.
pub(crate) async fn collect(body: Body, limit: usize, within: Duration) -> Result<Bytes, ApiError> {
    let collected = tokio::time::timeout(within, Limited::new(body, limit).collect())
        .await
        .map_err(|_| {
            ApiError::timeout(format!(
                "the body did not arrive within {} seconds",
                within.as_secs()
            ))
        })?;
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(limit)),
        Err(error) => Err(ApiError::bad_request(format!(
            "the body can't be read: {error}"
        ))),
    }
}

/// The document in the body of a request.
pub(crate) fn read_document(headers: &HeaderMap, body: &[u8]) -> Result<Value, ApiError> {
    match negotiation::content_type(headers).as_str() {
        "application/json" => serde_json::from_slice(body)
            .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}"))),
        protobuf::MEDIA_TYPE => protobuf::read(body).map_err(|error| match error {
            ProtobufError::UnknownKind(_) => ApiError::unsupported_media_type(error.to_string()),
            ProtobufError::NotKubernetes | ProtobufError::Malformed | ProtobufError::NotText => {
                ApiError::bad_request(error.to_string())
            }
        }),
        other => Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format ({other}) - accepted media types include: \
             application/json, application/vnd.kubernetes.protobuf"
        ))),
    }
}

pub(crate) fn json_response(code: StatusCode, body: String) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// RFC 7234 section 5.5, as kubectl reads it.
fn warning_header(text: &str) -> Option<HeaderValue> {
    let text: String = text
        .chars()
        .filter(|c| c.is_ascii() && !c.is_ascii_control())
        .flat_map(|c| {
            matches!(c, '"' | '\\')
                .then_some('\\')
                .into_iter()
                .chain([c])
        })
        .collect();
    HeaderValue::from_str(&format!("299 - \"{text}\"")).ok()
}
