//! yubico-piv-tool. Debian 12 has version 2.2, which knows triple DES only: firmware before 5.7 it is.
//!
//! Its selfsign and request-certificate fail with OpenSSL 3 before they ask the card anything, so they are not here.

use crate::tools::Bench;
use touchstone_tests::pcscd::Options;
use touchstone_tests::yubikey::Firmware;

fn bench() -> Bench {
    Bench::new(&Options {
        firmware: Firmware([5, 4, 3]),
        ..Options::default()
    })
}

#[test]
fn a_new_card_has_its_status() {
    bench()
        .yubico_piv_tool("-a status")
        .succeeds()
        .says("Version:\t5.4.3")
        .says("Serial Number:\t12345678")
        .says("PIN tries left:\t3");
}

#[test]
fn generated_keys_are_attested_sign_and_decipher() {
    let bench = bench();
    bench
        .yubico_piv_tool("-a read-certificate -s f9 -o f9.pem")
        .succeeds();
    for (slot, algorithm, signed, deciphered) in [
        (
            "9a",
            "ECCP256",
            "Successful ECDSA verification",
            "Successfully performed ECDH exchange",
        ),
        (
            "9c",
            "ECCP384",
            "Successful ECDSA verification",
            "Successfully performed ECDH exchange",
        ),
        (
            "9d",
            "RSA2048",
            "Successful RSA verification",
            "Successfully performed RSA decryption",
        ),
    ] {
        bench
            .yubico_piv_tool(&format!(
                "-a generate -s {slot} -A {algorithm} -o public.pem"
            ))
            .succeeds();
        bench
            .yubico_piv_tool(&format!("-a attest -s {slot} -o attestation.pem"))
            .succeeds();
        bench.verify_attestation("attestation.pem", "f9.pem");
        // An attestation is a certificate of the slot's key: what these two actions want.
        for (action, says) in [("test-signature", signed), ("test-decipher", deciphered)] {
            let arguments =
                format!("-a verify-pin -P 123456 -a {action} -s {slot} -i attestation.pem");
            bench.yubico_piv_tool(&arguments).succeeds().says(says);
        }
        bench
            .yubico_piv_tool(&format!(
                "-a import-certificate -s {slot} -i attestation.pem"
            ))
            .succeeds();
        let subject = format!("Subject DN:\tCN=YubiKey PIV Attestation {slot}");
        bench.yubico_piv_tool("-a status").succeeds().says(&subject);
    }
}

#[test]
fn wrong_pins_block_the_puk_unblocks_and_reset_waits_for_both() {
    let bench = bench();
    let verify = |pin| bench.yubico_piv_tool(&format!("-a verify-pin -P {pin}"));
    verify("000000").fails().says("2 tries left");
    verify("123456").succeeds();
    verify("000000").fails().says("2 tries left");
    verify("000000").fails().says("1 tries left");
    verify("000000").fails().says("blocked");
    verify("123456").fails().says("blocked");
    bench
        .yubico_piv_tool("-a reset")
        .fails()
        .says("are pincodes blocked?");
    bench
        .yubico_piv_tool("-a unblock-pin -P 12345678 -N 222222")
        .succeeds();
    verify("222222").succeeds();
    bench.card.control("block-pin");
    bench.card.control("block-puk");
    bench.yubico_piv_tool("-a reset").succeeds();
    verify("123456").succeeds();
}

#[test]
fn a_management_key_is_set_and_the_old_one_is_refused() {
    let bench = bench();
    let key = "0102030405060708010203040506070801020304050607fe";
    bench
        .yubico_piv_tool(&format!("-a set-mgm-key -n {key}"))
        .succeeds();
    bench
        .yubico_piv_tool(&format!("--key={} -a set-chuid", "a7".repeat(24)))
        .fails();
    bench
        .yubico_piv_tool(&format!("--key={key} -a set-chuid"))
        .succeeds();
}
