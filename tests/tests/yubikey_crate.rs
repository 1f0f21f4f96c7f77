//! The virtual YubiKey through the `yubikey` crate, the real libpcsclite and the real pcscd.

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use der::Encode;
use sha2::{Digest, Sha256, Sha384};
use touchstone_tests::pcscd::{Options, Pcscd, VirtualYubiKey, in_child};
use touchstone_tests::yubikey::Firmware;
use yubikey::certificate::{CertInfo, Certificate};
use yubikey::mgm::MgmAlgorithmId;
use yubikey::piv::{self, AlgorithmId, ManagementSlotId, RetiredSlotId, SlotId};
use yubikey::{Error, MgmKey, PinPolicy, Serial, TouchPolicy, YubiKey};

const MESSAGE: &[u8] = b"what is signed";

fn one_card(options: Options) -> impl FnOnce() -> (Pcscd, VirtualYubiKey) {
    move || {
        let pcscd = Pcscd::start();
        let card = VirtualYubiKey::start(&pcscd, &options);
        (pcscd, card)
    }
}

fn authenticate(card: &mut YubiKey) -> Result<(), Error> {
    let key = MgmKey::get_default(card)?;
    card.authenticate(&key)
}

#[test]
fn keys_of_every_algorithm_are_made_described_used_and_attested() {
    in_child(
        "keys_of_every_algorithm_are_made_described_used_and_attested",
        one_card(Options::default()),
        || {
            let mut card = YubiKey::open().expect("the card opens");
            assert_eq!(card.serial(), Serial(12_345_678));
            assert_eq!(card.version().to_string(), "5.7.1");
            // EMSA-PKCS1-v1_5 of SHA-256 (RFC 8017, 9.2): the card does the bare RSA operation.
            let mut block = [&[0x00, 0x01][..], &[0xff; 202], &[0x00]].concat();
            block.extend([
                0x30, 0x31, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 32,
            ]);
            block.extend(Sha256::digest(MESSAGE));
            let cases: [(SlotId, AlgorithmId, Vec<u8>, &dyn VerificationAlgorithm); 4] = [
                (
                    SlotId::Authentication,
                    AlgorithmId::EccP256,
                    Sha256::digest(MESSAGE).to_vec(),
                    &signature::ECDSA_P256_SHA256_ASN1,
                ),
                (
                    SlotId::KeyManagement,
                    AlgorithmId::EccP384,
                    Sha384::digest(MESSAGE).to_vec(),
                    &signature::ECDSA_P384_SHA384_ASN1,
                ),
                (
                    SlotId::Retired(RetiredSlotId::R1),
                    AlgorithmId::Ed25519,
                    MESSAGE.to_vec(),
                    &signature::ED25519,
                ),
                (
                    SlotId::Retired(RetiredSlotId::R20),
                    AlgorithmId::Rsa2048,
                    block,
                    &signature::RSA_PKCS1_2048_8192_SHA256,
                ),
            ];
            for (slot, algorithm, input, verification) in cases {
                authenticate(&mut card).expect("the management key is the factory's");
                let public = piv::generate(
                    &mut card,
                    slot,
                    algorithm,
                    PinPolicy::Once,
                    TouchPolicy::Always,
                )
                .expect("a key");
                let metadata = piv::metadata(&mut card, slot).expect("metadata");
                assert_eq!(metadata.public.as_ref(), Some(&public));
                assert_eq!(
                    metadata.policy,
                    Some((PinPolicy::Once, TouchPolicy::Always))
                );
                assert_eq!(metadata.origin, Some(piv::Origin::Generated));
                let _ = card
                    .get_pin_retries()
                    .expect("this selects PIV again, and so forgets the PIN");
                let refused = piv::sign_data(&mut card, &input, algorithm, slot);
                assert_eq!(refused.err(), Some(Error::AuthenticationError));
                card.verify_pin(b"123456").expect("the factory's PIN");
                let signature =
                    piv::sign_data(&mut card, &input, algorithm, slot).expect("a signature");
                UnparsedPublicKey::new(verification, public.subject_public_key.raw_bytes())
                    .verify(MESSAGE, &signature)
                    .unwrap_or_else(|_| {
                        panic!("{algorithm:?}: the signature is of the slot's key")
                    });
                let attestation = piv::attest(&mut card, slot).expect("an attestation");
                let attested = Certificate::from_bytes(attestation).expect("a certificate");
                assert_eq!(
                    attested.subject_pki().to_der(),
                    public.to_der(),
                    "{algorithm:?}: the attested key is the slot's"
                );
            }
        },
    );
}

#[test]
fn a_certificate_is_written_beside_its_key_and_read_again() {
    in_child(
        "a_certificate_is_written_beside_its_key_and_read_again",
        one_card(Options::default()),
        || {
            let slot = SlotId::Authentication;
            let mut card = YubiKey::open().expect("the card opens");
            authenticate(&mut card).expect("the management key is the factory's");
            piv::generate(
                &mut card,
                slot,
                AlgorithmId::EccP256,
                PinPolicy::Once,
                TouchPolicy::Never,
            )
            .expect("a key");
            let attestation = piv::attest(&mut card, slot).expect("an attestation");
            let certificate = Certificate::from_bytes(attestation).expect("a certificate");
            certificate
                .write(&mut card, slot, CertInfo::Uncompressed)
                .expect("it is written");
            let read = Certificate::read(&mut card, slot).expect("it is read");
            assert_eq!(read.cert, certificate.cert);
            assert_eq!(card.piv_keys().expect("a list").len(), 2, "9a and f9");
            Certificate::delete(&mut card, slot).expect("it is removed");
            assert!(Certificate::read(&mut card, slot).is_err());
            card.deauthenticate()
                .expect("another application is selected");
            let mut card = YubiKey::open().expect("the card opens");
            let refused = certificate.write(&mut card, slot, CertInfo::Uncompressed);
            assert_eq!(refused, Err(Error::AuthenticationError));
        },
    );
}

#[test]
fn management_keys_of_aes_and_triple_des_are_proven_and_a_wrong_one_is_not() {
    in_child(
        "management_keys_of_aes_and_triple_des_are_proven_and_a_wrong_one_is_not",
        one_card(Options::default()),
        || {
            let mut card = YubiKey::open().expect("the card opens");
            let default = |card: &mut YubiKey| {
                piv::metadata(card, SlotId::Management(ManagementSlotId::Management))
                    .expect("metadata")
                    .default
            };
            assert_eq!(default(&mut card), Some(true));
            authenticate(&mut card).expect("the management key is the factory's");
            for (algorithm, length) in [
                (MgmAlgorithmId::ThreeDes, 24),
                (MgmAlgorithmId::Aes128, 16),
                (MgmAlgorithmId::Aes192, 24),
                (MgmAlgorithmId::Aes256, 32),
            ] {
                let key = |byte: u8| {
                    MgmKey::from_bytes(vec![byte; length], Some(algorithm))
                        .expect("the right length")
                };
                key(0xc4)
                    .set_manual(&mut card, false)
                    .expect("a new management key");
                assert_eq!(default(&mut card), Some(false));
                assert_eq!(
                    card.authenticate(&key(0xa2)),
                    Err(Error::AuthenticationError)
                );
                card.authenticate(&key(0xc4))
                    .expect("the new key is proven");
            }
        },
    );
}

#[test]
fn a_card_of_firmware_5_4_has_a_management_key_of_triple_des() {
    in_child(
        "a_card_of_firmware_5_4_has_a_management_key_of_triple_des",
        one_card(Options {
            firmware: Firmware([5, 4, 3]),
            ..Options::default()
        }),
        || {
            let mut card = YubiKey::open().expect("the card opens");
            authenticate(&mut card).expect("the management key is the factory's");
            let refused = piv::generate(
                &mut card,
                SlotId::Authentication,
                AlgorithmId::Ed25519,
                PinPolicy::Default,
                TouchPolicy::Default,
            );
            assert_eq!(refused, Err(Error::AlgorithmError));
        },
    );
}

#[test]
fn tries_count_down_and_the_puk_gives_them_back() {
    in_child(
        "tries_count_down_and_the_puk_gives_them_back",
        one_card(Options::default()),
        || {
            let mut card = YubiKey::open().expect("the card opens");
            assert_eq!(card.get_pin_retries(), Ok(3));
            for tries in [2, 1, 0, 0] {
                assert_eq!(card.verify_pin(b"999999"), Err(Error::WrongPin { tries }));
            }
            assert_eq!(card.change_pin(b"123456", b"654321"), Err(Error::PinLocked));
            card.unblock_pin(b"12345678", b"654321")
                .expect("the factory's PUK");
            card.verify_pin(b"654321").expect("the new PIN");
            card.block_puk().expect("the PUK is blocked");
            assert!(card.reset_device().is_err(), "the PIN has its tries yet");
        },
    );
}

#[test]
fn two_cards_in_two_slots_are_told_apart_by_their_serials() {
    let two = || {
        let pcscd = Pcscd::start();
        let cards = [(1, 0), (2, 1)].map(|(serial, slot)| {
            VirtualYubiKey::start(
                &pcscd,
                &Options {
                    serial,
                    slot,
                    ..Options::default()
                },
            )
        });
        (pcscd, cards)
    };
    in_child(
        "two_cards_in_two_slots_are_told_apart_by_their_serials",
        two,
        || {
            assert!(YubiKey::open().is_err(), "neither is the only one");
            for serial in [Serial(1), Serial(2)] {
                let card = YubiKey::open_by_serial(serial).expect("the card opens");
                assert_eq!(card.serial(), serial);
            }
            assert!(YubiKey::open_by_serial(Serial(3)).is_err());
        },
    );
}
