//! The card without a reader: what it refuses, and when.

use super::*;
use crate::yubikey::management_key::{ManagementAlgorithm, ManagementKey};
use crate::yubikey::sensor::Fixed;
use crate::yubikey::state::{Firmware, StateFile, TouchPolicy};
use proptest::prelude::*;
use std::time::Duration;

const OK: u16 = 0x9000;

fn card_with(firmware: [u8; 3]) -> Applet<Fixed> {
    let mut card = Applet::new(State::factory(7, Firmware(firmware)), Fixed::default());
    select(&mut card);
    card
}

fn card() -> Applet<Fixed> {
    card_with([5, 7, 1])
}

/// Sends a short command and gives the status word and the data of its first response.
fn send(card: &mut Applet<Fixed>, header: [u8; 4], data: &[u8]) -> (u16, Vec<u8>) {
    let mut apdu = header.to_vec();
    if data.len() > 255 {
        apdu.push(0);
        apdu.extend((data.len() as u16).to_be_bytes());
    } else if !data.is_empty() {
        apdu.push(data.len() as u8);
    }
    apdu.extend(data);
    split(card.execute(&apdu))
}

fn split(mut answer: Vec<u8>) -> (u16, Vec<u8>) {
    let status = answer.split_off(answer.len() - 2);
    (u16::from_be_bytes([status[0], status[1]]), answer)
}

fn select(card: &mut Applet<Fixed>) {
    assert_eq!(send(card, [0, 0xa4, 4, 0], &[0xa0, 0, 0, 3, 8]).0, OK);
}

fn verify(card: &mut Applet<Fixed>, pin: &[u8; 8]) -> u16 {
    send(card, [0, 0x20, 0, 0x80], pin).0
}

const PIN: &[u8; 8] = b"123456\xff\xff";

/// Proves the factory's management key, mutually.
fn authenticate(card: &mut Applet<Fixed>) {
    let key = ManagementKey::factory(card.state.firmware);
    let algorithm = key.algorithm as u8;
    let (status, answer) = send(card, [0, 0x87, algorithm, 0x9b], &[0x7c, 2, 0x80, 0]);
    assert_eq!(status, OK);
    let witness = key.decrypt(&answer[4..]).expect("one block");
    let challenge = vec![0x11; witness.len()];
    let fields = [tlv::write(0x80, &witness), tlv::write(0x81, &challenge)].concat();
    let (status, answer) = send(card, [0, 0x87, algorithm, 0x9b], &tlv::write(0x7c, &fields));
    assert_eq!(status, OK);
    assert_eq!(key.encrypt(&challenge).as_deref(), Some(&answer[4..]));
}

/// Makes a P-256 key with these policies, as a client that proved the management key.
fn generate(card: &mut Applet<Fixed>, slot: u8, pin: u8, touch: u8) {
    authenticate(card);
    let template = [0xac, 9, 0x80, 1, 0x11, 0xaa, 1, pin, 0xab, 1, touch];
    assert_eq!(send(card, [0, 0x47, 0, slot], &template).0, OK);
    select(card);
}

fn sign(card: &mut Applet<Fixed>, slot: u8) -> u16 {
    let fields = [tlv::write(0x82, &[]), tlv::write(0x81, &[0x5a; 32])].concat();
    send(card, [0, 0x87, 0x11, slot], &tlv::write(0x7c, &fields)).0
}

#[test]
fn nothing_is_answered_before_an_application_is_selected() {
    let mut card = Applet::new(State::factory(7, Firmware([5, 7, 1])), Fixed::default());
    assert_eq!(send(&mut card, [0, 0xfd, 0, 0], &[]).0, 0x6d00);
    assert_eq!(
        send(&mut card, [0, 0xa4, 4, 0], &[0xa0, 0, 0, 6, 0x47]).0,
        0x6a82
    );
    assert_eq!(
        send(&mut card, [0, 0xa4, 0, 0], &[0xa0, 0, 0, 3, 8]).0,
        0x6a86
    );
}

#[test]
fn a_pin_is_lost_when_an_application_is_selected_or_the_power_goes() {
    let mut card = card();
    generate(&mut card, 0x9a, 2, 1);
    assert_eq!(sign(&mut card, 0x9a), 0x6982);
    assert_eq!(verify(&mut card, PIN), OK);
    assert_eq!((sign(&mut card, 0x9a), sign(&mut card, 0x9a)), (OK, OK));
    select(&mut card);
    assert_eq!(sign(&mut card, 0x9a), 0x6982);
    assert_eq!(verify(&mut card, PIN), OK);
    card.power_off();
    assert_eq!(sign(&mut card, 0x9a), 0x6d00);
    select(&mut card);
    assert_eq!(sign(&mut card, 0x9a), 0x6982);
    assert_eq!(verify(&mut card, PIN), OK);
    assert_eq!(send(&mut card, [0, 0x20, 0xff, 0x80], &[]).0, OK);
    assert_eq!(sign(&mut card, 0x9a), 0x6982);
}

#[test]
fn a_key_that_asks_the_pin_always_asks_it_for_each_signature() {
    let mut card = card();
    generate(&mut card, 0x9c, 0, 0);
    assert_eq!(verify(&mut card, PIN), OK);
    assert_eq!(sign(&mut card, 0x9c), OK);
    assert_eq!(sign(&mut card, 0x9c), 0x6982);
    // Another key's use takes the fresh PIN as well.
    generate(&mut card, 0x9a, 2, 1);
    assert_eq!(verify(&mut card, PIN), OK);
    assert_eq!(sign(&mut card, 0x9a), OK);
    assert_eq!(sign(&mut card, 0x9c), 0x6982);
}

#[test]
fn a_key_that_asks_no_pin_signs_without_one() {
    let mut card = card();
    generate(&mut card, 0x9e, 0, 0);
    assert_eq!(sign(&mut card, 0x9e), OK);
}

#[test]
fn without_a_touch_there_is_no_signature() {
    let mut card = card();
    generate(&mut card, 0x9e, 1, 2);
    card.sensor.finger = false;
    assert_eq!(sign(&mut card, 0x9e), 0x6982);
    card.sensor.finger = true;
    assert_eq!((sign(&mut card, 0x9e), sign(&mut card, 0x9e)), (OK, OK));
    assert_eq!(card.sensor.asked, 3);
}

#[test]
fn a_cached_touch_counts_for_fifteen_seconds() {
    let mut card = card();
    generate(&mut card, 0x9e, 1, 3);
    assert_eq!(sign(&mut card, 0x9e), OK);
    card.sensor.finger = false;
    card.sensor.now += Duration::from_millis(14_999);
    assert_eq!(sign(&mut card, 0x9e), OK);
    card.sensor.now += Duration::from_millis(1);
    assert_eq!(sign(&mut card, 0x9e), 0x6982);
    assert_eq!(card.sensor.asked, 2);
}

#[test]
fn a_wrong_pin_costs_a_try_and_the_third_blocks_even_the_right_one() {
    let mut card = card();
    assert_eq!(send(&mut card, [0, 0x20, 0, 0x80], &[]).0, 0x63c3);
    assert_eq!(verify(&mut card, b"000000\xff\xff"), 0x63c2);
    assert_eq!(verify(&mut card, PIN), OK);
    assert_eq!(send(&mut card, [0, 0x20, 0, 0x80], &[]).0, OK);
    for expected in [0x63c2, 0x63c1, 0x6983, 0x6983] {
        assert_eq!(verify(&mut card, b"000000\xff\xff"), expected);
    }
    assert_eq!(verify(&mut card, PIN), 0x6983);
    assert_eq!(
        send(&mut card, [0, 0x20, 0, 0x80], b"123456").0,
        0x6a80,
        "not padded to eight bytes"
    );
    assert_eq!(
        send(&mut card, [0, 0xfb, 0, 0], &[]).0,
        0x6985,
        "the PUK has its tries yet"
    );
    let unblock = *b"12345678222222\xff\xff";
    assert_eq!(send(&mut card, [0, 0x2c, 0, 0x80], &unblock).0, OK);
    assert_eq!(verify(&mut card, b"222222\xff\xff"), OK);
}

#[test]
fn a_short_or_badly_padded_new_pin_is_refused() {
    let mut card = card();
    for new in [
        b"12345\xff\xff\xff",
        b"123456\xff8",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let change = [&PIN[..], new].concat();
        assert_eq!(send(&mut card, [0, 0x24, 0, 0x80], &change).0, 0x6a80);
    }
    assert_eq!(verify(&mut card, PIN), OK);
}

#[test]
fn reset_takes_keys_and_objects_but_neither_attestation_key_nor_certificate() {
    let mut card = card();
    generate(&mut card, 0x9a, 2, 1);
    authenticate(&mut card);
    assert_eq!(
        send(
            &mut card,
            [0, 0xdb, 0x3f, 0xff],
            &[0x5c, 3, 0x5f, 0xc1, 2, 0x53, 1, 9]
        )
        .0,
        OK
    );
    card.block(false);
    card.block(true);
    assert_eq!(send(&mut card, [0, 0xfb, 0, 0], &[]).0, OK);
    assert_eq!(send(&mut card, [0, 0xf7, 0, 0x9a], &[]).0, 0x6a88);
    assert_eq!(
        send(&mut card, [0, 0xcb, 0x3f, 0xff], &[0x5c, 3, 0x5f, 0xc1, 2]).0,
        0x6a82
    );
    assert_eq!(verify(&mut card, PIN), OK);
    generate(&mut card, 0x9a, 2, 1);
    assert_eq!(send(&mut card, [0, 0xf9, 0x9a, 0], &[]).0 & 0xff00, 0x6100);
}

#[test]
fn writing_needs_the_management_key() {
    let mut card = card();
    assert_eq!(verify(&mut card, PIN), OK);
    let writes: [([u8; 4], &[u8]); 6] = [
        ([0, 0x47, 0, 0x9a], &[0xac, 3, 0x80, 1, 0x11]),
        ([0, 0xdb, 0x3f, 0xff], &[0x5c, 3, 0x5f, 0xc1, 2, 0x53, 1, 9]),
        ([0, 0xf6, 0xff, 0x9a], &[]),
        ([0, 0xfa, 5, 5], &[]),
        ([0, 0xfe, 0x11, 0x9a], &[6, 1, 1]),
        ([0, 0xff, 0xff, 0xff], &[3, 0x9b, 1, 1]),
    ];
    for (header, data) in writes {
        assert_eq!(send(&mut card, header, data).0, 0x6982, "{header:02x?}");
    }
}

#[test]
fn a_wrong_answer_to_the_witness_or_an_old_one_proves_nothing() {
    let mut card = card();
    let (_, answer) = send(&mut card, [0, 0x87, 0x0a, 0x9b], &[0x7c, 2, 0x80, 0]);
    let key = ManagementKey::factory(Firmware([5, 7, 1]));
    let witness = key.decrypt(&answer[4..]).expect("one block");
    let prove = |witness: &[u8]| {
        tlv::write(
            0x7c,
            &[tlv::write(0x80, witness), tlv::write(0x81, &[1; 16])].concat(),
        )
    };
    assert_eq!(
        send(&mut card, [0, 0x87, 0x0a, 0x9b], &prove(&[0; 16])).0,
        0x6982
    );
    assert_eq!(
        send(&mut card, [0, 0x87, 0x0a, 0x9b], &prove(&witness)).0,
        0x6985,
        "that witness was spent"
    );
    assert_eq!(
        send(&mut card, [0, 0x87, 0x03, 0x9b], &[0x7c, 2, 0x80, 0]).0,
        0x6a80,
        "the key is of AES"
    );
    assert_eq!(
        send(&mut card, [0, 0x47, 0, 0x9a], &[0xac, 3, 0x80, 1, 0x11]).0,
        0x6982
    );
}

#[test]
fn single_authentication_proves_the_management_key_too() {
    let mut card = card_with([5, 4, 3]);
    let key = ManagementKey::factory(Firmware([5, 4, 3]));
    let (status, answer) = send(&mut card, [0, 0x87, 0x03, 0x9b], &[0x7c, 2, 0x81, 0]);
    assert_eq!(status, OK);
    let response = key.encrypt(&answer[4..]).expect("one block");
    assert_eq!(
        send(
            &mut card,
            [0, 0x87, 0x03, 0x9b],
            &tlv::write(0x7c, &tlv::write(0x82, &response))
        )
        .0,
        OK
    );
    assert_eq!(
        send(&mut card, [0, 0x47, 0, 0x9a], &[0xac, 3, 0x80, 1, 0x11]).0,
        OK
    );
}

#[test]
fn a_management_key_that_asks_a_touch_is_not_proven_without_one() {
    let mut card = card();
    card.state.management =
        ManagementKey::new(ManagementAlgorithm::Aes192, &[7; 24], TouchPolicy::Always)
            .expect("24 bytes");
    card.sensor.finger = false;
    let key = card.state.management.clone();
    let (_, answer) = send(&mut card, [0, 0x87, 0x0a, 0x9b], &[0x7c, 2, 0x80, 0]);
    let witness = key.decrypt(&answer[4..]).expect("one block");
    let fields = [tlv::write(0x80, &witness), tlv::write(0x81, &[1; 16])].concat();
    assert_eq!(
        send(&mut card, [0, 0x87, 0x0a, 0x9b], &tlv::write(0x7c, &fields)).0,
        0x6982
    );
}

#[test]
fn old_firmware_knows_neither_new_algorithms_nor_new_commands() {
    let mut card = card_with([5, 2, 7]);
    authenticate(&mut card);
    for algorithm in [0xe0, 0xe1, 0x05, 0x16] {
        assert_eq!(
            send(
                &mut card,
                [0, 0x47, 0, 0x9a],
                &[0xac, 3, 0x80, 1, algorithm]
            )
            .0,
            0x6a80
        );
    }
    assert_eq!(send(&mut card, [0, 0xf6, 0x82, 0x9a], &[]).0, 0x6d00);
    assert_eq!(send(&mut card, [0, 0xf7, 0, 0x80], &[]).0, 0x6d00);
    let aes = [&[0x0a, 0x9b, 24][..], &[7; 24]].concat();
    assert_eq!(send(&mut card, [0, 0xff, 0xff, 0xff], &aes).0, 0x6a80);
}

#[test]
fn printed_information_is_read_with_the_pin_only() {
    let mut card = card();
    authenticate(&mut card);
    assert_eq!(
        send(
            &mut card,
            [0, 0xdb, 0x3f, 0xff],
            &[0x5c, 3, 0x5f, 0xc1, 9, 0x53, 1, 9]
        )
        .0,
        OK
    );
    let get = |card: &mut _| send(card, [0, 0xcb, 0x3f, 0xff], &[0x5c, 3, 0x5f, 0xc1, 9]);
    assert_eq!(get(&mut card).0, 0x6982);
    assert_eq!(verify(&mut card, PIN), OK);
    assert_eq!(get(&mut card), (OK, vec![0x53, 1, 9]));
}

#[test]
fn a_chain_is_one_command_and_a_long_answer_comes_in_pieces() {
    let mut card = card();
    authenticate(&mut card);
    let content: Vec<u8> = (0..700_u32).map(|byte| byte as u8).collect();
    let data = [&[0x5c, 3, 0x5f, 0xc1, 5][..], &tlv::write(0x53, &content)].concat();
    let pieces: Vec<&[u8]> = data.chunks(255).collect();
    for (number, piece) in pieces.iter().enumerate() {
        let class = if number + 1 < pieces.len() { 0x10 } else { 0 };
        assert_eq!(
            send(&mut card, [class, 0xdb, 0x3f, 0xff], piece),
            (OK, vec![])
        );
    }
    let (mut status, mut answer) =
        send(&mut card, [0, 0xcb, 0x3f, 0xff], &[0x5c, 3, 0x5f, 0xc1, 5]);
    assert_eq!((status, answer.len()), (0x6100, 256));
    while status & 0xff00 == 0x6100 {
        let (next, piece) = send(&mut card, [0, 0xc0, 0, 0], &[]);
        answer.extend(piece);
        status = next;
    }
    assert_eq!((status, answer), (OK, tlv::write(0x53, &content)));
}

#[test]
fn a_chain_that_changes_its_command_or_grows_too_long_is_refused() {
    let mut card = card();
    assert_eq!(send(&mut card, [0x10, 0xdb, 0x3f, 0xff], &[1; 255]).0, OK);
    assert_eq!(send(&mut card, [0, 0xcb, 0x3f, 0xff], &[1; 255]).0, 0x6883);
    let last = (0..13)
        .map(|_| send(&mut card, [0x10, 0xdb, 0x3f, 0xff], &[1; 255]).0)
        .last();
    assert_eq!(last, Some(0x6700));
}

#[test]
fn secure_messaging_is_refused() {
    assert_eq!(send(&mut card(), [0x0c, 0x20, 0, 0x80], PIN).0, 0x6e00);
}

#[test]
fn the_memory_of_all_objects_ends() {
    let mut card = card();
    authenticate(&mut card);
    let write = |card: &mut _, id: u8| {
        let data = [
            &[0x5c, 3, 0x5f, 0xff, id][..],
            &tlv::write(0x53, &[1; 3000]),
        ]
        .concat();
        send(card, [0, 0xdb, 0x3f, 0xff], &data).0
    };
    let written = (0x20..0x40)
        .take_while(|&id| write(&mut card, id) == OK)
        .count();
    assert_eq!(written, 16);
    assert_eq!(write(&mut card, 0x3f), 0x6a84);
}

#[test]
fn what_was_written_is_there_in_a_card_made_from_the_state_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state");
    let firmware = Firmware([5, 7, 1]);
    let (file, state) = StateFile::open(&path, 7, firmware).expect("a new card");
    let root = state.attestation_root();
    let mut card = Applet::new(state, Fixed::default());
    select(&mut card);
    generate(&mut card, 0x9a, 1, 1);
    assert_eq!(verify(&mut card, b"000000\xff\xff"), 0x63c2);
    let (_, metadata) = send(&mut card, [0, 0xf7, 0, 0x9a], &[]);
    file.save(card.state()).expect("it is written");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&path).expect("a file").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);

    let (_, state) = StateFile::open(&path, 7, firmware).expect("the same card");
    assert_eq!(state.attestation_root(), root);
    let mut card = Applet::new(state, Fixed::default());
    select(&mut card);
    assert_eq!(send(&mut card, [0, 0x20, 0, 0x80], &[]).0, 0x63c2);
    assert_eq!(send(&mut card, [0, 0xf7, 0, 0x9a], &[]).1, metadata);
    assert_eq!(sign(&mut card, 0x9a), OK);

    assert!(
        StateFile::open(&path, 8, firmware).is_err(),
        "another card's memory"
    );
    std::fs::write(&path, "{").expect("a file");
    assert!(StateFile::open(&path, 7, firmware).is_err(), "half a file");
}

/// Commands that reach deep: known instructions and slots, well-formed templates and noise.
fn command() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>();
    let class = prop_oneof![8 => Just(0_u8), 1 => Just(0x10), 1 => byte];
    let instruction = prop_oneof![
        9 => proptest::sample::select(vec![
            0x20_u8, 0x24, 0x2c, 0x87, 0xa4, 0xc0, 0xcb, 0xdb, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa, 0xfb, 0xfd, 0xfe, 0xff, 0x1d, 0x01
        ]),
        1 => byte
    ];
    let reference = || {
        prop_oneof![
            proptest::sample::select(vec![
                0_u8, 0x80, 0x81, 0x9a, 0x9b, 0xf9, 0x11, 0x3f, 0xff, 0x04
            ]),
            any::<u8>()
        ]
    };
    let noise = || proptest::collection::vec(any::<u8>(), 0..40);
    let data = prop_oneof![
        noise(),
        (
            proptest::sample::select(vec![0x7c_u16, 0xac, 0x5c, 0x53]),
            noise()
        )
            .prop_map(|(tag, value)| tlv::write(tag, &value)),
        (
            proptest::sample::select(vec![0x80_u16, 0x81, 0x82, 0x85]),
            noise()
        )
            .prop_map(|(tag, value)| tlv::write(0x7c, &tlv::write(tag, &value))),
    ];
    (
        class,
        instruction,
        reference(),
        reference(),
        data,
        any::<bool>(),
    )
        .prop_map(|(class, instruction, p1, p2, data, length)| {
            let mut apdu = vec![class, instruction, p1, p2];
            if length {
                apdu.push(data.len() as u8);
            }
            apdu.extend(data);
            apdu
        })
}

proptest! {
    #[test]
    fn no_bytes_make_the_card_panic(apdus in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..8)) {
        let mut card = card();
        for apdu in apdus {
            prop_assert!(card.execute(&apdu).len() >= 2);
        }
    }

    #[test]
    fn no_sequence_of_commands_makes_the_card_panic(apdus in proptest::collection::vec(command(), 1..40), trusted in any::<bool>()) {
        let mut card = card();
        if trusted {
            authenticate(&mut card);
            verify(&mut card, PIN);
        }
        for apdu in apdus {
            let answer = card.execute(&apdu);
            prop_assert!((2..=65538).contains(&answer.len()));
        }
    }
}
