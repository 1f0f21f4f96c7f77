//! Streams in both directions: exec, attach, port-forward and cp, over a connection of their own.
//!
//! HTTP/2 knows no `Upgrade`, so each has an HTTP/1.1 connection to the API server. What goes through it is passed on as it
//! is; only where one frame ends and the next begins is followed, so that the certificate's end can be said in the stream
//! itself.

mod frames;

use super::{
    Proxy,
    body::{Answer, Passed},
    clients::Client,
    epoch::{Epoch, Sent, Stream},
    forward,
    request::{self, Protocol},
    trouble::Trouble,
};
use crate::talk::Talk;
use frames::Frames;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header, request::Parts,
};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

/// What is read at once.
const PIECE: usize = 64 * 1024;
/// How long the rest of a frame, and whoever takes it, are waited for when the certificate has ended.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(2);

/// Opens a stream for a client.
pub(super) async fn open(
    proxy: &Arc<Proxy>,
    epoch: &Arc<Epoch>,
    client: &Client,
    talk: Arc<dyn Talk>,
    protocol: Protocol,
    mut parts: Parts,
    _no_body: Incoming,
) -> Result<Response<Answer>, Trouble> {
    let upstream = epoch.upstream();
    let stream = epoch.enter(client);
    let mut sender = upstream.open_for_upgrade(talk).await?;

    let mut up = Request::new(Sent::empty(()));
    *up.method_mut() = parts.method.clone();
    // In the form that servers are sent: the path alone.
    *up.uri_mut() = forward::upstream_uri(upstream.target(), &parts.uri)?
        .into_parts()
        .path_and_query
        .map(Into::into)
        .unwrap_or_default();
    *up.version_mut() = Version::HTTP_11;
    *up.headers_mut() = std::mem::take(&mut parts.headers);
    let wanted = up.headers().get(header::UPGRADE).cloned();
    request::strip(up.headers_mut());
    up.headers_mut().remove(header::CONTENT_LENGTH);
    let host = HeaderValue::from_str(upstream.target().authority())
        .map_err(|error| upstream.lost(&error))?;
    up.headers_mut().insert(header::HOST, host);
    mark_upgrade(up.headers_mut(), wanted);

    let mut response = sender
        .send_request(up)
        .await
        .map_err(|error| upstream.lost(&error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // A refusal, in the server's words: kubectl then tries another protocol, or shows them.
        let (mut head, incoming) = response.into_parts();
        request::strip(&mut head.headers);
        head.version = Version::HTTP_11;
        let ended = epoch.ended().clone().cancelled_owned();
        let received = Arc::clone(&proxy.counts().received);
        let body = Passed::new(incoming, received, Some(ended), (sender, stream));
        return Ok(Response::from_parts(head, body.boxed_unsync()));
    }

    let theirs = hyper::upgrade::on(&mut response);
    let ours = hyper::upgrade::on(Request::from_parts(parts, ()));
    let (mut head, _) = response.into_parts();
    let agreed = head.headers.get(header::UPGRADE).cloned();
    request::strip(&mut head.headers);
    mark_upgrade(&mut head.headers, agreed);
    let frames = Frames::new(protocol, &head.headers);
    let splice = Splice {
        frames,
        cluster: proxy.cluster().to_owned(),
        sent: Arc::clone(&proxy.counts().sent),
        received: Arc::clone(&proxy.counts().received),
        ended: epoch.ended().clone(),
        _stream: stream,
    };
    tokio::spawn(splice.run(ours, theirs));
    let body = Empty::new().map_err(|never| match never {});
    Ok(Response::from_parts(head, body.boxed_unsync()))
}

fn mark_upgrade(headers: &mut HeaderMap, protocol: Option<HeaderValue>) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(protocol) = protocol {
        headers.insert(header::UPGRADE, protocol);
    }
}

/// Two ends of one stream.
struct Splice {
    frames: Frames,
    cluster: String,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    ended: CancellationToken,
    _stream: Stream,
}

impl Splice {
    async fn run(mut self, ours: OnUpgrade, theirs: OnUpgrade) {
        let (ours, theirs) = match tokio::try_join!(ours, theirs) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "an upgrade was not carried out");
                return;
            }
        };
        let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(ours));
        let (mut from_server, mut to_server) = tokio::io::split(TokioIo::new(theirs));
        let mut ignore = |_: &[u8]| {};
        let up = carry(&mut from_client, &mut to_server, &self.sent, &mut ignore);
        let frames = &mut self.frames;
        let mut follow = |piece: &[u8]| frames.passed(piece);
        let down = carry(
            &mut from_server,
            &mut to_client,
            &self.received,
            &mut follow,
        );
        let carried = tokio::select! {
            // Each end may close its own direction and read on. One that breaks ends both.
            carried = async { tokio::try_join!(up, down) } => Some(carried),
            () = self.ended.cancelled() => None,
        };
        tracing::debug!(?carried, "a stream ended");
        if carried.is_none() {
            let frames = &mut self.frames;
            let words = last_words(frames, &self.cluster, &mut from_server, &mut to_client);
            let _ = tokio::time::timeout(LAST_WORDS_WITHIN, words).await;
        }
        let close = async {
            let _ = tokio::join!(to_client.shutdown(), to_server.shutdown());
        };
        let _ = tokio::time::timeout(LAST_WORDS_WITHIN, close).await;
    }
}

/// Passes on what comes, until it ends; then closes the other end's direction. Waits for whoever takes it before it reads
/// more.
async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    counted: &AtomicU64,
    follow: &mut (dyn FnMut(&[u8]) + Send),
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        let Some(read) = piece.get(..length).filter(|read| !read.is_empty()) else {
            return to.shutdown().await;
        };
        follow(read);
        to.write_all(read).await?;
        to.flush().await?;
        counted.fetch_add(u64::try_from(length).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Lets the frame that is on its way come whole, and says why it is the last.
async fn last_words(
    frames: &mut Frames,
    cluster: &str,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut piece = [0; 1];
    while !frames.between_messages() {
        from.read_exact(&mut piece).await?;
        frames.passed(&piece);
        to.write_all(&piece).await?;
    }
    let why =
        format!("touchstone: the certificate for {cluster} has ended, and with it this stream");
    to.write_all(&frames.goodbye(&why)).await?;
    to.flush().await
}
