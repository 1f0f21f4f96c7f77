//! SoftHSM: an HSM in software, from Debian. What it keeps is looked at with pkcs11-tool, a client that no one here wrote.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

/// Its PKCS#11 module.
pub const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
/// The PIN of every token's user.
pub const PIN: &str = "428193";
const SO_PIN: &str = "76543210";

/// Where SoftHSM finds its configuration.
const CONFIGURATION: &str = "SOFTHSM2_CONF";
/// Set in the process that has a SoftHSM of its own.
const FOLDER: &str = "TOUCHSTONE_TEST_SOFTHSM";

/// The SoftHSM of this process.
#[derive(Clone, Debug)]
pub struct SoftHsm {
    folder: PathBuf,
}

/// A token in it.
#[derive(Clone, Debug)]
pub struct Token {
    label: String,
    pin_file: PathBuf,
}

/// A private key that pkcs11-tool shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownKey {
    /// CKA_ID, hexadecimal.
    pub id: String,
    /// CKA_LABEL.
    pub label: String,
    /// Such as `sensitive, always sensitive, never extractable, local`.
    pub access: String,
    /// Such as `sign`.
    pub usage: String,
}

/// Whether this process has a SoftHSM of its own.
enum Own {
    /// It has this one.
    Here(SoftHsm),
    /// The same program has, run by this command, while the folder lives.
    Elsewhere(Command, TempDir),
}

impl SoftHsm {
    /// A SoftHSM of this test's own. It takes its place from the environment, so the test runs once more in a process of
    /// its own, which gets it; here there is nothing left to do.
    ///
    /// # Panics
    /// When the test fails there, or is not called `test`.
    #[must_use]
    pub fn alone(test: &str) -> Option<Self> {
        let (mut again, _folder) = match Self::own() {
            Own::Here(own) => return Some(own),
            Own::Elsewhere(again, folder) => (again, folder),
        };
        let output = again
            .args(["--exact", test, "--nocapture"])
            .output()
            .expect("run this test again");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success() && stdout.contains("1 passed"),
            "{test}: {}\n{stdout}\n{stderr}",
            output.status
        );
        None
    }

    /// As [`SoftHsm::alone`], for a program that is no test: it runs once more.
    ///
    /// # Panics
    /// When it fails there.
    #[must_use]
    pub fn alone_again() -> Option<Self> {
        let (mut again, _folder) = match Self::own() {
            Own::Here(own) => return Some(own),
            Own::Elsewhere(again, folder) => (again, folder),
        };
        let status = again.args(env::args_os().skip(1)).status();
        let status = status.expect("run this program again");
        assert!(status.success(), "{status}");
        None
    }

    /// The SoftHSM of this process, or the same program in one that has its own, and its folder.
    fn own() -> Own {
        if let Some(folder) = env::var_os(FOLDER) {
            let folder = folder.into();
            return Own::Here(Self { folder });
        }
        let folder = TempDir::new().expect("make a temporary folder");
        let tokens = folder.path().join("tokens");
        fs::create_dir(&tokens).expect("make a folder for tokens");
        let configuration = folder.path().join("softhsm2.conf");
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        );
        fs::write(&configuration, text).expect("write SoftHSM's configuration");
        let mut again = Command::new(env::current_exe().expect("the path of this program"));
        again
            .env(CONFIGURATION, &configuration)
            .env(FOLDER, folder.path())
            // Where a remote module finds its server.
            .env(
                "P11_KIT_SERVER_ADDRESS",
                format!("unix:path={}/p11-kit", folder.path().display()),
            );
        Own::Elsewhere(again, folder)
    }

    /// Its folder, which goes when the test is over.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes a token.
    ///
    /// # Panics
    /// When SoftHSM does not.
    #[must_use]
    pub fn token(&self, label: &str) -> Token {
        let mut command = Command::new("softhsm2-util");
        command.args(["--init-token", "--free", "--label", label]);
        command.args(["--pin", PIN, "--so-pin", SO_PIN]);
        run(&mut command);
        let pin_file = self.folder.join(format!("{label}.pin"));
        write_private(&pin_file, PIN);
        Token {
            label: label.to_owned(),
            pin_file,
        }
    }
}

impl Token {
    /// Its label.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The file with the PIN of its user, 0600.
    #[must_use]
    pub fn pin_file(&self) -> &Path {
        &self.pin_file
    }

    /// What names it in CA settings, YAML.
    #[must_use]
    pub fn settings(&self) -> String {
        format!(
            "{{ module: {MODULE}, token: {}, pin: {{ file: {} }} }}",
            self.label,
            self.pin_file.display()
        )
    }

    /// pkcs11-tool, logged in.
    #[must_use]
    pub fn tool(&self) -> Command {
        let mut tool = Command::new("pkcs11-tool");
        tool.args(["--module", MODULE, "--token-label", &self.label]);
        tool.args(["--login", "--pin", PIN]);
        tool
    }

    /// Every private key in it.
    ///
    /// # Panics
    /// When pkcs11-tool does not show them.
    #[must_use]
    pub fn private_keys(&self) -> Vec<ShownKey> {
        self.objects("privkey")
    }

    /// Every public key in it.
    ///
    /// # Panics
    /// When pkcs11-tool does not show them.
    #[must_use]
    pub fn public_keys(&self) -> Vec<ShownKey> {
        self.objects("pubkey")
    }

    fn objects(&self, kind: &str) -> Vec<ShownKey> {
        let output = run(self.tool().args(["--list-objects", "--type", kind]));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let objects = text.split("Key Object;").skip(1);
        let field = |object: &str, name: &str| {
            object
                .lines()
                .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
                .map(|value| value.trim().to_owned())
                .unwrap_or_default()
        };
        objects
            .map(|object| ShownKey {
                id: field(object, "ID"),
                label: field(object, "label"),
                access: field(object, "Access"),
                usage: field(object, "Usage"),
            })
            .collect()
    }

    /// Destroys every key in it.
    ///
    /// # Panics
    /// When it does not.
    pub fn empty(&self) {
        for (kind, keys) in [
            ("privkey", self.private_keys()),
            ("pubkey", self.public_keys()),
        ] {
            for key in keys {
                run(self
                    .tool()
                    .args(["--delete-object", "--type", kind, "--id", &key.id]));
            }
        }
    }

    /// Its serial number.
    ///
    /// # Panics
    /// When pkcs11-tool does not show it.
    #[must_use]
    pub fn serial(&self) -> String {
        let output =
            run(Command::new("pkcs11-tool").args(["--module", MODULE, "--list-token-slots"]));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut after = text.lines().map(str::trim).skip_while(|line| {
            line.strip_prefix("token label")
                .is_none_or(|rest| rest.trim_start_matches([' ', ':']) != self.label)
        });
        after
            .find_map(|line| line.strip_prefix("serial num"))
            .map(|rest| rest.trim_start_matches([' ', ':']).to_owned())
            .unwrap_or_else(|| panic!("no serial number of {}: {text}", self.label))
    }

    /// Destroys it with all that is in it.
    ///
    /// # Panics
    /// When SoftHSM does not.
    pub fn delete(&self) {
        run(Command::new("softhsm2-util").args(["--delete-token", "--token", &self.label]));
    }
}

/// Writes a file for its owner alone, in place of what was there.
///
/// # Panics
/// When it cannot be written.
pub fn write_private(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).expect("write a private file");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("close a private file");
    fs::rename(&new, path).expect("replace a private file");
}

/// Runs a command that must work.
///
/// # Panics
/// When it does not.
pub fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; scripts/setup test installs it"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
