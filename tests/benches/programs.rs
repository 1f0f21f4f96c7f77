//! What the programs themselves cost, as they are released and on real parts. See `docs/benchmarks.md`.
//!
//! `cargo bench --bench programs -- [start] [past] [issuing] [rotation] [login] [proxy] [cluster] [flood] [handover]`; all of them without a name.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that is broken ends, and one that is not prints"
)]

#[path = "programs/api.rs"]
mod api;
#[path = "programs/cluster.rs"]
mod cluster;
#[path = "programs/flood.rs"]
mod flood;
#[path = "programs/handover.rs"]
mod handover;
#[path = "programs/issuing.rs"]
mod issuing;
#[path = "programs/login.rs"]
mod login;
#[path = "programs/past.rs"]
mod past;
#[path = "programs/proxy.rs"]
mod proxy;
#[path = "programs/requests.rs"]
mod requests;
#[path = "programs/rotation.rs"]
mod rotation;
#[path = "programs/start.rs"]
mod start;
mod support;

fn main() {
    if login::is_card_process() {
        return login::run();
    }
    let all: [(&str, fn()); 9] = [
        ("start", start::run),
        ("past", past::run),
        ("issuing", issuing::run),
        ("rotation", rotation::run),
        ("login", login::run),
        ("proxy", proxy::run),
        ("cluster", cluster::run),
        ("flood", flood::run),
        ("handover", handover::run),
    ];
    // Cargo says `--bench`, which tells nothing here.
    let named: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    for (name, run) in all {
        if named.is_empty() || named.iter().any(|one| one == name) {
            run();
        }
    }
}
