//! What was answered stays, whatever happens to the process.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use futures::{StreamExt, TryStreamExt};
use jiff::SignedDuration;
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    core::v1::{ConfigMap, Event},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;
use touchstone_apiserver::{ADMINISTRATORS, ApiServer, OpenError, StoreOpenError};

use crate::support::server::{TestServer, open_at, user};

/// Set for the process that the test below kills.
const DATABASE: &str = "TOUCHSTONE_TEST_DATABASE";

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
}

/// Not a test by itself: the victim of the next one. Prints the name of each object that it was told is stored.
#[tokio::test]
#[expect(
    clippy::print_stdout,
    reason = "the process that kills this one reads it"
)]
async fn the_process_that_is_killed() {
    let Some(database) = std::env::var_os(DATABASE) else {
        return;
    };
    let api = open_at(database.as_ref()).await;
    let maps: Api<ConfigMap> = Api::namespaced(
        api.client(user("a", &[ADMINISTRATORS]), "default"),
        "default",
    );
    for number in 0.. {
        let name = format!("m{number:06}");
        maps.create(&PostParams::default(), &map(&name))
            .await
            .unwrap();
        println!("stored {name}");
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_it_answered() {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("api.sqlite");
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "durability::the_process_that_is_killed",
            "--exact",
            "--nocapture",
        ])
        .env(DATABASE, &database)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = Vec::new();
    for line in BufReader::new(victim.stdout.take().unwrap()).lines() {
        let Ok(line) = line else { break };
        // The test runner prints "test … " in front of the first one.
        if let Some((_, name)) = line.split_once("stored ") {
            told.push(name.to_owned());
        }
        if told.len() == 100 {
            // SIGKILL, in the middle of the next writes.
            victim.kill().unwrap();
        }
    }
    victim.wait().unwrap();
    assert!(told.len() >= 100);

    let api = open_at(&database).await;
    let maps: Api<ConfigMap> = Api::namespaced(
        api.client(user("a", &[ADMINISTRATORS]), "default"),
        "default",
    );
    let kept: Vec<String> = maps
        .list(&ListParams::default())
        .await
        .unwrap()
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    assert!(told.iter().all(|name| kept.contains(name)));
    maps.create(&PostParams::default(), &map("goes-on"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_write_that_the_disk_refuses_is_an_error_and_the_next_one_goes_through() {
    let server = TestServer::new();
    let maps: Api<ConfigMap> = Api::namespaced(server.admin(), "default");
    // Whoever holds the write lock makes each commit fail, as a full disk does.
    let holder = rusqlite::Connection::open(&server.database).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = maps
        .create(&PostParams::default(), &map("a"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, kube::Error::Api(status) if status.code == 500 && status.message.contains("the store failed"))
    );
    holder.execute_batch("ROLLBACK").unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
    maps.create(&PostParams::default(), &map("a"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_second_process_on_the_same_database_is_refused() {
    let server = TestServer::new();
    let error = ApiServer::open(server.config()).unwrap_err();
    assert!(
        matches!(error, OpenError::Store(StoreOpenError::Busy(_))),
        "{error}"
    );
    assert!(error.to_string().contains("another process"));
}

#[tokio::test]
async fn versions_go_on_and_objects_stay_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("api.sqlite");
    let first = {
        let api = open_at(&database).await;
        let maps: Api<ConfigMap> = Api::namespaced(
            api.client(user("a", &[ADMINISTRATORS]), "default"),
            "default",
        );
        maps.create(&PostParams::default(), &map("a"))
            .await
            .unwrap()
    };
    let api = open_at(&database).await;
    let maps: Api<ConfigMap> = Api::namespaced(
        api.client(user("a", &[ADMINISTRATORS]), "default"),
        "default",
    );
    assert_eq!(maps.get("a").await.unwrap(), first);
    let version = |map: &ConfigMap| map.resource_version().unwrap().parse::<u64>().unwrap();
    let second = maps
        .create(&PostParams::default(), &map("b"))
        .await
        .unwrap();
    assert!(version(&second) > version(&first));
    // A watcher from before the restart goes on where it was.
    let mut events = maps
        .watch(&WatchParams::default(), &first.resource_version().unwrap())
        .await
        .unwrap()
        .boxed();
    let event = events.try_next().await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Added(map) if map.name_any() == "b"));
}

#[tokio::test]
async fn the_database_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;

    let server = TestServer::new();
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let mut path = server.database.clone().into_os_string();
        path.push(suffix);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn a_version_that_the_log_no_longer_has_is_gone() {
    let server = TestServer::new();
    let maps: Api<ConfigMap> = Api::namespaced(server.admin(), "default");
    let first = maps
        .create(&PostParams::default(), &map("a"))
        .await
        .unwrap();
    // Many writers at once, who share transactions.
    let writes = (0..10_300).map(|number| {
        let maps = maps.clone();
        async move {
            maps.create(&PostParams::default(), &map(&format!("m{number}")))
                .await
                .map(|_| ())
        }
    });
    futures::stream::iter(writes)
        .buffer_unordered(200)
        .try_collect::<()>()
        .await
        .unwrap();
    let mut events = maps
        .watch(&WatchParams::default(), &first.resource_version().unwrap())
        .await
        .unwrap()
        .boxed();
    let event = events.try_next().await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Error(status) if status.code == 410));
    assert!(events.try_next().await.unwrap().is_none());
}

#[tokio::test]
async fn what_has_ended_is_collected_and_its_watchers_hear_of_it() {
    let server = TestServer::new();
    let requests: Api<CertificateSigningRequest> = Api::all(server.admin());
    let events: Api<Event> = Api::namespaced(server.admin(), "default");
    let open = requests
        .create(&PostParams::default(), &server.request("a.example/b"))
        .await
        .unwrap();
    let event: Event = serde_json::from_value(
        json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Grant"}, "message": "m"}),
    )
    .unwrap();
    events.create(&PostParams::default(), &event).await.unwrap();
    server.clock.advance(SignedDuration::from_mins(61));
    assert_eq!(server.api.collect().await.unwrap(), 1);
    assert_eq!(
        events
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        0
    );
    assert_eq!(
        requests
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        1
    );
    server.clock.advance(SignedDuration::from_hours(23));
    assert_eq!(server.api.collect().await.unwrap(), 1);
    let mut watch = requests
        .watch(&WatchParams::default(), &open.resource_version().unwrap())
        .await
        .unwrap()
        .boxed();
    let event = watch.try_next().await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Deleted(request) if request.uid() == open.uid()));
}

#[tokio::test]
async fn a_namespace_takes_what_is_in_it_along() {
    let server = TestServer::new();
    server.api.ensure_namespace("x").await.unwrap();
    server.api.ensure_namespace("x").await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(server.admin(), "x");
    maps.create(&PostParams::default(), &map("a"))
        .await
        .unwrap();
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(server.admin());
    namespaces
        .delete("x", &DeleteParams::default())
        .await
        .unwrap();
    assert_eq!(
        maps.list(&ListParams::default()).await.unwrap().items.len(),
        0
    );
    assert!(
        maps.create(&PostParams::default(), &map("a"))
            .await
            .is_err()
    );
    assert!(
        namespaces
            .delete("default", &DeleteParams::default())
            .await
            .is_err()
    );
}
