//! What would use up memory, disk or connections, as someone with little or no rights would try it.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{PostParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    network::tls,
    server::TestServer,
    target::{REQUESTS, Target},
};

async fn next_name(
    events: &mut (impl futures::Stream<Item = kube::Result<WatchEvent<ConfigMap>>> + Unpin),
) -> String {
    let event = tokio::time::timeout(Duration::from_secs(20), events.try_next());
    match event.await.unwrap().unwrap().unwrap() {
        WatchEvent::Added(map) => map.name_any(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_watcher_that_is_far_behind_is_told_everything_page_by_page() {
    let server = TestServer::new();
    let maps: Api<ConfigMap> = Api::namespaced(server.admin(), "default");
    let make = async |name: String| {
        let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        maps.create(&PostParams::default(), &map).await.unwrap();
    };
    for number in 0..300 {
        make(format!("m{number:03}")).await;
    }
    let all = WatchParams::default();
    let one = WatchParams::default().fields("metadata.name=m299");
    let mut all = maps.watch(&all, "1").await.unwrap().boxed();
    let mut one = maps.watch(&one, "1").await.unwrap().boxed();
    for number in 0..300 {
        assert_eq!(next_name(&mut all).await, format!("m{number:03}"));
    }
    assert_eq!(next_name(&mut one).await, "m299");
    make("later".to_owned()).await;
    assert_eq!(next_name(&mut all).await, "later");
}

#[tokio::test]
async fn more_unknown_fields_than_a_head_has_room_for_are_counted() {
    let target = Target::new().await;
    let mut object = json!({"metadata": {"name": "a"}});
    for number in 0..40_000 {
        object[format!("x{number}")] = json!(0);
    }
    let answer = target
        .admin()
        .await
        .post("/api/v1/namespaces/default/configmaps", &object)
        .await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    let warnings: Vec<_> = answer.headers.get_all("warning").iter().collect();
    assert_eq!(warnings.len(), 11);
    assert_eq!(
        *warnings.last().unwrap(),
        "299 - \"39990 further unknown fields\""
    );
}

#[tokio::test]
async fn an_engineer_cannot_fill_the_disk_with_large_requests() {
    let target = Target::new().await;
    let mut alice = target.engineer("/CN=alice").await;
    let with_annotation = |bytes: usize| -> Value {
        let mut request = target.request("a.example/b");
        request["metadata"]["annotations"] = json!({"a": "x".repeat(bytes)});
        request
    };
    let large = alice.post(REQUESTS, &with_annotation(200 * 1024)).await;
    assert_eq!(large.code, 413);
    let mut alice = target.engineer("/CN=alice").await;
    let usual = alice.post(REQUESTS, &with_annotation(1024)).await;
    assert_eq!(usual.code, 201, "{}", usual.text);
}

#[tokio::test]
async fn an_engineer_cannot_fill_the_disk_with_many_requests() {
    let target = Target::new().await;
    let request = target.request("a.example/b");
    let mut codes = Vec::new();
    let mut alice = target.engineer("/CN=alice").await;
    for _ in 0..70 {
        codes.push(alice.post(REQUESTS, &request).await.code);
    }
    let taken = codes.iter().filter(|code| **code == 201).count();
    // The turns that come back meanwhile depend on the machine.
    assert!((60..70).contains(&taken), "{codes:?}");
    assert!(codes.ends_with(&[429]), "{codes:?}");
    let mut bob = target.engineer("/CN=bob").await;
    assert_eq!(bob.post(REQUESTS, &request).await.code, 201);
    for _ in 0..70 {
        assert_eq!(
            target.admin().await.post(REQUESTS, &request).await.code,
            201
        );
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_or_only_begins_is_hung_up_on() {
    let server = TestServer::new();
    let (address, ca) = server.listen().await;
    let wait = async |begun: &[u8]| {
        let mut silent = tls(address, &ca, None).await;
        silent.write_all(begun).await.unwrap();
        silent.flush().await.unwrap();
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(25), silent.read_to_end(&mut rest))
            .await
            .is_ok()
    };
    let (nothing, preface) = tokio::join!(wait(b""), wait(b"PRI * HTTP/2.0\r\n"));
    assert!(nothing, "a silent connection is still open");
    assert!(preface, "half a preface keeps a connection open");
}
