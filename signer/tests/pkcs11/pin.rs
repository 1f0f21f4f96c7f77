//! PINs that are wrong, and PIN files that others can read.

use crate::{
    made, plan, refused, settings, signs,
    softhsm::{MODULE, PIN, SoftHsm, run, write_private},
    tokens,
};
use cryptoki::context::Pkcs11;
use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};
use touchstone_common::key::KeyAlgorithm;
use touchstone_signer::ca::key::TokenError;

/// Counted by what must not happen: the PIN that was wrong becomes right, and is not tried.
#[test]
fn a_wrong_pin_costs_one_try_until_its_file_changes_also_after_a_restart() {
    let test = "pin::a_wrong_pin_costs_one_try_until_its_file_changes_also_after_a_restart";
    let Some(hsm) = SoftHsm::alone(test) else {
        return;
    };
    let token = hsm.token("hsm");
    let source = made(&token, KeyAlgorithm::P256);
    let wrong = "999999";
    write_private(token.pin_file(), wrong);
    let data = hsm.folder().join("data");
    fs::create_dir(&data).unwrap();
    let signer = || tokens(&token).remembering_in(&data);
    let first = signer();
    let error = refused(source.open(&first));
    assert!(matches!(error, TokenError::PinRefused { .. }), "{error}");
    assert!(!error.is_retriable() && !error.to_string().contains(wrong));
    let change_pin = |from: &str, to: &str| {
        let mut tool = Command::new("pkcs11-tool");
        tool.args([
            "--module",
            MODULE,
            "--token-label",
            "hsm",
            "--login",
            "--pin",
            from,
        ]);
        run(tool.args(["--change-pin", "--new-pin", to]));
    };
    change_pin(PIN, wrong);
    // SoftHSM knows the new one when it is begun anew.
    Pkcs11::new(MODULE).unwrap().finalize().unwrap();
    for again in [first, signer()] {
        let error = refused(source.open(&again));
        assert!(
            matches!(error, TokenError::PinRefusedBefore { .. }),
            "{error}"
        );
        let error = refused(source.destroy(&again));
        assert!(
            matches!(error, TokenError::PinRefusedBefore { .. }),
            "{error}"
        );
    }
    let kept = fs::read_to_string(data.join("refused-pins.json")).unwrap();
    assert!(!kept.contains(wrong), "{kept}");
    write_private(token.pin_file(), wrong);
    signs(&*source.open(&signer()).unwrap());
    assert_eq!(
        fs::read_to_string(data.join("refused-pins.json")).unwrap(),
        "{}"
    );
}

#[test]
fn a_pin_in_a_file_that_others_can_read_or_that_is_not_there_reaches_no_token() {
    let test = "pin::a_pin_in_a_file_that_others_can_read_or_that_is_not_there_reaches_no_token";
    let Some(hsm) = SoftHsm::alone(test) else {
        return;
    };
    let token = hsm.token("hsm");
    let source = made(&token, KeyAlgorithm::P256);
    fs::set_permissions(token.pin_file(), fs::Permissions::from_mode(0o644)).unwrap();
    let error = refused(source.open(&tokens(&token)));
    assert!(error.remedy().starts_with("chmod 600 /"), "{error}");
    fs::remove_file(token.pin_file()).unwrap();
    let error = refused(source.open(&tokens(&token)));
    assert!(matches!(error, TokenError::Pin(_)), "{error}");
    let error = refused(plan(&settings(&token)));
    assert!(
        matches!(error, TokenError::Pin(_)),
        "nothing is planned: {error}"
    );
}
