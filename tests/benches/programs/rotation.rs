//! What a rotation of the CA costs issuing: requests in flight while one CA after the other takes over, beside the same
//! while nothing rotates, in turn and in one run.

use super::issuing::{Done, burst, world};
use crate::support::{Durations, figure, ms};
use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use touchstone_tests::{child::program, cluster::Files};

/// Nothing is due by itself while this runs; what is asked for comes about within seconds, and what retires is soon removed.
const SETTINGS: &str = "apiVersion: touchstone.dev/v1\nkind: CaSettings\n\
                        schedule: { root: own, lifetime: 4h, activateEvery: 2h, prepareAfter: 1h, publishBefore: 1s, \
                        keepAfterLastLeaf: 5s, longestLeaf: 10s }\n";
const ROUNDS: usize = 6;
const REQUESTS: usize = 1_500;
const IN_FLIGHT: usize = 10;
/// How often the next rotation is asked for: a little less than one takes, so that one is always under way.
const ASK_EVERY: Duration = Duration::from_millis(800);

pub(crate) fn run() {
    let (cluster, key) = world(Some(SETTINGS));
    let files = cluster.files();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let go = || runtime.block_on(burst(files, &key, REQUESTS, IN_FLIGHT));
    // The first few pay for what is made once.
    go();
    let (mut without, mut during) = (Vec::new(), Vec::new());
    let before = newest_ca(files);
    for round in 1..=ROUNDS {
        without.push(go());
        let rotating = Rotating::start(files);
        during.push(go());
        rotating.stop();
        if let (Some(without), Some(during)) = (without.last(), during.last()) {
            println!(
                "round {round}: {} and {} without, {} and {} during",
                a_second(without),
                ms(without.durations.percentile(99)),
                a_second(during),
                ms(during.durations.percentile(99)),
            );
        }
        thread::sleep(Duration::from_secs(2));
    }
    let rotations = newest_ca(files) - before;
    assert!(
        rotations >= ROUNDS,
        "a rotation was under way: {rotations} CAs took over"
    );
    figure(
        "rotation: CAs that took over while requests were in flight",
        &rotations.to_string(),
        "",
    );
    let median = |of: fn(&Done) -> Duration, blocks: &[Done]| {
        let mut durations = Durations::new();
        durations.extend(blocks.iter().map(of));
        durations.median()
    };
    for (what, of) in [
        (
            "time for as many requests",
            (|done| done.wall) as fn(&Done) -> Duration,
        ),
        ("p50", |done| done.durations.median()),
        ("p99", |done| done.durations.percentile(99)),
    ] {
        let (one, other) = (median(of, &during), median(of, &without));
        figure(
            &format!("rotation: {what} during one, beside without"),
            &format!(
                "{:.2} × ({}, {})",
                one.as_secs_f64() / other.as_secs_f64(),
                ms(one),
                ms(other)
            ),
            "1.0 ×",
        );
    }
}

fn a_second(done: &Done) -> String {
    format!("{:.0} a second", REQUESTS as f64 / done.wall.as_secs_f64())
}

fn ca(files: &Files, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program("touchstone-signer"))
        .arg("ca")
        .args(arguments)
        .arg("--data")
        .arg(&files.data)
        .output()
        .expect("run the signer's program");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    output.stdout
}

/// The number of the CA that signs.
fn newest_ca(files: &Files) -> usize {
    let status: serde_json::Value =
        serde_json::from_slice(&ca(files, &["status", "--output", "json"])).expect("JSON");
    let active = status.get("active").and_then(serde_json::Value::as_str);
    active
        .and_then(|id| id.strip_prefix("ca-"))
        .and_then(|number| number.parse().ok())
        .expect("a CA signs")
}

/// An operator who asks for the next rotation as soon as the last one is through.
struct Rotating {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Rotating {
    fn start(files: &Files) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (files, over) = (files.clone(), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                ca(&files, &["rotate"]);
                thread::sleep(ASK_EVERY);
            }
        });
        Self { is_over, thread }
    }

    fn stop(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("every rotation was taken");
    }
}
