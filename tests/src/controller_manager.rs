//! Who signs client certificates for a cluster: kube-controller-manager where `KUBEBUILDER_ASSETS` has it, and openssl
//! elsewhere, which signs what is approved as kube-controller-manager does.

use crate::{child::Running, cluster::kubectl, engineer::Ran, openssl};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use touchstone_common::csr::KUBE_APISERVER_CLIENT;

/// Whom the API server knows it as.
pub const ACCOUNT: &str = "system:kube-controller-manager";
/// How often the stand-in looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The cluster's client CA: a key and a certificate, which openssl made.
#[derive(Clone, Debug)]
pub struct ClusterCa {
    folder: PathBuf,
}

impl ClusterCa {
    /// A new one, of RSA as clusters have it, in a new folder.
    ///
    /// # Panics
    /// When openssl does not make it.
    #[must_use]
    pub fn make(folder: &Path) -> Self {
        fs::create_dir(folder).expect("make a folder");
        let ca = Self::at(folder);
        let extensions = [
            "basicConstraints=critical,CA:TRUE",
            "keyUsage=critical,keyCertSign,cRLSign,digitalSignature",
        ];
        openssl::self_signed_rsa(&ca.key(), &ca.certificate(), "/CN=kubernetes", &extensions);
        ca
    }

    /// One that was made.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        let folder = folder.to_owned();
        Self { folder }
    }

    /// The certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// A file with these certificates and its own.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn beside(&self, others: &Path) -> PathBuf {
        let bundle = self.folder.join("both.pem");
        let all = [others, &self.certificate()].map(|it| fs::read(it).expect("read certificates"));
        fs::write(&bundle, all.concat()).expect("write a bundle");
        bundle
    }

    fn key(&self) -> PathBuf {
        self.folder.join("ca.key")
    }

    /// Signs a request, PEM, for a subject in openssl's words: a client certificate, from five minutes ago for so long from
    /// now.
    ///
    /// # Panics
    /// When openssl does not.
    #[must_use]
    pub fn sign(&self, request_pem: &[u8], subject: &str, lives: SignedDuration) -> String {
        let work = tempfile::Builder::new()
            .prefix("signing-")
            .tempdir_in(&self.folder)
            .expect("make a folder");
        let path = |name: &str| work.path().join(name);
        fs::write(path("request.pem"), request_pem).expect("write the request");
        fs::write(path("index.txt"), "").expect("write openssl's list");
        let now = Timestamp::now();
        let serial = format!("{:032x}", now.as_nanosecond());
        fs::write(path("serial"), serial).expect("write the serial number");
        let date = |time: Timestamp| time.strftime("%Y%m%d%H%M%SZ").to_string();
        fs::write(
            path("ca.cnf"),
            CONFIGURATION.replace("FOLDER", &text(work.path())),
        )
        .expect("write openssl's configuration");
        let mut openssl = Command::new("openssl");
        openssl
            .args(["ca", "-batch", "-notext", "-utf8", "-preserveDN"])
            .args(["-multivalue-rdn", "-subj", subject])
            .args(["-startdate", &date(now - SignedDuration::from_mins(5))])
            .args(["-enddate", &date(now + lives)])
            .arg("-config")
            .arg(path("ca.cnf"))
            .arg("-cert")
            .arg(self.certificate())
            .arg("-keyfile")
            .arg(self.key())
            .arg("-in")
            .arg(path("request.pem"))
            .arg("-out")
            .arg(path("certificate.pem"));
        Ran::of(&mut openssl).succeeded();
        fs::read_to_string(path("certificate.pem")).expect("read the certificate")
    }

    /// Signs a request as it is, as Go's library writes a subject: all O in one place, then the CN.
    ///
    /// # Panics
    /// When the request cannot be read, or openssl does not.
    #[must_use]
    pub fn sign_as_it_is(&self, request_pem: &[u8], lives: SignedDuration) -> String {
        let request =
            touchstone_common::csr::Request::from_pem(request_pem).expect("one that was approved");
        let groups: Vec<_> = request
            .groups()
            .iter()
            .map(|it| format!("O={it}"))
            .collect();
        let subject = format!("/{}/CN={}", groups.join("+"), request.user());
        self.sign(request_pem, &subject, lives)
    }
}

/// What `openssl ca` wants written down.
const CONFIGURATION: &str = "
[ca]
default_ca = it
[it]
database = FOLDER/index.txt
serial = FOLDER/serial
new_certs_dir = FOLDER
default_md = sha256
policy = any
x509_extensions = client
unique_subject = no
[any]
commonName = supplied
organizationName = optional
[client]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = clientAuth
authorityKeyIdentifier = keyid
";

/// A running one.
#[derive(Debug)]
pub struct ControllerManager {
    _it: It,
}

#[derive(Debug)]
enum It {
    Real {
        _process: Running,
    },
    StandIn {
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    },
}

impl ControllerManager {
    /// Starts it for the API server of a kubeconfig.
    #[must_use]
    pub fn start(ca: &ClusterCa, kubeconfig: &Path) -> Self {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").filter(|path| !path.is_empty());
        let program = assets.map(|assets| Path::new(&assets).join("kube-controller-manager"));
        let it = match program.filter(|program| program.is_file()) {
            Some(program) => real(&program, ca, kubeconfig),
            None => stand_in(ca.clone(), kubeconfig.to_owned()),
        };
        Self { _it: it }
    }
}

fn real(program: &Path, ca: &ClusterCa, kubeconfig: &Path) -> It {
    let mut command = Command::new(program);
    command
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args([
            "--controllers",
            "certificatesigningrequest-signing-controller",
        ])
        .args(["--leader-elect=false", "--use-service-account-credentials"])
        // Port 0: it serves nothing.
        .args(["--bind-address", "127.0.0.1", "--secure-port", "0"])
        .arg("--cluster-signing-cert-file")
        .arg(ca.certificate())
        .arg("--cluster-signing-key-file")
        .arg(ca.key());
    let log = ca.folder.join("controller-manager.log");
    It::Real {
        _process: Running::start("kube-controller-manager", &mut command, &log),
    }
}

fn stand_in(ca: ClusterCa, kubeconfig: PathBuf) -> It {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = thread::spawn(move || {
        while !stopped.load(Ordering::Acquire) {
            sign_what_is_approved(&ca, &kubeconfig);
            thread::sleep(LOOK_EVERY);
        }
    });
    It::StandIn {
        stop,
        thread: Some(thread),
    }
}

fn sign_what_is_approved(ca: &ClusterCa, kubeconfig: &Path) {
    let selector = format!("--field-selector=spec.signerName={KUBE_APISERVER_CLIENT}");
    let list = Ran::of(kubectl(kubeconfig).args(["get", "csr", "-o", "json", &selector]));
    // An API server that is away comes back.
    let Ok(mut list) = serde_json::from_str::<Value>(&list.stdout) else {
        return;
    };
    let items = list["items"].as_array_mut().map(std::mem::take);
    for request in items.unwrap_or_default() {
        let conditions = request["status"]["conditions"].as_array();
        let approved = conditions
            .into_iter()
            .flatten()
            .any(|it| it["type"] == "Approved");
        if approved && request["status"]["certificate"].is_null() {
            let pem = request["spec"]["request"].as_str().unwrap_or_default();
            let pem = STANDARD.decode(pem).expect("base64");
            let seconds = request["spec"]["expirationSeconds"]
                .as_i64()
                .expect("a number");
            let certificate = ca.sign_as_it_is(&pem, SignedDuration::from_secs(seconds));
            deliver(
                kubeconfig,
                request,
                &certificate,
                &ca.folder.join("delivery.json"),
            );
        }
    }
}

/// Puts a certificate into a request's status, by way of a file of its own; whether the API server takes it.
///
/// # Panics
/// When the file cannot be written.
pub fn deliver(kubeconfig: &Path, request: Value, certificate_pem: &str, file: &Path) -> bool {
    let mut request = request;
    let name = request["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let status = request["status"].as_object_mut();
    match status {
        Some(status) => {
            status.insert(
                "certificate".into(),
                STANDARD.encode(certificate_pem).into(),
            );
        }
        None => request["status"] = json!({ "certificate": STANDARD.encode(certificate_pem) }),
    }
    fs::write(file, request.to_string()).expect("write a manifest");
    let path = format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/{name}/status");
    let mut replace = kubectl(kubeconfig);
    let ran = Ran::of(replace.args(["replace", "--raw", &path, "-f"]).arg(file));
    ran.code == Some(0)
}

fn text(path: &Path) -> String {
    path.to_str()
        .expect("temporary folders have plain names")
        .to_owned()
}

impl Drop for It {
    fn drop(&mut self) {
        if let Self::StandIn { stop, thread } = self {
            stop.store(true, Ordering::Release);
            // What it panicked of has failed a test by what it did not do.
            let _ = thread.take().map(JoinHandle::join);
        }
    }
}
