//! An engineer at their machine: a virtual YubiKey in a card service of its own, a home folder, and `touchstone`.

use crate::{
    child::program,
    cluster::{Cluster, Setup},
    pcscd::{Options, Pcscd, SOCKET_VARIABLE, VirtualYubiKey},
    policy::policy,
};
use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::{fs::OpenOptionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};
use tempfile::TempDir;

/// The PIN that [`Engineer::set_up`] sets.
pub const PIN: &str = "271828";
/// The PUK that [`Engineer::set_up`] sets.
pub const PUK: &str = "31415926";

/// An engineer, their card and their files.
#[derive(Debug)]
pub struct Engineer {
    // Dropped in this order: the card is pulled out before its reader goes.
    yubikey: Option<VirtualYubiKey>,
    pcscd: Pcscd,
    user: String,
    home: TempDir,
}

impl Engineer {
    /// An engineer with a new card, fresh from the factory.
    ///
    /// # Panics
    /// When the card service does not start.
    #[must_use]
    pub fn new(user: &str, options: &Options) -> Self {
        let mut engineer = Self::without_card(user);
        let yubikey = VirtualYubiKey::start(&engineer.pcscd, options);
        let root = engineer.file("attestation-root.pem");
        fs::write(root, yubikey.attestation_root()).expect("write the attestation root");
        engineer.yubikey = Some(yubikey);
        engineer
    }

    /// An engineer whose reader is empty.
    ///
    /// # Panics
    /// When the card service does not start.
    #[must_use]
    pub fn without_card(user: &str) -> Self {
        let pcscd = Pcscd::start();
        let home = tempfile::Builder::new()
            .prefix("touchstone-home-")
            .tempdir()
            .expect("make a home folder");
        let engineer = Self {
            yubikey: None,
            pcscd,
            user: user.to_owned(),
            home,
        };
        engineer.secret("pin", PIN);
        engineer.secret("puk", PUK);
        engineer.secret("factory-pin", "123456");
        engineer
    }

    /// The card.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn yubikey(&self) -> &VirtualYubiKey {
        self.yubikey.as_ref().expect("the engineer has a card")
    }

    /// The card service.
    pub fn pcscd(&mut self) -> &mut Pcscd {
        &mut self.pcscd
    }

    /// The user's name.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// A path in the home folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A file of one line, for `--pin-file` and its like.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn secret(&self, name: &str, content: &str) -> PathBuf {
        let path = self.file(name);
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path);
        writeln!(file.expect("make a secret file"), "{content}").expect("write a secret file");
        path
    }

    /// The certificate that `login` keeps.
    #[must_use]
    pub fn certificate(&self, cluster: &str) -> PathBuf {
        self.file("state").join(cluster).join("certificate.pem")
    }

    /// The attestation root of the card.
    #[must_use]
    pub fn attestation_root(&self) -> PathBuf {
        self.file("attestation-root.pem")
    }

    /// `touchstone` with these arguments, in this engineer's surroundings alone.
    pub fn touchstone<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program("touchstone"));
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TOUCHSTONE_CONFIG", self.file("config.yaml"))
            .env("TOUCHSTONE_STATE_DIR", self.file("state"))
            .env(SOCKET_VARIABLE, self.pcscd.socket())
            .args(arguments);
        command
    }

    /// Runs `touchstone` to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(&mut self.touchstone(arguments))
    }

    /// Replaces the factory's PIN, PUK and management key.
    pub fn set_up(&self) {
        let [factory, pin, puk] = ["factory-pin", "pin", "puk"].map(|name| self.path_text(name));
        let files = [
            "--pin-file",
            &factory,
            "--new-pin-file",
            &pin,
            "--new-puk-file",
            &puk,
        ];
        self.run(["key", "setup"].iter().chain(&files)).succeeded();
    }

    /// Makes a key in slot 9a with `further` arguments.
    pub fn generate(&self, further: &[&str]) {
        let pin = self.path_text("pin");
        self.run(
            ["key", "generate", "--pin-file", &pin]
                .iter()
                .chain(further),
        )
        .succeeded();
    }

    /// The lines that enrol the key in a policy.
    #[must_use]
    pub fn enrolment(&self, team: &str) -> String {
        let root = self.path_text("attestation-root.pem");
        let enrol = [
            "key",
            "enrol",
            "--quiet",
            "--user",
            &self.user,
            "--team",
            team,
            "--attestation-root",
            &root,
        ];
        self.run(enrol).succeeded().stdout
    }

    /// A cluster whose policy has the engineer's key enrolled in the team `payments`, and of which `touchstone` knows.
    #[must_use]
    pub fn enrolled_cluster(&self) -> Cluster {
        let cluster = Cluster::start(&Setup {
            policy: policy(&[self.enrolment("payments")]),
            attestation_roots: vec![self.attestation_root()],
        });
        self.configure(&cluster);
        cluster
    }

    /// Tells `touchstone` of the cluster, under the name `demo`.
    pub fn configure(&self, cluster: &Cluster) {
        let mut arguments: Vec<String> = ["config", "set-cluster", "demo"]
            .map(str::to_owned)
            .to_vec();
        arguments.extend(cluster.client_arguments(&self.user));
        arguments.extend(["--user".to_owned(), self.user.clone()]);
        self.run(arguments).succeeded();
    }

    /// `touchstone login` to `demo` for `group`, with a reason that the suites' policies accept.
    pub fn login(&self, group: &str) -> Ran {
        Ran::of(&mut self.login_command(group))
    }

    /// The command of [`Engineer::login`].
    #[must_use]
    pub fn login_command(&self, group: &str) -> Command {
        let pin = self.path_text("pin");
        self.touchstone([
            "login",
            "--cluster",
            "demo",
            "--group",
            group,
            "--reason",
            "INC-4211 checkout latency",
            "--pin-file",
            &pin,
        ])
    }

    /// A path in the home folder as text.
    ///
    /// # Panics
    /// When the temporary folder's name is not UTF-8.
    #[must_use]
    pub fn path_text(&self, name: &str) -> String {
        self.file(name)
            .to_str()
            .expect("temporary folders have plain names")
            .to_owned()
    }
}

impl Drop for Engineer {
    /// A proxy in the background would go on without the folder that it was started in.
    fn drop(&mut self) {
        let sockets = fs::read_dir(self.file("state/.run")).into_iter().flatten();
        for entry in sockets.flatten() {
            let Ok(mut proxy) = UnixStream::connect(entry.path()) else {
                continue;
            };
            let asked = proxy.write_all(b"{\"version\":1,\"op\":\"stop\"}\n");
            if asked.is_ok() {
                // It ends the connection when it has ended.
                let _ = proxy.set_read_timeout(Some(Duration::from_secs(10)));
                let _ = proxy.read_to_end(&mut Vec::new());
            }
        }
    }
}

/// How a command ended, and what it printed.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn of(command: &mut Command) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = command
            .output()
            .unwrap_or_else(|error| panic!("run {command:?}: {error}"));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            code: status.code(),
            stdout: text(stdout),
            stderr: text(stderr),
        }
    }

    /// Asserts that it succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }

    /// Asserts that it failed with this exit code and that its standard error says each of `words`.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing\n{self}");
        }
        assert!(!self.stderr.contains("panicked"), "{self}");
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "exit {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.code, self.stdout, self.stderr
        )
    }
}

/// Whether only its owner may read a file.
///
/// # Panics
/// When the file is not there.
#[must_use]
pub fn is_private(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path)
        .expect("the file is there")
        .permissions()
        .mode()
        & 0o777
        == 0o600
}
