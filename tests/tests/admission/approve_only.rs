//! The same where kube-controller-manager signs what Touchstone approves: for the cluster's own signer name, and for that of
//! Touchstone beside it, which no signer answers to here.

use crate::world::{
    ALICE, BOB, OPERATOR, OWN_NAME, ROOT, World, assert_refused, condition, fail, label, malformed,
    with_every_right,
};
use serde_json::{Value, json};
use touchstone_common::csr::KUBE_APISERVER_CLIENT;
use touchstone_tests::{cluster::Cluster, controller_manager, policy::MANUAL};

/// Who signs in clusters whose kube-controller-manager has an account for each of its controllers.
const CERTIFICATE_CONTROLLER: &str = "system:serviceaccount:kube-system:certificate-controller";
const BOTH: [&str; 2] = [KUBE_APISERVER_CLIENT, OWN_NAME];

#[test]
fn nobody_asks_kube_controller_manager_for_what_could_never_be_granted() {
    let Some(world) = World::on(Cluster::start_approve_only) else {
        return;
    };
    for name in BOTH {
        let good = world.manual(name);
        for (changed, words) in malformed(&good, &world.pem(MANUAL, 1)) {
            world.refused(ALICE, &["create"], &changed, words);
            world.refused(ROOT, &["create"], &changed, words);
        }
        for account in ["system:serviceaccount:default:default", "system:node:n"] {
            let create = [&with_every_right(account)[..], &["create"]].concat();
            world.refused(ROOT, &create, &good, "not for accounts of the cluster");
        }
        world.send(ALICE, &["create"], &good).succeeded();
    }
}

#[test]
fn nobody_but_the_signer_approves_and_nobody_but_kube_controller_manager_signs() {
    let Some(world) = World::on(Cluster::start_approve_only) else {
        return;
    };
    let approved = |changed: &mut Value| changed["status"]["conditions"] = condition("Approved");
    let denied = |changed: &mut Value| changed["status"]["conditions"] = condition("Denied");
    let certificate = world.planted();
    let plant = |changed: &mut Value| changed["status"]["certificate"] = certificate.clone();
    let signers = [controller_manager::ACCOUNT, CERTIFICATE_CONTROLLER];
    let others = [
        "system:serviceaccount:kube-system:default",
        "system:kube-scheduler",
    ];
    for name in BOTH {
        let request = match name {
            KUBE_APISERVER_CLIENT => world.waiting(name),
            _ => world.create(ALICE, &world.manual(name)),
        };
        let write = |account: &str, subresource: &str, change: &dyn Fn(&mut Value)| {
            let account = with_every_right(account);
            world.replace_as(&account, ROOT, &request, subresource, change)
        };
        for change in [&approved as &dyn Fn(&mut Value), &denied] {
            let ran = world.replace(ROOT, &request, "approval", change);
            assert_refused(&ran, "only touchstone-signer approves");
            for account in signers.iter().chain(&others) {
                let ran = write(account, "approval", change);
                assert_refused(&ran, "only touchstone-signer approves");
            }
        }
        for change in [&plant as &dyn Fn(&mut Value), &fail] {
            for user in [ROOT, OPERATOR] {
                let ran = world.replace(user, &request, "status", change);
                assert_refused(&ran, "only touchstone-signer writes the status");
            }
            for account in others {
                let ran = write(account, "status", change);
                assert_refused(&ran, "only touchstone-signer writes the status");
            }
            for account in signers {
                let ran = write(account, "status?dryRun=All", change);
                if name == KUBE_APISERVER_CLIENT {
                    ran.succeeded();
                } else {
                    assert_refused(&ran, "only touchstone-signer writes the status");
                }
            }
        }
        assert_eq!(world.read(&request)["status"], json!({}), "{name}");

        // Nor does who signs, or who may patch, write anything by the way.
        let both = |changed: &mut Value| {
            fail(changed);
            label(changed);
        };
        if name == KUBE_APISERVER_CLIENT {
            assert_refused(&write(signers[0], "status", &both), "no labels");
        }
        for user in [BOB, ROOT] {
            let ran = world.by(user, &["label", "csr", &request, "a=b"]);
            assert_refused(&ran, "no labels");
        }
    }
}
