//! The proxy that lets kubectl use a key in a YubiKey: real kubectl, the real exec plugin, a virtual card that counts.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

#[path = "proxy/cluster.rs"]
mod cluster;

use touchstone_tests::{engineer::Engineer, pcscd::Options};

const USER: &str = "alice@example.com";

/// An engineer with a key in slot 9a, and a PIN of their own.
fn engineer_with_key() -> Engineer {
    let engineer = Engineer::new(USER, &Options::default());
    engineer.set_up();
    engineer.generate(&[]);
    engineer
}

/// How often the card was touched so far.
fn touches(engineer: &Engineer) -> u32 {
    let count = engineer.yubikey().control("touches");
    count.trim().parse().expect("a number of touches")
}
