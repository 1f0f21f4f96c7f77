//! From a request at the front door to its answer.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::constant_time;
use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use http::{HeaderMap, Method, StatusCode, header};
use k8s_openapi::{
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::{PostParams, WatchEvent, WatchParams};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{Instrument as _, Span, field::Empty};

use super::{Admitted, FrontOutcome, Reader, Shared};
use crate::{
    TRACES,
    address::Address,
    authentication,
    config::Refusal,
    decode,
    handlers::{self, MAX_SMALL_BODY_BYTES},
    request::{Attributes, Parameters},
    resource::{self, Resource},
    status::ApiError,
};

/// Who asks, in the words of a refusal.
const ANONYMOUS: &str = "system:anonymous";
/// How long a body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the cluster may take.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest watch, in seconds. A connection lasts longer.
const LONGEST_WATCH: u64 = 300;

/// Answers any request.
pub(super) async fn handle(
    shared: Arc<Shared>,
    address: Address,
    mut request: Request,
) -> Response {
    let head_only = request.method() == Method::HEAD;
    if head_only {
        *request.method_mut() = Method::GET;
    }
    // A panic is a bug; it costs this request and no other.
    let answer = AssertUnwindSafe(answer(&shared, address, request))
        .catch_unwind()
        .await;
    let response = match answer {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            shared.refused(&error);
            error.into_response()
        }
        Err(_) => {
            tracing::error!("the front door panicked; one request failed");
            ApiError::internal("the request failed").into_response()
        }
    };
    if head_only {
        response.map(|_| Body::empty())
    } else {
        response
    }
}

async fn answer(
    shared: &Arc<Shared>,
    address: Address,
    request: Request,
) -> Result<Response, ApiError> {
    if request.method() == Method::GET && request.uri().path() == "/healthz" {
        let text = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        return Ok((text, "ok").into_response());
    }
    shared
        .by_address
        .take(address, Instant::now())
        .map_err(ApiError::too_many_requests_for)?;
    let _place = shared
        .in_flight_by_address
        .take(address)
        .ok_or_else(ApiError::too_many_requests)?;
    let (parts, body) = request.into_parts();
    let parameters = Parameters::read(&parts.uri)?;
    let attributes = Attributes::read(&parts.method, &parts.uri, &parameters)
        .ok_or_else(ApiError::path_not_found)?;
    let resource = served(&attributes).ok_or_else(ApiError::path_not_found)?;
    // Nobody is anybody else here: better said than passed over.
    if parts
        .headers
        .keys()
        .any(|name| name.as_str().starts_with("impersonate-"))
    {
        let why = "the front door serves no impersonation";
        return Err(ApiError::forbidden(ANONYMOUS, &attributes, why));
    }
    match (attributes.verb.as_str(), attributes.name.as_str()) {
        ("create", "") => {
            let body = handlers::collect(body, MAX_SMALL_BODY_BYTES, BODY_TIMEOUT).await?;
            let _turn = turn(shared)?;
            let created = create(
                shared,
                resource,
                &attributes,
                &parameters,
                &parts.headers,
                &body,
            );
            let span = span();
            let created = created.instrument(span.clone()).await;
            let code = match &created {
                Ok(_) => StatusCode::CREATED,
                Err(error) => error.code(),
            };
            span.record("http.response.status_code", i64::from(code.as_u16()));
            if code.is_server_error() {
                span.record("otel.status_code", "ERROR");
            }
            let created = created?;
            shared.doorkeeper.count(FrontOutcome::Created);
            Ok(handlers::json_response(StatusCode::CREATED, created))
        }
        ("get", name) => {
            let _turn = turn(shared)?;
            let (request, reader) = read(shared, resource, name, &parts.headers).await?;
            shared.doorkeeper.count(FrontOutcome::Read);
            Ok(handlers::json_response(
                StatusCode::OK,
                show(request, &reader)?.to_string(),
            ))
        }
        ("watch", name) if is_of_one(&parameters, name) => {
            let turn = turn(shared)?;
            let (request, reader) = read(shared, resource, name, &parts.headers).await?;
            let lines = watch(shared, &parameters, request, reader).await?;
            drop(turn);
            shared.doorkeeper.count(FrontOutcome::Read);
            let body = Body::from_stream(lines.map(Ok::<_, std::convert::Infallible>));
            let content_type = [(header::CONTENT_TYPE, "application/json")];
            Ok((content_type, body).into_response())
        }
        _ => Err(ApiError::path_not_found()),
    }
}

/// The span of a request that is to be created.
fn span() -> Span {
    tracing::info_span!(
        target: TRACES,
        "create at front door",
        http.response.status_code = Empty,
        otel.kind = "server",
        otel.status_code = Empty,
        touchstone.request.uid = Empty,
    )
}

/// What requests are: the one kind that is served, if that is what is asked for.
fn served(attributes: &Attributes) -> Option<&'static Resource> {
    let is_served = attributes.path.is_none()
        && attributes.group == "certificates.k8s.io"
        && attributes.version == "v1"
        && attributes.resource == "certificatesigningrequests"
        && attributes.namespace.is_empty()
        && attributes.subresource.is_empty();
    if !is_served {
        return None;
    }
    resource::find(&attributes.group, &attributes.version, &attributes.resource)
}

/// A place among those that are worked on.
fn turn(shared: &Shared) -> Result<tokio::sync::SemaphorePermit<'_>, ApiError> {
    let turn = shared.in_flight.try_acquire();
    turn.map_err(|_| ApiError::too_many_requests())
}

/// Whether a watch is of one name and nothing more or less.
fn is_of_one(parameters: &Parameters, name: &str) -> bool {
    parameters.value("fieldSelector") == Some(format!("metadata.name={name}").as_str())
        && parameters.value("labelSelector").is_none()
}

/// Judges a request and creates it in the cluster.
async fn create(
    shared: &Arc<Shared>,
    resource: &Resource,
    attributes: &Attributes,
    parameters: &Parameters,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<String, ApiError> {
    if parameters.value("dryRun").is_some() {
        return Err(ApiError::bad_request("the front door serves no dryRun"));
    }
    let sent = handlers::read_document(headers, body)?;
    let decoded = decode::decode(resource, sent, parameters)?.object;
    let forbidden = |why: &str| ApiError::forbidden(ANONYMOUS, attributes, why);
    let spec = decoded
        .get("spec")
        .map(CertificateSigningRequestSpec::deserialize)
        .transpose()
        .ok()
        .flatten()
        .ok_or_else(|| forbidden("the request can't be read"))?;
    let Admitted {
        key,
        generate_name,
        annotations,
        spec,
        reader,
    } = {
        let doorkeeper = Arc::clone(&shared.doorkeeper);
        let judged = shared.judging.run(move || doorkeeper.admit(&spec)).await?;
        judged.map_err(|Refusal { message }| forbidden(&message))?
    };
    // Not before: whoever only names another's key must not use up its turns.
    shared
        .by_key
        .take(key, Instant::now())
        .map_err(ApiError::too_many_requests_for)?;
    let new = CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some(generate_name),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    };
    let created = within(
        "create a request",
        shared.requests.create(&PostParams::default(), &new),
    )
    .await?;
    Span::current().record("touchstone.request.uid", created.metadata.uid.as_deref());
    let creator = created.spec.username.as_deref().unwrap_or_default();
    if creator != shared.account {
        tracing::error!(
            creator,
            account = shared.account,
            "the cluster names another creator than the front door's account: nothing comes of requests"
        );
        return Err(ApiError::internal(
            "the cluster does not know the front door",
        ));
    }
    tracing::info!(
        request = created.metadata.name,
        user = reader.username,
        "created at the front door"
    );
    Ok(show(created, &reader)?.to_string())
}

/// A request that the front door made, for whoever holds its token. To everyone else there is none.
async fn read(
    shared: &Arc<Shared>,
    resource: &Resource,
    name: &str,
    headers: &HeaderMap,
) -> Result<(CertificateSigningRequest, Reader), ApiError> {
    let token = token_sha256(headers).ok_or_else(ApiError::unauthorized)?;
    let not_found = || ApiError::not_found(resource, name);
    if !is_name(name) {
        return Err(not_found());
    }
    let found = within("read a request", shared.requests.get_opt(name)).await?;
    let found = found
        .filter(|request| is_ours(shared, request))
        .ok_or_else(not_found)?;
    // Reading verifies a signature.
    let reader = {
        let doorkeeper = Arc::clone(&shared.doorkeeper);
        let request = found.spec.request.0.clone();
        shared
            .judging
            .run(move || doorkeeper.reader(&request))
            .await?
    };
    let reader = reader.ok_or_else(not_found)?;
    constant_time::verify_slices_are_equal(&token, &reader.token_sha256)
        .map_err(|_| not_found())?;
    Ok((found, reader))
}

/// Whether the front door made it: the API server says who did.
fn is_ours(shared: &Shared, request: &CertificateSigningRequest) -> bool {
    shared.signer_names.contains(&request.spec.signer_name)
        && request.spec.username.as_deref() == Some(&shared.account)
}

/// The changes of one request, as the lines of a watch.
async fn watch(
    shared: &Arc<Shared>,
    parameters: &Parameters,
    request: CertificateSigningRequest,
    reader: Reader,
) -> Result<impl Stream<Item = Bytes> + Send + use<>, ApiError> {
    let place = Arc::clone(&shared.watches)
        .try_acquire_owned()
        .map_err(|_| ApiError::too_many_requests())?;
    let seconds = parameters
        .number("timeoutSeconds")?
        .map_or(LONGEST_WATCH, |asked| asked.clamp(1, LONGEST_WATCH));
    let name = request.metadata.name.clone().unwrap_or_default();
    let uid = request.metadata.uid.clone();
    let version = request
        .metadata
        .resource_version
        .clone()
        .unwrap_or_default();
    // From what was just read on: what the client has seen is that or older, and it is told of it if it is older.
    let news = parameters.value("resourceVersion") != Some(&version);
    let first = news
        .then(|| line("MODIFIED", request, &reader))
        .transpose()?;
    let of_this = WatchParams::default()
        .fields(&format!("metadata.name={name}"))
        .timeout(u32::try_from(seconds).unwrap_or(u32::MAX));
    let events = within("watch a request", shared.requests.watch(&of_this, &version)).await?;
    let lines = events
        .map(move |event| {
            let is_same = |request: &CertificateSigningRequest| request.metadata.uid == uid;
            match event {
                Ok(WatchEvent::Added(request) | WatchEvent::Modified(request))
                    if is_same(&request) =>
                {
                    line("MODIFIED", request, &reader).ok().map(Some)
                }
                Ok(WatchEvent::Deleted(request)) if is_same(&request) => {
                    line("DELETED", request, &reader).ok().map(Some)
                }
                Ok(WatchEvent::Bookmark(_)) => Some(None),
                // Another request under this name, or an end of the watch: the client reads again.
                Ok(_) | Err(_) => None,
            }
        })
        .take_while(|line| std::future::ready(line.is_some()))
        .filter_map(|line| std::future::ready(line.flatten()));
    let end = tokio::time::sleep(Duration::from_secs(seconds));
    let shutdown = shared.shutdown.clone().cancelled_owned();
    let over = async move {
        tokio::select! {
            () = end => {}
            () = shutdown => {}
        }
        // Held for as long as the watch lasts.
        drop(place);
    };
    Ok(futures::stream::iter(first).chain(lines.take_until(Box::pin(over)).boxed()))
}

/// One line of a watch.
fn line(
    kind: &'static str,
    request: CertificateSigningRequest,
    reader: &Reader,
) -> Result<Bytes, ApiError> {
    let object = show(request, reader)?;
    Ok(Bytes::from(format!(
        "{}\n",
        json!({ "type": kind, "object": object })
    )))
}

/// A request as its maker sees it: made by them, as on an API that they reach themselves. What the cluster says of the
/// front door's own account is not theirs to know.
fn show(mut request: CertificateSigningRequest, reader: &Reader) -> Result<Value, ApiError> {
    request.metadata.managed_fields = None;
    request.spec.username = Some(reader.username.clone());
    request.spec.uid = None;
    request.spec.groups = None;
    request.spec.extra = None;
    serde_json::to_value(request)
        .map_err(|_| ApiError::internal("the request could not be written down"))
}

/// SHA-256 of the one token that came.
fn token_sha256(headers: &HeaderMap) -> Option<[u8; 32]> {
    let mut credentials = headers.get_all(header::AUTHORIZATION).iter();
    match (credentials.next(), credentials.next()) {
        (Some(credential), None) => authentication::token_sha256(credential.to_str().ok()?),
        _ => None,
    }
}

/// Whether a request can be called so: it becomes part of a URL (RFC 1123 subdomain).
fn is_name(name: &str) -> bool {
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 253
        && name.as_bytes().first().is_some_and(is_alphanumeric)
        && name.as_bytes().last().is_some_and(is_alphanumeric)
        && name
            .bytes()
            .all(|byte| is_alphanumeric(&byte) || matches!(byte, b'-' | b'.'))
}

/// Asks the cluster. What it says against the front door's account is for the log; the client learns that it is not theirs
/// to mend.
async fn within<T>(
    doing: &'static str,
    work: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(CLUSTER_TIMEOUT, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(kube::Error::Api(status))) if status.code == 429 => {
            let seconds = status
                .details
                .map_or(1, |details| details.retry_after_seconds);
            Err(ApiError::too_many_requests_for(Duration::from_secs(
                seconds.into(),
            )))
        }
        Ok(Err(error)) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the front door failed to {doing}"
            );
            Err(ApiError::internal(format!(
                "the front door failed to {doing}: tell the operators of the signer"
            )))
        }
        Err(_) => {
            tracing::error!("the front door failed to {doing}: the cluster did not answer in time");
            Err(ApiError::timeout("the cluster did not answer in time"))
        }
    }
}

impl Shared {
    /// Counts a refusal, and logs some of them.
    fn refused(&self, error: &ApiError) {
        let code = error.code();
        self.doorkeeper.count(match code {
            StatusCode::TOO_MANY_REQUESTS => FrontOutcome::Limited,
            code if code.is_server_error() => FrontOutcome::Failed,
            _ => FrontOutcome::Refused,
        });
        if self.logged.take((), Instant::now()).is_ok() {
            tracing::info!(
                code = code.as_u16(),
                why = error.message(),
                "refused at the front door"
            );
        }
    }
}
