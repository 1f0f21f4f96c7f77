//! A quarter in a minute, with the root on a second YubiKey: ceremonies, logins before, during and after, none refused, the
//! old CA gone at the end, and openssl content with every certificate against the bundle of its day.

#[path = "rotation/import.rs"]
mod import;
#[path = "rotation/runbook.rs"]
mod runbook;
#[path = "rotation/trust.rs"]
mod trust;
#[path = "rotation/world.rs"]
mod world;

use world::{Team, World};

/// A quarter, in seconds.
const QUARTER: &str = "schedule: { root: ceremony, lifetime: 120s, activateEvery: 20s, prepareAfter: 8s, publishBefore: 4s, \
                       keepAfterLastLeaf: 3s, longestLeaf: 12s }";

#[test]
fn a_quarter_with_the_root_on_a_yubikey_refuses_nobody() {
    let world = World::new(QUARTER);
    let mut team = Team::with_root("carol@example.com", "Example Root 1");
    world.wait_for("ca-1", "awaiting-root");
    let root = team.root();
    world.ceremony(&mut team, &["--root", &root]);
    world.begin();
    let before = world.login();

    world.wait_for("ca-2", "awaiting-root");
    assert_eq!(
        world.login(),
        before,
        "the first signs while the second waits"
    );
    world.ceremony(&mut team, &[]);
    while world.state("ca-2") != "active" {
        world.login();
    }
    let after = world.login();
    assert_ne!(after, before, "another CA signs");
    world.wait_for("ca-1", "removed");
    assert_eq!(world.login(), after);

    // The key of the one that signs leaked.
    let listed = world.ca(&["distrust", "ca-2", "--yes"]).succeeded().stdout;
    assert!(listed.contains("alice@example.com"), "{listed}");
    assert!(
        listed.contains("WARNING: API servers go on trusting it"),
        "{listed}"
    );
    assert_eq!(world.state("ca-2"), "removed");
    world.wait_for("ca-3", "awaiting-root");
}
