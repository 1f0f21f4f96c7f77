//! The foreign programs: where they are, how they run, and what to install where they are missing.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use touchstone_tests::pcscd::{Options, Pcscd, VirtualYubiKey};

/// The factory's management key, in hex.
pub(crate) const MANAGEMENT_KEY: &str = "010203040506070801020304050607080102030405060708";

/// A card in a reader of its own, and a folder for what clients write.
pub(crate) struct Bench {
    pub(crate) card: VirtualYubiKey,
    pub(crate) pcscd: Pcscd,
    folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new(options: &Options) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let pcscd = Pcscd::start();
        let card = VirtualYubiKey::start(&pcscd, options);
        fs::write(folder.path().join("root.pem"), card.attestation_root())
            .expect("the root is written");
        Self {
            card,
            pcscd,
            folder,
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command in this bench's folder, whose smart card daemon is this bench's.
    fn command(&self, program: &Path) -> Command {
        let mut command = self.pcscd.command(program);
        command
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .env("LC_ALL", "C.UTF-8");
        command
    }

    /// `ykman` with these arguments, told to take the card in the first slot.
    pub(crate) fn ykman_command(&self, arguments: &str) -> Command {
        let mut command = self.command(&ykman());
        command
            .args(["--reader", &self.pcscd.reader(0)])
            .args(arguments.split_ascii_whitespace());
        command
    }

    pub(crate) fn ykman(&self, arguments: &str) -> Said {
        Said::by(&mut self.ykman_command(arguments))
    }

    fn run(&self, program: &str, packages: &str, arguments: &str) -> Said {
        let program = installed(program, packages);
        Said::by(
            self.command(&program)
                .args(arguments.split_ascii_whitespace()),
        )
    }

    pub(crate) fn yubico_piv_tool(&self, arguments: &str) -> Said {
        self.run("yubico-piv-tool", "yubico-piv-tool", arguments)
    }

    pub(crate) fn pkcs11_tool(&self, arguments: &str) -> Said {
        self.run("pkcs11-tool", "opensc opensc-pkcs11", arguments)
    }

    pub(crate) fn pkcs15_tool(&self, arguments: &str) -> Said {
        self.run("pkcs15-tool", "opensc", arguments)
    }

    pub(crate) fn openssl(&self, arguments: &str) -> Said {
        self.run("openssl", "openssl", arguments)
    }

    /// `openssl verify` of an attestation, with the card's f9 certificate between it and the card's root.
    pub(crate) fn verify_attestation(&self, attestation: &str, intermediate: &str) {
        self.openssl(&format!(
            "verify -CAfile root.pem -untrusted {intermediate} {attestation}"
        ))
        .succeeds()
        .says(&format!("{attestation}: OK"));
    }
}

/// What a program said, and how it ended.
pub(crate) struct Said {
    command: String,
    success: bool,
    text: String,
}

impl Said {
    fn by(command: &mut Command) -> Self {
        let output = command
            .output()
            .unwrap_or_else(|why| panic!("start {command:?}: {why}"));
        Self::of(command, &output)
    }

    pub(crate) fn of(command: &Command, output: &Output) -> Self {
        let text =
            String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
        Self {
            command: format!("{command:?}"),
            success: output.status.success(),
            text,
        }
    }

    #[track_caller]
    pub(crate) fn succeeds(self) -> Self {
        assert!(self.success, "{} failed:\n{}", self.command, self.text);
        self
    }

    #[track_caller]
    pub(crate) fn fails(self) -> Self {
        assert!(
            !self.success,
            "{} should have failed:\n{}",
            self.command, self.text
        );
        self
    }

    #[track_caller]
    pub(crate) fn says(self, part: &str) -> Self {
        assert!(
            self.text.contains(part),
            "{} does not say {part:?}:\n{}",
            self.command,
            self.text
        );
        self
    }
}

/// The path of a program that Debian brings.
fn installed(program: &str, packages: &str) -> PathBuf {
    env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{program} is missing: `apt-get install {packages}`"))
}

const YKMAN: &str = "yubikey-manager==5.9.2";

/// `ykman` in a virtual environment beside the build, made once by whichever test comes first.
fn ykman() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let home = folder.join(YKMAN.replace("==", "-"));
    let program = home.join("bin/ykman");
    let complete = home.join("complete");
    let lock = File::create(folder.join("ykman.lock")).expect("a lock file in the build folder");
    lock.lock().expect("the lock");
    if !complete.exists() {
        let _ = fs::remove_dir_all(&home);
        install(
            Command::new(installed("python3", "python3"))
                .args(["-m", "venv"])
                .arg(&home),
        );
        install(Command::new(home.join("bin/pip")).args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            YKMAN,
        ]));
        File::create(&complete).expect("a mark that ykman is complete");
    }
    program
}

fn install(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|why| panic!("start {command:?}: {why}"));
    assert!(
        output.status.success(),
        "{command:?} failed; `apt-get install python3-venv python3-dev gcc libpcsclite-dev` has what it needs:\n{}",
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
    );
}
