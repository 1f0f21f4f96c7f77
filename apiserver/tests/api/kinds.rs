//! What single kinds do beyond what all do.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest, coordination::v1::Lease, core::v1::Event,
    events::v1::Event as NewEvent,
};
use kube::{
    Api, ResourceExt,
    api::{
        ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
        WatchEvent, WatchParams,
    },
    runtime::events::{Event as Report, EventType, Recorder, Reporter},
};
use serde_json::json;

use crate::support::server::TestServer;

fn code(error: &kube::Error) -> (u16, &str) {
    match error {
        kube::Error::Api(status) => (status.code, &status.message),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn requests_are_listed_and_watched_by_signer_name() {
    let server = TestServer::new();
    let requests: Api<CertificateSigningRequest> = Api::all(server.signer());
    let mine = requests
        .create(&PostParams::default(), &server.request("a.example/mine"))
        .await
        .unwrap();
    requests
        .create(&PostParams::default(), &server.request("a.example/other"))
        .await
        .unwrap();
    let listed = requests
        .list(&ListParams::default().fields("spec.signerName=a.example/mine"))
        .await
        .unwrap();
    assert_eq!(listed.items.len(), 1);
    assert_eq!(listed.items[0].uid(), mine.uid());
    let parameters = WatchParams::default().fields("spec.signerName=a.example/mine");
    let mut events = requests.watch(&parameters, "0").await.unwrap().boxed();
    assert!(
        matches!(events.try_next().await.unwrap(), Some(WatchEvent::Added(one)) if one.uid() == mine.uid())
    );
    requests
        .create(&PostParams::default(), &server.request("a.example/other"))
        .await
        .unwrap();
    let next = requests
        .create(&PostParams::default(), &server.request("a.example/mine"))
        .await
        .unwrap();
    assert!(
        matches!(events.try_next().await.unwrap(), Some(WatchEvent::Added(one)) if one.uid() == next.uid())
    );
}

#[tokio::test]
async fn a_change_of_the_spec_of_a_request_is_dropped_as_kubernetes_drops_it() {
    let server = TestServer::new();
    let requests: Api<CertificateSigningRequest> = Api::all(server.admin());
    let created = requests
        .create(&PostParams::default(), &server.request("a.example/b"))
        .await
        .unwrap();
    let mut changed = created.clone();
    changed.spec.signer_name = "a.example/other".to_owned();
    changed.spec.username = Some("eve".to_owned());
    let name = created.name_any();
    let kept = requests
        .replace(&name, &PostParams::default(), &changed)
        .await
        .unwrap();
    assert_eq!(kept, created);
    let patch = Patch::Merge(
        json!({"spec": {"expirationSeconds": 86400}, "status": {"certificate": "AAAA"}}),
    );
    let kept = requests
        .patch(&name, &PatchParams::default(), &patch)
        .await
        .unwrap();
    assert_eq!(kept, created);
}

#[tokio::test]
async fn events_of_either_group_are_the_same_events() {
    let server = TestServer::new();
    let requests: Api<CertificateSigningRequest> = Api::all(server.signer());
    let request = requests
        .create(&PostParams::default(), &server.request("a.example/b"))
        .await
        .unwrap();
    let reporter = Reporter {
        controller: "touchstone".to_owned(),
        instance: None,
    };
    let reference = kube::Resource::object_ref(&request, &());
    let recorder = Recorder::new(server.signer(), reporter);
    let report = Report {
        type_: EventType::Normal,
        reason: "Issued".to_owned(),
        note: Some("for thirty minutes".to_owned()),
        action: "Issue".to_owned(),
        secondary: None,
    };
    // The second time the recorder patches the first event into a series.
    recorder.publish(&report, &reference).await.unwrap();
    recorder.publish(&report, &reference).await.unwrap();
    let core: Api<Event> = Api::all(server.admin());
    let of_the_request = format!(
        "involvedObject.uid={},involvedObject.name={}",
        request.uid().unwrap(),
        request.name_any()
    );
    let seen = core
        .list(&ListParams::default().fields(&of_the_request))
        .await
        .unwrap();
    assert_eq!(seen.items.len(), 1);
    assert_eq!(seen.items[0].message.as_deref(), Some("for thirty minutes"));
    let new: Api<NewEvent> = Api::all(server.admin());
    let seen = new.list(&ListParams::default()).await.unwrap();
    assert_eq!(seen.items[0].note.as_deref(), Some("for thirty minutes"));
    assert!(seen.items[0].series.is_some());
}

#[tokio::test]
async fn a_grant_counts_its_generations_and_keeps_its_status_apart() {
    let server = TestServer::new();
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("touchstone.dev", "v1", "Grant"));
    let grants: Api<DynamicObject> = Api::all_with(server.signer(), &kind);
    let grant = DynamicObject::new("g", &kind)
        .data(json!({"spec": {"user": "alice"}, "status": {"phase": "Issued"}}));
    let created = grants.create(&PostParams::default(), &grant).await.unwrap();
    assert_eq!(created.metadata.generation, Some(1));
    assert_eq!(created.data.get("status"), None);
    let status = Patch::Merge(json!({"status": {"phase": "Issued"}, "spec": {"user": "eve"}}));
    let issued = grants
        .patch_status("g", &PatchParams::default(), &status)
        .await
        .unwrap();
    assert_eq!(
        issued.data,
        json!({"spec": {"user": "alice"}, "status": {"phase": "Issued"}})
    );
    assert_eq!(issued.metadata.generation, Some(1));
    let spec = Patch::Merge(json!({"status": {"phase": "Failed"}, "spec": {"user": "bob"}}));
    let changed = grants
        .patch("g", &PatchParams::default(), &spec)
        .await
        .unwrap();
    assert_eq!(
        changed.data,
        json!({"spec": {"user": "bob"}, "status": {"phase": "Issued"}})
    );
    assert_eq!(changed.metadata.generation, Some(2));
    // As for every custom resource, a replacement must say what it replaces.
    let mut blind = changed.clone();
    blind.metadata.resource_version = None;
    let error = grants
        .replace("g", &PostParams::default(), &blind)
        .await
        .unwrap_err();
    assert_eq!(code(&error).0, 422);
}

#[tokio::test]
async fn of_two_who_take_a_lease_at_the_same_version_one_gets_it() {
    let server = TestServer::new();
    let leases: Api<Lease> = Api::namespaced(server.signer(), "kube-system");
    let lease: Lease = serde_json::from_value(json!({
        "metadata": {"name": "signer"},
        "spec": {"holderIdentity": "", "renewTime": "2026-01-01T00:00:00.123456Z", "leaseDurationSeconds": 15},
    }))
    .unwrap();
    let free = leases.create(&PostParams::default(), &lease).await.unwrap();
    let take = async |who: &str| {
        let mut taken = free.clone();
        taken.spec.get_or_insert_default().holder_identity = Some(who.to_owned());
        leases
            .replace("signer", &PostParams::default(), &taken)
            .await
    };
    let (one, two) = tokio::join!(take("one"), take("two"));
    assert_eq!([&one, &two].iter().filter(|taken| taken.is_ok()).count(), 1);
    let error = one.err().or(two.err()).unwrap();
    assert_eq!(code(&error).0, 409);
}

#[tokio::test]
async fn a_dry_run_stores_nothing_and_server_side_apply_says_what_to_do_instead() {
    let server = TestServer::new();
    let requests: Api<CertificateSigningRequest> = Api::all(server.admin());
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    requests
        .create(&dry, &server.request("a.example/b"))
        .await
        .unwrap();
    assert!(
        requests
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    let mut request = server.request("a.example/b");
    request.metadata.generate_name = None;
    request.metadata.name = Some("a".to_owned());
    let error = requests
        .patch("a", &PatchParams::apply("test"), &Patch::Apply(&request))
        .await
        .unwrap_err();
    assert_eq!(code(&error).0, 415);
    assert!(
        code(&error).1.contains("server-side apply"),
        "{}",
        code(&error).1
    );
}
