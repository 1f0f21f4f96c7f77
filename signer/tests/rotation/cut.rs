//! A client whose writes are counted, refused, or its process's last.

use kube::{Client, client::Body};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};
use tokio::sync::Notify;

/// Where the signer's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Never,
    /// The API never hears of this write.
    Before(u32),
    /// The signer never hears what became of it.
    After(u32),
    /// Every third change is answered with 409.
    ConflictFirst,
}

impl Cut {
    /// A client of the signer that is cut off there: whoever waits for `died` hears of it. While the API is away, nothing is
    /// answered.
    pub(crate) fn client(
        self,
        inner: Client,
        died: &Arc<Notify>,
        is_away: &Arc<AtomicBool>,
    ) -> Client {
        let writes = Arc::new(AtomicU32::new(0));
        let (died, is_away) = (Arc::clone(died), Arc::clone(is_away));
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (inner, writes) = (inner.clone(), Arc::clone(&writes));
            let (died, is_away) = (Arc::clone(&died), Arc::clone(&is_away));
            async move {
                if is_away.load(Ordering::SeqCst) {
                    return Err("the API server is away".into());
                }
                // Events inform; nothing depends on them.
                let is_write = !matches!(*request.method(), http::Method::GET)
                    && !request.uri().path().contains("/events");
                let is_put = *request.method() == http::Method::PUT;
                let number = match is_write {
                    true => writes.fetch_add(1, Ordering::SeqCst) + 1,
                    false => 0,
                };
                if is_put && self == Self::ConflictFirst && number % 3 == 1 {
                    return Ok(conflict());
                }
                if is_write && self == Self::Before(number) {
                    died.notify_one();
                    return std::future::pending().await;
                }
                let response = inner.send(request).await?;
                if is_write && self == Self::After(number) {
                    died.notify_one();
                    return std::future::pending().await;
                }
                Ok::<_, tower::BoxError>(response)
            }
        });
        Client::new(service, "default")
    }
}

fn conflict() -> http::Response<Body> {
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict",
        "message": "somebody else was faster", "code": 409,
    });
    let mut response = http::Response::new(Body::from(status.to_string().into_bytes()));
    *response.status_mut() = http::StatusCode::CONFLICT;
    response.headers_mut().insert(
        "content-type",
        http::HeaderValue::from_static("application/json"),
    );
    response
}
