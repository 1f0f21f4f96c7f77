//! CA keys in a token: SoftHSM, looked at and meddled with by pkcs11-tool.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that panics has failed"
)]

#[path = "../../tests/src/softhsm.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the end-to-end suites use it, too"
)]
mod softhsm;

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::Attribute,
    session::UserType,
    types::RawAuthPin,
};
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use softhsm::{MODULE, PIN, SoftHsm, Token, run, write_private};
use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command},
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
    let test = "a_key_that_can_leave_the_token_or_do_more_than_sign_is_not_signed_with";
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
    let Some(hsm) = SoftHsm::alone("of_two_keys_with_one_id_none_is_taken") else {
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

/// Counted by what must not happen: the PIN that was wrong becomes right, and is not tried.
#[test]
fn a_wrong_pin_costs_one_try_until_its_file_changes_also_after_a_restart() {
    let test = "a_wrong_pin_costs_one_try_until_its_file_changes_also_after_a_restart";
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
    let test = "a_pin_in_a_file_that_others_can_read_or_that_is_not_there_reaches_no_token";
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

/// SoftHSM behind a socket, as in a pod beside the signer's.
struct Server(Child);

impl Server {
    fn start(hsm: &SoftHsm) -> Self {
        let socket = hsm.folder().join("p11-kit");
        let _ = fs::remove_file(&socket);
        let server = Command::new("p11-kit")
            .args(["server", "--foreground", "--provider", MODULE, "--name"])
            .arg(&socket)
            .arg("pkcs11:")
            // It has a process for each client.
            .process_group(0)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !socket.exists() {
            assert!(std::time::Instant::now() < end, "p11-kit does not start");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Self(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.0);
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.0.wait();
    }
}

#[test]
fn a_token_behind_a_socket_is_found_again_when_its_server_was_away() {
    let Some(hsm) =
        SoftHsm::alone("a_token_behind_a_socket_is_found_again_when_its_server_was_away")
    else {
        return;
    };
    let client = fs::read_dir("/usr/lib")
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path().join("pkcs11/p11-kit-client.so")))
        .find(|path| path.exists())
        .expect("p11-kit-modules: scripts/setup test installs it");
    let token = hsm.token("hsm");
    let remote = TokenSettings {
        module: client,
        ..settings(&token)
    };
    let tokens = Tokens::new(vec![remote.clone()]);
    let server = Server::start(&hsm);
    let plan = plan(&remote).unwrap();
    let source = plan.generate(KeyAlgorithm::P256, &tokens).unwrap();
    let key = source.open(&tokens).unwrap();
    signs(&*key);
    drop(server);
    let error = refused(key.sign(b"message"));
    assert!(error.is_retriable(), "{error}");
    let _server = Server::start(&hsm);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while let Err(error) = key.sign(b"message") {
        assert!(error.is_retriable(), "{error}");
        assert!(std::time::Instant::now() < end, "{error}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    signs(&*key);
}
