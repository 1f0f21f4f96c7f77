//! What the past costs at the start: time to readiness and memory with many CAs in the record and many grants, beside a
//! start with none.
//!
//! One grant is really issued; the others are its copies under other names, CAs and times, put into the database while
//! nothing runs. The record of past CAs is led there by the same moves that time would have made.

use super::issuing::{burst, world};
use crate::support::{Durations, figure, ms, peak_mib};
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, params};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use touchstone_common::{
    certificate::{CaCertificate, Prepared, Profile, SerialNumber, Validity},
    key::{KeyAlgorithm, SigningKey as _, SoftwareKey},
};
use touchstone_signer::ca::{
    bootstrap::DATABASE,
    fingerprint,
    key::{KeySource, SecretPem},
    lifecycle::{Asked, CaId, Event, Lifecycle, Lifetime, Proof, State},
    record::{Material, Record},
};
use touchstone_tests::cluster::Cluster;

const SETTINGS: &str = "apiVersion: touchstone.dev/v1\nkind: CaSettings\n\
                        schedule: { root: none, publishBefore: 1s }\nkeys: secret\n";
const STARTS: usize = 5;
/// What a Secret can hold.
const SECRET_LIMIT: usize = 1 << 20;

pub(crate) fn run() {
    let (mut cluster, key) = world(Some(SETTINGS));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    // It waits until the first CA signs.
    runtime.block_on(burst(cluster.files(), &key, 1, 1));

    let (none, _) = started(&mut cluster, "1 CA, 1 grant", None);
    let mut cas = Vec::new();
    for past in [10, 100] {
        cluster.kill_signer();
        cas = with_past_cas(&database(&cluster), past);
        cluster.start_signer();
        started(
            &mut cluster,
            &format!("{past} past CAs, 1 grant"),
            Some(none),
        );
    }
    let mut there = 1;
    for grants in [1_000, 10_000, 100_000] {
        cluster.kill_signer();
        add_grants(&mut database(&cluster), there..grants, &cas);
        there = grants;
        cluster.start_signer();
        started(
            &mut cluster,
            &format!("100 past CAs, {grants} grants"),
            Some(none),
        );
    }
}

/// Starts it some times: the median time to readiness, and the most memory.
fn started(cluster: &mut Cluster, what: &str, beside: Option<Duration>) -> (Duration, f64) {
    let mut times = Durations::new();
    let mut peak: f64 = 0.0;
    for _ in 0..STARTS {
        cluster.kill_signer();
        let begin = Instant::now();
        cluster.start_signer();
        times.push(begin.elapsed());
        peak = peak.max(peak_mib(cluster.signer_id().expect("it runs")));
    }
    let time = times.median();
    let beside = beside.map_or(String::new(), |none| {
        format!(", {:.2} ×", time.as_secs_f64() / none.as_secs_f64())
    });
    figure(
        &format!("past: start with {what}"),
        &format!("{}{beside}; {peak:.1} MiB", ms(time)),
        "",
    );
    (time, peak)
}

fn database(cluster: &Cluster) -> Connection {
    Connection::open(cluster.files().data.join(DATABASE)).expect("the database")
}

/// Puts so many past CAs before the one that signs; the fingerprints of all that the record still knows.
fn with_past_cas(database: &Connection, past: usize) -> Vec<String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let find = "SELECT json FROM objects WHERE name = 'touchstone-ca'";
    let text: String = database
        .query_row(find, [], |row| row.get(0))
        .expect("the Secret");
    let mut secret: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let data = secret.pointer_mut("/data/record.json").expect("the record");
    let json = STANDARD
        .decode(data.as_str().expect("text"))
        .expect("base64");
    let record = Record::from_json(&json, None).expect("a record");
    let made = made(&record, past);
    let json = made.to_json().expect("JSON");
    figure(
        &format!("past: the record after {past} CAs"),
        &format!("{:.0} KiB", json.len() as f64 / 1024.0),
        "1024 KiB at most",
    );
    assert!(json.len() < SECRET_LIMIT, "a Secret holds it");
    *data = STANDARD.encode(&*json).into();
    let changed = database
        .execute(
            "UPDATE objects SET json = ?1 WHERE name = 'touchstone-ca'",
            [secret.to_string()],
        )
        .expect("write the Secret");
    assert_eq!(changed, 1);
    let cas = made.lifecycle().cas().iter();
    cas.filter_map(|ca| made.material(ca.id())?.certificate.as_ref())
        .map(|certificate| fingerprint(certificate.der()))
        .collect()
}

/// The record that as many quarters lead to, with the CA that signs as its last.
fn made(record: &Record, past: usize) -> Record {
    let now = Timestamp::now();
    let quarter = SignedDuration::from_hours(90 * 24);
    let days = |number: i64| SignedDuration::from_hours(24 * number);
    let past = i32::try_from(past).expect("not so many");
    let mut at = now - quarter * past;
    let mut lifecycle = Lifecycle::new(*record.lifecycle().schedule(), at);
    let mut material = BTreeMap::new();
    let mut before: Option<CaId> = None;
    for _ in 0..past {
        let (id, one) = taken_over(&mut lifecycle, &mut at, None);
        material.insert(id, one);
        if let Some(before) = before.replace(id) {
            // The clock was looked at all the time until its last leaf had ended.
            for _ in 0..6 {
                at += SignedDuration::from_hours(12);
                lifecycle.apply(Event::Seen, at).expect("seen");
            }
            let proof = Proof { ca: id, at };
            lifecycle
                .apply(Event::Removed(before, proof), at)
                .expect("removed");
        }
        at += quarter - days(4);
    }
    let active = record.lifecycle().active().expect("a CA signs").id();
    let own = record.material(active).expect("its own").clone();
    at = now;
    let (id, own) = taken_over(&mut lifecycle, &mut at, Some(own));
    material.insert(id, own);
    material.retain(|id, _| lifecycle.ca(*id).is_some());
    for (id, one) in &mut material {
        if lifecycle
            .ca(*id)
            .is_some_and(|ca| ca.state() == State::Removed)
        {
            one.key = None;
        }
    }
    Record::new(record.binding().clone(), lifecycle, Vec::new(), material).expect("a record")
}

/// A CA is prepared, published and takes over: a new one, or one that is there.
fn taken_over(
    lifecycle: &mut Lifecycle,
    at: &mut Timestamp,
    own: Option<Material>,
) -> (CaId, Material) {
    let id = lifecycle.next_id();
    let material = own.unwrap_or_else(|| self_signed(id, *at));
    let certificate = material.certificate.as_ref().expect("a certificate");
    let Validity {
        not_before,
        not_after,
    } = certificate.validity();
    let lifetime = Lifetime {
        not_before,
        not_after,
    };
    let mut apply = |event, at| lifecycle.apply(event, at).expect("a move");
    apply(Event::Asked(Asked::Through), *at);
    apply(Event::Prepared(Some(lifetime)), *at);
    apply(Event::Published(id), *at);
    *at += SignedDuration::from_secs(1);
    apply(Event::Activated(Proof { ca: id, at: *at }), *at);
    (id, material)
}

fn self_signed(id: CaId, at: Timestamp) -> Material {
    let key = SoftwareKey::generate(KeyAlgorithm::P256).expect("a key");
    let name = format!("Touchstone issuing CA {:08x}", id.number());
    let at = Timestamp::from_second(at.as_second()).expect("a time");
    let validity = Validity {
        not_before: at - SignedDuration::from_mins(10),
        not_after: at + SignedDuration::from_hours(120 * 24),
    };
    let profile = Profile::IssuingCa { common_name: &name };
    let serial = SerialNumber::from_random(u128::from(id.number()).to_be_bytes());
    let prepared = Prepared::new(&profile, key.public_key(), validity, serial, None);
    let der = prepared.expect("a CA").sign(&key).expect("signed");
    Material {
        certificate: Some(CaCertificate::from_der(&der).expect("a CA")),
        key: Some(KeySource::Inline {
            pem: SecretPem::of(&key).expect("PEM"),
        }),
        request: None,
    }
}

/// Copies of the one grant that is there: one in a hundred is alive, each CA signed some.
fn add_grants(database: &mut Connection, numbers: std::ops::Range<usize>, cas: &[String]) {
    let find = "SELECT store, json FROM objects WHERE json LIKE '%\"kind\":\"Grant\"%' LIMIT 1";
    let (store, text): (String, String) = database
        .query_row(find, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("a grant");
    let mut grant: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let now = Timestamp::now();
    let transaction = database.transaction().expect("a transaction");
    for (number, ca) in numbers.zip(cas.iter().cycle()) {
        let name = format!("g-{number:032x}");
        let uid = format!("00000000-0000-4000-8000-{number:012x}");
        let hours = if number % 100 == 0 { 1 } else { -24 };
        let not_after = now + SignedDuration::from_hours(hours);
        let not_after = Timestamp::from_second(not_after.as_second()).expect("a time");
        for (pointer, value) in [
            ("/metadata/name", name.clone()),
            ("/metadata/uid", uid.clone()),
            ("/spec/request/uid", uid.clone()),
            ("/status/ca", ca.clone()),
            ("/status/notAfter", not_after.to_string()),
        ] {
            *grant.pointer_mut(pointer).expect("a field") = value.into();
        }
        transaction
            .execute(
                "INSERT INTO objects (store, namespace, name, uid, ends, json) VALUES (?1, '', ?2, ?3, NULL, ?4)",
                params![store, name, uid, grant.to_string()],
            )
            .expect("a grant");
    }
    transaction.commit().expect("committed");
}
