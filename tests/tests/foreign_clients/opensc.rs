//! OpenSC's pkcs11-tool and pkcs15-tool.

use crate::tools::{Bench, MANAGEMENT_KEY};
use touchstone_tests::pcscd::Options;

/// A card with a key and a certificate of alice in slot 9a; its public key in public.pem.
fn bench() -> Bench {
    let bench = Bench::new(&Options::default());
    bench
        .ykman(&format!(
            "piv keys generate -a ECCP256 -m {MANAGEMENT_KEY} 9a public.pem"
        ))
        .succeeds();
    bench
        .ykman(&format!(
            "piv certificates generate -P 123456 -s CN=alice -m {MANAGEMENT_KEY} 9a public.pem"
        ))
        .succeeds();
    bench
}

#[test]
fn pkcs11_tool_lists_the_key_and_signs_with_it() {
    let bench = bench();
    bench
        .pkcs11_tool("--login --pin 123456 --list-objects")
        .succeeds()
        .says("Private Key Object; EC")
        .says("PIV AUTH key")
        .says("DN: CN=alice");
    std::fs::write(bench.file("data"), "what is signed").expect("a file");
    bench
        .pkcs11_tool("--login --pin 123456 --sign --id 01 -m ECDSA-SHA256 --signature-format openssl -i data -o signature")
        .succeeds();
    bench
        .openssl("dgst -sha256 -verify public.pem -signature signature data")
        .succeeds()
        .says("Verified OK");
    assert_eq!(bench.card.control("signatures"), "2");
}

#[test]
fn pkcs11_tool_is_told_that_a_pin_is_wrong() {
    let bench = bench();
    bench
        .pkcs11_tool("--login --pin 111111 --list-objects")
        .fails()
        .says("CKR_PIN_INCORRECT");
    bench
        .ykman("piv info")
        .succeeds()
        .says("PIN tries remaining:      2/3");
}

#[test]
fn pkcs15_tool_lists_the_key_and_reads_the_certificate() {
    let bench = bench();
    bench
        .pkcs15_tool("--list-keys")
        .succeeds()
        .says("Private EC Key [PIV AUTH key]")
        .says("154 (0x9A)");
    bench
        .pkcs15_tool("--read-certificate 01 --output certificate.pem")
        .succeeds();
    bench
        .openssl("x509 -in certificate.pem -noout -subject")
        .succeeds()
        .says("CN = alice");
}
