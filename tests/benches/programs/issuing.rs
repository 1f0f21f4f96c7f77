//! What an engineer waits for when the card has signed: from the create of an attested request to its certificate, on the
//! embedded API with the signer in the same process, at several numbers of requests in flight; and whether ten thousand
//! requests make the next one slower.
//!
//! The server is the program itself, the way is loopback TLS, the disk is that of the temporary folder.

use super::api::Api;
use crate::support::{Durations, figure, ms, process_time, ratio, resident_mib};
use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
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
const BLOCK_SIZE: u32 = 1_000;
/// In flight while the blocks are worked off.
const BLOCK_IN_FLIGHT: usize = 10;
/// Commits and log records that have to be on disk, one after the other, until a certificate is delivered: request,
/// grant, audit record, approval, certificate.
const SYNCS: u32 = 5;

/// A standalone whose policy has one key enrolled, and that key.
pub(crate) fn world(ca_settings: Option<&str>) -> (Cluster, CardKey) {
    let key = CardKey::generate(SERIAL);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let root = dir.path().join("attestation-root.pem");
    fs::write(&root, key.attestation_root()).expect("write the root");
    let enrolment =
        format!("- {{ name: {USER}, teams: [payments], keys: [ {{ serial: {SERIAL} }} ] }}\n");
    let setup = Setup {
        policy: policy(&[enrolment]),
        attestation_roots: vec![root],
    };
    let cluster = Cluster::start_with_ca(&setup, ca_settings);
    assert!(
        cluster.is_embedded(),
        "KUBEBUILDER_ASSETS is set: this measures the embedded API"
    );
    (cluster, key)
}

pub(crate) fn run() {
    let (cluster, key) = world(None);
    let signer = cluster.signer_id().expect("the signer runs");
    let idle = resident_mib(signer);
    figure(
        "issuing: memory of the idle standalone",
        &format!("{idle:.1} MiB"),
        "",
    );
    let one_sync = sync_time(cluster.dir());
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
                    &ratio(p50, one_sync * SYNCS),
                    "",
                );
            }
            if done.turned_away > 0 {
                println!("  429 answers on the way: {}", done.turned_away);
            }
        }
        let mut blocks = Vec::new();
        for block in 1..=BLOCKS {
            let before = process_time(signer);
            let done = burst(files, &key, BLOCK_SIZE as usize, BLOCK_IN_FLIGHT).await;
            let each = (process_time(signer) - before) / BLOCK_SIZE;
            let p50 = done.durations.median();
            println!(
                "block {block} of {BLOCK_SIZE}, {BLOCK_IN_FLIGHT} in flight: p50 {}, p99 {}, {} of processor each, {:.1} MiB",
                ms(p50),
                ms(done.durations.percentile(99)),
                ms(each),
                resident_mib(signer)
            );
            blocks.push((p50, each));
        }
        blocks
    };
    let blocks = runtime
        .block_on(async { tokio::time::timeout(LIMIT, run).await })
        .expect("the run ends in time");
    let (first, last) = blocks.split_at(BLOCKS / 2);
    let median = |blocks: &[(Duration, Duration)], which: fn(&(Duration, Duration)) -> Duration| {
        let mut durations = Durations::default();
        durations.extend(blocks.iter().map(which));
        durations.median()
    };
    for (what, which) in [
        (
            "p50",
            (|block| block.0) as fn(&(Duration, Duration)) -> Duration,
        ),
        ("the server's processor time", |block| block.1),
    ] {
        figure(
            &format!("issuing: 10,000 requests, {what}, second half beside the first"),
            &ratio(median(last, which), median(first, which)),
            "1.0 ×: no growth",
        );
    }
    figure(
        "issuing: the server's processor time a request",
        &ms(median(last, |block| block.1)),
        "",
    );
    figure(
        "issuing: memory of the standalone after the run",
        &format!("{:.1} MiB", resident_mib(signer)),
        "",
    );
}

pub(crate) struct Done {
    pub(crate) durations: Durations,
    turned_away: usize,
    pub(crate) wall: Duration,
}

/// So many requests, so many of them at once. They are signed before the clock starts.
pub(crate) async fn burst(files: &Files, key: &CardKey, count: usize, in_flight: usize) -> Done {
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
