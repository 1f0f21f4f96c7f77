//! Yubico's ykman.

use crate::tools::{Bench, MANAGEMENT_KEY, Said};
use std::fs;
use std::process::{Child, Command, Stdio};
use touchstone_tests::pcscd::Options;
use touchstone_tests::yubikey::{Firmware, TouchMode};

/// `ykman piv …` with the factory's management key.
fn piv(bench: &Bench, arguments: &str) -> Said {
    bench.ykman(&format!("piv {}", arguments.replace("MGM", MANAGEMENT_KEY)))
}

fn generate(bench: &Bench, slot: &str, algorithm: &str, more: &str) {
    piv(
        bench,
        &format!("keys generate -m MGM -a {algorithm} {more} {slot} public.pem"),
    )
    .succeeds()
    .says("Private key generated");
}

#[test]
fn a_new_card_is_described_as_a_new_yubikey() {
    let bench = Bench::new(&Options::default());
    bench
        .ykman("info")
        .succeeds()
        .says("Device type: YubiKey 5A")
        .says("Serial number: 12345678")
        .says("Firmware version: 5.7.1");
    piv(&bench, "info")
        .succeeds()
        .says("PIV version:              5.7.1")
        .says("PIN tries remaining:      3/3")
        .says("PUK tries remaining:      3/3")
        .says("Management key algorithm: AES192")
        .says("WARNING: Using default PIN!")
        .says("WARNING: Using default PUK!")
        .says("WARNING: Using default Management key!");
}

#[test]
fn before_5_7_the_management_key_is_triple_des_and_ed25519_is_unknown() {
    let bench = Bench::new(&Options {
        firmware: Firmware([5, 4, 3]),
        ..Options::default()
    });
    piv(&bench, "info")
        .succeeds()
        .says("Management key algorithm: TDES");
    piv(&bench, "keys generate -m MGM -a ED25519 9a public.pem").fails();
}

#[test]
fn every_algorithm_is_generated_and_its_attestation_verifies() {
    let bench = Bench::new(&Options::default());
    piv(&bench, "certificates export f9 f9.pem").succeeds();
    for (algorithm, slot) in [
        ("ECCP256", "9a"),
        ("ECCP384", "9c"),
        ("ED25519", "9d"),
        ("X25519", "82"),
        ("RSA1024", "84"),
        ("RSA2048", "95"),
        ("RSA3072", "83"),
    ] {
        generate(&bench, slot, algorithm, "");
        piv(&bench, &format!("keys attest {slot} attestation.pem")).succeeds();
        bench.verify_attestation("attestation.pem", "f9.pem");
        bench
            .openssl("x509 -in attestation.pem -noout -subject -issuer")
            .succeeds()
            .says(&format!("subject=CN = YubiKey PIV Attestation {slot}"))
            .says("issuer=CN = Yubico PIV Attestation");
        bench
            .openssl("x509 -in attestation.pem -noout -pubkey -out attested.pem")
            .succeeds();
        let [attested, public] =
            ["attested.pem", "public.pem"].map(|name| fs::read(bench.file(name)).expect("a file"));
        assert_eq!(
            attested, public,
            "{algorithm}: the attested key is the slot's"
        );
    }
}

#[test]
fn an_attestation_carries_serial_firmware_policies_and_form_factor() {
    let bench = Bench::new(&Options {
        serial: 0x9000_0001,
        ..Options::default()
    });
    generate(
        &bench,
        "9a",
        "ECCP256",
        "--pin-policy ALWAYS --touch-policy CACHED",
    );
    piv(&bench, "keys attest --format DER 9a attestation.der").succeeds();
    let der = fs::read(bench.file("attestation.der")).expect("an attestation");
    let extension = |number: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).expect("a short extension");
        [
            &[0x2b, 6, 1, 4, 1, 0x82, 0xc4, 0x0a, 3, number, 0x04, length],
            content,
        ]
        .concat()
    };
    for expected in [
        extension(3, &[5, 7, 1]),
        extension(7, &[2, 5, 0, 0x90, 0, 0, 1]),
        extension(8, &[3, 3]),
        extension(9, &[1]),
    ] {
        assert!(
            der.windows(expected.len()).any(|window| window == expected),
            "{expected:02x?} in {der:02x?}"
        );
    }
}

#[test]
fn an_imported_key_signs_but_is_not_attested() {
    let bench = Bench::new(&Options::default());
    for (slot, algorithm) in [
        ("9a", "EC -pkeyopt ec_paramgen_curve:P-256"),
        ("9d", "ED25519"),
        ("82", "RSA -pkeyopt rsa_keygen_bits:2048"),
    ] {
        bench
            .openssl(&format!("genpkey -algorithm {algorithm} -out key.pem"))
            .succeeds();
        bench
            .openssl("pkey -in key.pem -pubout -out public.pem")
            .succeeds();
        piv(&bench, &format!("keys import -m MGM {slot} key.pem")).succeeds();
        piv(&bench, &format!("keys info {slot}"))
            .succeeds()
            .says("IMPORTED");
        piv(
            &bench,
            &format!("certificates generate -P 123456 -m MGM -s CN=alice {slot} public.pem"),
        )
        .succeeds();
        piv(
            &bench,
            &format!("certificates export {slot} certificate.pem"),
        )
        .succeeds();
        bench
            .openssl("verify -check_ss_sig -CAfile certificate.pem certificate.pem")
            .succeeds();
        piv(&bench, &format!("keys attest {slot} -")).fails();
    }
}

#[test]
fn a_changed_pin_replaces_the_old_one() {
    let bench = Bench::new(&Options::default());
    let change = "access change-pin -P 123456 -n 654321";
    piv(&bench, change).succeeds().says("New PIN set");
    piv(&bench, change).fails().says("2 tries left");
    piv(&bench, "access change-pin -P 654321 -n 12345").fails();
    piv(&bench, "access change-puk -p 12345678 -n 87654321").succeeds();
    piv(&bench, "access change-puk -p 12345678 -n 87654321").fails();
}

#[test]
fn three_wrong_pins_block_the_puk_unblocks_and_a_reset_keeps_the_attestation_key() {
    let bench = Bench::new(&Options::default());
    let wrong = "access change-pin -P 000000 -n 654321";
    piv(&bench, wrong).fails().says("2 tries left");
    piv(&bench, wrong).fails().says("1 tries left");
    piv(&bench, wrong).fails().says("blocked");
    piv(&bench, "access change-pin -P 123456 -n 654321")
        .fails()
        .says("blocked");
    piv(&bench, "access unblock-pin -p 12345678 -n 222222").succeeds();
    piv(&bench, "access change-pin -P 222222 -n 654321").succeeds();
    generate(&bench, "9a", "ECCP256", "");
    piv(&bench, "reset -f").succeeds();
    piv(&bench, "info")
        .succeeds()
        .says("WARNING: Using default PIN!")
        .says("CHUID: No data available");
    piv(&bench, "keys info 9a").fails();
    piv(&bench, "certificates export f9 -")
        .succeeds()
        .says("BEGIN CERTIFICATE");
    generate(&bench, "9a", "ECCP256", "");
    piv(&bench, "certificates export f9 f9.pem").succeeds();
    piv(&bench, "keys attest 9a attestation.pem").succeeds();
    bench.verify_attestation("attestation.pem", "f9.pem");
}

#[test]
fn management_keys_of_every_algorithm_replace_each_other() {
    let bench = Bench::new(&Options::default());
    let mut current = MANAGEMENT_KEY.to_owned();
    for (algorithm, length) in [("TDES", 24), ("AES128", 16), ("AES192", 24), ("AES256", 32)] {
        let next = "c5".repeat(length);
        let change =
            format!("access change-management-key -f -a {algorithm} -m {current} -n {next}");
        piv(&bench, &change).succeeds();
        piv(&bench, "info")
            .succeeds()
            .says(&format!("Management key algorithm: {algorithm}"));
        piv(
            &bench,
            &format!("objects generate -m {} CHUID", "5c".repeat(length)),
        )
        .fails();
        current = next;
    }
    piv(
        &bench,
        &format!("access change-management-key -f -g -p -P 123456 -m {current}"),
    )
    .succeeds();
    piv(&bench, "info").succeeds().says("protected by PIN");
    piv(&bench, "keys generate -P 123456 9a public.pem").succeeds();
}

#[test]
fn tries_are_set_and_a_key_moves_and_goes() {
    let bench = Bench::new(&Options::default());
    piv(&bench, "access set-retries -f -P 123456 -m MGM 5 6").succeeds();
    piv(&bench, "info")
        .succeeds()
        .says("PIN tries remaining:      5/5")
        .says("PUK tries remaining:      6/6");
    generate(&bench, "9a", "ECCP256", "");
    piv(&bench, "keys move -m MGM 9a 82").succeeds();
    piv(&bench, "keys info 82").succeeds().says("GENERATED");
    piv(&bench, "keys info 9a").fails();
    piv(&bench, "keys delete -m MGM 82").succeeds();
    piv(&bench, "keys info 82").fails();
}

#[test]
fn an_object_of_three_kilobytes_is_kept() {
    let bench = Bench::new(&Options::default());
    let object: Vec<u8> = (0..3040_u32).map(|byte| byte as u8).collect();
    fs::write(bench.file("object"), &object).expect("a file");
    piv(&bench, "objects import -m MGM 0x5f0001 object").fails();
    piv(&bench, "objects import -m MGM 0x5fff11 object").succeeds();
    piv(&bench, "objects export 0x5fff11 back").succeeds();
    assert_eq!(fs::read(bench.file("back")).expect("a file"), object);
}

/// A card whose 9a asks a touch for each use, and a signature that is under way in a process of its own.
struct Signing {
    bench: Bench,
    command: Command,
    child: Child,
}

const SIGN: &str = "piv certificates generate -P 123456 -s CN=alice -m 010203040506070801020304050607080102030405060708 9a public.pem";

impl Signing {
    fn start() -> Self {
        let bench = Bench::new(&Options {
            touch: TouchMode::Ask,
            ..Options::default()
        });
        generate(&bench, "9a", "ECCP256", "--touch-policy ALWAYS");
        let mut command = bench.ykman_command(SIGN);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("ykman starts");
        bench.card.wait_for_touch_request();
        assert_eq!(bench.card.control("signatures"), "0");
        Self {
            bench,
            command,
            child,
        }
    }

    fn end(self) -> (Bench, Said) {
        let output = self.child.wait_with_output().expect("ykman ends");
        (self.bench, Said::of(&self.command, &output))
    }
}

#[test]
fn a_signature_waits_for_the_touch_that_the_policy_asks() {
    let signing = Signing::start();
    signing.bench.card.control("touch");
    let (bench, said) = signing.end();
    said.succeeds().says("Touch your YubiKey");
    assert_eq!(
        (
            bench.card.control("signatures"),
            bench.card.control("touches")
        ),
        ("1".into(), "1".into())
    );

    bench.card.control("touch-mode never");
    bench.card.control("touch-timeout 300");
    bench.ykman(SIGN).fails();
    assert_eq!(bench.card.control("signatures"), "1");
}

#[test]
fn a_card_pulled_out_while_it_waits_leaves_no_signature() {
    let signing = Signing::start();
    signing.bench.card.control("remove");
    let (bench, said) = signing.end();
    said.fails();
    assert_eq!(bench.card.control("signatures"), "0");
    assert!(bench.pcscd.wait_for_card(0, false));
    bench.card.control("insert");
    assert!(
        bench.pcscd.wait_for_card(0, true),
        "pcscd wrote:\n{}",
        bench.pcscd.log()
    );
    piv(&bench, "keys info 9a").succeeds().says("GENERATED");
}
