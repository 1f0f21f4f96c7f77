//! `touchstone login`, from start to exit, beside the card operations and the API round trips that it cannot do without.
//!
//! All in one run, in turn: the program itself; its card operations by the same library over the same pcscd; its round
//! trips to the same server. The card is a virtual YubiKey that touches itself, so no time is a person's.

use super::api::Api;
use crate::support::{Durations, figure, ms, processor_time, ratio};
use std::{
    collections::BTreeMap,
    env, fs,
    process::Command,
    time::{Duration, Instant},
};
use touchstone_tests::{
    card_key::CardKey,
    cluster::{Cluster, Setup},
    engineer::{Engineer, PIN, Ran},
    pcscd::{Options, SOCKET_VARIABLE},
    policy::{GRANTED, policy},
};
use yubikey::{
    Certificate, MgmKey, YubiKey,
    certificate::CertInfo,
    piv::{self, AlgorithmId, RetiredSlotId, SlotId},
};

const ROUNDS: usize = 25;
const USER: &str = "alice@example.com";
/// Another engineer, whose card is driven without a reader: for the round trips alone.
const OTHER: (&str, u32) = ("bob@example.com", 87_654_321);
/// Tells this program that it is the process that uses the card: libpcsclite reads its environment once.
const CARD_PROCESS: &str = "TOUCHSTONE_BENCH_CARD";

/// Whether this is the process that [`run`] starts to use the card.
pub(crate) fn is_card_process() -> bool {
    env::var_os(CARD_PROCESS).is_some()
}

pub(crate) fn run() {
    if is_card_process() {
        let parts: BTreeMap<&str, u64> = card()
            .into_iter()
            .map(|(part, took)| (part, u64::try_from(took.as_nanos()).expect("a short time")))
            .collect();
        println!("{}", serde_json::to_string(&parts).expect("JSON"));
        return;
    }
    let engineer = Engineer::new(USER, &Options::default());
    engineer.set_up();
    engineer.generate(&[]);
    let other = CardKey::generate(OTHER.1);
    let other_root = engineer.file("other-root.pem");
    fs::write(&other_root, other.attestation_root()).expect("write a root");
    let other_enrolment = format!(
        "- {{ name: {}, teams: [payments], keys: [ {{ serial: {} }} ] }}\n",
        OTHER.0, OTHER.1
    );
    let cluster = Cluster::start(&Setup {
        policy: policy(&[engineer.enrolment("payments"), other_enrolment]),
        attestation_roots: vec![engineer.attestation_root(), other_root],
    });
    assert!(
        cluster.is_embedded(),
        "KUBEBUILDER_ASSETS is set: this measures the embedded API"
    );
    engineer.configure(&cluster);
    // The first pays for what is made once.
    engineer.login(GRANTED).succeeded();

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut login = Durations::default();
    let mut sums = Durations::default();
    let mut parts: BTreeMap<String, Durations> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let mut command = engineer.login_command(GRANTED);
        let started = Instant::now();
        Ran::of(&mut command).succeeded();
        login.push(started.elapsed());

        let mut round = card_process(&engineer);
        round.extend(runtime.block_on(round_trips(&cluster, &other)));
        sums.push(round.iter().map(|(_, took)| *took).sum());
        for (part, took) in round {
            parts.entry(part).or_default().push(took);
        }
    }
    for (part, took) in &parts {
        println!("  {part}: {}", ms(took.median()));
    }
    figure("login: wall time, p50", &ms(login.median()), "");
    figure(
        "login: its card operations and round trips, sum, p50",
        &ms(sums.median()),
        "",
    );
    figure(
        "login: beside their sum",
        &ratio(login.median(), sums.median()),
        "1.2 ×",
    );
    let status = processor_time(|| engineer.touchstone(["status"]));
    figure("touchstone status: processor time", &ms(status), "20 ms");
}

fn card_process(engineer: &Engineer) -> Vec<(String, Duration)> {
    // The environment of the engineer's own program, so that both find the same pcscd.
    let touchstone = engineer.touchstone([""; 0]);
    let socket = touchstone
        .get_envs()
        .find(|(name, _)| *name == SOCKET_VARIABLE)
        .and_then(|(_, value)| value)
        .expect("the engineer's pcscd");
    let mut command = Command::new(env::current_exe().expect("this program"));
    command.env(SOCKET_VARIABLE, socket).env(CARD_PROCESS, "1");
    let parts: BTreeMap<String, u64> =
        serde_json::from_str(&Ran::of(&mut command).succeeded().stdout).expect("JSON");
    parts
        .into_iter()
        .map(|(part, nanoseconds)| (part, Duration::from_nanos(nanoseconds)))
        .collect()
}

/// What a login does with the card, each part timed.
fn card() -> Vec<(&'static str, Duration)> {
    let slot = SlotId::try_from(0x9a).expect("slot 9a");
    let mut parts = Vec::new();
    let mut started = Instant::now();
    let mut part = |name| {
        parts.push((name, started.elapsed()));
        started = Instant::now();
    };
    let mut device = YubiKey::open().expect("the only YubiKey");
    part("card: connect, select, serial");
    piv::metadata(&mut device, slot).expect("metadata");
    part("card: metadata of the key");
    piv::attest(&mut device, slot).expect("an attestation");
    let f9 = Certificate::read(&mut device, SlotId::Attestation).expect("f9");
    part("card: attest, read f9");
    device.verify_pin(PIN.as_bytes()).expect("the PIN");
    part("card: PIN");
    piv::sign_data(&mut device, &[7; 32], AlgorithmId::EccP256, slot).expect("a signature");
    part("card: sign");
    let key = MgmKey::get_protected(&mut device).expect("a management key behind the PIN");
    device.authenticate(&key).expect("authentication");
    // Any certificate of that size does; elsewhere, so that slot 9a keeps its own.
    f9.write(
        &mut device,
        SlotId::Retired(RetiredSlotId::R1),
        CertInfo::Uncompressed,
    )
    .expect("write a certificate");
    part("card: management key, write certificate");
    assert!(device.disconnect(pcsc::Disposition::LeaveCard).is_ok());
    part("card: disconnect");
    parts
}

/// What a login does with the server, each part timed.
async fn round_trips(cluster: &Cluster, other: &CardKey) -> Vec<(String, Duration)> {
    let mut token = [0; 32];
    getrandom::fill(&mut token).expect("randomness");
    let csr = other.request("demo", OTHER.0, GRANTED, token, jiff::Timestamp::now());
    let started = Instant::now();
    let api = Api::connect(cluster.files()).await;
    let connected = started.elapsed();
    let created = api.create(&csr).await;
    let submitted = started.elapsed();
    api.watch_to_certificate(&created, &token).await;
    let issued = started.elapsed();
    vec![
        ("server: TCP, TLS".to_owned(), connected),
        ("server: create".to_owned(), submitted - connected),
        (
            "server: watch to certificate".to_owned(),
            issued - submitted,
        ),
    ]
}
