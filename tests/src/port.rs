//! Ports for programs that cannot tell which one port 0 became.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::TcpListener,
};

/// A port that was free a moment ago. It is none of those that the system gives to clients (from 32768 on): one of them
/// could take it in between.
#[must_use]
pub fn free() -> u16 {
    const FIRST: u16 = 15_000;
    const MANY: u64 = 17_000;
    loop {
        let random = RandomState::new().build_hasher().finish() % MANY;
        let port = FIRST + u16::try_from(random).unwrap_or_default();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
