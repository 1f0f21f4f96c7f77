//! CA keys in a token: SoftHSM, looked at and meddled with by pkcs11-tool.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that panics has failed"
)]

#[path = "pkcs11/foreign.rs"]
mod foreign;
#[path = "pkcs11/pin.rs"]
mod pin;
#[path = "pkcs11/remote.rs"]
mod remote;
#[path = "../../tests/src/softhsm.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the end-to-end suites use it, too"
)]
mod softhsm;

use cryptoki::context::Pkcs11;
use jiff::Timestamp;
use serde_json::json;
use softhsm::{MODULE, PIN, SoftHsm, Token, run, write_private};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};
use touchstone_common::key::KeyAlgorithm;
use touchstone_signer::{
    ca::{
        CaError, bootstrap,
        key::{
            CaKey, CaKeyError, KeyPlace, KeyPlan, KeySource, SecretFile, TokenError, TokenSettings,
            Tokens,
        },
        lifecycle::CaId,
        settings::CaSettings,
    },
    data_dir::DataDir,
};

fn settings(token: &Token) -> TokenSettings {
    TokenSettings {
        module: MODULE.into(),
        token: token.label().into(),
        serial: None,
        pin: SecretFile {
            file: token.pin_file().into(),
        },
    }
}

fn tokens(token: &Token) -> Tokens {
    Tokens::new(vec![settings(token)])
}

fn plan(settings: &TokenSettings) -> Result<KeyPlan, CaKeyError> {
    let tokens = Tokens::new(vec![settings.clone()]);
    KeyPlace::Pkcs11(settings.clone()).plan(CaId::FIRST, &tokens)
}

fn made(token: &Token, algorithm: KeyAlgorithm) -> KeySource {
    let plan = plan(&settings(token)).unwrap();
    plan.generate(algorithm, &tokens(token)).unwrap()
}

/// A key that somebody else put into the token, as a record would name it.
fn foreign(token: &Token) -> KeySource {
    let source = json!({ "pkcs11": {
        "token": token.label(), "serial": token.serial(), "id": ID, "label": "touchstone ca-1",
    } });
    serde_json::from_value(source).unwrap()
}

fn token_error(error: CaKeyError) -> TokenError {
    match error {
        CaKeyError::Token(error) => error,
        other => panic!("{other}"),
    }
}

fn refused(result: Result<impl Sized, CaKeyError>) -> TokenError {
    token_error(result.err().expect("it is refused"))
}

fn signs(key: &dyn CaKey) {
    for message in [&b"message"[..], b"", &[7; 5000]] {
        let signature = key.sign(message).unwrap();
        let public = key.public_key();
        public
            .verify(public.signature_algorithm(), message, &signature)
            .unwrap();
    }
}

const ID: &str = "00112233445566778899aabbccddeeff";

#[test]
fn a_key_is_made_in_the_token_signs_there_and_never_leaves_it() {
    let Some(hsm) = SoftHsm::alone("a_key_is_made_in_the_token_signs_there_and_never_leaves_it")
    else {
        return;
    };
    let token = hsm.token("hsm");
    for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::P384] {
        let source = made(&token, algorithm);
        let key = source.open(&tokens(&token)).unwrap();
        assert_eq!(key.public_key().algorithm(), algorithm);
        signs(&*key);

        let [shown] = &*token.private_keys() else {
            panic!("one key")
        };
        assert_eq!(
            shown.access,
            "sensitive, always sensitive, never extractable, local"
        );
        assert_eq!(shown.usage, "sign");
        assert_eq!(shown.label, "touchstone ca-1");
        assert!(source.to_string().contains(&shown.id), "{source}");
        let out = hsm.folder().join("stolen");
        let mut steal = token.tool();
        steal.args(["--read-object", "--type", "privkey", "--id", &shown.id]);
        let stolen = steal.arg("--output-file").arg(&out).output().unwrap();
        let bytes = fs::read(&out).unwrap_or_default();
        assert!(!stolen.status.success() || bytes.is_empty());

        source.destroy(&tokens(&token)).unwrap();
        assert!(token.private_keys().is_empty() && token.public_keys().is_empty());
        source.destroy(&tokens(&token)).unwrap();
        let error = refused(source.open(&tokens(&token)));
        assert!(matches!(error, TokenError::KeyMissing { .. }), "{error}");
    }
}

#[test]
fn a_record_says_where_a_key_is_and_neither_which_code_to_load_nor_any_pin() {
    let test = "a_record_says_where_a_key_is_and_neither_which_code_to_load_nor_any_pin";
    let Some(hsm) = SoftHsm::alone(test) else {
        return;
    };
    let token = hsm.token("hsm");
    let source = made(&token, KeyAlgorithm::P256);
    let json = serde_json::to_string(&source).unwrap();
    assert!(!json.contains(".so") && !json.contains(PIN) && !json.contains("pin"));
    assert_eq!(serde_json::from_str::<KeySource>(&json).unwrap(), source);
    let error = refused(source.open(&Tokens::default()));
    assert!(matches!(error, TokenError::TokenUnnamed { .. }), "{error}");
    let shown = format!("{:?} {source:?}", tokens(&token));
    assert!(!shown.contains(PIN), "{shown}");
}

/// A broken HSM, or one whose public key was swapped: nothing that it signs goes out.
#[test]
fn a_signature_that_does_not_verify_never_leaves_the_signer() {
    let Some(hsm) = SoftHsm::alone("a_signature_that_does_not_verify_never_leaves_the_signer")
    else {
        return;
    };
    let token = hsm.token("hsm");
    let source = made(&token, KeyAlgorithm::P256);
    let id = token.private_keys().remove(0).id;
    run(token
        .tool()
        .args(["--delete-object", "--type", "pubkey", "--id", &id]));
    let other = hsm.folder().join("other.der");
    let [private, public] = ["other.pem", "other.der"].map(|name| hsm.folder().join(name));
    run(Command::new("openssl")
        .args([
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
        ])
        .arg(&private));
    run(Command::new("openssl")
        .args(["pkey", "-pubout", "-outform", "DER", "-in"])
        .arg(&private)
        .arg("-out")
        .arg(&public));
    let mut write = token.tool();
    write.args(["--write-object"]).arg(&other);
    run(write.args(["--type", "pubkey", "--usage-sign", "--id", &id]));
    let key = source.open(&tokens(&token)).unwrap();
    let error = refused(key.sign(b"message"));
    assert!(matches!(error, TokenError::BadSignature { .. }), "{error}");
    assert!(!error.is_retriable());
}

#[test]
fn what_is_no_module_is_named_as_such() {
    let Some(hsm) = SoftHsm::alone("what_is_no_module_is_named_as_such") else {
        return;
    };
    let token = hsm.token("hsm");
    let with = |module: &Path| {
        let module = module.into();
        refused(plan(&TokenSettings {
            module,
            ..settings(&token)
        }))
    };
    let error = with(Path::new("/nowhere/module.so"));
    assert!(matches!(error, TokenError::ModuleMissing { .. }), "{error}");
    let text = hsm.folder().join("text.so");
    write_private(&text, "no library");
    // A library that is not PKCS#11: the C library's own.
    let library = fs::read_to_string("/proc/self/maps").unwrap();
    let library = library
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .find(|path| path.contains("/libc.so") || path.contains("/libc-"))
        .map(PathBuf::from)
        .unwrap();
    for unusable in [&*text, &library, hsm.folder()] {
        let error = with(unusable);
        assert!(
            matches!(
                error,
                TokenError::ModuleUnusable { .. } | TokenError::ModuleExposed { .. }
            ),
            "{error}"
        );
        assert!(!error.is_retriable());
    }
    let exposed = hsm.folder().join("exposed.so");
    fs::copy(MODULE, &exposed).unwrap();
    fs::set_permissions(&exposed, fs::Permissions::from_mode(0o777)).unwrap();
    let error = with(&exposed);
    assert!(matches!(error, TokenError::ModuleExposed { .. }), "{error}");
}

#[test]
fn a_token_that_is_not_there_may_come_and_of_two_with_one_label_none_is_guessed() {
    let test = "a_token_that_is_not_there_may_come_and_of_two_with_one_label_none_is_guessed";
    let Some(hsm) = SoftHsm::alone(test) else {
        return;
    };
    let token = hsm.token("hsm");
    let _twin = hsm.token("hsm");
    let absent = TokenSettings {
        token: "elsewhere".into(),
        ..settings(&token)
    };
    let error = refused(plan(&absent));
    assert!(matches!(error, TokenError::TokenMissing { .. }), "{error}");
    assert!(error.is_retriable());

    let error = refused(plan(&settings(&token)));
    assert!(
        matches!(error, TokenError::TokensAlike { count: 2, .. }),
        "{error}"
    );
    assert!(error.remedy().contains("serial"), "{}", error.remedy());
    let named = TokenSettings {
        serial: Some(token.serial()),
        ..settings(&token)
    };
    let plan = plan(&named).unwrap();
    let source = plan.generate(KeyAlgorithm::P256, &tokens(&token)).unwrap();
    // A key knows which of the two it is in.
    signs(&*source.open(&tokens(&token)).unwrap());
}

#[test]
fn a_token_that_was_made_anew_is_another_and_its_keys_are_gone() {
    let Some(hsm) = SoftHsm::alone("a_token_that_was_made_anew_is_another_and_its_keys_are_gone")
    else {
        return;
    };
    let token = hsm.token("hsm");
    let source = made(&token, KeyAlgorithm::P256);
    let key = source.open(&tokens(&token)).unwrap();
    signs(&*key);
    token.delete();
    let token = hsm.token("hsm");
    let error = refused(key.sign(b"message"));
    assert!(error.is_retriable(), "it may be plugged in again: {error}");
    let error = refused(source.open(&tokens(&token)));
    assert!(matches!(error, TokenError::TokenMissing { .. }), "{error}");
    assert!(error.remedy().contains("made anew"), "{}", error.remedy());
    refused(source.destroy(&tokens(&token)));
    signs(
        &*made(&token, KeyAlgorithm::P256)
            .open(&tokens(&token))
            .unwrap(),
    );
}

#[test]
fn a_key_finds_its_token_again_after_every_session_was_lost() {
    let Some(hsm) = SoftHsm::alone("a_key_finds_its_token_again_after_every_session_was_lost")
    else {
        return;
    };
    let token = hsm.token("hsm");
    let (one, other) = (
        made(&token, KeyAlgorithm::P256),
        made(&token, KeyAlgorithm::P384),
    );
    let [one, other] = [&one, &other].map(|source| source.open(&tokens(&token)).unwrap());
    signs(&*one);
    // Another part of the process ends the module.
    Pkcs11::new(MODULE).unwrap().finalize().unwrap();
    signs(&*one);
    signs(&*other);
}

#[test]
fn many_threads_sign_with_one_key_at_once() {
    let Some(hsm) = SoftHsm::alone("many_threads_sign_with_one_key_at_once") else {
        return;
    };
    let token = hsm.token("hsm");
    let source = made(&token, KeyAlgorithm::P256);
    let key = source.open(&tokens(&token)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10).for_each(|_| signs(&*key)));
            scope.spawn(|| signs(&*source.open(&tokens(&token)).unwrap()));
        }
    });
}

#[test]
fn the_first_ca_of_a_data_directory_has_its_key_in_the_token_whatever_an_earlier_start_left() {
    let test =
        "the_first_ca_of_a_data_directory_has_its_key_in_the_token_whatever_an_earlier_start_left";
    let Some(hsm) = SoftHsm::alone(test) else {
        return;
    };
    let token = hsm.token("hsm");
    let data = DataDir::open(&hsm.folder().join("data")).unwrap();
    // It noted where its key will be, made it, and died.
    let left = made(&token, KeyAlgorithm::P256);
    let half = data.file("ca.new").join("issuing");
    fs::create_dir_all(&half).unwrap();
    let note = serde_json::to_vec(&left).unwrap();
    fs::write(half.join("key.json"), &note).unwrap();
    let settings = CaSettings {
        algorithm: KeyAlgorithm::P384,
        ..CaSettings::usual(KeyPlace::Pkcs11(settings(&token)))
    };
    let now = Timestamp::now();
    let founded = bootstrap::open_as(&data, &settings, now).unwrap();
    let [key] = &*token.private_keys() else {
        panic!("one key")
    };
    assert!(!left.to_string().contains(&key.id));
    assert!(!data.file("ca/issuing/key.pem").exists());
    let certificate = founded.issuing().certificate();
    assert_eq!(certificate.public_key().algorithm(), KeyAlgorithm::P384);
    let again = bootstrap::open_as(&data, &settings, now).unwrap();
    assert_eq!(
        again.issuing().fingerprint(),
        founded.issuing().fingerprint()
    );

    // Another key under the CA's name is not signed with.
    let other = made(&token, KeyAlgorithm::P384);
    fs::write(
        data.file("ca/issuing/key.json"),
        serde_json::to_vec(&other).unwrap(),
    )
    .unwrap();
    let error = bootstrap::open_as(&data, &settings, now).unwrap_err();
    assert!(matches!(error, CaError::Mismatch { .. }), "{error}");

    // A note that was cut off comes from before the key.
    let cut = DataDir::open(&hsm.folder().join("cut")).unwrap();
    let half = cut.file("ca.new").join("issuing");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("key.json"), note.get(..20).unwrap()).unwrap();
    bootstrap::open_as(&cut, &settings, now).unwrap();
}
