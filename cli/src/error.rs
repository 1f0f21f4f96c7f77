//! Every way to end: one exit code each, and one place where errors are shown with their remedy.

use crate::{
    api::ApiError,
    approval::ApprovalError,
    card::CardError,
    command::{ca::error::CeremonyError, revoke::RevokeError},
    config::ConfigError,
    credential::CredentialError,
    kubeconfig::file::KubeconfigError,
    pin::PinError,
    proxy::ProxyError,
    software::SoftwareError,
    submit::SubmitError,
    terminal::TerminalError,
};
use touchstone_common::{
    attestation::AttestationError, certificate::CertificateError, claims::ClaimsError,
    key::SoftwareKeyError, name::NameError,
};

/// How the process ends. The table in `docs/exit-codes.md` says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Anything that has no code of its own.
    Other = 1,
    /// The command line.
    Usage = 2,
    /// The configuration file, or what it points to.
    Config = 3,
    /// The card or its service.
    Card = 4,
    /// PIN, PUK or management key.
    Pin = 5,
    /// No touch in time.
    Touch = 6,
    /// Denied by the signer.
    Denied = 7,
    /// Still waiting.
    Waiting = 8,
    /// The API server.
    Unreachable = 9,
    /// What came back is not what was asked for.
    Verification = 10,
    /// A slot that has a key.
    SlotOccupied = 11,
    /// Factory PIN, PUK or management key.
    FactorySecrets = 12,
    /// The clocks differ.
    ClockSkew = 13,
    /// Approved, but the signer failed.
    Failed = 14,
    /// No valid certificate is kept.
    NotLoggedIn = 15,
    /// The local proxy.
    Proxy = 16,
    /// `touchstone doctor` found what does not work.
    Unhealthy = 17,
    /// A root's ceremony that is refused, or a record that proves nothing.
    Ceremony = 18,
    /// A program to be run is not there.
    NoProgram = 127,
    /// Ctrl-C.
    Interrupted = 130,
    /// SIGTERM.
    Terminated = 143,
}

impl Exit {
    /// Every code, in order.
    pub const ALL: [Self; 22] = [
        Self::Ok,
        Self::Other,
        Self::Usage,
        Self::Config,
        Self::Card,
        Self::Pin,
        Self::Touch,
        Self::Denied,
        Self::Waiting,
        Self::Unreachable,
        Self::Verification,
        Self::SlotOccupied,
        Self::FactorySecrets,
        Self::ClockSkew,
        Self::Failed,
        Self::NotLoggedIn,
        Self::Proxy,
        Self::Unhealthy,
        Self::Ceremony,
        Self::NoProgram,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The ending of a number; of one that means nothing, [`Exit::Other`].
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        Self::ALL
            .into_iter()
            .find(|exit| exit.code() == code)
            .unwrap_or(Self::Other)
    }

    /// What it means, in the words of the documentation.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Other => "failed for a reason that has no code of its own",
            Self::Usage => "the command line is wrong",
            Self::Config => "the configuration, or a file it names, is missing or wrong",
            Self::Card => "no YubiKey, no pcscd, or the card cannot do it",
            Self::Pin => "wrong, locked or missing PIN, PUK, management key or passphrase",
            Self::Touch => "the YubiKey was not touched in time",
            Self::Denied => "the request was denied",
            Self::Waiting => "the request still waits for a decision, or for its certificate",
            Self::Unreachable => "the API server cannot be reached, is not trusted, or refuses",
            Self::Verification => {
                "what came back is not what was asked for, or the attestation does not verify"
            }
            Self::SlotOccupied => "the slot holds a key and --overwrite was not given",
            Self::FactorySecrets => "PIN, PUK or management key are still the factory's",
            Self::ClockSkew => {
                "this machine's clock and the server's differ by more than five minutes"
            }
            Self::Failed => "the request was approved, but the signer failed",
            Self::NotLoggedIn => "there is no certificate, or it has ended",
            Self::Proxy => "the local proxy cannot be started or reached",
            Self::Unhealthy => "touchstone doctor found something that does not work",
            Self::Ceremony => {
                "the ceremony is refused: its documents do not fit together, or prove nothing"
            }
            Self::NoProgram => "the program to be run is not there or cannot be started",
            Self::Interrupted => "interrupted (Ctrl-C)",
            Self::Terminated => "terminated (SIGTERM)",
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// An approval.
    #[error(transparent)]
    Approval(#[from] ApprovalError),
    /// Evidence that does not verify.
    #[error("the attestation does not verify: {0}")]
    Attestation(#[from] AttestationError),
    /// The card.
    #[error(transparent)]
    Card(#[from] CardError),
    /// A ceremony of the root.
    #[error(transparent)]
    Ceremony(#[from] CeremonyError),
    /// What the signer delivered.
    #[error("the certificate that came back is refused: {0}")]
    Certificate(#[from] CertificateError),
    /// A reason that cannot be carried.
    #[error("the reason is refused: {0}")]
    Claims(#[from] ClaimsError),
    /// The clocks differ.
    #[error("this machine's clock is {minutes} minutes {direction} the server's")]
    ClockSkew {
        /// By how much.
        minutes: i64,
        /// Ahead of, or behind.
        direction: &'static str,
    },
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The kept certificate.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// A signal, after which all was closed.
    #[error("{}", .0.meaning())]
    Ended(Exit),
    /// Factory secrets.
    #[error("{} of YubiKey {serial} {} still the factory's, which everyone knows", listed(.which), if .which.len() == 1 { "is" } else { "are" })]
    FactorySecrets {
        /// Which YubiKey.
        serial: u32,
        /// PIN, PUK, management key.
        which: Vec<&'static str>,
    },
    /// A file.
    #[error("cannot {verb} {}: {source}", .path.display())]
    File {
        /// Read or write.
        verb: &'static str,
        /// Which file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The system's random source.
    #[error("the system gave no random numbers")]
    Random,
    /// A part of this program ended in the middle of its work.
    #[error("an internal task ended while {0}; this is a defect of touchstone")]
    TaskEnded(&'static str),
    /// The kubeconfig.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// A name on the command line or in a file.
    #[error("{what} {text:?} {source}")]
    Name {
        /// What kind of name.
        what: &'static str,
        /// The name.
        text: String,
        /// Why not.
        source: NameError,
    },
    /// Standard output.
    #[error("cannot write the output: {0}")]
    Output(#[source] std::io::Error),
    /// PIN, PUK or management key.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The local proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// A revocation.
    #[error(transparent)]
    Revoke(#[from] RevokeError),
    /// A program that cannot be started.
    #[error("cannot run {program}: {source}")]
    Run {
        /// Which.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// A slot with a key.
    #[error("slot {slot} of YubiKey {serial} already holds {what}")]
    SlotOccupied {
        /// Which slot.
        slot: String,
        /// Which YubiKey.
        serial: u32,
        /// What is in it.
        what: String,
    },
    /// A key in memory.
    #[error(transparent)]
    Software(#[from] SoftwareError),
    /// The request.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The terminal.
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    /// `touchstone doctor` found what does not work.
    #[error("{} not work", if *.0 == 1 { "1 thing does".to_owned() } else { format!("{} things do", .0) })]
    Unhealthy(usize),
    /// Options that do not fit together.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Api(ApiError::Config(_)) | Self::Config(_) | Self::Kubeconfig(_) => Exit::Config,
            Self::Api(ApiError::NotYetValid { .. }) => Exit::ClockSkew,
            Self::Api(_) => Exit::Unreachable,
            Self::Approval(error) => match error {
                ApprovalError::Decided { .. } | ApprovalError::Declined | ApprovalError::Own(_) => {
                    Exit::Other
                }
                ApprovalError::Refused { .. } => Exit::Verification,
            },
            Self::Attestation(_) | Self::Certificate(_) => Exit::Verification,
            Self::Card(error) => match error {
                CardError::ManagementKeyRefused
                | CardError::NewSecretRefused(_)
                | CardError::NoPin(_)
                | CardError::NoProtectedManagementKey
                | CardError::NotAllowed
                | CardError::PinLocked
                | CardError::PukLocked
                | CardError::WrongPin { .. }
                | CardError::WrongPuk { .. } => Exit::Pin,
                CardError::TouchTimeout => Exit::Touch,
                CardError::Busy { .. }
                | CardError::Malformed(_)
                | CardError::NoCard
                | CardError::NoKey(_)
                | CardError::NoService { .. }
                | CardError::NotAttestable(_)
                | CardError::OtherKey(_)
                | CardError::OtherSerial { .. }
                | CardError::Pcsc(_)
                | CardError::Removed
                | CardError::Several(_)
                | CardError::Unsupported { .. } => Exit::Card,
            },
            Self::Ceremony(CeremonyError::Declined | CeremonyError::Exists(_)) => Exit::Other,
            Self::Ceremony(CeremonyError::Key {
                source: SoftwareKeyError::Passphrase | SoftwareKeyError::ShortPassphrase,
                ..
            }) => Exit::Pin,
            Self::Ceremony(_) => Exit::Ceremony,
            Self::Claims(_) | Self::Name { .. } | Self::Usage(_) => Exit::Usage,
            Self::ClockSkew { .. } => Exit::ClockSkew,
            Self::Credential(error) => match error {
                CredentialError::Ended { .. } | CredentialError::None { .. } => Exit::NotLoggedIn,
                CredentialError::Io { .. } | CredentialError::Malformed { .. } => Exit::Other,
            },
            Self::Ended(exit) => *exit,
            Self::FactorySecrets { .. } => Exit::FactorySecrets,
            Self::File { .. } | Self::TaskEnded(_) | Self::Output(_) | Self::Random => Exit::Other,
            Self::Pin(_) | Self::Terminal(_) => Exit::Pin,
            Self::Proxy(error) => error.exit(),
            Self::Revoke(_) => Exit::Other,
            Self::Run { .. } => Exit::NoProgram,
            Self::Unhealthy(_) => Exit::Unhealthy,
            Self::SlotOccupied { .. } => Exit::SlotOccupied,
            Self::Software(error) => error.exit(),
            Self::Submit(error) => match error {
                SubmitError::Denied { .. } => Exit::Denied,
                SubmitError::Failed { .. } => Exit::Failed,
                SubmitError::Gone { .. } | SubmitError::Other { .. } => Exit::Other,
                SubmitError::Waiting { .. } => Exit::Waiting,
            },
        }
    }

    /// What the user can do.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Api(error) => error.remedy(),
            Self::Approval(error) => error.remedy(),
            Self::Attestation(_) => Some(
                "for a test YubiKey, name its root: --attestation-root FILE here, or of touchstone config set-cluster; a real one chains to Yubico's roots without"
                    .to_owned(),
            ),
            Self::Card(error) => error.remedy(),
            Self::Ceremony(error) => error.remedy(),
            Self::Revoke(error) => error.remedy(),
            Self::Certificate(_) => Some(
                "nothing was kept; check with the operators that the cluster's trust bundle and signer are yours (touchstone config show NAME)"
                    .to_owned(),
            ),
            Self::ClockSkew { .. } => {
                Some("set the clock, for example: sudo timedatectl set-ntp true".to_owned())
            }
            Self::Config(error) => error.remedy(),
            Self::Kubeconfig(error) => error.remedy(),
            Self::Run { .. } => Some("install it, or put its folder on the PATH".to_owned()),
            Self::Unhealthy(_) => Some("do what stands beside each of them".to_owned()),
            Self::Credential(error) => error.remedy(),
            Self::FactorySecrets { serial, .. } => Some(format!(
                "touchstone key setup --serial {serial}\nin a script: touchstone key setup --serial {serial} --new-pin-file FILE --new-puk-file FILE"
            )),
            Self::Pin(PinError::Terminal(TerminalError::Missing { instead }))
            | Self::Terminal(TerminalError::Missing { instead }) => Some(format!("use {instead}")),
            Self::Pin(PinError::OtpTouch) => {
                Some("type the PIN without touching the YubiKey".to_owned())
            }
            Self::Proxy(error) => error.remedy(),
            Self::SlotOccupied { .. } => Some(
                "choose another slot with --slot, or add --overwrite: the key in it is then gone for ever"
                    .to_owned(),
            ),
            Self::Software(error) => error.remedy(),
            Self::Submit(error) => error.remedy(),
            Self::Claims(_)
            | Self::Ended(_)
            | Self::File { .. }
            | Self::TaskEnded(_)
            | Self::Name { .. }
            | Self::Output(_)
            | Self::Pin(_)
            | Self::Random
            | Self::Terminal(_)
            | Self::Usage(_) => None,
        }
    }
}

fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_table_and_the_code_agree() {
        let page = include_str!("../../docs/exit-codes.md");
        let section = page
            .split("\n## ")
            .find(|section| section.starts_with("touchstone\n"))
            .expect("a section for touchstone");
        let rows: Vec<&str> = section
            .lines()
            .filter(|line| line.starts_with("| "))
            .skip(2)
            .collect();
        let expected: Vec<String> = Exit::ALL
            .iter()
            .map(|exit| format!("| {} | {} |", exit.code(), exit.meaning()))
            .collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn no_two_endings_share_a_code() {
        let mut codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        codes.dedup();
        assert_eq!(codes.len(), Exit::ALL.len());
        assert!(codes.is_sorted());
    }

    #[test]
    fn factory_secrets_are_named_with_the_command_that_changes_them() {
        let error = Error::FactorySecrets {
            serial: 7,
            which: vec!["PIN", "PUK", "management key"],
        };
        assert!(
            error
                .to_string()
                .contains("PIN, PUK and management key of YubiKey 7 are still")
        );
        assert!(
            error
                .remedy()
                .unwrap()
                .contains("touchstone key setup --serial 7")
        );
    }
}
