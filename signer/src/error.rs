//! What can end the program, with its exit code and its remedy. Rendered at one edge: [`crate::command`].

use crate::{
    audit::AuditError,
    bundle::sync::SyncError,
    ca::{
        CaError, lifecycle::Refused, record::RecordError, rotation::RotationError,
        settings::CaSettingsError, store::StoreError,
    },
    client_ca::ClientCaError,
    command::policy::ManifestError,
    controller::ControllerError,
    credentials::CredentialsError,
    data_dir::DataDirError,
    front::FrontTlsError,
    reload::PolicyFileError,
    review::ReviewError,
};
use jiff::Timestamp;
use std::{fmt::Write as _, io, path::PathBuf, process::ExitCode};
use touchstone_common::{
    ceremony::{IssuingError, IssuingRequestError},
    certificate::CertificateError,
    policy::LoadError,
};

/// How the program ends. Listed in `--help` and docs/signer.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Anything that has no number of its own.
    Failed = 1,
    /// The command line.
    Usage = 2,
    /// The policy file or an attestation root.
    Policy = 3,
    /// Another process has the data directory.
    InUse = 4,
    /// The data directory, or the CA in it, cannot be used.
    Data = 5,
    /// The audit log does not verify.
    Audit = 6,
    /// The API server cannot be used.
    Api = 7,
    /// The file with the trust bundle was not brought up to date.
    Bundle = 8,
    /// By a signal, before what was to be done once was done.
    Interrupted = 130,
}

impl From<RecordError> for Error {
    fn from(error: RecordError) -> Self {
        Self::Store(StoreError::Record(error))
    }
}

fn rotation_exit(error: &RotationError) -> Exit {
    match error {
        RotationError::Ca(CaError::DataDir(error)) | RotationError::DataDir(error) => {
            data_exit(error)
        }
        RotationError::Canary(_)
        | RotationError::Publish(_)
        | RotationError::Store(StoreError::Kubernetes { .. }) => Exit::Api,
        RotationError::Bundle(_)
        | RotationError::Ca(_)
        | RotationError::Gone { .. }
        | RotationError::Key(_)
        | RotationError::RootElsewhere
        | RotationError::Sign(_)
        | RotationError::Store(_) => Exit::Data,
        RotationError::NoEndpoint | RotationError::Refused(_) | RotationError::Trust(_) => {
            Exit::Failed
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why the program ends. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster does not say who the signer is.
    #[error("learn who the signer is: the API server does not say")]
    AccountUnknown,
    /// The API server answers in a way that the controller cannot work with.
    #[error("use the API server: {doing}")]
    Api {
        /// What was tried.
        doing: &'static str,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// The embedded API cannot be opened.
    #[error("open the embedded API")]
    ApiOpen(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The embedded API ended.
    #[error("serve the embedded API")]
    ApiServe(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The front door ended.
    #[error("serve the front door")]
    FrontServe(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The front door's certificate.
    #[error(transparent)]
    FrontTls(#[from] FrontTlsError),
    /// The bindings of a cluster cannot be read.
    #[error("{doing}")]
    Bindings {
        /// What was tried.
        doing: &'static str,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// The trust bundle.
    #[error(transparent)]
    Bundle(#[from] SyncError),
    /// The CA.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The controller.
    #[error(transparent)]
    Controller(#[from] ControllerError),
    /// The way to the cluster.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The manual pages.
    #[error("write the manual pages to {}", .folder.display())]
    Man {
        /// Where to.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A move of the CA's life cycle that may not be made.
    #[error(transparent)]
    CaMove(#[from] Refused),
    /// There is no record.
    #[error("find the CA's record: there is none")]
    CaRecordMissing,
    /// A certificate cannot be read.
    #[error("read the certificate {}", path.display())]
    CertificateFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// A file cannot be read.
    #[error("read {}", path.display())]
    CertificateRead {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate for an issuing CA is not as it must be.
    #[error("import {}", path.display())]
    ImportRefused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<IssuingError>,
    },
    /// A certificate for an issuing CA is not valid now.
    #[error("import a certificate that is valid from {not_before} to {not_after}")]
    ImportNotValid {
        /// Its first second.
        not_before: Timestamp,
        /// Its last one.
        not_after: Timestamp,
    },
    /// The record has no root, and none was named.
    #[error("import a certificate: the record has no root yet")]
    NoRoot,
    /// Nobody said yes.
    #[error("go on: it was not confirmed")]
    NotConfirmed,
    /// The security team is not asked for anything.
    #[error("find a request: no CA awaits the root's signature")]
    NothingAwaitsRoot,
    /// The request that stands in the record.
    #[error("use the request in the CA's record")]
    RecordRequest(#[source] IssuingRequestError),
    /// The record.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The settings of the CA.
    #[error(transparent)]
    CaSettings(#[from] CaSettingsError),
    /// CA settings of a signer that has no CA.
    #[error("use the CA settings: under kubernetes.io/kube-apiserver-client Touchstone has no CA")]
    NoCa,
    /// Two names, each of which would have a CA.
    #[error("answer to the signer name {0} as well: one process has one CA")]
    SecondCa(String),
    /// The cluster's client CAs.
    #[error(transparent)]
    ClientCa(#[from] ClientCaError),
    /// Nothing tells the cluster from others.
    #[error("bind the CA to the cluster: its namespace kube-system has no UID")]
    ClusterUnknown,
    /// An API server that the CA settings name.
    #[error("use the API server {url:?} of the CA settings: {message}")]
    Endpoint {
        /// As it is named.
        url: String,
        /// What is wrong with it.
        message: String,
    },
    /// The rotation of the CA.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// The cluster does not know Grants.
    #[error("find the Grant kind in the cluster: it is not installed")]
    GrantsMissing,
    /// A signal ended it.
    #[error("go on: it was interrupted")]
    Interrupted,
    /// The issuing CA's certificate is none.
    #[error("use the issuing CA's certificate {}", path.display())]
    IssuingLoad {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// The issuing CA's certificate cannot be read.
    #[error("read the issuing CA's certificate {}", path.display())]
    IssuingRead {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// The option that names it.
        option: &'static str,
        /// The address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The filter of log messages is not one.
    #[error("read RUST_LOG")]
    LogFilter(#[source] tracing_subscriber::filter::ParseError),
    /// Manifests cannot be used.
    #[error("read the bindings in {}", path.display())]
    Manifests {
        /// The file or the folder.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// The output cannot be written.
    #[error("write the output")]
    Output(#[source] io::Error),
    /// The policy.
    #[error(transparent)]
    Policy(#[from] PolicyFileError),
    /// Cases of a policy are not answered as expected. They have been printed.
    #[error("pass the tests: {failed} of {all} cases are not answered as expected")]
    PolicyCases {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
    },
    /// A file of cases was refused.
    #[error("load the cases")]
    PolicyCasesLoad(#[source] LoadError),
    /// A file of cases cannot be read.
    #[error("read the cases {}", path.display())]
    PolicyCasesRead {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Two policies differ, and `--exit-code` asks to be told. The differences have been printed.
    #[error("find no difference: there {}", if *count == 1 { "is 1".to_owned() } else { format!("are {count}") })]
    PolicyDiffers {
        /// How many differences.
        count: usize,
    },
    /// Lint found errors. They have been printed.
    #[error("accept the policy {}: {errors} to correct", path.display())]
    PolicyLint {
        /// The file.
        path: PathBuf,
        /// How many.
        errors: usize,
    },
    /// The description of a request to explain was refused.
    #[error("load the request")]
    RequestLoad(#[source] LoadError),
    /// The object to explain is no CertificateSigningRequest.
    #[error("read the request {file} as a CertificateSigningRequest")]
    RequestObject {
        /// The file.
        file: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The request to explain cannot be read.
    #[error("read the request {}", path.display())]
    RequestRead {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The request could not be judged.
    #[error(transparent)]
    Review(#[from] ReviewError),
    /// The system does not give what every program needs.
    #[error("start")]
    Runtime(#[source] io::Error),
    /// A task ended by a defect.
    #[error("go on: a task ended by a defect in Touchstone")]
    Task(#[source] tokio::task::JoinError),
}

impl Error {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::AccountUnknown
            | Self::Api { .. }
            | Self::Bindings { .. }
            | Self::ClientCa(_)
            | Self::ClusterUnknown
            | Self::Credentials(_)
            | Self::GrantsMissing => Exit::Api,
            Self::ApiOpen(_) => Exit::Data,
            Self::Audit(error) | Self::Controller(ControllerError::Audit(error)) => {
                audit_exit(error)
            }
            Self::Bundle(SyncError::Source(error)) if error.is_of_the_api() => Exit::Api,
            Self::Bundle(_) => Exit::Bundle,
            Self::Interrupted => Exit::Interrupted,
            Self::Ca(error) | Self::Controller(ControllerError::Ca(error)) => match error {
                CaError::DataDir(error) => data_exit(error),
                _ => Exit::Data,
            },
            Self::Controller(ControllerError::ClientCa(_) | ControllerError::Kubernetes { .. }) => {
                Exit::Api
            }
            Self::Controller(ControllerError::NotLeading(_) | ControllerError::Review(_)) => {
                Exit::Failed
            }
            Self::DataDir(error) => data_exit(error),
            Self::CaSettings(_)
            | Self::Endpoint { .. }
            | Self::LogFilter(_)
            | Self::NoCa
            | Self::SecondCa(_) => Exit::Usage,
            Self::Rotation(error) => rotation_exit(error),
            Self::Store(StoreError::Kubernetes { .. }) => Exit::Api,
            Self::CaRecordMissing | Self::RecordRequest(_) | Self::Store(_) => Exit::Data,
            Self::CaMove(_)
            | Self::CertificateFile { .. }
            | Self::CertificateRead { .. }
            | Self::ImportNotValid { .. }
            | Self::ImportRefused { .. }
            | Self::NoRoot
            | Self::NotConfirmed
            | Self::NothingAwaitsRoot => Exit::Failed,
            Self::Policy(_) | Self::PolicyCasesLoad(_) | Self::PolicyCasesRead { .. } => {
                Exit::Policy
            }
            Self::ApiServe(_)
            | Self::FrontServe(_)
            | Self::FrontTls(_)
            | Self::IssuingLoad { .. }
            | Self::IssuingRead { .. }
            | Self::Listen { .. }
            | Self::Man { .. }
            | Self::Manifests { .. }
            | Self::Output(_)
            | Self::PolicyCases { .. }
            | Self::PolicyDiffers { .. }
            | Self::PolicyLint { .. }
            | Self::RequestLoad(_)
            | Self::RequestObject { .. }
            | Self::RequestRead { .. }
            | Self::Review(_)
            | Self::Runtime(_)
            | Self::Task(_) => Exit::Failed,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::AccountUnknown => {
                "use an API server that serves SelfSubjectReview (Kubernetes 1.28 or later)".into()
            }
            Self::Api { source, .. } => api_remedy(source),
            Self::ApiOpen(_) => {
                "free space and check who owns the data directory; a damaged api.db is restored from a backup".into()
            }
            Self::Audit(error) | Self::Controller(ControllerError::Audit(error)) => error.remedy(),
            Self::Bindings { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if status.code == 403 => {
                    "let the kubeconfig's account list rolebindings and clusterrolebindings, and get the roles that rules bind; or name manifests with --bindings".into()
                }
                kube::Error::Api(status) if status.code == 404 => {
                    "name a cluster that has RBAC with --kubeconfig, or manifests with --bindings".into()
                }
                other => api_remedy(other),
            },
            Self::Bundle(error) => error.remedy(),
            Self::Ca(error) | Self::Controller(ControllerError::Ca(error)) => error.remedy(),
            Self::Controller(ControllerError::Kubernetes { source, .. }) => api_remedy(source),
            Self::Controller(ControllerError::NotLeading(_)) => "nothing: another replica goes on".into(),
            Self::Controller(ControllerError::Review(_)) => "set this machine's clock, then start again".into(),
            Self::CaSettings(_) => {
                "correct the file; docs/ca.md shows every setting and which of them must fit together".into()
            }
            Self::DataDir(error) => error.remedy(),
            Self::FrontTls(error) => error.remedy(),
            Self::ClientCa(error) | Self::Controller(ControllerError::ClientCa(error)) => client_ca_remedy(error),
            Self::NoCa => "leave --ca-settings out, or give --signer-name a name of Touchstone's own as well".into(),
            Self::SecondCa(_) => "give one name beside kubernetes.io/kube-apiserver-client; run another signer, in another namespace, for the other".into(),
            Self::ClusterUnknown => "name the kubeconfig of a Kubernetes cluster".into(),
            Self::Endpoint { .. } => "name it as https://ADDRESS:PORT in the CA settings".into(),
            Self::CaMove(_) | Self::NothingAwaitsRoot => {
                "touchstone-signer ca status shows every CA, and what is due when".into()
            }
            Self::CaRecordMissing => {
                "start the signer once: it makes the record. If there was one, restore the Secret touchstone-ca from a backup".into()
            }
            Self::CertificateFile { .. } | Self::CertificateRead { .. } => {
                "name a readable file with one certificate in PEM".into()
            }
            Self::ImportNotValid { .. } => {
                "check this machine's clock, or have the security team sign the request anew".into()
            }
            Self::ImportRefused { .. } => {
                "import what `touchstone ca sign` wrote for the request of the moment (touchstone-signer ca request); a root that the record does not have yet is named with --root".into()
            }
            Self::NoRoot => "name the root that signed it with --root".into(),
            Self::NotConfirmed => "type the CA's id when asked, or say --yes".into(),
            Self::RecordRequest(_) => "restore the Secret touchstone-ca from a backup".into(),
            Self::Store(error) => error.remedy(),
            Self::Rotation(error) => error.remedy(),
            Self::GrantsMissing => {
                "install it: kubectl apply -f deploy/base/crd.yaml, or: touchstone-signer crd | kubectl apply -f -".into()
            }
            Self::IssuingLoad { .. } | Self::IssuingRead { .. } => {
                "name the issuing CA's certificate, PEM, with --ca; it stands in the data directory under ca/".into()
            }
            Self::Manifests { .. } => {
                "name a folder of plain manifests with --bindings; render charts and overlays first (helm template, kubectl kustomize)".into()
            }
            Self::Credentials(error) => error.remedy().into(),
            Self::Listen { option, source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => format!("stop what listens there, or choose another port with {option}"),
                io::ErrorKind::PermissionDenied => format!("choose a port above 1023 with {option}"),
                _ => format!("choose an address of this machine with {option}"),
            },
            Self::LogFilter(_) => "set RUST_LOG to something like info or touchstone_signer=debug".into(),
            Self::Policy(error) => error.remedy(),
            Self::PolicyCases { .. } => {
                "correct the policy, or the cases where the policy says what it should".into()
            }
            Self::PolicyCasesLoad(_) => "correct the cases; docs/policy.md shows how they are written".into(),
            Self::PolicyCasesRead { .. } => "write cases beside the policy, or name a file of them with --cases".into(),
            Self::Task(_) => "please report it with the signer's log, then start again: nothing was lost".into(),
            Self::RequestLoad(_) | Self::RequestObject { .. } => {
                "give the PEM, the object as `kubectl get csr NAME -o yaml` prints it, or `user` and `groups` as in a policy's cases".into()
            }
            Self::RequestRead { .. } => "name a readable file with --request".into(),
            Self::Man { .. } => "name a folder that is there and yours to write to".into(),
            Self::Review(_) => "name another time with --at".into(),
            Self::ApiServe(_)
            | Self::FrontServe(_)
            | Self::Interrupted
            | Self::Output(_)
            | Self::PolicyDiffers { .. }
            | Self::PolicyLint { .. }
            | Self::Runtime(_) => return None,
        })
    }

    /// The whole message: what failed, why, and what to do about it.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = format!(
            "touchstone-signer: failed to {}",
            crate::controller::chain(self)
        );
        if let Some(remedy) = self.remedy() {
            let _ = write!(text, "\ntry: {remedy}");
        }
        text
    }
}

fn audit_exit(error: &AuditError) -> Exit {
    match error {
        AuditError::AnchorMissing { .. } | AuditError::Broken { .. } | AuditError::Gone { .. } => {
            Exit::Audit
        }
        AuditError::Closed
        | AuditError::Lost { .. }
        | AuditError::Read { .. }
        | AuditError::Write { .. } => Exit::Data,
    }
}

fn data_exit(error: &DataDirError) -> Exit {
    match error {
        DataDirError::InUse { .. } => Exit::InUse,
        DataDirError::Foreign { .. }
        | DataDirError::Open { .. }
        | DataDirError::Read { .. }
        | DataDirError::Write { .. } => Exit::Data,
    }
}

fn api_remedy(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 401 => {
            "the API server does not know these credentials: choose others with --kubeconfig or --context".into()
        }
        kube::Error::Api(status) if status.code == 403 => {
            "give the signer's account the rights of deploy/base/rbac.yaml (docs/operations.md)".into()
        }
        _ => "check that the API server runs and can be reached from here, then start again".into(),
    }
}

fn client_ca_remedy(error: &ClientCaError) -> String {
    match error {
        ClientCaError::Kubernetes(source) => match source.as_ref() {
            kube::Error::Api(status) if status.code == 403 => {
                "give the signer's account the rights of deploy/components/approve-only/rbac.yaml (docs/operations.md)".into()
            }
            other => api_remedy(other),
        },
        ClientCaError::None => {
            "start kube-apiserver with --client-ca-file; where the provider keeps it to itself, use a signer name of Touchstone's own"
                .into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_failed_why_and_what_to_do() {
        let error = Error::Listen {
            option: "--listen",
            address: "127.0.0.1:1".into(),
            source: io::ErrorKind::AddrInUse.into(),
        };
        assert_eq!(
            error.report(),
            "touchstone-signer: failed to listen on 127.0.0.1:1: address in use\ntry: \
             stop what listens there, or choose another port with --listen"
        );
    }

    #[test]
    fn a_data_directory_in_use_and_a_broken_audit_log_have_exit_codes_of_their_own() {
        let in_use = Error::from(CaError::DataDir(DataDirError::InUse {
            path: "d".into(),
            pid: Some(7),
        }));
        assert_eq!(in_use.exit(), Exit::InUse);
        let broken = Error::from(AuditError::AnchorMissing {
            path: "a".into(),
            anchor: "00".into(),
        });
        assert_eq!(broken.exit(), Exit::Audit);
    }
}
