//! Grants with RoleBindings of their own: made before the certificate, gone with it, and gone when it is revoked.

use crate::world::{self, Engineer, GROUP, World, condition};
use k8s_openapi::{
    api::{
        core::v1::Namespace,
        rbac::v1::{RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::time::Duration;
use touchstone_common::{
    certificate::{self, Expected},
    grant::GrantId,
    name::GroupName,
};
use touchstone_signer::{
    audit::Event,
    grant::{Grant, Phase},
};

const NAMESPACES: [&str; 2] = ["billing", "payments"];

fn per_grant(engineer: &Engineer) -> String {
    world::policy(engineer)
        + "    binding: { perGrant: { clusterRole: jit-debug, namespaces: [payments, billing] } }\n"
}

async fn start(alice: &Engineer) -> World {
    let mut world = World::start(alice).await;
    world.write_policy(&per_grant(alice));
    let namespaces: Api<Namespace> = Api::all(world.administrator());
    for name in NAMESPACES {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.into());
        let parameters = PostParams::default();
        namespaces.create(&parameters, &namespace).await.unwrap();
    }
    world.stop().await;
    world.restart().await;
    world
}

impl World {
    fn in_namespace(&self, namespace: &str) -> Api<RoleBinding> {
        Api::namespaced(self.administrator(), namespace)
    }

    async fn role_bindings(&self) -> Vec<RoleBinding> {
        let all: Api<RoleBinding> = Api::all(self.administrator());
        let mut bindings = all.list(&ListParams::default()).await.unwrap().items;
        bindings.sort_by_key(ResourceExt::name_any);
        bindings
    }

    async fn until_there_are_no_role_bindings(&self) {
        self.until_role_bindings_are(0).await;
    }

    async fn until_role_bindings_are(&self, count: usize) {
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while self.role_bindings().await.len() != count {
            assert!(
                std::time::Instant::now() < end,
                "{:?}",
                self.role_bindings().await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn revoke(&self, id: &GrantId, by: &str) {
        let patch = json!({ "metadata": { "annotations": {
            "touchstone.dev/revoked-by": by, "touchstone.dev/revocation-reason": "laptop stolen",
        } } });
        let grants: Api<Grant> = Api::all(self.administrator());
        grants
            .patch(
                &id.object_name(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await
            .unwrap();
    }

    fn count(&self, is_it: impl Fn(&Event) -> bool) -> usize {
        self.audit().iter().filter(|event| is_it(event)).count()
    }
}

#[tokio::test]
async fn a_certificate_carries_a_group_of_its_own_that_is_bound_before_it_is_delivered() {
    let alice = Engineer::new("alice@example.com");
    let world = start(&alice).await;
    let request = alice.request(&[GROUP]);
    let id = GrantId::of_nonce(&request.nonce);
    let done = world.submit(&alice, "bound", &request.pem).await;
    // It stands there when the certificate does.
    let bindings = world.role_bindings().await;
    let message = condition(&done, "Approved").unwrap().message.clone();
    assert!(message.unwrap().contains(&id.group_name()));

    let chain = done.status.unwrap().certificate.unwrap().0;
    let bundle = world.trust_bundle();
    let expected = Expected {
        public_key: alice.public_key(),
        user: &alice.user,
        groups: &request.groups,
        grant: &id,
        ttl: request.ttl,
        trust_bundle: bundle.as_bytes(),
        now: jiff::Timestamp::now(),
    };
    let issued = certificate::verify_issued(&chain, &expected).unwrap();
    assert_eq!(
        issued.groups,
        [GROUP.to_owned(), id.group_name()].map(|name| GroupName::parse(&name).unwrap())
    );
    // Whoever expects another grant's group refuses it.
    let other = GrantId::of_nonce(&[9; 32]);
    let of_another = Expected {
        grant: &other,
        ..expected
    };
    assert!(certificate::verify_issued(&chain, &of_another).is_err());

    let grant = world.settled_grant(&id.object_name()).await;
    assert_eq!(grant.spec.group.as_deref(), Some(id.group_name().as_str()));
    assert_eq!(bindings.len(), 2);
    for (binding, namespace) in bindings.iter().zip(NAMESPACES) {
        assert_eq!(binding.namespace().as_deref(), Some(namespace));
        assert_eq!(binding.role_ref.kind, "ClusterRole");
        assert_eq!(binding.role_ref.name, "jit-debug");
        let subjects = binding.subjects.as_ref().unwrap();
        assert_eq!(subjects.len(), 1);
        assert_eq!(
            (subjects[0].kind.as_str(), subjects[0].name.as_str()),
            ("Group", id.group_name().as_str())
        );
        let owner = &binding.owner_references()[0];
        assert_eq!(
            (owner.kind.as_str(), Some(&owner.uid)),
            ("Grant", grant.metadata.uid.as_ref())
        );
        assert_eq!(binding.labels()["touchstone.dev/grant"], id.object_name());
    }
    let log = world.audit();
    let intent = log.iter().find_map(|event| match event {
        Event::Intent(intent) => Some(intent),
        _ => None,
    });
    assert_eq!(intent.unwrap().bindings, grant.spec.bindings);
}

#[tokio::test]
async fn revoking_removes_the_bindings_of_that_grant_and_records_who_did_it_and_no_others_are_touched()
 {
    let alice = Engineer::new("alice@example.com");
    let world = start(&alice).await;
    let [first, second] = [(); 2].map(|()| alice.request(&[GROUP]));
    world.submit(&alice, "first", &first.pem).await;
    world.submit(&alice, "second", &second.pem).await;
    let [first, second] = [first, second].map(|request| GrantId::of_nonce(&request.nonce));
    for id in [&first, &second] {
        world.settled_grant(&id.object_name()).await;
    }
    // Someone else's, with our labels.
    let mut foreign = world.role_bindings().await.remove(0);
    foreign.metadata.name = Some("theirs".into());
    foreign.metadata.resource_version = None;
    foreign.metadata.uid = None;
    let theirs = world.in_namespace(NAMESPACES[0]);
    theirs
        .create(&PostParams::default(), &foreign)
        .await
        .unwrap();
    // One of ours that someone took over for a group of theirs.
    let stolen = format!("touchstone-{}-0", first.object_name());
    let patch = json!({ "subjects": [{ "kind": "Group", "name": "theirs", "apiGroup": "rbac.authorization.k8s.io" }] });
    theirs
        .patch(&stolen, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();

    world.revoke(&first, "security@example.com").await;
    // Of five, one was ours and is removed.
    world.until_role_bindings_are(4).await;
    let left: Vec<_> = world
        .role_bindings()
        .await
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    assert!(
        left.contains(&"theirs".to_owned()) && left.contains(&stolen),
        "{left:?}"
    );
    world
        .until("the record", || {
            world.count(|event| matches!(event, Event::Revoked { .. })) == 1
        })
        .await;
    let log = world.audit();
    let revoked = log.iter().find_map(|event| match event {
        Event::Revoked {
            grant, by, reason, ..
        } => Some((grant.as_str(), by.as_str(), reason.as_str())),
        _ => None,
    });
    let name = first.object_name();
    assert_eq!(
        revoked,
        Some((name.as_str(), "security@example.com", "laptop stolen"))
    );
    let grants: Api<Grant> = Api::all(world.administrator());
    let grant = loop {
        let grant = grants.get(&name).await.unwrap();
        if !grant.is_to_be_revoked() {
            break grant;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let status = grant.status.unwrap();
    assert_eq!(status.phase, Phase::Issued);
    assert!(status.revoked_at.is_some() && status.bindings_removed_at.is_some());
    let events = world.events(&name).await;
    assert!(
        events
            .iter()
            .any(|event| event.reason.as_deref() == Some("Revoked")),
        "{events:?}"
    );

    // Once more says nothing new.
    world.revoke(&first, "security@example.com").await;
    world.revoke(&second, "security@example.com").await;
    world.until_role_bindings_are(2).await;
    world
        .until("the second record", || {
            world.count(|event| matches!(event, Event::Revoked { .. })) == 2
        })
        .await;
}

#[tokio::test]
async fn what_an_earlier_process_left_bound_is_found_after_a_restart_and_removed_at_its_end() {
    let alice = Engineer::new("alice@example.com");
    let mut world = start(&alice).await;
    let request = alice.request(&[GROUP]);
    let id = GrantId::of_nonce(&request.nonce);
    world.submit(&alice, "ends", &request.pem).await;
    let mut grant = world.settled_grant(&id.object_name()).await;
    world.stop().await;
    assert_eq!(world.role_bindings().await.len(), 2);

    // As if its certificate ended shortly after the next process came up.
    let soon = jiff::Timestamp::now().as_second() + 3;
    let soon = jiff::Timestamp::from_second(soon).unwrap();
    grant.status.as_mut().unwrap().not_after = Some(Time(soon));
    let grants: Api<Grant> = Api::all(world.administrator());
    grants
        .replace_status(&id.object_name(), &PostParams::default(), &grant)
        .await
        .unwrap();
    world.restart().await;
    world.until_there_are_no_role_bindings().await;
    assert!(jiff::Timestamp::now() >= soon, "not before its end");
    world
        .until("the record", || {
            world.count(|event| matches!(event, Event::Unbound { .. })) == 1
        })
        .await;
    world.stop().await;
    world.restart().await;
    assert_eq!(
        world.count(|event| matches!(event, Event::Unbound { .. })),
        1
    );
}

#[tokio::test]
async fn a_binding_that_someone_planted_under_the_name_of_one_of_ours_stops_the_request() {
    let alice = Engineer::new("alice@example.com");
    let world = start(&alice).await;
    let request = alice.request(&[GROUP]);
    let id = GrantId::of_nonce(&request.nonce);
    let mut planted = RoleBinding {
        role_ref: RoleRef {
            kind: "ClusterRole".into(),
            name: "cluster-admin".into(),
            api_group: Some("rbac.authorization.k8s.io".into()),
        },
        subjects: Some(vec![Subject {
            kind: "Group".into(),
            name: "mallory".into(),
            ..Subject::default()
        }]),
        ..RoleBinding::default()
    };
    planted.metadata.name = Some(format!("touchstone-{}-1", id.object_name()));
    let api = world.in_namespace(NAMESPACES[1]);
    api.create(&PostParams::default(), &planted).await.unwrap();

    let done = world.submit(&alice, "planted", &request.pem).await;
    let failed = condition(&done, "Failed").expect("failed");
    assert_eq!(failed.reason.as_deref(), Some("CannotBind"));
    assert!(done.status.unwrap().certificate.is_none());
    // Ours is taken back, theirs is left.
    world.until_role_bindings_are(1).await;
    let left = &world.role_bindings().await[0];
    assert_eq!(left.subjects.as_ref().unwrap()[0].name, "mallory");
    let grant = world.settled_grant(&id.object_name()).await;
    assert_eq!(grant.phase(), Phase::Failed);
}

#[tokio::test]
async fn nobody_can_ask_for_the_group_of_a_grant() {
    let alice = Engineer::new("alice@example.com");
    let world = start(&alice).await;
    let first = alice.request(&[GROUP]);
    world.submit(&alice, "first", &first.pem).await;
    let group = GrantId::of_nonce(&first.nonce).group_name();
    for (name, group) in [
        ("same", group.clone()),
        ("case", group.to_uppercase()),
        ("other", "touchstone:signer".to_owned()),
    ] {
        let forged = alice.request(&[GROUP, &group]);
        let done = world.submit(&alice, name, &forged.pem).await;
        let denied = condition(&done, "Denied").expect("denied");
        assert_eq!(denied.reason.as_deref(), Some("InvalidRequest"), "{name}");
        assert!(
            denied.message.as_deref().unwrap().contains("touchstone:"),
            "{denied:?}"
        );
    }
}

#[tokio::test]
async fn wherever_the_signer_is_cut_off_nothing_stays_bound_without_a_living_certificate() {
    let alice = Engineer::new("alice@example.com");
    let mut world = start(&alice).await;
    for round in 0..24u64 {
        let request = alice.request(&[GROUP]);
        let name = format!("round-{round}");
        world.create(&alice, &name, &request.pem).await;
        tokio::time::sleep(Duration::from_micros(round * 500)).await;
        world.cut_off().await;
        // What the API server was doing for it comes to its end.
        tokio::time::sleep(Duration::from_millis(50)).await;
        if round % 2 == 1 {
            world.delete(&name).await;
        }
        world.restart().await;
        if round % 2 == 0 {
            let done = world.wait(&name).await;
            assert!(done.status.unwrap().certificate.is_some());
        }
    }
    for grant in world.grants().await {
        world.settled_grant(&grant.name_any()).await;
    }
    let living = world
        .grants()
        .await
        .iter()
        .filter(|grant| grant.phase() == Phase::Issued)
        .count();
    assert!(living >= 12, "{living}");
    world.until_role_bindings_are(2 * living).await;
}
