//! What API servers believe, and from when on no more: seen by a certificate that they are shown.

use super::{QUARTER, Team, World, world::openssl};
use std::fs;

/// Exit code of docs/exit-codes.md: the API server refuses.
const REFUSED: i32 = 9;

#[test]
fn certificates_of_a_distrusted_ca_open_nothing_where_cas_sign_themselves() {
    // Nothing is due by itself while this runs.
    let world = World::new(
        "schedule: { root: none, lifetime: 4h, activateEvery: 2h, prepareAfter: 1h, publishBefore: 5s, \
         keepAfterLastLeaf: 1m, longestLeaf: 20m }",
    );
    world.begin();
    let leaked = world.login();
    world.wait_until("its certificate opens the API server", |world| {
        world.whoami().code == Some(0)
    });

    let rehearsed = world.ca(&["distrust", "ca-1", "--dry-run"]).succeeded();
    assert!(
        rehearsed.stdout.contains("alice@example.com"),
        "{rehearsed}"
    );
    world.whoami().succeeded();
    let distrusted = world.ca(&["distrust", "ca-1", "--yes"]).succeeded();
    assert!(
        !distrusted.stdout.contains("WARNING"),
        "no root goes on vouching for it: {distrusted}"
    );

    world.wait_for("ca-2", "active");
    world.wait_until("the leaked CA's certificate opens nothing", |world| {
        world.whoami().code == Some(REFUSED)
    });
    // The API server was there all the time, and believes the next one.
    assert_ne!(world.login(), leaked);
    world.whoami().succeeded();
    let marked = world.cluster.kubectl_ok([
        "get",
        "grants",
        "-o",
        "jsonpath={range .items[*]}{.status.message}{\"\\n\"}{end}",
    ]);
    let marked = marked.lines().filter(|line| line.contains("distrusted"));
    assert_eq!(marked.count(), 1, "the living one of the leaked CA alone");
    let status = world.status();
    assert_eq!(status["cas"][0]["state"], "removed");
    assert!(status["cas"][0]["key"].is_null(), "{status}");
}

#[test]
fn the_root_changes_and_nobody_notices() {
    let world = World::new(QUARTER);
    let mut old = Team::with_root("carol@example.com", "Example Root 1");
    let mut new = Team::with_root("erin@example.com", "Example Root 2");
    let roots = || {
        let bundle = fs::read_to_string(world.bundle_of_the_day()).expect("a bundle");
        bundle.matches("BEGIN CERTIFICATE").count()
    };
    world.wait_for("ca-1", "awaiting-root");
    let root = old.root();
    world.ceremony(&mut old, &["--root", &root]);
    world.begin();
    let before = world.login();
    assert_eq!(roots(), 1);

    world.wait_for("ca-2", "awaiting-root");
    let request = world.request();
    // A root that nobody trusts yet is named, or nothing happens.
    let certificate = new.sign(&request);
    let certificate = certificate.to_str().expect("a plain name");
    world
        .ca(&["import", certificate])
        .failed(1, &["was not signed by the root", "--root"]);
    assert_eq!(roots(), 1);
    world
        .ca(&["import", certificate, "--root", &new.root()])
        .succeeded();
    assert_eq!(roots(), 2, "old and new, side by side");
    let mut last = world.login();
    while world.state("ca-2") != "active" {
        last = world.login();
    }
    if last == before {
        // Under the new root's CA, the certificate of the old one's goes on.
        world.whoami().succeeded();
    }
    let after = world.login();
    assert_ne!(after, before);
    world.whoami().succeeded();
    while world.state("ca-1") != "removed" {
        assert_eq!(world.login(), after);
        world.whoami().succeeded();
    }
    assert_eq!(roots(), 1, "the old root left with its last CA");
    let bundle = world.bundle_of_the_day();
    let shown = openssl(&[
        "x509",
        "-noout",
        "-subject",
        "-in",
        bundle.to_str().expect("a plain name"),
    ]);
    assert!(shown.contains("Example Root 2"), "{shown}");
    assert_eq!(world.login(), after);
    world.whoami().succeeded();
}
