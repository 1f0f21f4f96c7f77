//! Events on a request, for `kubectl describe csr`, and on the CA's record. They inform; nothing depends on them.

use super::conditions::shorten;
use crate::traces::TRACES;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        certificates::v1::CertificateSigningRequest, core::v1::ObjectReference, events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, Resource, api::PostParams};

const REPORTER: &str = "touchstone.dev/signer";
/// The most bytes Kubernetes takes as an event's note (pkg/apis/core/validation/events.go).
const MAX_NOTE_BYTES: usize = 1024;
/// How much of an object's name stands in the name of its events: with the time, less than the 253 that a name may have.
const MAX_NAME_PART_BYTES: usize = 200;

/// An event's name, from its object's. That may have as many characters as Kubernetes takes at all; whoever chooses it
/// must not keep what is said of it from being heard.
fn name(request: &str, now: Timestamp) -> String {
    let kept = request
        .get(..MAX_NAME_PART_BYTES)
        .unwrap_or(request)
        .trim_end_matches(['.', '-']);
    format!("{kept}.{:x}", now.as_nanosecond())
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    Normal,
    Warning,
}

#[derive(Clone)]
pub(crate) struct Events {
    client: Client,
    instance: String,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

impl Events {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            instance: format!("touchstone-signer-{}", std::process::id()),
        }
    }

    /// Publishes an event on a request.
    pub(super) async fn publish(
        &self,
        request: &CertificateSigningRequest,
        now: Timestamp,
        level: Level,
        reason: &str,
        note: &str,
    ) {
        let mut regarding = request.object_ref(&());
        regarding.resource_version = None;
        self.tell(regarding, "Review", now, level, reason, note)
            .await;
    }

    /// Publishes an event. One that cannot be published is logged and forgotten.
    #[tracing::instrument(name = "publish event", target = TRACES, skip_all)]
    pub(crate) async fn tell(
        &self,
        regarding: ObjectReference,
        action: &str,
        now: Timestamp,
        level: Level,
        reason: &str,
        note: &str,
    ) {
        // Events of objects that belong to no namespace stand in this one.
        let namespace = regarding
            .namespace
            .as_deref()
            .unwrap_or("default")
            .to_owned();
        let of = regarding.name.as_deref().unwrap_or_default();
        let event = Event {
            action: Some(action.to_owned()),
            event_time: Some(MicroTime(now)),
            metadata: ObjectMeta {
                name: Some(name(of, now)),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            note: Some(shorten(note, MAX_NOTE_BYTES)),
            reason: Some(reason.to_owned()),
            regarding: Some(regarding),
            reporting_controller: Some(REPORTER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(
                match level {
                    Level::Normal => "Normal",
                    Level::Warning => "Warning",
                }
                .to_owned(),
            ),
            ..Event::default()
        };
        let api = Api::<Event>::namespaced(self.client.clone(), &namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!(error = %super::chain(&error), "an event was not taken");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_with_the_longest_name_has_events_all_the_same() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        assert!(name("csr-1", now).starts_with("csr-1.1"));
        let longest = format!("{}-.{}", "a".repeat(199), "b".repeat(52));
        let name = name(&longest, now);
        assert!(name.len() <= 253 && !name.contains("-."), "{name}");
    }
}
