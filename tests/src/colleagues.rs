//! alice of `payments`, who asks, bob of `billing`, who approves, and a cluster that knows both.

use crate::{
    cluster::{Cluster, Setup},
    engineer::Engineer,
    pcscd::Options,
    policy::policy,
};

/// Who asks.
pub const ALICE: &str = "alice@example.com";
/// Who approves.
pub const BOB: &str = "bob@example.com";
/// Who revokes, and has no key of her own.
pub const CAROL: &str = "carol@example.com";

/// Both with a key in a YubiKey, and a cluster on the suites' policy, with what is changed in it.
#[must_use]
pub fn with_policy(change: impl FnOnce(String) -> String) -> (Engineer, Engineer, Cluster) {
    on(Cluster::start, change)
}

/// Both, and a cluster that is started so.
#[must_use]
pub fn on(
    start: impl FnOnce(&Setup) -> Cluster,
    change: impl FnOnce(String) -> String,
) -> (Engineer, Engineer, Cluster) {
    let [alice, bob] = [(ALICE, 12_345_678), (BOB, 23_456_789)].map(|(user, serial)| {
        let options = Options {
            serial,
            ..Options::default()
        };
        let engineer = Engineer::new(user, &options);
        engineer.set_up();
        engineer.generate(&[]);
        engineer
    });
    let users = [alice.enrolment("payments"), bob.enrolment("billing")];
    let cluster = start(&Setup {
        policy: change(policy(&users)),
        attestation_roots: vec![alice.attestation_root(), bob.attestation_root()],
    });
    configure(&alice, &bob, &cluster);
    (alice, bob, cluster)
}

/// Has `engineer` reach the cluster by the credential of this account, which is the administrator's where the API is
/// embedded.
pub fn with_credential(engineer: &Engineer, cluster: &Cluster, account: &str) {
    let kubeconfig = cluster.kubeconfig_of(account).display().to_string();
    let bundle = cluster.files().trust_bundle.display().to_string();
    let set = ["config", "set-cluster", "demo", "--user", account];
    let reach = ["--kubeconfig", &kubeconfig, "--trust-bundle", &bundle];
    engineer.run(set.iter().chain(&reach)).succeeded();
}

/// Leads both to the cluster, where it is now; bob believes what attests alice's key.
pub fn configure(alice: &Engineer, bob: &Engineer, cluster: &Cluster) {
    alice.configure(cluster);
    let root = alice.attestation_root().display().to_string();
    let mut arguments = vec!["config".to_owned(), "set-cluster".into(), "demo".into()];
    arguments.extend(cluster.client_arguments(BOB));
    arguments.extend(["--user", BOB, "--attestation-root", &root].map(str::to_owned));
    bob.run(arguments).succeeded();
}
