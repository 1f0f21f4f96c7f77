//! No input makes a reader panic, and what a reader accepts has one meaning and one encoding.

use crate::{
    der::{bits, children, sequence},
    support::{Ca, claims, draft, group, now, user},
};
use proptest::{collection::vec, prelude::*, sample::Index};
use std::sync::LazyLock;
use touchstone_common::{
    attestation::{self, Firmware, Roots, Slot},
    certificate::{CaCertificate, ClientIdentity, Expected, from_pem_bundle, verify_issued},
    claims::{Claims, Reason},
    csr::{Draft, Request, to_pem},
    evidence::Evidence,
    grant::GrantId,
    key::{KeyAlgorithm, PublicKey, SigningKey as _, SoftwareKey},
    name::{ClusterName, GroupName, UserName},
    ttl::Ttl,
};

static KEY: LazyLock<SoftwareKey> =
    LazyLock::new(|| SoftwareKey::generate(KeyAlgorithm::P256).unwrap());
static CA: LazyLock<Ca> = LazyLock::new(|| Ca::new(KeyAlgorithm::P256));
static LEAF: LazyLock<Vec<u8>> = LazyLock::new(|| CA.issue(&KEY, "alice", &["dev"]));
static ROOTS: LazyLock<Roots> = LazyLock::new(Roots::yubico);
static CSR: LazyLock<Vec<u8>> = LazyLock::new(|| full_draft().sign(&*KEY).unwrap());

const SLOT: &[u8] = include_bytes!("data/attestation/yubikey_5ci_attestation.der");
const F9: &[u8] = include_bytes!("data/attestation/yubikey_5ci_intermediate.der");

fn full_draft() -> Draft {
    let mut draft = draft("alice@example.com", &["dev", "oncall", "Zoë's"]);
    draft.claims.read_token_sha256 = Some([3; 32]);
    draft.evidence = Some(evidence());
    draft
}

fn evidence() -> Evidence {
    Evidence {
        slot_certificate: SLOT.to_vec(),
        intermediates: vec![F9.to_vec()],
    }
}

/// One change of some bytes.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Truncate(Index),
    Repeat(Index, Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        any::<Index>().prop_map(Change::Remove),
        any::<Index>().prop_map(Change::Truncate),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Repeat(from, to)),
    ];
    vec(change, 1..4)
}

fn change(bytes: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for change in changes {
        if out.is_empty() {
            break;
        }
        let length = out.len();
        match change {
            Change::Flip(at, bit) => out[at.index(length)] ^= 1 << bit,
            Change::Set(at, byte) => out[at.index(length)] = *byte,
            Change::Insert(at, byte) => out.insert(at.index(length), *byte),
            Change::Remove(at) => drop(out.remove(at.index(length))),
            Change::Truncate(at) => out.truncate(at.index(length)),
            Change::Repeat(from, to) => {
                let (from, to) = (from.index(length), to.index(length));
                let part = out[from.min(to)..from.max(to)].to_vec();
                out.extend(part);
            }
        }
    }
    out
}

/// Hands the bytes to every reader there is.
fn read_everything(bytes: &[u8]) {
    let _ = Request::from_der(bytes);
    let _ = Request::from_pem(bytes);
    let _ = PublicKey::from_spki_der(bytes);
    let _ = Claims::from_der(bytes);
    let _ = Evidence::from_der(bytes);
    let _ = CaCertificate::from_der(bytes);
    let _ = CaCertificate::from_pem(bytes);
    let _ = ClientIdentity::from_der(bytes);
    let _ = from_pem_bundle(bytes);
    let _ = SoftwareKey::from_pkcs8_der(bytes);
    let _ = SoftwareKey::from_pkcs8_pem(bytes);
    let _ = ROOTS.clone().with_test_root(bytes);
    let _ = verify_issued(bytes, &expected(bytes));
    for evidence in [
        Evidence {
            slot_certificate: bytes.to_vec(),
            intermediates: vec![F9.to_vec()],
        },
        Evidence {
            slot_certificate: SLOT.to_vec(),
            intermediates: vec![bytes.to_vec()],
        },
    ] {
        let _ = attestation::verify(&evidence, KEY.public_key(), &ROOTS, now());
    }
}

static ALICE: LazyLock<UserName> = LazyLock::new(|| user("alice"));
static DEV: LazyLock<[GroupName; 1]> = LazyLock::new(|| [group("dev")]);

static GRANT: LazyLock<GrantId> = LazyLock::new(|| GrantId::of_nonce(&[7; 32]));

fn expected(trust_bundle: &[u8]) -> Expected<'_> {
    Expected {
        public_key: KEY.public_key(),
        user: &ALICE,
        groups: &*DEV,
        grant: &GRANT,
        ttl: Ttl::from_secs(1800).unwrap(),
        trust_bundle,
        now: now(),
    }
}

fn same(one: &Request, two: &Request) -> bool {
    one.user() == two.user()
        && one.groups() == two.groups()
        && one.public_key() == two.public_key()
        && one.claims() == two.claims()
        && one.evidence() == two.evidence()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in vec(any::<u8>(), 0..600)) {
        read_everything(&bytes);
    }

    #[test]
    fn no_changed_request_certificate_or_key_makes_a_reader_panic(changes in changes()) {
        let pkcs8 = KEY.to_pkcs8_der().unwrap();
        let (csr, leaf): (&[u8], &[u8]) = (&CSR, &LEAF);
        for bytes in [csr, leaf, SLOT, F9, KEY.public_key().spki_der(), pkcs8.as_slice()] {
            read_everything(&change(bytes, &changes));
        }
        read_everything(&change(to_pem(&CSR).as_bytes(), &changes));
        read_everything(&change(CA.root.to_pem().as_bytes(), &changes));
    }

    #[test]
    fn a_changed_request_is_refused_or_means_the_same(changes in changes()) {
        let original = Request::from_der(&CSR).unwrap();
        if let Ok(read) = Request::from_der(&change(&CSR, &changes)) {
            prop_assert!(same(&read, &original));
        }
        let pem = change(to_pem(&CSR).as_bytes(), &changes);
        if let Ok(read) = Request::from_pem(&pem) {
            prop_assert!(same(&read, &original));
        }
    }

    /// The attacker signs what they changed: nothing but the strict reading stands in their way.
    #[test]
    fn a_changed_request_that_is_signed_again_has_one_meaning(changes in changes()) {
        let parts = children(&CSR);
        let info = change(&parts[0], &changes);
        let signature = KEY.sign(&info).unwrap();
        let der = sequence(&[&info, &parts[1], &bits(&signature)]);
        if let Ok(read) = Request::from_der(&der) {
            let draft = Draft {
                user: read.user().clone(),
                groups: read.groups().to_vec(),
                claims: read.claims().clone(),
                evidence: read.evidence().cloned(),
            };
            let again = draft.sign(&*KEY).unwrap();
            prop_assert!(same(&read, &Request::from_der(&again).unwrap()));
            // Attributes have one encoding; names have two, UTF8String and PrintableString, in any order.
            prop_assert_eq!(&children(&children(&again)[0])[2..], &children(&info)[2..]);
            prop_assert_eq!(children(&again)[0].len(), info.len());
        }
    }

    #[test]
    fn accepted_claims_and_evidence_have_one_encoding(changes in changes()) {
        let der = change(&full_draft().claims.to_der(), &changes);
        if let Ok(read) = Claims::from_der(&der) {
            prop_assert_eq!(read.to_der(), der);
        }
        let der = change(&evidence().to_der(), &changes);
        if let Ok(read) = Evidence::from_der(&der) {
            prop_assert_eq!(read.to_der(), der);
        }
    }

    #[test]
    fn an_accepted_key_has_one_encoding(changes in changes()) {
        let der = change(KEY.public_key().spki_der(), &changes);
        if let Ok(read) = PublicKey::from_spki_der(&der) {
            prop_assert_eq!(read.spki_der(), der);
        }
    }

    #[test]
    fn a_changed_chain_is_refused_or_has_the_same_leaf(changes in changes()) {
        let bundle = CA.root.to_pem();
        let chain = change(CA.chain(&LEAF).as_bytes(), &changes);
        if let Ok(issued) = verify_issued(&chain, &expected(bundle.as_bytes())) {
            prop_assert_eq!(&issued.leaf_der, &*LEAF);
        }
    }

    #[test]
    fn names_are_kept_as_they_are_or_refused(text in any::<String>()) {
        for read in [
            UserName::parse(&text).map(|name| name.to_string()),
            GroupName::parse(&text).map(|name| name.to_string()),
            ClusterName::parse(&text).map(|name| name.to_string()),
        ]
        .into_iter()
        .flatten()
        {
            prop_assert_eq!(&read, &text);
            prop_assert!(!read.to_lowercase().starts_with("system:"));
            prop_assert!(!read.is_empty() && read.trim() == read && read.chars().count() <= 64);
            prop_assert!(!read.chars().any(char::is_control));
        }
        if let Ok(reason) = Reason::parse(&text) {
            prop_assert_eq!(reason.as_str(), &text);
        }
    }

    #[test]
    fn a_refused_name_is_shown_without_what_made_it_dangerous(text in "\\PC{0,3}[\\p{Cc}\\p{Cf}]\\PC{0,70}") {
        let error = GroupName::parse(&text).unwrap_err().to_string();
        prop_assert!(error.is_ascii(), "{}", error);
    }

    #[test]
    fn small_texts_never_panic(text in any::<String>()) {
        let _ = text.parse::<Ttl>();
        let _ = text.parse::<Firmware>();
        let _ = text.parse::<Slot>();
    }

    #[test]
    fn lifetimes_are_read_back(seconds in 600..=86_400_u64) {
        let ttl = Ttl::from_secs(seconds).unwrap();
        prop_assert_eq!(ttl.to_string().parse::<Ttl>(), Ok(ttl));
    }

    #[test]
    fn any_draft_is_read_back(
        groups in vec("[a-z:]{1,20}", 1..33),
        reason in "[ -~]{0,50}",
        seconds in 600..=86_400_u64,
        nonce in any::<[u8; 32]>(),
        issued_at in 0..4_000_000_000_i64,
    ) {
        let groups: Vec<GroupName> = groups.iter().filter_map(|name| GroupName::parse(name).ok()).collect();
        prop_assume!(!groups.is_empty());
        let draft = Draft {
            groups: groups.clone(),
            claims: Claims {
                reason: Reason::parse(reason.trim()).unwrap(),
                ttl: Ttl::from_secs(seconds).unwrap(),
                nonce,
                issued_at: jiff::Timestamp::from_second(issued_at).unwrap(),
                ..claims()
            },
            ..full_draft()
        };
        let read = Request::from_der(&draft.sign(&*KEY).unwrap()).unwrap();
        let mut groups = groups;
        groups.sort();
        groups.dedup();
        prop_assert_eq!(read.groups(), groups);
        prop_assert_eq!(read.claims(), &draft.claims);
    }
}
