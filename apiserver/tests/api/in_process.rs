//! The API through `kube::Client` in the same process: the verbs, the versions, the watches.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;

use crate::support::server::TestServer;

fn code(error: kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason.clone()),
        other => panic!("{other}"),
    }
}

fn condition(kind: &str) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some("test".to_owned()),
        ..CertificateSigningRequestCondition::default()
    }
}

#[tokio::test]
async fn a_request_is_created_approved_and_read_back() {
    let server = TestServer::new();
    let requests: Api<CertificateSigningRequest> = Api::all(server.admin());
    let created = requests
        .create(&PostParams::default(), &server.request("a.example/b"))
        .await
        .unwrap();
    assert!(created.name_any().starts_with("touchstone-alice-"));
    assert_eq!(created.spec.username.as_deref(), Some("admin"));
    assert!(created.uid().is_some_and(|uid| uid.len() == 36));

    let mut approved = created.clone();
    approved.status.get_or_insert_default().conditions = Some(vec![condition("Approved")]);
    let approved = requests
        .replace_subresource(
            "approval",
            &created.name_any(),
            &PostParams::default(),
            &approved,
        )
        .await
        .unwrap();
    let conditions = approved
        .status
        .as_ref()
        .unwrap()
        .conditions
        .as_ref()
        .unwrap();
    assert_eq!(conditions[0].type_, "Approved");
    assert!(conditions[0].last_update_time.is_some());
    assert_ne!(approved.resource_version(), created.resource_version());
    assert_eq!(requests.get(&created.name_any()).await.unwrap(), approved);
}

#[tokio::test]
async fn an_update_of_an_old_version_is_a_conflict() {
    let server = TestServer::new();
    let maps: Api<ConfigMap> = Api::namespaced(server.signer(), "default");
    let mut map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "a"}, "data": {"k": "1"}})).unwrap();
    let first = maps.create(&PostParams::default(), &map).await.unwrap();
    map = first.clone();
    map.data = Some([("k".to_owned(), "2".to_owned())].into());
    let second = maps
        .replace("a", &PostParams::default(), &map)
        .await
        .unwrap();
    assert!(second.resource_version() > first.resource_version());
    map.data = Some([("k".to_owned(), "3".to_owned())].into());
    let error = maps
        .replace("a", &PostParams::default(), &map)
        .await
        .unwrap_err();
    assert_eq!(code(error), (409, "Conflict".to_owned()));
    // What changes nothing gets no new version.
    let same = maps
        .replace("a", &PostParams::default(), &second)
        .await
        .unwrap();
    assert_eq!(same.resource_version(), second.resource_version());
}

#[tokio::test]
async fn an_object_deleted_and_made_again_is_another() {
    let server = TestServer::new();
    let secrets: Api<Secret> = Api::namespaced(server.signer(), "default");
    let secret: Secret =
        serde_json::from_value(json!({"metadata": {"name": "ca"}, "stringData": {"k": "v"}}))
            .unwrap();
    let first = secrets
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();
    assert_eq!(first.data.as_ref().unwrap()["k"].0, b"v");
    assert_eq!(first.string_data, None);
    let again = secrets
        .create(&PostParams::default(), &secret)
        .await
        .unwrap_err();
    assert_eq!(code(again), (409, "AlreadyExists".to_owned()));
    secrets
        .delete("ca", &DeleteParams::default())
        .await
        .unwrap();
    let second = secrets
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();
    assert_ne!(first.uid(), second.uid());
    let wrong = DeleteParams {
        preconditions: Some(kube::api::Preconditions {
            uid: first.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let error = secrets.delete("ca", &wrong).await.unwrap_err();
    assert_eq!(code(error).0, 409);
    let error = secrets.get("gone").await.unwrap_err();
    assert_eq!(code(error), (404, "NotFound".to_owned()));
}

#[tokio::test]
async fn a_watch_tells_what_is_there_and_then_each_change() {
    let server = TestServer::new();
    let maps: Api<ConfigMap> = Api::namespaced(server.signer(), "default");
    let named = |name: &str, label: &str| -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {"l": label}}})).unwrap()
    };
    maps.create(&PostParams::default(), &named("a", "x"))
        .await
        .unwrap();
    let parameters = WatchParams::default().labels("l=x");
    let mut events = maps.watch(&parameters, "0").await.unwrap().boxed();
    let mut next = async || events.try_next().await.unwrap().unwrap();
    assert!(matches!(next().await, WatchEvent::Added(map) if map.name_any() == "a"));
    maps.create(&PostParams::default(), &named("b", "y"))
        .await
        .unwrap();
    maps.create(&PostParams::default(), &named("c", "x"))
        .await
        .unwrap();
    assert!(matches!(next().await, WatchEvent::Added(map) if map.name_any() == "c"));
    let relabel = |label: &str| Patch::Merge(json!({"metadata": {"labels": {"l": label}}}));
    maps.patch("c", &PatchParams::default(), &relabel("y"))
        .await
        .unwrap();
    assert!(matches!(next().await, WatchEvent::Deleted(map) if map.name_any() == "c"));
    maps.patch("c", &PatchParams::default(), &relabel("x"))
        .await
        .unwrap();
    assert!(matches!(next().await, WatchEvent::Added(map) if map.name_any() == "c"));
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(matches!(next().await, WatchEvent::Deleted(map) if map.name_any() == "a"));
}

#[tokio::test]
async fn the_watcher_of_kube_runtime_sees_all_objects_either_way() {
    let server = TestServer::new();
    let maps: Api<ConfigMap> = Api::namespaced(server.signer(), "default");
    for name in ["a", "b"] {
        let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let mut seen = watcher(maps.clone(), config).applied_objects().boxed();
        let mut names = vec![];
        for _ in 0..2 {
            names.push(seen.try_next().await.unwrap().unwrap().name_any());
        }
        assert_eq!(names, ["a", "b"]);
    }
}

#[tokio::test]
async fn a_list_comes_in_pages_and_by_selector() {
    let server = TestServer::new();
    let maps: Api<ConfigMap> = Api::namespaced(server.signer(), "default");
    for index in 0..5 {
        let map: ConfigMap = serde_json::from_value(
            json!({"metadata": {"name": format!("m{index}"), "labels": {"even": (index % 2 == 0).to_string()}}}),
        )
        .unwrap();
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    let mut parameters = ListParams::default().limit(2);
    let (mut names, mut remaining) = (vec![], vec![]);
    loop {
        let page = maps.list(&parameters).await.unwrap();
        assert!(page.items.len() <= 2);
        remaining.push(page.metadata.remaining_item_count);
        names.extend(page.items.iter().map(ResourceExt::name_any));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => parameters = parameters.continue_token(&token),
            _ => break,
        }
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4"]);
    assert_eq!(
        remaining,
        [Some(3), None, None],
        "counted once, not on each page"
    );
    let whole = maps.list(&ListParams::default().limit(5)).await.unwrap();
    assert_eq!((whole.items.len(), whole.metadata.continue_), (5, None));
    let even = maps
        .list(&ListParams::default().labels("even=true"))
        .await
        .unwrap();
    assert_eq!(even.items.len(), 3);
    let one = maps
        .list(&ListParams::default().fields("metadata.name=m3"))
        .await
        .unwrap();
    assert_eq!(one.items.len(), 1);
    let error = maps
        .list(&ListParams::default().fields("data.x=y"))
        .await
        .unwrap_err();
    assert_eq!(code(error).0, 400);
}
