//! Keys that somebody else made in the token, under ids that a record names.

use crate::{
    ID, foreign, refused, signs,
    softhsm::{MODULE, PIN, SoftHsm, Token},
    tokens,
};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::Attribute,
    session::UserType,
    types::RawAuthPin,
};
use touchstone_signer::ca::key::{KeySource, TokenError};

/// Somebody else makes a key, under an id that a record names.
fn make_foreign(token: &Token, change: &[Attribute]) -> KeySource {
    let pkcs11 = Pkcs11::new(MODULE).unwrap();
    // Who comes second is told so.
    let _ = pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    let slot = pkcs11
        .get_slots_with_initialized_token()
        .unwrap()
        .into_iter()
        .find(|slot| pkcs11.get_token_info(*slot).unwrap().label() == token.label())
        .unwrap();
    let session = pkcs11.open_rw_session(slot).unwrap();
    let pin = RawAuthPin::new(Box::new(PIN.as_bytes().to_vec()));
    session.login_with_raw(UserType::User, &pin).unwrap();
    let usual = |usual: Vec<Attribute>| {
        let kind = |attribute: &Attribute| attribute.attribute_type();
        usual
            .into_iter()
            .map(|one| {
                let changed = change.iter().find(|other| kind(other) == kind(&one));
                changed.cloned().unwrap_or(one)
            })
            .collect::<Vec<_>>()
    };
    let id = Attribute::Id(hex::decode(ID).unwrap());
    let p256 = hex::decode("06082a8648ce3d030107").unwrap();
    let public = usual(vec![
        Attribute::Token(true),
        Attribute::EcParams(p256),
        Attribute::Verify(true),
        id.clone(),
    ]);
    let private = usual(vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Derive(false),
        Attribute::Unwrap(false),
        id,
    ]);
    session
        .generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)
        .unwrap();
    foreign(token)
}

#[test]
fn a_key_that_can_leave_the_token_or_do_more_than_sign_is_not_signed_with() {
    let test = "foreign::a_key_that_can_leave_the_token_or_do_more_than_sign_is_not_signed_with";
    let Some(hsm) = SoftHsm::alone(test) else {
        return;
    };
    let secp256k1 = hex::decode("06052b8104000a").unwrap();
    let changes = [
        (Attribute::Extractable(true), "CKA_EXTRACTABLE"),
        (Attribute::Sensitive(false), "not CKA_SENSITIVE"),
        (Attribute::Sign(false), "not CKA_SIGN"),
        (Attribute::Derive(true), "CKA_DERIVE"),
        (Attribute::Decrypt(true), "CKA_DECRYPT"),
        (Attribute::Unwrap(true), "CKA_UNWRAP"),
        (Attribute::EcParams(secp256k1), "1.3.132.0.10"),
    ];
    let made: Vec<Token> = (0..=changes.len())
        .map(|number| hsm.token(&format!("hsm-{number}")))
        .collect();
    let (control, made) = made.split_first().unwrap();
    let source = make_foreign(control, &[]);
    signs(&*source.open(&tokens(control)).unwrap());
    for (token, (change, expected)) in made.iter().zip(changes) {
        let source = make_foreign(token, &[change]);
        let error = refused(source.open(&tokens(token)));
        let TokenError::KeyUnfit { why, .. } = &error else {
            panic!("{expected}: {error}")
        };
        assert!(why.contains(expected), "{expected}: {error}");
        assert!(!error.is_retriable());
    }
}

#[test]
fn of_two_keys_with_one_id_none_is_taken() {
    let Some(hsm) = SoftHsm::alone("foreign::of_two_keys_with_one_id_none_is_taken") else {
        return;
    };
    let token = hsm.token("hsm");
    for _ in 0..2 {
        make_foreign(&token, &[]);
    }
    let error = refused(foreign(&token).open(&tokens(&token)));
    assert!(
        matches!(error, TokenError::KeysAlike { count: 2, .. }),
        "{error}"
    );
    foreign(&token).destroy(&tokens(&token)).unwrap();
    assert!(token.private_keys().is_empty());
}
