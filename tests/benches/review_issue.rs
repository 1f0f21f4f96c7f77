//! What one request costs the signer in process, beside the bare crypto that it cannot do without: one verification of
//! the request's signature and one signature on the certificate, by the same library.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark that is broken ends, and one that is not prints"
)]

mod support;

use criterion::{BenchmarkId, Criterion, criterion_group};
use jiff::Timestamp;
use std::{
    fmt::Write as _,
    hint::black_box,
    num::NonZeroUsize,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use support::{Durations, figure, ratio, us};
use touchstone_common::{
    attestation::Roots,
    certificate::SerialNumber,
    key::{KeyAlgorithm, SigningKey, SoftwareKey},
    policy::Policy,
};
use touchstone_signer::{
    ca::{
        authority::Signing,
        bootstrap::{self, Founded},
        lifecycle::Length,
    },
    data_dir::DataDir,
    issue,
    review::{Approvals, EvidenceCache, Intent, Review, Snapshot, Submission, review},
};
use touchstone_tests::card_key::CardKey;

const USER: &str = "alice@example.com";
const GROUP: &str = "jit:oncall:payments";

/// A policy with so many users and rules, of which the last rule grants what is asked.
fn policy(serial: u32, users: u32, rules: u32) -> Policy {
    let mut text =
        String::from("apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: demo\nusers:\n");
    for user in 1..users {
        let _ = writeln!(
            text,
            "  - {{ name: user{user}@example.com, teams: [team{}], keys: [ {{ serial: {user} }} ] }}",
            user % 50
        );
    }
    let _ = writeln!(
        text,
        "  - {{ name: {USER}, teams: [payments], keys: [ {{ serial: {serial} }} ] }}\nrules:"
    );
    for rule in 1..rules {
        let _ = writeln!(
            text,
            "  - {{ name: rule {rule}, who: {{ teams: [team{}] }}, groups: [\"jit:team{rule}:*\"], maxTTL: 30m, decision: auto }}",
            rule % 50
        );
    }
    let _ = writeln!(
        text,
        "  - {{ name: payments, who: {{ teams: [payments] }}, groups: [\"jit:oncall:payments*\"], maxTTL: 30m, reason: {{ pattern: \"^INC-[0-9]+ \", minLength: 12 }}, decision: auto }}"
    );
    Policy::parse("policy.yaml", text.as_bytes()).expect("the policy loads")
}

struct Bench {
    key: CardKey,
    pem: String,
    now: Timestamp,
    founded: Founded,
    usages: Vec<String>,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let now = Timestamp::now();
        let key = CardKey::generate(12_345_678);
        let pem = key.request("demo", USER, GROUP, [7; 32], now);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let data = DataDir::open(&dir.path().join("data")).expect("a data directory");
        let founded = bootstrap::open(&data, now).expect("a CA");
        Self {
            key,
            pem,
            now,
            founded,
            usages: vec!["client auth".into()],
            _dir: dir,
        }
    }

    fn snapshot(&self, users: u32, rules: u32) -> Snapshot {
        let roots = Roots::yubico()
            .with_test_root(self.key.attestation_root().as_bytes())
            .expect("a root");
        Snapshot {
            policy: policy(12_345_678, users, rules),
            roots: Arc::new(roots),
        }
    }

    fn review(&self, snapshot: &Snapshot, cache: &EvidenceCache) -> Intent {
        let submission = Submission {
            uid: "0b5b5a3e-9f8c-4d55-8a6f-5f1f5e0a9c11",
            signer_name: "touchstone.dev/client",
            username: USER,
            groups: &[],
            request: self.pem.as_bytes(),
            expiration_seconds: Some(1800),
            usages: &self.usages,
            created_at: None,
            approvals: Approvals::default(),
        };
        match review(&submission, snapshot, cache, self.now).expect("it can be judged") {
            Review::Approve(intent) => intent,
            other => panic!("the request must be approved: {other:?}"),
        }
    }

    fn issue(&self, intent: &Intent) -> String {
        let prepared = issue::prepare(
            intent,
            &Signing {
                ca: self.founded.issuing(),
                longest_leaf: Length::days(1),
            },
            self.now,
            SerialNumber::from_random([7; 16]),
        )
        .expect("it can be built");
        black_box(prepared.tbs_sha256());
        prepared
            .sign(self.founded.issuing())
            .expect("it is signed")
            .chain_pem
    }
}

/// One verification and one signature, of a message of a request's size.
struct BareCrypto {
    key: SoftwareKey,
    message: [u8; 1500],
    signature: Vec<u8>,
}

impl BareCrypto {
    fn new() -> Self {
        let key = SoftwareKey::generate(KeyAlgorithm::P256).expect("a key");
        let message = [7; 1500];
        let signature = key.sign(&message).expect("a signature");
        Self {
            key,
            message,
            signature,
        }
    }

    fn verify_and_sign(&self) -> Vec<u8> {
        let public = self.key.public_key();
        public
            .verify(
                public.signature_algorithm(),
                black_box(&self.message),
                &self.signature,
            )
            .expect("it verifies");
        self.key.sign(black_box(&self.message)).expect("it signs")
    }
}

fn new_cache() -> EvidenceCache {
    EvidenceCache::new(NonZeroUsize::new(1024).expect("not zero"))
}

fn request(criterion: &mut Criterion) {
    let bench = Bench::new();
    let snapshot = bench.snapshot(10, 10);
    let mut group = criterion.benchmark_group("one request");

    let bare = BareCrypto::new();
    group.bench_function("bare crypto: verify and sign P-256", |b| {
        b.iter(|| bare.verify_and_sign());
    });
    let cache = new_cache();
    bench.review(&snapshot, &cache);
    group.bench_function("review and issue, key seen before", |b| {
        b.iter(|| bench.issue(&bench.review(&snapshot, &cache)));
    });
    group.bench_function("review and issue, key never seen", |b| {
        b.iter(|| bench.issue(&bench.review(&snapshot, &new_cache())));
    });
    let intent = bench.review(&snapshot, &cache);
    group.bench_function("review alone, key seen before", |b| {
        b.iter(|| bench.review(&snapshot, &cache))
    });
    group.bench_function("issue alone", |b| b.iter(|| bench.issue(&intent)));
    group.finish();
}

fn growth(criterion: &mut Criterion) {
    let bench = Bench::new();
    let mut group = criterion.benchmark_group("review by size of the policy");
    for (users, rules) in [
        (10, 10),
        (1_000, 10),
        (10, 200),
        (1_000, 200),
        (10_000, 200),
    ] {
        let snapshot = bench.snapshot(users, rules);
        let cache = new_cache();
        let size = BenchmarkId::from_parameter(format!("{users} users, {rules} rules"));
        group.bench_with_input(size, &snapshot, |b, snapshot| {
            b.iter(|| bench.review(snapshot, &cache))
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50).measurement_time(Duration::from_secs(3));
    targets = request, growth
}

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    ratios();
}

/// The ratios that matter, measured in turn within one loop: whatever else the machine does meets both sides alike.
fn ratios() {
    const ROUNDS: usize = 400;
    const EACH: u32 = 10;
    let bench = Bench::new();
    let snapshot = bench.snapshot(10, 10);
    let cache = new_cache();
    let bare = BareCrypto::new();
    let timed = |work: &mut dyn FnMut()| {
        let started = Instant::now();
        for _ in 0..EACH {
            work();
        }
        started.elapsed() / EACH
    };
    let [mut alone, mut seen, mut unseen] = [const { Durations::new() }; 3];
    for _ in 0..ROUNDS {
        alone.push(timed(&mut || {
            black_box(bare.verify_and_sign());
        }));
        seen.push(timed(&mut || {
            black_box(bench.issue(&bench.review(&snapshot, &cache)));
        }));
        unseen.push(timed(&mut || {
            black_box(bench.issue(&bench.review(&snapshot, &new_cache())));
        }));
    }
    let [alone, seen, unseen] = [alone, seen, unseen].map(|all| all.median());
    figure("review + issue: bare crypto, p50", &us(alone), "");
    figure("review + issue: key seen before, p50", &us(seen), "");
    figure("review + issue: key never seen, p50", &us(unseen), "");
    figure(
        "review + issue: key seen before, beside the bare crypto",
        &ratio(seen, alone),
        "1.3 ×",
    );
    figure(
        "review + issue: key never seen, beside the bare crypto",
        &ratio(unseen, alone),
        "",
    );
    match openssl() {
        Some(openssl) => {
            figure("openssl speed: verify and sign P-256", &us(openssl), "");
            figure(
                "bare crypto beside openssl",
                &ratio(alone, openssl),
                "close to 1",
            );
        }
        None => println!("openssl speed: not there, or it prints something else"),
    }
}

/// What `openssl speed` says of one verification and one signature, without the hash of the message.
fn openssl() -> Option<Duration> {
    let output = Command::new("openssl")
        .args(["speed", "-seconds", "3", "ecdsap256"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().find(|line| line.contains("nistp256"))?;
    // … sign verify sign/s verify/s
    let mut a_second = line
        .split_whitespace()
        .rev()
        .take(2)
        .map(|word| word.parse::<f64>().ok());
    let (verify, sign) = (a_second.next()??, a_second.next()??);
    Some(Duration::from_secs_f64(1.0 / verify + 1.0 / sign))
}
