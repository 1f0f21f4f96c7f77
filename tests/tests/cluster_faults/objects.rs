//! Objects that others change, delete or put there while the signer works.

use crate::world::{World, certificate};
use k8s_openapi::{
    ByteString,
    api::{
        certificates::v1::CertificateSigningRequestCondition,
        core::v1::{ConfigMap, Secret},
    },
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, PostParams},
};
use touchstone_signer::{
    audit::Event,
    grant::{Grant, Phase},
};
use touchstone_tests::{
    card_key::CardKey,
    fault_proxy::{Call, Fault},
    policy::{GRANTED, OF_ANOTHER_TEAM},
};

const DATA_UNUSABLE: i32 = 5;

fn is_approval(call: &Call) -> bool {
    call.method == "PUT" && call.path.contains("/approval")
}

fn is_delivery(call: &Call) -> bool {
    call.method == "PUT" && call.path.contains("requests/") && call.path.contains("/status")
}

fn grant_of<'a>(grants: &'a [Grant], uid: &str) -> &'a Grant {
    let mut of_it = grants.iter().filter(|it| it.spec.request.uid == uid);
    let grant = of_it.next().expect("a grant of it");
    assert!(of_it.next().is_none(), "two grants of {uid}");
    grant
}

fn condition(kind: &str) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some("BySomeoneElse".into()),
        message: Some("by someone else".into()),
        ..CertificateSigningRequestCondition::default()
    }
}

fn decide(world: &World, name: &str, kind: &str) {
    let mut request = world.get(name);
    let status = request.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    conditions.push(condition(kind));
    let requests = world.requests_as_signer();
    let how = PostParams::default();
    let written = requests.replace_subresource("approval", name, &how, &request);
    world.runtime.block_on(written).expect("it may be written");
}

#[test]
fn a_request_made_again_under_its_name_before_the_signature_gets_nothing_of_the_first() {
    let world = World::with_signer();
    for (number, step) in [is_approval, is_delivery].into_iter().enumerate() {
        let name = format!("made-again-{number}");
        world.proxy.spoil(Fault::HoldBefore, 1, 1, step);
        world.submit(&world.alice, &name);
        world.proxy.wait_until_held();
        let first = world.get(&name).uid().expect("a UID");
        world.delete(&name);
        // Who may not have this group, under the name of one who may have another.
        world.submit_for(&world.alice, &name, OF_ANOTHER_TEAM);
        world.proxy.release();
        let refusal = world.refused(&name);
        assert!(
            refusal
                .message
                .unwrap_or_default()
                .contains(OF_ANOTHER_TEAM),
            "{name}"
        );
        world.until("the first one's grant came to nothing", |world| {
            grant_of(&world.grants(), &first).phase() == Phase::Failed
        });
        world.check();
    }
}

#[test]
fn whoever_else_approves_or_denies_changes_no_more_than_their_word() {
    let world = World::with_signer();
    world.proxy.spoil(Fault::HoldBefore, 1, 1, is_approval);
    world.submit(&world.alice, "approved-by-another");
    world.proxy.wait_until_held();
    decide(&world, "approved-by-another", "Approved");
    world.proxy.release();
    // The policy grants it: it is issued for that reason.
    world.issued("approved-by-another");

    world.submit_for(&world.alice, "approved-and-refused", OF_ANOTHER_TEAM);
    world.refused("approved-and-refused");

    world.proxy.spoil(Fault::HoldBefore, 1, 1, is_approval);
    world.submit(&world.alice, "denied-by-another");
    world.proxy.wait_until_held();
    decide(&world, "denied-by-another", "Denied");
    world.proxy.release();
    let uid = world.get("denied-by-another").uid().expect("a UID");
    world.until("its grant came to nothing", |world| {
        grant_of(&world.grants(), &uid).phase() == Phase::Failed
    });
    assert!(certificate(&world.get("denied-by-another")).is_none());
    world.check();
}

#[test]
fn a_certificate_that_another_holder_of_sign_plants_is_an_alarm_and_the_grant_says_so() {
    let world = World::with_signer();
    let planted = CardKey::generate(1).attestation_root().to_owned();
    world.proxy.spoil(Fault::HoldBefore, 1, 1, is_delivery);
    world.submit(&world.alice, "planted");
    world.proxy.wait_until_held();
    let mut request = world.get("planted");
    let uid = request.uid().expect("a UID");
    request.status.get_or_insert_default().certificate = Some(ByteString(planted.clone().into()));
    let requests = world.requests_as_signer();
    let how = PostParams::default();
    let written = requests.replace_status("planted", &how, &request);
    world.runtime.block_on(written).expect("it may be written");
    world.proxy.release();
    world.until("its grant came to nothing", |world| {
        grant_of(&world.grants(), &uid).phase() == Phase::Failed
    });
    let grants = world.grants();
    let status = grant_of(&grants, &uid).status.clone();
    let message = status.and_then(|it| it.message).unwrap_or_default();
    assert!(message.contains("did not make"), "{message}");
    let carried = world.get("planted");
    assert_eq!(certificate(&carried), Some(planted.as_bytes()));
    assert_eq!(world.metric("touchstone_foreign_certificates_total"), "1");
    let is_alarm = |event: &Event| matches!(event, Event::ForeignCertificate { .. });
    assert!(world.audit().iter().any(is_alarm));
    world.check();
}

#[test]
fn a_deleted_record_is_never_made_anew_and_a_deleted_bundle_is() {
    let mut world = World::with_signer();
    let secrets = world.namespaced::<Secret>();
    let maps = world.namespaced::<ConfigMap>();
    let record = world
        .runtime
        .block_on(secrets.get("touchstone-ca"))
        .expect("the record");
    world.runtime.block_on(async {
        let delete = DeleteParams::default();
        secrets
            .delete("touchstone-ca", &delete)
            .await
            .expect("delete the record");
        maps.delete("touchstone-trust-bundle", &delete)
            .await
            .expect("delete the bundle");
    });
    world.kill_signer();
    let (code, output) = world.try_signer();
    assert_eq!(code, Some(DATA_UNUSABLE), "{output}");
    assert!(
        output.contains("restore the Secret touchstone-ca"),
        "{output}"
    );
    let found = world.runtime.block_on(secrets.get_opt("touchstone-ca"));
    assert!(found.expect("an answer").is_none(), "it was made anew");

    let mut backup = Secret {
        data: record.data,
        type_: record.type_,
        ..Secret::default()
    };
    backup.metadata.name = Some("touchstone-ca".into());
    world
        .runtime
        .block_on(secrets.create(&PostParams::default(), &backup))
        .expect("restore the record");
    world.start_signer();
    world.until("the bundle is published again", |world| {
        let found = world
            .runtime
            .block_on(maps.get_opt("touchstone-trust-bundle"));
        found.expect("an answer").is_some()
    });
    world.submit_for(&world.alice, "after-the-backup", GRANTED);
    world.issued("after-the-backup");
    world.check();
}
