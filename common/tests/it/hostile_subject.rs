//! Subjects as an attacker would write them: what Go, a person or another reader could take for someone else.

use crate::{
    der::{
        BMP_STRING, IA5_STRING, OCTET_STRING, PRINTABLE_STRING, TELETEX_STRING, UTF8_STRING, cn, o,
        oid, pair, rdn, sequence, set, tlv,
    },
    request::{Parts, groups, is_der_error, name_error},
};
use touchstone_common::{csr::CsrError, name::NameError};

#[test]
fn two_common_names_are_refused_because_go_takes_the_last() {
    let parts = Parts::subject(&[&cn("alice"), &o("dev"), &cn("root")]);
    assert_eq!(parts.refusal(), CsrError::CommonNames(2));
    assert_eq!(
        Parts::subject(&[&o("dev")]).refusal(),
        CsrError::CommonNames(0)
    );
    assert_eq!(Parts::subject(&[]).refusal(), CsrError::CommonNames(0));
}

#[test]
fn a_bmp_string_that_go_decodes_to_system_masters_is_refused() {
    let utf16: Vec<u8> = "system:masters"
        .encode_utf16()
        .flat_map(u16::to_be_bytes)
        .collect();
    let parts = Parts::subject(&[&cn("alice"), &rdn("2.5.4.10", BMP_STRING, &utf16)]);
    assert_eq!(parts.refusal(), CsrError::StringType("O"));
    let parts = Parts::subject(&[&rdn("2.5.4.3", BMP_STRING, &utf16), &o("dev")]);
    assert_eq!(parts.refusal(), CsrError::StringType("CN"));
}

#[test]
fn other_string_types_are_refused() {
    for tag in [TELETEX_STRING, IA5_STRING, 0x12, 0x1a, 0x1b, OCTET_STRING] {
        let parts = Parts::subject(&[&cn("alice"), &rdn("2.5.4.10", tag, b"dev")]);
        assert_eq!(parts.refusal(), CsrError::StringType("O"), "{tag:#x}");
    }
    // UniversalString is no tag that the reader knows at all.
    let parts = Parts::subject(&[&cn("alice"), &rdn("2.5.4.10", 0x1c, b"\0\0\0d")]);
    assert!(is_der_error(&parts));
}

#[test]
fn a_printable_string_with_other_characters_is_refused() {
    for value in [&b"a@b"[..], b"a*b", b"a_b", &[0xc3, 0xa9], b"a\0b"] {
        let parts = Parts::subject(&[&cn("alice"), &rdn("2.5.4.10", PRINTABLE_STRING, value)]);
        assert_eq!(parts.refusal(), CsrError::StringType("O"));
    }
}

#[test]
fn bytes_that_are_not_utf8_are_refused() {
    for value in [
        &[0xff][..],
        &[0xc0, 0xaf],
        &[0xed, 0xa0, 0x80],
        &[0xf4, 0x90, 0x80, 0x80],
    ] {
        let parts = Parts::subject(&[&cn("alice"), &rdn("2.5.4.10", UTF8_STRING, value)]);
        assert_eq!(parts.refusal(), CsrError::StringType("O"));
    }
}

#[test]
fn a_nul_in_a_name_is_refused() {
    let error = name_error(&groups(&["dev\0:masters"]));
    assert_eq!(
        error.to_string(),
        "has U+0000 (a control character) at character 4"
    );
}

#[test]
fn a_bidirectional_control_is_named_with_its_place_and_never_echoed() {
    let refusal = groups(&["dev", "abcdef\u{202e}x"]).refusal().to_string();
    assert_eq!(
        refusal,
        r#"the group "abcdef\u{202e}x" has U+202E (a bidirectional control) at character 7"#
    );
}

#[test]
fn zero_width_decomposed_and_spaced_names_are_refused() {
    assert!(matches!(
        name_error(&groups(&["de\u{200b}v"])),
        NameError::Character { position: 3, .. }
    ));
    assert_eq!(name_error(&groups(&["Zoe\u{308}"])), NameError::NotNfc);
    assert_eq!(name_error(&groups(&["a  b"])), NameError::DoubledSpace(2));
    assert_eq!(name_error(&groups(&[" dev"])), NameError::EdgeSpace);
    assert_eq!(name_error(&groups(&["dev "])), NameError::EdgeSpace);
    assert_eq!(name_error(&groups(&[""])), NameError::Empty);
}

#[test]
fn system_masters_is_refused_as_a_group_and_as_a_user_in_every_spelling() {
    for name in ["system:masters", "SYSTEM:masters", "ｓｙｓｔｅｍ：masters"] {
        assert_eq!(name_error(&groups(&["dev", name])), NameError::System);
        let parts = Parts::subject(&[&cn(name), &o("dev")]);
        assert_eq!(name_error(&parts), NameError::System);
    }
}

#[test]
fn a_name_of_65_characters_is_refused() {
    let long = "a".repeat(65);
    assert!(matches!(
        name_error(&groups(&[&long])),
        NameError::TooLong { length: 65, .. }
    ));
    let parts = Parts::subject(&[&cn(&long), &o("dev")]);
    assert!(matches!(name_error(&parts), NameError::TooLong { .. }));
}

#[test]
fn no_group_and_33_groups_are_refused() {
    let names: Vec<String> = (0..33).map(|number| format!("group-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(groups(&names[..32]).read().unwrap().groups().len(), 32);
    assert_eq!(groups(&names).refusal(), CsrError::Groups(33));
    assert_eq!(groups(&[]).refusal(), CsrError::Groups(0));
}

#[test]
fn the_same_group_twice_is_refused() {
    assert_eq!(
        groups(&["dev", "ops", "dev"]).refusal(),
        CsrError::DuplicateGroup("\"dev\"".into())
    );
}

#[test]
fn the_oid_that_kubernetes_reads_as_the_uid_is_refused() {
    let uid = "1.3.6.1.4.1.57683.2";
    let parts = Parts::subject(&[&cn("alice"), &o("dev"), &rdn(uid, UTF8_STRING, b"1234")]);
    assert_eq!(
        parts.refusal(),
        CsrError::SubjectAttribute(uid.parse().unwrap())
    );
}

#[test]
fn any_other_subject_attribute_is_refused() {
    for dotted in [
        "2.5.4.11",
        "2.5.4.6",
        "2.5.4.5",
        "1.2.840.113549.1.9.1",
        "0.9.2342.19200300.100.1.1",
    ] {
        let parts = Parts::subject(&[&cn("alice"), &o("dev"), &rdn(dotted, UTF8_STRING, b"x")]);
        assert_eq!(
            parts.refusal(),
            CsrError::SubjectAttribute(dotted.parse().unwrap())
        );
    }
}

#[test]
fn a_multi_valued_rdn_is_refused() {
    let both = set(&[
        &pair("2.5.4.3", UTF8_STRING, b"alice"),
        &pair("2.5.4.10", UTF8_STRING, b"dev"),
    ]);
    assert_eq!(Parts::subject(&[&both]).refusal(), CsrError::MultiValuedRdn);
    assert!(is_der_error(&Parts::subject(&[
        &cn("alice"),
        &o("dev"),
        &set(&[])
    ])));
}

#[test]
fn an_attribute_with_a_third_field_is_refused() {
    let three = set(&[&sequence(&[
        &oid("2.5.4.10"),
        &tlv(UTF8_STRING, b"dev"),
        &tlv(UTF8_STRING, b"system:masters"),
    ])]);
    assert!(is_der_error(&Parts::subject(&[&cn("alice"), &three])));
}

#[test]
fn a_group_of_touchstones_own_is_refused_in_every_spelling() {
    for name in [
        "touchstone:grant:0123456789abcdef0123456789abcdef",
        "Touchstone:grant:x",
        "ｔｏｕｃｈｓｔｏｎｅ:x",
        "touchstone：signer",
    ] {
        assert_eq!(
            name_error(&groups(&[name])),
            NameError::Touchstone,
            "{name}"
        );
    }
}
