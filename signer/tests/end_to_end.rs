//! The signer on the embedded API, in one process: from a request to a certificate, a denial or a recorded failure.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that panics has failed"
)]

#[path = "end_to_end/bindings.rs"]
mod bindings;
#[path = "end_to_end/issuing.rs"]
mod issuing;
#[path = "end_to_end/metrics.rs"]
mod metrics;
#[path = "end_to_end/policy.rs"]
mod policy;
#[path = "end_to_end/world.rs"]
mod world;

use futures::future::join_all;
use k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition;
use std::{path::Path, sync::Arc, time::Duration};
use touchstone_common::{
    certificate::{self, Expected},
    grant::GrantId,
};
use touchstone_signer::{
    audit::{Event, verify},
    grant::{Phase, name_of},
    metrics::{Metrics, NotReady},
};
use world::{Engineer, GROUP, World, condition};

#[tokio::test]
async fn a_granted_request_gets_a_certificate_that_verifies_and_a_record_of_it() {
    let alice = Engineer::new("alice@example.com");
    let world = World::start(&alice).await;
    let request = alice.request(&[GROUP]);
    let done = world.submit(&alice, "first", &request.pem).await;

    let approved = condition(&done, "Approved").expect("approved");
    assert_eq!(approved.reason.as_deref(), Some("PolicyApproved"));
    let message = approved.message.as_deref().unwrap();
    assert!(message.contains("payments on call"), "{message}");
    let issued = certificate::verify_issued(
        &done
            .status
            .as_ref()
            .unwrap()
            .certificate
            .as_ref()
            .unwrap()
            .0,
        &Expected {
            public_key: alice.public_key(),
            user: &alice.user,
            groups: &request.groups,
            grant: &GrantId::of_nonce(&request.nonce),
            ttl: request.ttl,
            trust_bundle: world.trust_bundle().as_bytes(),
            now: jiff::Timestamp::now(),
        },
    )
    .unwrap();

    let grant = world.settled_grant(&name_of(&request.nonce)).await;
    let status = grant.status.unwrap();
    assert_eq!(status.phase, Phase::Issued);
    assert_eq!(status.fingerprint.unwrap(), hex::encode(issued.fingerprint));
    assert_eq!(status.serial_number.unwrap(), issued.serial);
    assert_eq!(status.not_after.unwrap().0, issued.validity.not_after);
    assert_eq!(grant.spec.user, "alice@example.com");
    assert_eq!(grant.spec.reason, "INC-4211 checkout latency");
    assert_eq!(grant.spec.request.name, "first");
    let [intended] = grant.spec.intents.as_slice() else {
        panic!("{:?}", grant.spec.intents)
    };
    assert_eq!(intended.ca, world.founded.issuing().fingerprint());

    let log = world.audit();
    let intent = log
        .iter()
        .position(|e| matches!(e, Event::Intent(i) if i.tbs_sha256 == intended.tbs_sha256));
    let issued = log.iter().position(|e| matches!(e, Event::Issued { fingerprint, .. } if *fingerprint == hex::encode(issued.fingerprint)));
    assert!(intent.unwrap() < issued.unwrap(), "{log:?}");
}

#[tokio::test]
async fn what_no_rule_grants_is_denied_with_the_reason_and_leaves_no_grant() {
    let alice = Engineer::new("alice@example.com");
    let world = World::start(&alice).await;
    let request = alice.request(&["jit:oncall:billing"]);
    let done = world.submit(&alice, "denied", &request.pem).await;
    let denied = condition(&done, "Denied").expect("denied");
    assert!(
        denied
            .message
            .as_deref()
            .unwrap()
            .contains("jit:oncall:billing"),
        "{denied:?}"
    );
    assert!(condition(&done, "Approved").is_none());
    assert!(done.status.unwrap().certificate.is_none());
    assert!(world.grants().await.is_empty());
    let log = world.audit();
    assert!(
        matches!(log.last(), Some(Event::Denied { request, .. }) if request.csr == "denied"),
        "{log:?}"
    );
    let events = world.events("denied").await;
    assert_eq!(events.len(), 1, "{events:?}");
}

#[tokio::test]
async fn the_same_request_sent_again_is_denied_as_a_replay() {
    let alice = Engineer::new("alice@example.com");
    let world = World::start(&alice).await;
    let request = alice.request(&[GROUP]);
    world.submit(&alice, "first", &request.pem).await;
    let again = world.submit(&alice, "second", &request.pem).await;
    let denied = condition(&again, "Denied").expect("denied");
    assert_eq!(denied.reason.as_deref(), Some("Replayed"));
    assert!(
        denied.message.as_deref().unwrap().contains("first"),
        "{denied:?}"
    );
    assert_eq!(world.grants().await.len(), 1);
}

#[tokio::test]
async fn what_a_request_waits_for_is_recorded_once_whatever_its_annotations_say() {
    const TOLD: &str = "touchstone.dev/waiting-for";
    let alice = Engineer::new("alice@example.com");
    let mut world = World::start(&alice).await;
    world.stop().await;
    world.write_policy(&world::policy(&alice).replace(
        "decision: auto",
        "decision: manual\n    approvals: [ { from: { teams: [payments] } } ]",
    ));
    world.restart().await;
    let waits = |world: &World, name: &str| {
        let is_it =
            |event: &&Event| matches!(event, Event::Waiting { request, .. } if request.csr == name);
        world.audit().iter().filter(is_it).count()
    };
    world
        .create(&alice, "first", &alice.request(&[GROUP]).pem)
        .await;
    let message = world.annotation("first", TOLD).await;
    // Someone who may patch requests, over and over.
    for _ in 0..5 {
        world.remove_annotation("first", TOLD).await;
        assert_eq!(world.annotation("first", TOLD).await, message);
    }
    assert_eq!(waits(&world, "first"), 1);
    // Someone who says beforehand that it has been said.
    let before = [(TOLD.to_owned(), message)].into();
    world
        .create_annotated(
            world::SIGNER_NAME,
            &alice,
            "second",
            &alice.request(&[GROUP]).pem,
            Some(before),
        )
        .await;
    world
        .until("the record of the second", || waits(&world, "second") == 1)
        .await;
}

#[tokio::test]
async fn of_copies_of_a_request_sent_at_once_only_one_gets_a_certificate() {
    let alice = Engineer::new("alice@example.com");
    let world = World::start(&alice).await;
    let request = alice.request(&[GROUP]);
    let names: Vec<String> = (0..8).map(|n| format!("copy-{n}")).collect();
    let done = join_all(
        names
            .iter()
            .map(|name| world.submit(&alice, name, &request.pem)),
    )
    .await;
    let certified = done
        .iter()
        .filter(|d| d.status.as_ref().unwrap().certificate.is_some());
    assert_eq!(certified.count(), 1);
    let replayed = done.iter().filter_map(|d| condition(d, "Denied"));
    assert_eq!(
        replayed
            .filter(|c| c.reason.as_deref() == Some("Replayed"))
            .count(),
        7
    );
}

#[tokio::test]
async fn an_object_made_again_under_the_same_name_is_another_request() {
    let alice = Engineer::new("alice@example.com");
    let world = World::start(&alice).await;
    let request = alice.request(&[GROUP]);
    world.submit(&alice, "name", &request.pem).await;
    world.delete("name").await;
    let again = world.submit(&alice, "name", &request.pem).await;
    assert_eq!(
        condition(&again, "Denied").unwrap().reason.as_deref(),
        Some("Replayed")
    );
    world.delete("name").await;
    let fresh = world
        .submit(&alice, "name", &alice.request(&[GROUP]).pem)
        .await;
    assert!(fresh.status.unwrap().certificate.is_some());
}

#[tokio::test]
async fn requests_of_other_signer_names_are_left_alone() {
    let alice = Engineer::new("alice@example.com");
    let world = World::start(&alice).await;
    let other = world
        .create_for(
            "example.com/other",
            &alice,
            "other",
            &alice.request(&[GROUP]).pem,
        )
        .await;
    world
        .submit(&alice, "ours", &alice.request(&[GROUP]).pem)
        .await;
    let seen = world.get("other").await;
    assert_eq!(
        seen.metadata.resource_version,
        other.metadata.resource_version
    );
}

#[tokio::test]
async fn an_approval_by_someone_else_counts_for_nothing() {
    let alice = Engineer::new("alice@example.com");
    let mut world = World::start(&alice).await;
    world.stop().await;
    world
        .create(
            &alice,
            "approved",
            &alice.request(&["jit:oncall:billing"]).pem,
        )
        .await;
    world
        .add_condition(
            "approved",
            CertificateSigningRequestCondition {
                type_: "Approved".into(),
                status: "True".into(),
                reason: Some("KubectlApprove".into()),
                message: Some("approved by kubectl".into()),
                ..Default::default()
            },
        )
        .await;
    world.restart().await;
    let done = world.wait("approved").await;
    assert!(condition(&done, "Failed").is_some(), "{done:?}");
    assert!(done.status.unwrap().certificate.is_none());
    assert!(world.grants().await.is_empty());
}

#[tokio::test]
async fn an_approval_by_someone_else_of_what_the_policy_grants_does_no_harm() {
    let alice = Engineer::new("alice@example.com");
    let mut world = World::start(&alice).await;
    world.stop().await;
    world
        .create(&alice, "approved", &alice.request(&[GROUP]).pem)
        .await;
    let approved = CertificateSigningRequestCondition {
        type_: "Approved".into(),
        status: "True".into(),
        ..Default::default()
    };
    world.add_condition("approved", approved).await;
    world.restart().await;
    let done = world.wait("approved").await;
    assert!(done.status.unwrap().certificate.is_some());
}

#[tokio::test]
async fn a_certificate_that_someone_else_put_there_is_reported_and_left() {
    let alice = Engineer::new("alice@example.com");
    let mut world = World::start(&alice).await;
    let theirs = world
        .submit(&alice, "theirs", &alice.request(&[GROUP]).pem)
        .await;
    world.stop().await;
    world
        .create(&alice, "foreign", &alice.request(&[GROUP]).pem)
        .await;
    let foreign = world.trust_bundle().into_bytes();
    world.put_certificate("foreign", &foreign).await;
    world.restart().await;
    world
        .until("the report", || {
            world.audit().iter().any(|e| matches!(e, Event::ForeignCertificate { request, .. } if request.csr == "foreign"))
        })
        .await;
    let seen = world.get("foreign").await;
    assert_eq!(seen.status.unwrap().certificate.unwrap().0, foreign);
    let reports = world
        .audit()
        .iter()
        .filter(|e| matches!(e, Event::ForeignCertificate { .. }))
        .count();
    assert_eq!(
        reports, 1,
        "its own certificates are not reported: {theirs:?}"
    );
}

#[tokio::test]
async fn nothing_is_approved_or_signed_while_the_intent_cannot_be_recorded() {
    let alice = Engineer::new("alice@example.com");
    let mut world = World::start(&alice).await;
    world.stop().await;
    let metrics = Arc::<Metrics>::default();
    let full = world.run_with_audit(Path::new("/dev/full"), &metrics).await;
    let request = alice.request(&[GROUP]);
    world.create(&alice, "unrecorded", &request.pem).await;
    // Several tries.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.grants().await.len(), 1);
    assert_eq!(metrics.ready(jiff::Timestamp::now()), Err(NotReady::Audit));
    let seen = world.get("unrecorded").await;
    assert!(condition(&seen, "Approved").is_none(), "{seen:?}");
    assert!(seen.status.unwrap_or_default().certificate.is_none());
    full.abort();
    world.restart().await;
    let done = world.wait("unrecorded").await;
    assert!(done.status.unwrap().certificate.is_some());
}

#[tokio::test]
async fn a_request_that_makes_the_signer_panic_fails_alone() {
    let alice = Engineer::new("alice@example.com");
    let world = World::start(&alice).await;
    world.clock.panic_at_next_call();
    let failed = world
        .submit(&alice, "panics", &alice.request(&[GROUP]).pem)
        .await;
    let condition = condition(&failed, "Failed").expect("failed");
    assert_eq!(condition.reason.as_deref(), Some("InternalError"));
    let next = world
        .submit(&alice, "next", &alice.request(&[GROUP]).pem)
        .await;
    assert!(next.status.unwrap().certificate.is_some());
}

#[tokio::test]
async fn a_writer_who_interferes_all_the_time_cannot_get_a_second_certificate_issued() {
    let alice = Engineer::new("alice@example.com");
    let world = World::start(&alice).await;
    for n in 0..10 {
        let name = format!("contended-{n}");
        let request = alice.request(&[GROUP]);
        let (done, ()) = tokio::join!(
            world.submit(&alice, &name, &request.pem),
            world.annotate_until_closed(&name)
        );
        let chain = done.status.unwrap().certificate.expect("a certificate").0;
        let grant = world.settled_grant(&name_of(&request.nonce)).await;
        let fingerprint = grant.status.unwrap().fingerprint.unwrap();
        let leaf = pem::parse(&chain).unwrap();
        assert_eq!(
            touchstone_signer::ca::fingerprint(leaf.contents()),
            fingerprint
        );
    }
}

#[tokio::test]
async fn whenever_the_signer_is_cut_off_the_next_one_finishes_or_fails_what_it_left() {
    let alice = Engineer::new("alice@example.com");
    let mut world = World::start(&alice).await;
    let mut requests = Vec::new();
    for round in 0..40u64 {
        let request = alice.request(&[GROUP]);
        let name = format!("round-{round}");
        world.create(&alice, &name, &request.pem).await;
        // From before the first write to after the last.
        tokio::time::sleep(Duration::from_micros(round * 250)).await;
        world.cut_off().await;
        if round % 8 == 7 {
            world.delete(&name).await;
        }
        requests.push((name, request, round % 8 == 7));
        world.restart().await;
    }
    for (name, request, deleted) in requests {
        let grant_name = name_of(&request.nonce);
        if deleted {
            if world
                .grants()
                .await
                .iter()
                .any(|g| g.metadata.name.as_ref() == Some(&grant_name))
            {
                world.settled_grant(&grant_name).await;
            }
            continue;
        }
        let done = world.wait(&name).await;
        let chain = done.status.unwrap().certificate.expect("a certificate").0;
        let leaf = touchstone_signer::ca::recognise::leaf_of(
            &chain,
            world.founded.issuing().certificate(),
        )
        .unwrap();
        let status = world.settled_grant(&grant_name).await.status.unwrap();
        assert_eq!(status.phase, Phase::Issued);
        assert_eq!(status.fingerprint.as_ref(), Some(&leaf.fingerprint));
        let log = world.audit();
        let intended = log
            .iter()
            .any(|e| matches!(e, Event::Intent(i) if i.tbs_sha256 == leaf.tbs_sha256));
        assert!(intended, "{name} has a certificate without an intent");
        let recorded = log.iter().any(
            |e| matches!(e, Event::Issued { fingerprint, .. } if *fingerprint == leaf.fingerprint),
        );
        assert!(recorded, "{name} has a certificate without a record");
    }
    verify::verify_settled(&world.audit_path(), None).unwrap();
}

#[tokio::test]
async fn a_broken_policy_leaves_the_last_good_one_in_force_and_a_good_one_replaces_it() {
    let alice = Engineer::new("alice@example.com");
    let world = World::start(&alice).await;
    world.write_policy("rules: [");
    world
        .until("the refusal", || {
            world
                .audit()
                .iter()
                .any(|e| matches!(e, Event::PolicyRefused { .. }))
        })
        .await;
    let done = world
        .submit(&alice, "still", &alice.request(&[GROUP]).pem)
        .await;
    assert!(done.status.unwrap().certificate.is_some());
    world.write_policy(&world::policy(&alice).replace("decision: auto", "decision: deny"));
    world
        .until("the new policy", || {
            world
                .audit()
                .iter()
                .filter(|e| matches!(e, Event::PolicyLoaded { .. }))
                .count()
                == 2
        })
        .await;
    let done = world
        .submit(&alice, "now", &alice.request(&[GROUP]).pem)
        .await;
    assert!(condition(&done, "Denied").is_some());
}

#[tokio::test]
async fn a_thousand_requests_leave_nothing_open_and_the_log_whole() {
    let alice = Engineer::new("alice@example.com");
    let world = World::start(&alice).await;
    for batch in 0..10 {
        let requests: Vec<_> = (0..100)
            .map(|n| (format!("r-{batch}-{n}"), alice.request(&[GROUP])))
            .collect();
        let (world, alice) = (&world, &alice);
        join_all(requests.iter().map(|(name, request)| async move {
            let done = world.submit(alice, name, &request.pem).await;
            assert!(done.status.unwrap().certificate.is_some(), "{name}");
        }))
        .await;
    }
    world.all_grants_settle(1000).await;
    assert_eq!(
        world
            .audit()
            .iter()
            .filter(|e| matches!(e, Event::Issued { .. }))
            .count(),
        1000
    );
}
