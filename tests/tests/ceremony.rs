//! The root's ceremonies with a virtual YubiKey: one touch each, certificates that openssl accepts, and nothing left
//! behind by one that did not take place.

#[path = "ceremony/faults.rs"]
mod faults;

use std::{fs, path::Path, process::Command};
use touchstone_common::{
    ceremony::IssuingRequest,
    csr,
    key::{KeyAlgorithm, SoftwareKey},
    name::AuthorityName,
};
use touchstone_tests::{
    engineer::{Engineer, PIN, Ran},
    pcscd::Options,
    pty::{CTRL_C, Session},
};

/// Exit codes of docs/exit-codes.md.
mod exit {
    pub(crate) const OTHER: i32 = 1;
    pub(crate) const CARD: i32 = 4;
    pub(crate) const PIN: i32 = 5;
    pub(crate) const TOUCH: i32 = 6;
    pub(crate) const SLOT_OCCUPIED: i32 = 11;
    pub(crate) const FACTORY_SECRETS: i32 = 12;
    pub(crate) const CEREMONY: i32 = 18;
    pub(crate) const INTERRUPTED: i32 = 130;
}

const ROOT_PLAN: &str = "\
apiVersion: touchstone.dev/v1
kind: Ceremony
makes: root
subject: Example Root 1
validityDays: 3650
pathLength: 1
present:
  - { name: Alice Example, role: key holder }
  - { name: Bob Example, role: witness }
";

/// The security team: its card, and the files of its ceremonies.
struct Team(Engineer);

impl Team {
    fn new() -> Self {
        let engineer = Engineer::new("alice@example.com", &Options::default());
        engineer.set_up();
        let team = Self(engineer);
        team.write("root.yaml", ROOT_PLAN);
        team
    }

    fn with_root() -> Self {
        let team = Self::new();
        team.init(&[]).succeeded();
        team.request("issuing.csr", "Example Issuing 1");
        team.plan(ISSUING, 120);
        team
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.file(name), text).expect("write a document");
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.0.file(name)).expect("read a document")
    }

    fn request(&self, file: &str, name: &str) {
        let key = SoftwareKey::generate(KeyAlgorithm::P256).expect("a key");
        let name = AuthorityName::parse(name).expect("a name");
        let der = IssuingRequest::sign(&name, &key).expect("a request");
        self.write(file, &csr::to_pem(&der));
    }

    fn plan(&self, subject: &str, days: u32) {
        let root = self.openssl(&[
            "x509",
            "-noout",
            "-fingerprint",
            "-sha256",
            "-in",
            "root.pem",
        ]);
        let digest = root.split('=').nth(1).expect("a fingerprint").trim();
        let digest = digest.replace(':', "").to_lowercase();
        self.write(
            "issuing.yaml",
            &format!(
                "apiVersion: touchstone.dev/v1\nkind: Ceremony\nmakes: issuing-ca\nsubject: {subject}\n\
                 validityDays: {days}\npathLength: 0\nextendedKeyUsage: [clientAuth]\n\
                 root: \"sha256:{digest}\"\npresent:\n  - {{ name: Alice Example, role: key holder }}\n"
            ),
        );
    }

    fn command(&self, arguments: &[&str], further: &[&str]) -> Command {
        let root = self.0.path_text("attestation-root.pem");
        let mut all: Vec<String> = vec!["ca".to_owned()];
        // What names a file here stands in the home folder.
        for text in arguments.iter().chain(further) {
            let file = text.contains('.') && !text.starts_with('-');
            all.push(if file {
                self.0.path_text(text)
            } else {
                (*text).to_owned()
            });
        }
        all.extend(["--attestation-root".to_owned(), root]);
        self.0.touchstone(all)
    }

    fn with_pin(&self, arguments: &[&str], further: &[&str]) -> Ran {
        let pin = self.0.path_text("pin");
        Ran::of(
            self.command(arguments, further)
                .args(["--yes", "--pin-file", &pin]),
        )
    }

    fn init(&self, further: &[&str]) -> Ran {
        self.with_pin(INIT, further)
    }

    fn sign(&self, further: &[&str]) -> Ran {
        self.with_pin(SIGN, further)
    }

    /// With a root in a file: no card is asked, so no root of one is needed.
    fn software(&self, arguments: &[&str]) -> Ran {
        let further = ["--passphrase-file", "root.passphrase"];
        self.0.secret("root.passphrase", PASSPHRASE);
        self.software_asked(&[arguments, &further].concat())
    }

    fn software_asked(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.software_command(arguments))
    }

    fn software_command(&self, arguments: &[&str]) -> Command {
        let further = ["--insecure-software-root", "root.key"];
        let mut all: Vec<String> = vec!["ca".to_owned()];
        for text in arguments.iter().chain(&further) {
            let file = text.contains('.');
            all.push(if file {
                self.0.path_text(text)
            } else {
                (*text).to_owned()
            });
        }
        all.push("--yes".to_owned());
        self.0.touchstone(all)
    }

    fn touches(&self) -> u32 {
        self.0
            .yubikey()
            .control("touches")
            .parse()
            .expect("a number")
    }

    fn openssl(&self, arguments: &[&str]) -> String {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.0.file(""))
            .output()
            .expect("run openssl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        text
    }

    /// Nothing of a signing ceremony is there, not even half written.
    #[track_caller]
    fn assert_no_issuing(&self) {
        for entry in fs::read_dir(self.0.file("")).expect("the home folder") {
            let name = entry.expect("an entry").file_name();
            let name = name.to_string_lossy();
            assert!(
                !name.starts_with(".touchstone-")
                    && ![
                        "issuing.pem",
                        "issuing.record.json",
                        "issuing.attestation.pem"
                    ]
                    .contains(&&*name),
                "{name} was left"
            );
        }
    }
}

const PASSPHRASE: &str = "correct horse battery staple";
const ISSUING: &str = "Example Issuing 1";
const INIT: &[&str] = &["root", "init", "--plan", "root.yaml", "--out", "root.pem"];
const SIGN: &[&str] = &[
    "sign",
    "--request",
    "issuing.csr",
    "--plan",
    "issuing.yaml",
    "--root",
    "root.pem",
    "--out",
    "issuing.pem",
];

#[test]
fn each_ceremony_takes_one_touch_and_openssl_accepts_what_it_makes() {
    let team = Team::new();
    let before = team.touches();
    team.init(&[]).succeeded();
    assert_eq!(team.touches() - before, 1, "one touch for the root");
    let text = team.openssl(&["x509", "-noout", "-text", "-in", "root.pem"]);
    for words in [
        "CA:TRUE, pathlen:1",
        "Certificate Sign, CRL Sign",
        "ecdsa-with-SHA384",
    ] {
        assert!(text.contains(words), "{words} is missing:\n{text}");
    }
    let listed = team.0.run(["key", "list"]).succeeded().stdout;
    assert!(
        listed.contains("Example Root 1"),
        "it is in the slot: {listed}"
    );

    team.request("issuing.csr", ISSUING);
    team.plan(ISSUING, 120);
    let before = team.touches();
    team.sign(&[]).succeeded();
    assert_eq!(team.touches() - before, 1, "one touch for the issuing CA");
    team.openssl(&[
        "verify",
        "-x509_strict",
        "-CAfile",
        "root.pem",
        "issuing.pem",
    ]);
    let text = team.openssl(&["x509", "-noout", "-text", "-in", "issuing.pem"]);
    for words in ["CA:TRUE, pathlen:0", "TLS Web Client Authentication"] {
        assert!(text.contains(words), "{words} is missing:\n{text}");
    }
    let whole = [
        "verify",
        "--record",
        "issuing.record.json",
        "--certificate",
        "issuing.pem",
        "--request",
        "issuing.csr",
        "--plan",
        "issuing.yaml",
        "--root",
        "root.pem",
    ];
    Ran::of(&mut team.command(&whole, &[])).succeeded();
    Ran::of(&mut team.command(&["verify", "--record", "root.record.json"], &[])).succeeded();

    let record = team.text("issuing.record.json");
    team.write("changed.json", &record.replace("Alice", "Mallory"));
    Ran::of(&mut team.command(&["verify", "--record", "changed.json"], &[]))
        .failed(exit::CEREMONY, &["does not verify"]);
}

#[test]
fn documents_that_do_not_fit_together_are_refused_before_any_touch() {
    let team = Team::with_root();
    let before = team.touches();
    team.request("other.csr", "Example Issuing 2");
    let cut = team.text("issuing.csr");
    team.write("cut.csr", cut.get(..cut.len() / 2).expect("half of it"));
    let other = |request: &'static str| {
        let mut arguments = SIGN.to_vec();
        for text in &mut arguments {
            if *text == "issuing.csr" {
                *text = request;
            }
        }
        arguments
    };
    team.with_pin(&other("other.csr"), &[])
        .failed(exit::CEREMONY, &["Example Issuing 2"]);
    team.with_pin(&other("cut.csr"), &[])
        .failed(exit::CEREMONY, &["the request is refused"]);
    team.with_pin(&other("root.pem"), &[])
        .failed(exit::CEREMONY, &["the request is refused"]);

    let plan = team.text("issuing.yaml");
    team.write(
        "issuing.yaml",
        &plan.replace("pathLength: 0", "pathLength: 1"),
    );
    team.sign(&[]).failed(exit::CEREMONY, &["path length"]);
    team.write(
        "issuing.yaml",
        &plan.replace("sha256:", "sha256:0").replace("0\"\n", "\"\n"),
    );
    team.sign(&[]).failed(exit::CEREMONY, &["ceremony file"]);
    team.write("issuing.yaml", ROOT_PLAN);
    team.sign(&[])
        .failed(exit::CEREMONY, &["touchstone ca root init"]);
    assert_eq!(team.touches(), before);
    team.assert_no_issuing();
}

#[test]
fn nothing_is_replaced_and_no_link_is_followed() {
    let team = Team::with_root();
    let root = team.text("root.pem");
    team.init(&["--overwrite"])
        .failed(exit::OTHER, &["already there"]);
    let elsewhere = ["root", "init", "--plan", "root.yaml", "--out", "second.pem"];
    team.with_pin(&elsewhere, &[])
        .failed(exit::SLOT_OCCUPIED, &["Example Root 1", "--overwrite"]);
    assert_eq!(team.text("root.pem"), root);

    let target = team.0.file("target");
    std::os::unix::fs::symlink(&target, team.0.file("issuing.pem")).expect("a link");
    let before = team.touches();
    team.sign(&[]).failed(exit::OTHER, &["already there"]);
    assert!(!Path::new(&target).exists());
    assert_eq!(team.touches(), before);
}

#[test]
fn a_ceremony_that_fails_at_the_card_leaves_no_file() {
    let team = Team::with_root();
    team.0.secret("pin", "999999");
    team.sign(&[]).failed(exit::PIN, &["2 tries left"]);
    team.assert_no_issuing();
    team.0.secret("pin", PIN);

    let card = team.0.yubikey();
    card.control("touch-mode never");
    card.control("touch-timeout 1500");
    team.sign(&[]).failed(exit::TOUCH, &["touch"]);
    team.assert_no_issuing();

    card.control("touch-timeout 20000");
    card.control("touch-mode ask");
    let ran = std::thread::scope(|scope| {
        let sign = scope.spawn(|| team.sign(&[]));
        card.wait_for_touch_request();
        card.control("remove");
        sign.join().expect("it ends")
    });
    ran.failed(exit::CARD, &["pulled out"]);
    team.assert_no_issuing();
}

#[test]
fn what_is_not_confirmed_word_for_word_is_not_signed() {
    let team = Team::with_root();
    let before = team.touches();
    let mut declined = Session::start(&team.command(SIGN, &[]));
    declined.wait_for("Type the name to sign this");
    declined.type_line("yes");
    declined
        .end()
        .with(exit::OTHER, &["120 days", "Alice Example (key holder)"]);
    let mut interrupted = Session::start(&team.command(SIGN, &[]));
    interrupted.wait_for("Type the name to sign this");
    interrupted.type_keys(CTRL_C);
    interrupted.end().with(exit::INTERRUPTED, &[]);
    let dry = Ran::of(&mut team.command(SIGN, &["--dry-run", "--output", "json"])).succeeded();
    assert!(dry.stdout.contains("\"dryRun\": true"), "{dry}");
    assert_eq!(team.touches(), before);
    team.assert_no_issuing();

    let mut confirmed = Session::start(&team.command(SIGN, &[]));
    confirmed.wait_for("Type the name to sign this");
    confirmed.type_line(ISSUING);
    confirmed.answer_hidden("PIN of YubiKey", PIN);
    confirmed.end().with(0, &[]);
    assert_eq!(team.touches() - before, 1);
}

#[test]
fn a_card_with_factory_secrets_gets_no_root() {
    let team = Team(Engineer::new("alice@example.com", &Options::default()));
    team.write("root.yaml", ROOT_PLAN);
    team.init(&[])
        .failed(exit::FACTORY_SECRETS, &["touchstone key setup"]);
    assert!(!team.0.file("root.pem").exists());
}

#[test]
fn a_root_that_nobody_touched_for_is_not_made_and_the_way_on_is_named() {
    let team = Team::new();
    let card = team.0.yubikey();
    card.control("touch-mode never");
    card.control("touch-timeout 1500");
    team.init(&[]).failed(exit::TOUCH, &["--overwrite"]);
    assert!(!team.0.file("root.pem").exists());
    assert!(!team.0.file("root.record.json").exists());
    card.control("touch-mode auto");
    team.init(&["--overwrite"]).succeeded();
}

#[test]
fn a_root_in_a_file_is_under_a_passphrase_that_openssl_takes_too() {
    let team = Team(Engineer::without_card("alice@example.com"));
    team.write("root.yaml", ROOT_PLAN);
    let mut asked = Session::start(&team.software_command(INIT));
    asked.answer_hidden("New passphrase", "short");
    asked.wait_for("fewer than eight characters");
    asked.answer_hidden("New passphrase", PASSPHRASE);
    asked.answer_hidden("again", "another passphrase");
    asked.wait_for("differ");
    asked.answer_hidden("New passphrase", PASSPHRASE);
    asked.answer_hidden("again", PASSPHRASE);
    asked.end().with(0, &[]);
    let key = team.text("root.key");
    assert!(key.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    team.0.secret("root.passphrase", PASSPHRASE);
    let pkey = [
        "pkey",
        "-passin",
        "file:root.passphrase",
        "-in",
        "root.key",
        "-pubout",
    ];
    let public = team.openssl(&pkey);
    let certified = team.openssl(&["x509", "-in", "root.pem", "-noout", "-pubkey"]);
    assert_eq!(public, certified);

    team.request("issuing.csr", ISSUING);
    team.plan(ISSUING, 90);
    team.0.secret("wrong.passphrase", "not the passphrase");
    let wrong = [SIGN, &["--passphrase-file", "wrong.passphrase"]].concat();
    team.software_asked(&wrong)
        .failed(exit::PIN, &["not opened by the passphrase", "tried again"]);
    team.assert_no_issuing();
    let mut asked = Session::start(&team.software_command(SIGN));
    asked.answer_hidden("Passphrase of the root's key", PASSPHRASE);
    asked.end().with(0, &[]);
}

#[test]
fn a_root_in_a_file_without_a_passphrase_is_one_that_was_asked_for() {
    let team = Team(Engineer::without_card("alice@example.com"));
    team.write("root.yaml", ROOT_PLAN);
    let asking = team.software_command(INIT);
    let mut nobody = Command::new("setsid");
    nobody.arg("--wait").arg(asking.get_program());
    nobody.args(asking.get_args()).env_clear();
    let set = asking.get_envs();
    nobody.envs(set.filter_map(|(name, value)| Some((name, value?))));
    let nobody = Ran::of(nobody.stdin(std::process::Stdio::null()));
    assert_ne!(nobody.code, Some(0), "{nobody}");
    assert!(nobody.stderr.contains("--no-passphrase"), "{nobody}");
    assert!(!team.0.file("root.key").exists() && !team.0.file("root.pem").exists());
    team.0.secret("root.passphrase", "short");
    let short = [INIT, &["--passphrase-file", "root.passphrase"]].concat();
    team.software_asked(&short)
        .failed(exit::PIN, &["eight characters"]);
    assert!(!team.0.file("root.key").exists() && !team.0.file("root.pem").exists());
    let plain = team.software_asked(&[INIT, &["--no-passphrase"]].concat());
    assert!(plain.succeeded().stderr.contains("under no passphrase"));
    assert!(team.text("root.key").starts_with("-----BEGIN PRIVATE KEY"));
}

#[test]
fn a_root_in_a_file_is_loud_private_and_signs() {
    let team = Team(Engineer::without_card("alice@example.com"));
    team.write("root.yaml", ROOT_PLAN);
    team.software(INIT).succeeded();
    assert!(touchstone_tests::engineer::is_private(
        &team.0.file("root.key")
    ));
    team.request("issuing.csr", ISSUING);
    team.plan(ISSUING, 90);
    let ran = team.software(SIGN).succeeded();
    assert!(ran.stderr.contains("for trials only"), "{ran}");
    team.openssl(&[
        "verify",
        "-x509_strict",
        "-CAfile",
        "root.pem",
        "issuing.pem",
    ]);
}
