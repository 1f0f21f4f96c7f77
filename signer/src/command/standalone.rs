//! `standalone`: the embedded API and the signer in one process.

use super::{DEFAULT_SIGNER_NAME, SignerOptions, run};
use crate::{
    anonymous::{ByKey, Taken},
    approvers::ByPolicy,
    bundle::Bundle,
    ca::{CaError, bootstrap, endpoint, key::KeyPlace, record::Binding, rotation},
    clock::{ApiClock, Clock, SystemClock},
    controller::chain,
    data_dir::{self, DataDir},
    error::Error,
    lease::Leadership,
    reload::{self, PolicyFile},
    service::{Service, evidence_cache},
    signers::SignerName,
};
use clap::Args;
use k8s_openapi::api::authentication::v1::UserInfo;
use kube::Client;
use serde_json::json;
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use touchstone_apiserver::{ApiServer, CaKind, ClientCa, Config, SIGNER, ServerTls};
use touchstone_common::name::{GroupName, UserName};
use zeroize::Zeroizing;

/// Where what belongs to a namespace is.
pub(super) const NAMESPACE: &str = "default";

/// `standalone`.
#[derive(Debug, Args)]
pub struct Standalone {
    #[command(flatten)]
    pub(super) signer: SignerOptions,
    /// The signer name that is answered; requests of any other are left alone
    #[arg(long, value_name = "NAME", value_parser = own_name, default_value = DEFAULT_SIGNER_NAME)]
    signer_name: String,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    listen: String,
    /// A further name or address of this machine, for the server's certificate
    #[arg(long, value_name = "NAME")]
    tls_san: Vec<String>,
}

/// Nobody but the signer itself signs on the embedded API.
fn own_name(text: &str) -> Result<String, String> {
    match text.parse()? {
        SignerName::Own(name) => Ok(name),
        SignerName::Cluster => {
            Err("there is no kube-controller-manager here to sign under this name".to_owned())
        }
    }
}

impl Standalone {
    pub(super) async fn run(self) -> Result<(), Error> {
        super::choose_crypto();
        let shutdown = super::shutdown_by_signal()?;
        let options = self.signer;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let policy = PolicyFile::open(
            &options.policy,
            reload::attestation_roots(&options.attestation_root)?,
        )?;
        let cluster = policy.subscribe().borrow().policy.cluster().to_string();
        let data = Arc::new(DataDir::open(&options.data)?);
        let settings = options.ca_settings(KeyPlace::File {
            folder: data.file(bootstrap::FOLDER).join("keys"),
            passphrase: None,
        })?;
        if let Some(ready) = &options.ready_file {
            // Of an earlier process: it says nothing of this one. Not before the lock: one that still runs is ready.
            let _ = fs::remove_file(ready);
        }
        let now = clock.now();
        let names = endpoint::ServerNames::new(host_name(), &self.tls_san);
        let server = endpoint::server(&data, &names, now)?;
        let (user, groups) = administrator()?;
        let admin = endpoint::admin(&data, &user, &groups, now)?;
        let founded = rotation::found(&data, &settings, clock.now())?;
        let audit = options.audit_log(&data, now)?;
        let evidence = evidence_cache();
        let api = Arc::new(
            ApiServer::open(Config {
                database: data.file(bootstrap::DATABASE),
                // The engineers' are told by the CA's record, before anyone is served.
                client_cas: client_cas(None, &admin.ca_pem),
                anonymous: Arc::new(ByKey {
                    clock: Arc::clone(&clock),
                    evidence: Arc::clone(&evidence),
                    signer_names: vec![self.signer_name.clone()],
                    snapshot: policy.subscribe(),
                    taken: Taken::default(),
                }),
                approvers: Arc::new(ByPolicy {
                    clock: Arc::clone(&clock),
                    evidence: Arc::clone(&evidence),
                    signer_name: self.signer_name.clone(),
                    snapshot: policy.subscribe(),
                }),
                clock: Arc::new(ApiClock(Arc::clone(&clock))),
            })
            .map_err(|error| Error::ApiOpen(Box::new(error)))?,
        );
        let listener = super::listen("--listen", &self.listen).await?;
        let address = listener.local_addr().map_err(|source| Error::Listen {
            option: "--listen",
            address: self.listen.clone(),
            source,
        })?;
        let metrics_listener = options.listen_for_metrics().await?;
        let place = Place {
            url: url(address, &self.tls_san),
            cluster,
            data,
            ready_file: options.ready_file,
        };
        endpoint::write_kubeconfig(&place.data, &place.url, &server.ca_pem, &admin)?;
        let uid = run::cluster_uid(&own_client(&api)).await?;
        let tls = ServerTls {
            certificate_chain_pem: server.certificate_pem.into_bytes(),
            private_key_pem: Zeroizing::new(server.private_key_pem.as_bytes().to_vec()),
        };
        let admin_kubeconfig = place.data.file(endpoint::ADMIN_KUBECONFIG);
        let rotation = rotation::Parts {
            founded,
            binding: Binding {
                cluster: place.cluster.clone(),
                uid,
            },
            namespace: NAMESPACE.into(),
            signer_name: self.signer_name.clone(),
            data: Arc::clone(&place.data),
            endpoints: vec![run::config(&admin_kubeconfig, None).await?],
            trust: Arc::new(Embedded {
                api: Arc::clone(&api),
                admin_ca: admin.ca_pem.clone(),
            }),
            // The data directory is locked.
            leadership: Leadership::alone(),
            settings,
        };
        let service = Service {
            audit,
            clock,
            evidence,
            // The API itself takes attested requests.
            front: None,
            metrics: Arc::default(),
            metrics_listener,
            policy,
            leadership: Leadership::alone(),
            rotation: Some(rotation),
            client_ca: None,
        };
        let result = serve(&api, listener, tls, service, shutdown, &place).await;
        if let Some(ready) = &place.ready_file {
            let _ = fs::remove_file(ready);
        }
        result
    }
}

/// Runs the API and the signer until one of them ends, the signer first where there is a choice: its last records need
/// the API.
async fn serve(
    api: &ApiServer,
    listener: TcpListener,
    tls: ServerTls,
    service: Service,
    shutdown: CancellationToken,
    place: &Place,
) -> Result<(), Error> {
    let client = own_client(api);
    let stop_api = CancellationToken::new();
    let mut serving = std::pin::pin!(api.serve(listener, tls, stop_api.clone()));
    let mut signing = std::pin::pin!(service.run(client, shutdown.clone(), || place.announce()));
    tokio::select! {
        signed = &mut signing => {
            stop_api.cancel();
            let served = serving.await.map_err(|error| Error::ApiServe(Box::new(error)));
            signed.and(served)
        }
        served = &mut serving => {
            shutdown.cancel();
            let signed = signing.await;
            served.map_err(|error| Error::ApiServe(Box::new(error))).and(signed)
        }
    }
}

/// The signer's client of the API in its own process.
fn own_client(api: &ApiServer) -> Client {
    let identity = UserInfo {
        username: Some("touchstone-signer".into()),
        groups: Some(vec![SIGNER.into(), "system:authenticated".into()]),
        ..UserInfo::default()
    };
    api.client(identity, NAMESPACE)
}

/// The embedded API: it trusts what it is told at once, on open connections too.
struct Embedded {
    api: Arc<ApiServer>,
    admin_ca: String,
}

impl rotation::Trust for Embedded {
    fn trust(&self, bundle: Option<&Bundle>) -> Result<(), String> {
        let cas = client_cas(bundle, &self.admin_ca);
        self.api.set_client_cas(&cas).map_err(|error| chain(&error))
    }
}

fn client_cas(engineers: Option<&Bundle>, admin_ca: &str) -> Vec<ClientCa> {
    let engineers = engineers.map(|bundle| ClientCa {
        certificates_pem: bundle.to_pem().into_bytes(),
        kind: CaKind::Engineers,
    });
    let administrators = ClientCa {
        certificates_pem: admin_ca.as_bytes().to_vec(),
        kind: CaKind::Administrators,
    };
    engineers.into_iter().chain([administrators]).collect()
}

/// The administrator's names. What they may do comes from the CA, not from a group.
fn administrator() -> Result<(UserName, Vec<GroupName>), CaError> {
    let name = |error| {
        CaError::Make(touchstone_common::certificate::CertificateError::Name(
            error,
        ))
    };
    let user = UserName::parse("touchstone-admin").map_err(name)?;
    let group = GroupName::parse("touchstone-administrators").map_err(name)?;
    Ok((user, vec![group]))
}

/// Where clients find an address. One that stands for all of the machine's is no place to connect to.
fn url(address: SocketAddr, names: &[String]) -> String {
    if !address.ip().is_unspecified() {
        return format!("https://{address}");
    }
    let host = names.first().map_or("localhost", String::as_str);
    match host.parse::<IpAddr>() {
        Ok(ip) => format!("https://{}", SocketAddr::new(ip, address.port())),
        Err(_) => format!("https://{host}:{}", address.port()),
    }
}

fn host_name() -> Option<String> {
    // Where the kernel does not say, `--tls-san` does.
    let name = fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()?
        .trim()
        .to_ascii_lowercase();
    let is_dns_name = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    is_dns_name.then_some(name)
}

/// Where everything is, to be told when it is ready.
struct Place {
    url: String,
    cluster: String,
    data: Arc<DataDir>,
    ready_file: Option<PathBuf>,
}

impl Place {
    fn announce(&self) {
        let file = |name: &str| self.data.file(name).display().to_string();
        let (admin, server_ca, bundle) = (
            file(endpoint::ADMIN_KUBECONFIG),
            file(endpoint::SERVER_CA),
            file(bootstrap::TRUST_BUNDLE),
        );
        tracing::info!(server = self.url, "ready");
        let told = super::print(&format!(
            "Touchstone's signer is ready at {url}\n\n\
             Engineers, once:\n  \
             touchstone config set-cluster {cluster} --server {url} --ca {server_ca} --trust-bundle {bundle} --user NAME\n\
             then:\n  \
             touchstone login --cluster {cluster} --group GROUP --reason TEXT\n\n\
             Administrators:\n  \
             kubectl --kubeconfig {admin} get csr,grants\n\n",
            url = self.url,
            cluster = self.cluster,
        ));
        if let Err(error) = told {
            tracing::warn!(error = %chain(&error), "stdout is closed");
        }
        if let Some(path) = &self.ready_file {
            let content = json!({
                "server": self.url,
                "pid": std::process::id(),
                "data": self.data.path(),
                "adminKubeconfig": admin,
                "serverCa": server_ca,
                "trustBundle": bundle,
            });
            if let Err(error) = data_dir::write_atomic(path, format!("{content}\n").as_bytes()) {
                tracing::error!(error = %chain(&error), "the ready file was not written");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_stands_for_all_is_told_by_a_name() {
        let at = |text: &str| text.parse().unwrap();
        assert_eq!(url(at("127.0.0.1:8443"), &[]), "https://127.0.0.1:8443");
        assert_eq!(url(at("0.0.0.0:8443"), &[]), "https://localhost:8443");
        assert_eq!(
            url(at("[::]:1"), &["a.example".into()]),
            "https://a.example:1"
        );
        assert_eq!(url(at("[::]:1"), &["::1".into()]), "https://[::1]:1");
    }
}
