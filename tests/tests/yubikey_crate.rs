//! The virtual YubiKey through the `yubikey` crate, the real libpcsclite and the real pcscd.

use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::pkcs8::DecodePublicKey;
use sha2::{Digest, Sha256};
use touchstone_tests::pcscd::{Options, Pcscd, VirtualYubiKey, in_child};
use yubikey::piv::{self, AlgorithmId, SlotId};
use yubikey::{MgmKey, PinPolicy, TouchPolicy, YubiKey};

fn one_card(options: Options) -> impl FnOnce() -> (Pcscd, VirtualYubiKey) {
    move || {
        let pcscd = Pcscd::start();
        let card = VirtualYubiKey::start(&pcscd, &options);
        (pcscd, card)
    }
}

#[test]
fn a_key_is_generated_used_and_attested() {
    in_child(
        "a_key_is_generated_used_and_attested",
        one_card(Options::default()),
        || {
            let mut card = YubiKey::open().expect("the card opens");
            assert_eq!(card.serial().0, 12_345_678);
            assert_eq!(card.version().to_string(), "5.7.1");
            let management = MgmKey::get_default(&card).expect("the default management key");
            card.authenticate(&management)
                .expect("the management key is the default");
            let public = piv::generate(
                &mut card,
                SlotId::Authentication,
                AlgorithmId::EccP256,
                PinPolicy::Once,
                TouchPolicy::Always,
            )
            .expect("a key is made");
            let digest = Sha256::digest(b"what is signed");
            piv::sign_data(
                &mut card,
                &digest,
                AlgorithmId::EccP256,
                SlotId::Authentication,
            )
            .expect_err("the PIN is due");
            card.verify_pin(b"123456").expect("the PIN is the default");
            let signature = piv::sign_data(
                &mut card,
                &digest,
                AlgorithmId::EccP256,
                SlotId::Authentication,
            )
            .expect("a signature");
            let public = der::Encode::to_der(&public).expect("a public key");
            p256::ecdsa::VerifyingKey::from_public_key_der(&public)
                .expect("a key of P-256")
                .verify_prehash(
                    &digest,
                    &p256::ecdsa::Signature::from_der(&signature).expect("DER"),
                )
                .expect("the signature is of the key");
            let attestation =
                piv::attest(&mut card, SlotId::Authentication).expect("an attestation");
            assert!(
                attestation
                    .windows(public.len())
                    .any(|window| window == public),
                "the attested key is the slot's"
            );
        },
    );
}
