//! Watches: what is there now, if asked, and then every change, in order, without a gap.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    authorization::Owner,
    config::Clock,
    negotiation::Form,
    object,
    resource::Resource,
    selector::{FieldSelector, LabelSelector},
    status::ApiError,
    store::{ChangeKind, Changed, LogRequest, PageRequest, Since, Store},
    table::{self, IncludeObject},
};

/// How often a watcher who wants bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// Which objects a list or a watch is of.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// `None`: all namespaces.
    pub(crate) namespace: Option<String>,
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
    /// Only what belongs to this one.
    pub(crate) owner: Option<Owner>,
}

impl Selection {
    /// Whether an object, in the shape of its kind, is selected by its fields and owner.
    pub(crate) fn fits_fields(&self, resource: &Resource, object: &Value) -> bool {
        self.fields.matches(resource, object)
            && self.owner.as_ref().is_none_or(|owner| owner.owns(object))
    }

    /// Whether an object can be told to fit without reading it.
    pub(crate) fn is_by_key(&self) -> bool {
        self.labels.is_empty() && self.owner.is_none() && !self.fields.needs_object()
    }
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With all objects there are, then their changes; with a bookmark between the two if asked for.
    Objects { mark_end: bool },
    /// After a resource version.
    After(u64),
}

/// What a watcher asked for.
pub(crate) struct WatchRequest {
    pub(crate) resource: &'static Resource,
    pub(crate) selection: Selection,
    pub(crate) begin: Begin,
    pub(crate) bookmarks: bool,
    pub(crate) form: Form,
    pub(crate) include: IncludeObject,
    /// For how long.
    pub(crate) duration: Duration,
}

/// Starts a watch; the stream gives one JSON document a line.
pub(crate) async fn start(
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
    request: WatchRequest,
) -> Result<impl Stream<Item = Result<Bytes, std::convert::Infallible>> + use<>, ApiError> {
    // Listening begins before reading: what happens in between is heard twice and told once.
    let changes = store.subscribe();
    let deadline = Instant::now() + request.duration;
    let mut watch = Watch {
        store,
        clock,
        request,
        changes,
        revision: 0,
        lines: VecDeque::new(),
        is_behind: false,
        wrote_columns: false,
        ended: false,
        deadline,
        bookmark_at: Instant::now() + BOOKMARK_EVERY,
        shutdown,
    };
    match watch.request.begin {
        Begin::Objects { mark_end } => watch.tell_objects(mark_end).await?,
        Begin::After(revision) => {
            watch.revision = revision;
            watch.catch_up().await?;
        }
    }
    Ok(futures::stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok(line), watch))
    }))
}

struct Watch {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    request: WatchRequest,
    changes: broadcast::Receiver<Arc<Changed>>,
    /// The last change that was told or passed over.
    revision: u64,
    lines: VecDeque<Bytes>,
    /// The log has changes that were not told; more of it is read when the client has taken what there is.
    is_behind: bool,
    wrote_columns: bool,
    ended: bool,
    deadline: Instant,
    bookmark_at: Instant,
    shutdown: CancellationToken,
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            let shutdown = self.shutdown.clone();
            if self.is_behind {
                if shutdown.is_cancelled() || Instant::now() >= self.deadline {
                    return None;
                }
                if let Err(error) = self.catch_up().await {
                    self.fail(&error);
                }
                continue;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                () = sleep_until(self.deadline) => return None,
                change = self.changes.recv() => match change {
                    Ok(change) => self.tell(&change),
                    Err(RecvError::Lagged(_)) => self.is_behind = true,
                    Err(RecvError::Closed) => return None,
                },
                () = sleep_until(self.bookmark_at), if self.request.bookmarks => {
                    self.bookmark_at = Instant::now() + BOOKMARK_EVERY;
                    self.bookmark(false);
                }
            }
        }
    }

    async fn tell_objects(&mut self, mark_end: bool) -> Result<(), ApiError> {
        let resource = self.request.resource;
        let Some(store) = resource.store() else {
            return Err(ApiError::path_not_found());
        };
        let fields = &self.request.selection.fields;
        let page = self
            .store
            .page(PageRequest {
                store,
                namespace: self.request.selection.namespace.clone(),
                name: fields.name().map(str::to_owned),
                after: None,
                limit: None,
            })
            .await?;
        self.revision = page.revision;
        for stored in page.objects {
            let object: Value = serde_json::from_str(&stored.json).map_err(|error| {
                ApiError::internal(format!("a stored object can't be read: {error}"))
            })?;
            if self
                .request
                .selection
                .labels
                .matches(object::labels(&object))
            {
                self.push("ADDED", &object, &stored.json);
            }
        }
        if mark_end {
            self.bookmark(true);
        }
        Ok(())
    }

    /// Tells what the log has next after the last change that was told.
    async fn catch_up(&mut self) -> Result<(), ApiError> {
        let Some(store) = self.request.resource.store() else {
            return Err(ApiError::path_not_found());
        };
        let selection = &self.request.selection;
        let request = LogRequest {
            store,
            namespace: selection.namespace.clone(),
            name: selection.fields.name().map(str::to_owned),
            after: self.revision,
        };
        match self.store.since(request).await? {
            Since::Changes {
                changes,
                revision,
                more,
            } => {
                for change in changes {
                    self.tell(&change);
                }
                self.revision = self.revision.max(revision);
                self.is_behind = more;
            }
            // A resource version that has not been is from a database that was replaced: list again.
            Since::Compacted | Since::Future => {
                let error =
                    ApiError::expired(format!("too old resource version: {}", self.revision));
                self.fail(&error);
            }
        }
        Ok(())
    }

    fn tell(&mut self, change: &Changed) {
        if change.revision <= self.revision {
            return;
        }
        self.revision = change.revision;
        let selection = &self.request.selection;
        let is_in_place = self.request.resource.store() == Some(change.store.as_str())
            && selection
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == change.namespace)
            && selection
                .fields
                .name()
                .is_none_or(|name| name == change.name);
        if !is_in_place {
            return;
        }
        let object = change.object();
        let fits = selection.labels.matches(object::labels(object));
        let did_fit = match &change.labels_before {
            None => fits,
            Some(labels) => {
                let labels = serde_json::from_str(labels).unwrap_or_default();
                selection.labels.matches(Some(&labels))
            }
        };
        let kind = match (change.kind, did_fit, fits) {
            (ChangeKind::Added, _, true) | (ChangeKind::Modified, false, true) => "ADDED",
            (ChangeKind::Modified, true, true) => "MODIFIED",
            (ChangeKind::Modified, true, false) | (ChangeKind::Deleted, _, true) => "DELETED",
            (_, _, false) => return,
        };
        self.push(kind, object, &change.json);
    }

    /// Queues an event about a stored object, if its fields and owner fit.
    fn push(&mut self, kind: &str, stored: &Value, json: &str) {
        let resource = self.request.resource;
        let is_as_stored = resource.conversion.is_none();
        let mut converted = None;
        let object = if is_as_stored {
            stored
        } else {
            let mut object = stored.clone();
            resource.present(&mut object);
            converted.insert(object)
        };
        if !self.request.selection.fits_fields(resource, object) {
            return;
        }
        let line = match self.request.form {
            Form::Object if is_as_stored => event_line(kind, json),
            Form::Object => event_line(kind, &object.to_string()),
            Form::Metadata => event_line(kind, &table::metadata_only(object).to_string()),
            Form::Table => {
                let metadata = json!({"resourceVersion": object::text(object, "resourceVersion")});
                let with_columns = !std::mem::replace(&mut self.wrote_columns, true);
                let table = table::table(
                    resource,
                    std::slice::from_ref(object),
                    &metadata,
                    self.request.include,
                    with_columns,
                    self.now(),
                );
                event_line(kind, &table.to_string())
            }
        };
        self.lines.push_back(line);
    }

    fn bookmark(&mut self, ends_objects: bool) {
        let mut metadata = json!({
            "resourceVersion": self.revision.to_string(),
            "creationTimestamp": null,
        });
        if ends_objects {
            object::members_mut(&mut metadata).insert(
                "annotations".to_owned(),
                json!({"k8s.io/initial-events-end": "true"}),
            );
        }
        let resource = self.request.resource;
        let object = match self.request.form {
            Form::Object => json!({
                "kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata,
            }),
            Form::Metadata => table::metadata_only(&json!({"metadata": metadata})),
            Form::Table => {
                let object = json!({"metadata": metadata});
                table::table(
                    resource,
                    &[object],
                    &metadata,
                    IncludeObject::Metadata,
                    false,
                    self.now(),
                )
            }
        };
        self.lines
            .push_back(event_line("BOOKMARK", &object.to_string()));
    }

    fn fail(&mut self, error: &ApiError) {
        self.lines
            .push_back(event_line("ERROR", &error.status().to_string()));
        self.ended = true;
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

fn event_line(kind: &str, object: &str) -> Bytes {
    Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"))
}
