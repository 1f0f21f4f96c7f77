//! What it serves: as much of Kubernetes as kubectl asks for around pods and ConfigMaps, and paths of the suites' own
//! below `/test/`.

use super::{
    State,
    identity::Who,
    portforward, spdy,
    streams::{Exec, pairs},
    websocket,
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::broadcast;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, BoxError>;

const PODS: &str = "/api/v1/namespaces/default/pods";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The ConfigMaps, and what happens to them.
pub(super) struct Objects {
    kept: Mutex<(u64, BTreeMap<String, Value>)>,
    events: broadcast::Sender<Value>,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            events: broadcast::channel(1024).0,
        }
    }
}

/// Answers a request.
pub(super) async fn answer(state: &Arc<State>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let asked: BTreeMap<String, String> = pairs(&query).into_iter().collect();
    let has = |name: &str| {
        asked
            .get(name)
            .is_some_and(|value| value != "false" && value != "0")
    };
    match path.strip_prefix(PODS) {
        Some("") => return json_of(&list("PodList", vec![pod()])),
        Some("/web") => return json_of(&pod()),
        Some("/web/log") => return log(has("follow")),
        Some(stream @ ("/web/exec" | "/web/attach" | "/web/portforward")) => {
            return upgrade(state, stream, &query, request);
        }
        _ => {}
    }
    if let Some(name) = path.strip_prefix(CONFIG_MAPS) {
        return config_maps(state, name.trim_start_matches('/'), has("watch"), request).await;
    }
    if let Some(name) = path.strip_prefix("/test/") {
        return test(name, &asked, request).await;
    }
    match path.as_str() {
        "/version" => json_of(&json!({
            "major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.24", "compiler": "gc", "platform": "linux/amd64",
        })),
        "/api" => json_of(&json!({ "kind": "APIVersions", "versions": ["v1"] })),
        "/apis" => json_of(
            &json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [{
            "name": "authentication.k8s.io",
            "versions": [{ "groupVersion": "authentication.k8s.io/v1", "version": "v1" }],
            "preferredVersion": { "groupVersion": "authentication.k8s.io/v1", "version": "v1" },
        }] }),
        ),
        "/api/v1" => json_of(
            &json!({ "kind": "APIResourceList", "groupVersion": "v1", "resources": [
            { "name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "shortNames": ["po"], "verbs": ["get", "list", "watch"] },
            { "name": "pods/exec", "singularName": "", "namespaced": true, "kind": "PodExecOptions", "verbs": ["create", "get"] },
            { "name": "configmaps", "singularName": "configmap", "namespaced": true, "kind": "ConfigMap", "shortNames": ["cm"],
              "verbs": ["create", "get", "list", "patch", "update", "watch"] },
        ] }),
        ),
        "/apis/authentication.k8s.io/v1" => json_of(&json!({
            "kind": "APIResourceList", "groupVersion": "authentication.k8s.io/v1", "resources": [
                { "name": "selfsubjectreviews", "singularName": "selfsubjectreview", "namespaced": false, "kind": "SelfSubjectReview", "verbs": ["create"] },
            ] })),
        "/apis/authentication.k8s.io/v1/selfsubjectreviews" => {
            let who = request
                .extensions()
                .get::<Who>()
                .cloned()
                .unwrap_or_default();
            json_of(&json!({
                "kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
                "status": { "userInfo": { "username": who.user, "groups": who.groups } },
            }))
        }
        _ => failure(StatusCode::NOT_FOUND, "NotFound", &path),
    }
}

fn pod() -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": { "name": "web", "namespace": "default", "uid": "1", "resourceVersion": "1" },
        "spec": { "containers": [{ "name": "main", "image": "test", "stdin": true, "tty": false }] },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

fn list(kind: &str, items: Vec<Value>) -> Value {
    json!({ "kind": kind, "apiVersion": "v1", "metadata": { "resourceVersion": "1" }, "items": items })
}

fn log(follow: bool) -> Response<Body> {
    let line = |number: u32| Bytes::from(format!("line {number}\n"));
    if !follow {
        let lines: Vec<u8> = (0..3).flat_map(line).collect();
        return text(lines);
    }
    let lines = stream::iter(0..).then(move |number| async move {
        if number > 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(line(number))
    });
    streamed(lines)
}

fn upgrade(
    state: &State,
    stream: &str,
    query: &str,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let headers = request.headers().clone();
    let upgrade = header_text(&headers, &header::UPGRADE).to_ascii_lowercase();
    let offered = |name: &header::HeaderName| -> Vec<String> {
        let values = headers.get_all(name).iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        texts
            .flat_map(|text| text.split(','))
            .map(|text| text.trim().to_owned())
            .collect()
    };
    let mut exec = Exec::new(query);
    if stream == "/web/attach" {
        exec.command = ["sh", "-c", "echo attached; cat"]
            .map(str::to_owned)
            .to_vec();
    }
    let is_forward = stream == "/web/portforward";
    let upgraded = hyper::upgrade::on(&mut request);
    let mut answer = Response::new(empty());
    let (protocols, name, run): (&[&str], _, _) = match upgrade.as_str() {
        "websocket" if state.options.websockets => {
            let name = header::SEC_WEBSOCKET_PROTOCOL;
            if is_forward {
                (&["SPDY/3.1+portforward.k8s.io"], name, "tunnel")
            } else {
                (
                    &["v5.channel.k8s.io", "v4.channel.k8s.io"],
                    name,
                    "websocket",
                )
            }
        }
        "spdy/3.1" => {
            let name = header::HeaderName::from_static("x-stream-protocol-version");
            if is_forward {
                (&["portforward.k8s.io"], name, "spdy")
            } else {
                (&["v4.channel.k8s.io"], name, "spdy")
            }
        }
        _ => return failure(StatusCode::BAD_REQUEST, "BadRequest", "unable to upgrade"),
    };
    let offered = offered(&name);
    let Some(agreed) = protocols
        .iter()
        .find(|known| offered.iter().any(|o| o == *known))
    else {
        return failure(StatusCode::FORBIDDEN, "Forbidden", "no protocol in common");
    };
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers_out = answer.headers_mut();
    headers_out.insert(name, HeaderValue::from_static(agreed));
    headers_out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    let kind = if upgrade == "websocket" {
        "websocket"
    } else {
        "SPDY/3.1"
    };
    headers_out.insert(header::UPGRADE, HeaderValue::from_static(kind));
    if upgrade == "websocket" {
        let key = header_text(&headers, &header::SEC_WEBSOCKET_KEY);
        let accept = accept_key(key);
        headers_out.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    tokio::spawn(async move {
        let Ok(io) = upgraded.await else { return };
        match (run, is_forward) {
            ("tunnel", _) => portforward::serve(websocket::tunnel(io).await).await,
            ("websocket", _) => websocket::exec(io, exec).await,
            (_, true) => portforward::serve(TokioIo::new(io)).await,
            (_, false) => spdy::exec::run(TokioIo::new(io), exec).await,
        }
    });
    answer
}

/// RFC 6455 section 4.2.2.
fn accept_key(key: &str) -> HeaderValue {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        text.as_bytes(),
    );
    HeaderValue::from_str(&STANDARD.encode(digest)).expect("base64 is a header")
}

fn header_text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

async fn config_maps(
    state: &Arc<State>,
    name: &str,
    watch: bool,
    request: Request<Incoming>,
) -> Response<Body> {
    let objects = &state.objects;
    let kept = || objects.kept.lock().unwrap_or_else(PoisonError::into_inner);
    if watch {
        let events = stream::unfold(objects.events.subscribe(), |mut events| async move {
            let event = events.recv().await.ok()?;
            Some((Ok(Bytes::from(format!("{event}\n"))), events))
        });
        return streamed(events);
    }
    match (request.method().clone(), name) {
        (Method::GET, "") => {
            let items = kept().1.values().cloned().collect();
            json_of(&list("ConfigMapList", items))
        }
        (Method::GET, name) => match kept().1.get(name) {
            Some(object) => json_of(object),
            None => failure(StatusCode::NOT_FOUND, "NotFound", name),
        },
        (Method::POST | Method::PUT | Method::PATCH, _) => {
            let Ok(body) = request.into_body().collect().await else {
                return failure(StatusCode::BAD_REQUEST, "BadRequest", "the body broke off");
            };
            let Ok(mut object) = serde_json::from_slice::<Value>(&body.to_bytes()) else {
                return failure(StatusCode::BAD_REQUEST, "BadRequest", "not JSON");
            };
            let mut kept = kept();
            let name = match name {
                "" => object["metadata"]["name"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                name => name.to_owned(),
            };
            let kind = if kept.1.contains_key(&name) {
                "MODIFIED"
            } else {
                "ADDED"
            };
            if let Some(before) = kept.1.get(&name) {
                let mut merged = before.clone();
                merge(&mut merged, &object);
                object = merged;
            }
            kept.0 += 1;
            object["metadata"]["resourceVersion"] = json!(kept.0.to_string());
            object["metadata"]["namespace"] = json!("default");
            kept.1.insert(name, object.clone());
            let _ = objects
                .events
                .send(json!({ "type": kind, "object": object }));
            json_of(&object)
        }
        _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", name),
    }
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (name, value) in patch {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

async fn test(
    name: &str,
    asked: &BTreeMap<String, String>,
    request: Request<Incoming>,
) -> Response<Body> {
    let number = |name: &str| asked.get(name).and_then(|value| value.parse::<u64>().ok());
    match name {
        // What comes goes back as it comes, with its trailers.
        "echo" => Response::new(request.into_body().map_err(Into::into).boxed_unsync()),
        // How many bytes came.
        "count" => {
            let mut body = request.into_body();
            let mut count = 0;
            while let Some(Ok(frame)) = body.frame().await {
                count += frame.data_ref().map_or(0, Bytes::len);
            }
            text(count.to_string())
        }
        // The header names that came.
        "headers" => {
            let names: Vec<&str> = request
                .headers()
                .keys()
                .map(header::HeaderName::as_str)
                .collect();
            text(names.join(","))
        }
        // So many bytes, in pieces.
        "bytes" => {
            const PIECE: u64 = 64 * 1024;
            let total = number("n").unwrap_or(0);
            let piece = Bytes::from(vec![b'x'; 64 * 1024]);
            let pieces = stream::iter(0..total.div_ceil(PIECE)).map(move |index| {
                let left = usize::try_from((total - index * PIECE).min(PIECE)).expect("a piece");
                Ok(piece.slice(..left))
            });
            streamed(pieces)
        }
        // So many events, one after the other.
        "events" => {
            let count = number("n").unwrap_or(1);
            let pause = number("pause").unwrap_or(0);
            let events = stream::iter(0..count).then(move |number| async move {
                if pause > 0 {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                let event = json!({ "type": "ADDED", "object": { "kind": "Pod", "metadata": { "name": format!("pod-{number}") } } });
                Ok(Bytes::from(format!("{event}\n")))
            });
            streamed(events)
        }
        // A piece, and then nothing but a broken stream.
        "cut" => {
            let pieces: Vec<Result<Bytes, BoxError>> =
                vec![Ok(Bytes::from_static(b"begun")), Err("cut".into())];
            streamed(stream::iter(pieces).then(|piece| async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                piece
            }))
        }
        "hang" => std::future::pending().await,
        "large-header" => {
            let mut answer = text("");
            let length = usize::try_from(number("n").unwrap_or(0)).expect("little");
            let value = HeaderValue::from_str(&"h".repeat(length)).expect("a header");
            answer.headers_mut().insert("x-large", value);
            answer
        }
        "trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-trailer", HeaderValue::from_static("seen"));
            let frames = stream::iter([
                Ok(Frame::data(Bytes::from_static(b"body"))),
                Ok(Frame::trailers(trailers)),
            ]);
            Response::new(StreamBody::new(frames).boxed_unsync())
        }
        "unauthorized" => failure(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized"),
        _ => failure(StatusCode::NOT_FOUND, "NotFound", name),
    }
}

fn streamed(
    pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> Response<Body> {
    let mut answer =
        Response::new(StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync());
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}

fn empty() -> Body {
    Full::default()
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn text(text: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(text.into()).map_err(|never| match never {});
    Response::new(body.boxed_unsync())
}

fn json_of(value: &Value) -> Response<Body> {
    let mut answer = text(value.to_string());
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}

fn failure(code: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let mut answer = json_of(&json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    }));
    *answer.status_mut() = code;
    answer
}
