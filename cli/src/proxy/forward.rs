//! One request: checked, sent on in the certificate's name, its answer passed back as it comes.

use super::{
    Proxy,
    body::{self, Answer, Passed},
    clients::Client,
    epoch::{Epoch, Sent},
    request::{self, Kind},
    trouble::Trouble,
    upgrade,
    upstream::{self, Unanswered},
    voice::Voice,
};
use crate::{error::Exit, talk::Talk};
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request::Parts,
};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use std::sync::{Arc, atomic::Ordering};

/// How often a request is sent that the server cannot have seen.
const ATTEMPTS: usize = 3;

/// Answers one request of a client.
pub(super) async fn answer(
    proxy: &Arc<Proxy>,
    client: &Client,
    request: Request<Incoming>,
) -> Response<Answer> {
    let (parts, incoming) = request.into_parts();
    let version = parts.version;
    let kind = match proxy.rules().check(&parts) {
        Ok(kind) => kind,
        Err(refusal) => {
            tracing::info!(why = refusal.why, "refused a request");
            return refused(version, refusal.status, &refusal.why);
        }
    };
    proxy.counts().requests.fetch_add(1, Ordering::Relaxed);
    let epoch = match proxy.epoch() {
        Some(epoch) if client.not_after >= jiff::Timestamp::now() => epoch,
        _ => return failed(&upstream::ended(proxy.cluster())),
    };
    let terminal = client.terminal.clone();
    let talk: Arc<dyn Talk> = match proxy.person() {
        Some(person) => Arc::new(Voice::person(proxy.pins(), person)),
        None => Arc::new(Voice::terminal(proxy.pins(), terminal)),
    };
    let answered = async {
        match kind {
            Kind::Ordinary => ordinary(proxy, &epoch, client, talk, parts, incoming).await,
            Kind::Upgrade(protocol) => {
                upgrade::open(proxy, &epoch, client, talk, protocol, parts, incoming).await
            }
        }
    };
    let answered = tokio::select! {
        answered = answered => answered,
        () = epoch.ended().cancelled() => Err(upstream::ended(proxy.cluster())),
    };
    answered.unwrap_or_else(|trouble| failed(&trouble))
}

async fn ordinary(
    proxy: &Arc<Proxy>,
    epoch: &Arc<Epoch>,
    client: &Client,
    talk: Arc<dyn Talk>,
    parts: Parts,
    incoming: Incoming,
) -> Result<Response<Answer>, Trouble> {
    let counts = Arc::clone(proxy.counts());
    let upstream = epoch.upstream();
    let stream = epoch.enter(client);
    // Only what has no body can be sent a second time when the connection broke under it.
    let again =
        (parts.method == Method::GET || parts.method == Method::HEAD) && incoming.is_end_stream();
    let uri = upstream_uri(upstream.target(), &parts.uri)?;
    let mut head = Request::new(());
    *head.method_mut() = parts.method;
    *head.uri_mut() = uri;
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = parts.headers;
    request::strip(head.headers_mut());
    let mut spare = again.then(|| head.clone());
    let mut request = head.map(|()| Sent::new(incoming, Arc::clone(&counts.sent), None, ()));
    let mut unsent = 0;
    loop {
        let lease = upstream.lease(&talk).await?;
        match lease.send(request).await {
            Ok(response) => {
                let (mut head, incoming) = response.into_parts();
                request::strip(&mut head.headers);
                let ended = epoch.ended().clone().cancelled_owned();
                let received = Arc::clone(&counts.received);
                let body = Passed::new(incoming, received, Some(ended), (lease, stream));
                return Ok(Response::from_parts(head, body.boxed_unsync()));
            }
            Err(Unanswered::Unsent(again)) => {
                unsent += 1;
                if unsent == ATTEMPTS {
                    let server = upstream.target().server();
                    return Err(Trouble::unreachable(server, "it closes every connection"));
                }
                request = *again;
            }
            Err(Unanswered::Failed(trouble)) => match spare.take() {
                Some(head) => request = head.map(|()| Sent::empty(())),
                None => return Err(trouble),
            },
        }
    }
}

/// The same path at the API server.
pub(super) fn upstream_uri(target: &crate::tls::Target, uri: &Uri) -> Result<Uri, Trouble> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Uri::builder()
        .scheme("https")
        .authority(target.authority())
        .path_and_query(format!("{}{path}", target.path()))
        .build()
        .map_err(|error| Trouble::new(Exit::Other, error.to_string(), None))
}

/// A refusal. A connection of HTTP/1.1 that it came on is not read any further.
fn refused(version: Version, code: StatusCode, why: &str) -> Response<Answer> {
    let mut response = body::status(code, &format!("touchstone: {why}"));
    if version != Version::HTTP_2 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// There is no answer from the server.
fn failed(trouble: &Trouble) -> Response<Answer> {
    let code = match trouble.exit {
        Exit::NotLoggedIn => StatusCode::UNAUTHORIZED,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    body::status(code, &trouble.in_full())
}
