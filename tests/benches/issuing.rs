//! What an engineer waits for when the card has signed: from the create of an attested request to its certificate, on the
//! embedded API with the signer in the same process, at several numbers of requests in flight; and whether ten thousand
//! requests make the next one slower.
//!
//! The server is the program itself, the way is loopback TLS, the disk is that of the temporary folder.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that is broken ends, and one that is not prints"
)]

mod support;

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use support::{Durations, api::Api, figure, ms, resident_mib};
use touchstone_tests::{
    card_key::CardKey,
    cluster::{Cluster, Files, Setup},
    policy::{GRANTED, policy},
};

const USER: &str = "alice@example.com";
const SERIAL: u32 = 12_345_678;
/// The whole run ends after this long, whatever the disk does.
const LIMIT: Duration = Duration::from_secs(15 * 60);
const BLOCKS: usize = 10;
const BLOCK: usize = 1_000;
/// In flight while the blocks are worked off.
const BLOCK_IN_FLIGHT: usize = 10;
/// Commits and log records that have to be on disk, one after the other, until a certificate is delivered: request,
/// grant, audit record, approval, certificate.
const SYNCS: u32 = 5;

fn main() {
    let key = CardKey::generate(SERIAL);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let root = dir.path().join("attestation-root.pem");
    fs::write(&root, key.attestation_root()).expect("write the root");
    let enrolment =
        format!("- {{ name: {USER}, teams: [payments], keys: [ {{ serial: {SERIAL} }} ] }}\n");
    let cluster = Cluster::start(&Setup {
        policy: policy(&[enrolment]),
        attestation_roots: vec![root],
    });
    assert!(
        cluster.is_embedded(),
        "KUBEBUILDER_ASSETS is set: this measures the embedded API"
    );
    let signer = cluster.signer_id().expect("the signer runs");
    let idle = resident_mib(signer);
    figure(
        "issuing: memory of the idle standalone",
        &format!("{idle:.1} MiB"),
        "",
    );
    let one_sync = sync_time(dir.path());
    figure(
        "issuing: one fdatasync of 4 KiB here, p50",
        &ms(one_sync),
        "",
    );

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let run = async {
        let files = cluster.files();
        // The first few pay for what is made once.
        burst(files, &key, 20, 1).await;
        for (in_flight, count) in [(1, 300), (10, 1_000), (100, 2_000)] {
            let done = burst(files, &key, count, in_flight).await;
            let p50 = done.durations.median();
            figure(
                &format!("issuing: {in_flight} in flight, p50 / p99"),
                &format!("{} / {}", ms(p50), ms(done.durations.percentile(99))),
                "",
            );
            figure(
                &format!("issuing: {in_flight} in flight, a second"),
                &format!("{:.0}", count as f64 / done.wall.as_secs_f64()),
                "",
            );
            if in_flight == 1 {
                figure(
                    &format!("issuing: 1 in flight, p50 beside {SYNCS} fdatasync"),
                    &support::ratio(p50, one_sync * SYNCS),
                    "",
                );
            }
            if done.turned_away > 0 {
                println!("  429 answers on the way: {}", done.turned_away);
            }
        }
        let mut medians = Vec::new();
        for block in 1..=BLOCKS {
            let done = burst(files, &key, BLOCK, BLOCK_IN_FLIGHT).await;
            medians.push(done.durations.median());
            println!(
                "block {block} of {BLOCK}, {BLOCK_IN_FLIGHT} in flight: p50 {}, p99 {}, {:.1} MiB",
                ms(done.durations.median()),
                ms(done.durations.percentile(99)),
                resident_mib(signer)
            );
        }
        medians
    };
    let medians = runtime
        .block_on(async { tokio::time::timeout(LIMIT, run).await })
        .expect("the run ends in time");
    let half = |blocks: &[Duration]| {
        let mut durations = Durations::default();
        durations.extend(blocks.iter().copied());
        durations.median()
    };
    let (first, last) = medians.split_at(BLOCKS / 2);
    figure(
        "issuing: 10,000 requests, p50 of blocks 6–10 beside 1–5",
        &support::ratio(half(last), half(first)),
        "1.0 ×: no growth",
    );
    figure(
        "issuing: memory of the standalone after the run",
        &format!("{:.1} MiB", resident_mib(signer)),
        "",
    );
}

struct Done {
    durations: Durations,
    turned_away: usize,
    wall: Duration,
}

/// So many requests, so many of them at once. They are signed before the clock starts.
async fn burst(files: &Files, key: &CardKey, count: usize, in_flight: usize) -> Done {
    let now = jiff::Timestamp::now();
    let requests = (0..count).map(|_| {
        let mut token = [0; 32];
        getrandom::fill(&mut token).expect("randomness");
        (key.request("demo", USER, GRANTED, token, now), token)
    });
    let requests: Arc<Mutex<Vec<_>>> = Arc::new(Mutex::new(requests.collect()));
    let started = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    let mut connections = Vec::new();
    for worker in 0..in_flight {
        // Twenty-five to a connection, well within what HTTP/2 lets one have.
        if worker % 25 == 0 {
            connections.push(Api::connect(files).await);
        }
        let api = connections.last().expect("a connection").clone();
        let requests = Arc::clone(&requests);
        workers.spawn(async move {
            let mut durations = Durations::default();
            let mut turned_away = 0;
            loop {
                let next = requests
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .pop();
                let Some((csr, token)) = next else {
                    return (durations, turned_away);
                };
                let started = Instant::now();
                let created = api.create(&csr).await;
                turned_away += created.turned_away;
                turned_away += api.watch_to_certificate(&created, &token).await;
                durations.push(started.elapsed());
            }
        });
    }
    let mut done = Done {
        durations: Durations::default(),
        turned_away: 0,
        wall: Duration::ZERO,
    };
    while let Some(worker) = workers.join_next().await {
        let (durations, turned_away) = worker.expect("a worker ends well");
        done.durations.append(durations);
        done.turned_away += turned_away;
    }
    done.wall = started.elapsed();
    assert_eq!(
        done.durations.len(),
        count,
        "every request has its certificate"
    );
    done
}

/// How long the disk takes to make a small append last.
fn sync_time(dir: &Path) -> Duration {
    let mut file = File::create(dir.join("sync")).expect("a file");
    let mut durations = Durations::default();
    for _ in 0..200 {
        let started = Instant::now();
        file.write_all(&[7; 4096]).expect("write");
        file.sync_data().expect("sync");
        durations.push(started.elapsed());
    }
    durations.median()
}
