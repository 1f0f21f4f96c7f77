//! Ceremonies that come to nothing, and records that prove nothing: no file is left, and each refusal says what to do.

use super::{ISSUING, ROOT_PLAN, SIGN, Team, exit};
use jiff::{SignedDuration, Timestamp};
use std::{fs, thread, time::Duration};
use touchstone_common::{
    certificate::{Prepared, Profile, SerialNumber, Validity, to_pem},
    key::{KeyAlgorithm, SigningKey as _, SoftwareKey},
};
use touchstone_tests::{
    engineer::{Engineer, PIN, Ran},
    pcscd::Options,
    pty::Session,
};

#[test]
fn what_is_stated_is_the_time_of_the_signature_not_of_the_start() {
    let team = Team::with_root();
    let mut session = Session::start(&team.command(SIGN, &[]));
    session.wait_for("Type the name to sign this");
    thread::sleep(Duration::from_millis(1500));
    let agreed = Timestamp::now();
    session.type_line(ISSUING);
    session.answer_hidden("PIN of YubiKey", PIN);
    session.end().with(0, &["120 days from the signature on"]);
    let record: serde_json::Value =
        serde_json::from_str(&team.text("issuing.record.json")).expect("JSON");
    let at: Timestamp = record["statement"]["at"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .expect("a time");
    assert!(agreed <= at && at <= Timestamp::now(), "{agreed} {at}");
    // The dates count from it, too, and the record still verifies.
    Ran::of(&mut team.command(&["verify", "--record", "issuing.record.json"], &[])).succeeded();
}

#[test]
fn a_root_on_p_256_signs_as_well() {
    let team = Team(Engineer::new("alice@example.com", &Options::default()));
    team.0.set_up();
    team.write("root.yaml", &format!("{ROOT_PLAN}algorithm: p256\n"));
    team.init(&[]).succeeded();
    team.request("issuing.csr", ISSUING);
    team.plan(ISSUING, 120);
    team.sign(&[]).succeeded();
    let text = team.openssl(&["x509", "-noout", "-text", "-in", "root.pem"]);
    assert!(
        text.contains("prime256v1") && text.contains("ecdsa-with-SHA256"),
        "{text}"
    );
    team.openssl(&[
        "verify",
        "-x509_strict",
        "-CAfile",
        "root.pem",
        "issuing.pem",
    ]);
    Ran::of(&mut team.command(&["verify", "--record", "issuing.record.json"], &[])).succeeded();
}

#[test]
fn a_root_that_has_ended_or_ends_too_soon_signs_nothing() {
    let team = Team(Engineer::without_card("alice@example.com"));
    let key = SoftwareKey::generate(KeyAlgorithm::P384).expect("a key");
    let pkcs8 = key.to_pkcs8_pem().expect("PKCS#8");
    team.0.secret("root.key", pkcs8.trim_end());
    let now = Timestamp::from_second(Timestamp::now().as_second()).expect("a time");
    let day = |number: i64| now + SignedDuration::from_hours(24 * number);
    for (ends, words) in [
        (-1, ["the root is valid from", "and now is"]),
        (30, ["it would be valid until", "but the root ends"]),
    ] {
        let profile = Profile::Root {
            common_name: "Example Root 1",
        };
        let validity = Validity {
            not_before: day(-400),
            not_after: day(ends),
        };
        let serial = SerialNumber::from_random([7; 16]);
        let prepared = Prepared::new(&profile, key.public_key(), validity, serial, None);
        let root = prepared.expect("a root").sign(&key).expect("signed");
        team.write("root.pem", &to_pem(&root));
        team.request("issuing.csr", ISSUING);
        team.plan(ISSUING, 120);
        team.software(SIGN).failed(exit::CEREMONY, &words);
        team.assert_no_issuing();
    }
}

#[test]
fn what_was_written_is_taken_back_when_the_rest_cannot_be_written() {
    let team = Team::with_root();
    let card = team.0.yubikey();
    card.control("touch-mode ask");
    let ran = thread::scope(|scope| {
        let sign = scope.spawn(|| team.sign(&[]));
        card.wait_for_touch_request();
        // The record is written first, this second, the certificate last.
        team.write("issuing.attestation.pem", "somebody else's");
        card.control("touch");
        sign.join().expect("it ends")
    });
    ran.failed(exit::OTHER, &["issuing.attestation.pem"]);
    assert_eq!(team.text("issuing.attestation.pem"), "somebody else's");
    fs::remove_file(team.0.file("issuing.attestation.pem")).expect("remove it");
    team.assert_no_issuing();
    card.control("touch-mode auto");
    team.sign(&[]).succeeded();
}

#[test]
fn a_record_that_is_none_or_of_other_documents_is_refused_with_what_to_do() {
    let team = Team::with_root();
    team.sign(&[]).succeeded();
    let record = team.text("issuing.record.json");
    let half = record.get(..record.len() / 2).expect("half of it");
    team.write("cut.json", half);
    team.write("empty.json", "");
    team.write("other.json", "{\"kind\": \"Ceremony\"}");
    let verify = |arguments: &[&str]| Ran::of(&mut team.command(&["verify"], arguments));
    for name in ["cut.json", "empty.json", "other.json", "root.pem"] {
        verify(&["--record", name]).failed(
            exit::CEREMONY,
            &["is no record of a ceremony", ".record.json"],
        );
    }
    team.write("changed.json", &record.replace("Alice", "Mallory"));
    verify(&["--record", "changed.json"]).failed(
        exit::CEREMONY,
        &["does not verify", "rely on no certificate"],
    );
    team.request("second.csr", ISSUING);
    for (option, file, what) in [
        ("--certificate", "root.pem", "the certificate"),
        ("--certificate", "root.yaml", "the certificate"),
        ("--root", "issuing.pem", "the root"),
        ("--plan", "root.yaml", "the ceremony file"),
        ("--request", "second.csr", "the request"),
        ("--request", "root.pem", "the request"),
    ] {
        let ran = verify(&["--record", "issuing.record.json", option, file]);
        let words = format!("is not {what} of the record");
        ran.failed(exit::CEREMONY, &[&words, "the document that was there"]);
        assert!(!ran.stderr.contains("nothing was signed"), "{ran}");
    }
}
