//! The signer on a cluster under load: fifty clients, each of which creates a request and waits for its certificate, over and
//! over. On a real control plane where `KUBEBUILDER_ASSETS` names one, beside kube-controller-manager's signer where that is
//! there too; else on the embedded API.
//!
//! Requests are signed while others wait, by the same processor: what is told is from the create to the certificate.

use super::requests::{self, CROWD, client, crowd, has_certificate, place, runtime, start};
use crate::support::{Durations, figure, ms, process_time, resident_mib, scaled};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use kube::{
    Api, ResourceExt as _,
    api::{PostParams, WatchEvent, WatchParams},
};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use touchstone_tests::{card_key::CardKey, child::Running, cluster::Cluster, openssl};

const OURS: &str = "touchstone.dev/client";
const OF_KUBERNETES: &str = "kubernetes.io/kube-apiserver-client";
const LOADS: [usize; 2] = [1_000, 10_000];
/// As many go through kube-controller-manager's signer: with its own limits that takes a minute.
const BESIDE: usize = 1_000;
const FOREIGN: usize = 50_000;
/// A load ends after this long, and says how far it came.
const LIMIT: Duration = Duration::from_secs(120);
const IDLE: Duration = Duration::from_secs(30);
/// What the protocol needs: create the grant, approve, write the certificate, the grant's status, the event.
const LEAST: usize = 5;

pub(crate) fn run() {
    let (cluster, key) = start();
    let key = Arc::new(key);
    let where_ = place(&cluster);
    runtime().block_on(async {
        let admin = client(&cluster.files().admin_kubeconfig).await;
        let ours = Load {
            key: Arc::clone(&key),
            signer_name: OURS,
            creators: crowd(&cluster).await.into_iter().map(Api::all).collect(),
            watcher: Api::all(admin.clone()),
            approves: false,
        };
        let signer = cluster.signer_id().expect("the signer runs");
        let told = |what: &str| format!("cluster ({where_}): {what}");
        // The first few pay for what is made once.
        ours.run(CROWD, "warm").await;
        let mut first = None;
        for count in LOADS.map(scaled) {
            let before = (process_time(signer), calls(&cluster));
            let done = ours.run(count, &format!("load-{count}")).await;
            let spent = process_time(signer) - before.0;
            let made = u32::try_from(done.durations.len().max(1)).unwrap_or(u32::MAX);
            figure(
                &told(&format!(
                    "{} of {count} requests, a second",
                    done.durations.len()
                )),
                &format!("{:.0}", done.a_second()),
                "",
            );
            figure(
                &told(&format!("{count} requests, p50 / p99")),
                &format!(
                    "{} / {}",
                    ms(done.durations.median()),
                    ms(done.durations.percentile(99))
                ),
                "",
            );
            figure(
                &told(&format!(
                    "{count} requests, processor and memory of the signer"
                )),
                &format!("{} each, {:.1} MiB", ms(spent / made), resident_mib(signer)),
                "",
            );
            if let (Some(before), Some(after)) = (before.1, calls(&cluster)) {
                let each = (after - before) as f64 / f64::from(made);
                figure(
                    &told(&format!("{count} requests, API calls of the signer each")),
                    &format!("{each:.2}"),
                    &format!("{LEAST}"),
                );
            }
            first.get_or_insert(done.a_second());
        }
        if let Some(controller_manager) = controller_manager() {
            let theirs = Load {
                signer_name: OF_KUBERNETES,
                creators: vec![ours.watcher.clone()],
                approves: true,
                ..ours.clone()
            };
            for (limits, qps) in [("its own", None), ("raised", Some(1_000))] {
                let _running = start_controller_manager(&controller_manager, &cluster, qps);
                // It is there when one was signed.
                theirs
                    .run(1, &format!("start-{limits}").replace(' ', "-"))
                    .await;
                let done = theirs
                    .run(scaled(BESIDE), &format!("kcm-{limits}").replace(' ', "-"))
                    .await;
                figure(
                    &told(&format!(
                        "kube-controller-manager with {limits} limits, a second"
                    )),
                    &format!("{:.0}", done.a_second()),
                    "",
                );
                figure(
                    &told(&format!(
                        "kube-controller-manager with {limits} limits, p50 / p99"
                    )),
                    &format!(
                        "{} / {}",
                        ms(done.durations.median()),
                        ms(done.durations.percentile(99))
                    ),
                    "",
                );
                if let Some(first) = first {
                    figure(
                        &told(&format!(
                            "the signer beside kube-controller-manager with {limits} limits"
                        )),
                        &format!("{:.2} ×", first / done.a_second()),
                        "",
                    );
                }
            }
        }
        let alone = idle(signer).await;
        let foreign = make_foreign(&ours).await;
        let beside = idle(signer).await;
        figure(
            &told(&format!(
                "idle for {} s, alone / beside {foreign} foreign requests",
                IDLE.as_secs()
            )),
            &format!("{} / {} of processor", ms(alone), ms(beside)),
            "",
        );
        figure(
            &told("memory of the signer at the end"),
            &format!("{:.1} MiB", resident_mib(signer)),
            "",
        );
    });
}

/// Requests for one signer.
#[derive(Clone)]
struct Load {
    key: Arc<CardKey>,
    signer_name: &'static str,
    /// Who creates requests, one client after the other.
    creators: Vec<Api<CertificateSigningRequest>>,
    watcher: Api<CertificateSigningRequest>,
    /// Whether a client approves what it created, as no policy does it.
    approves: bool,
}

struct Done {
    durations: Durations,
    wall: Duration,
}

impl Done {
    fn a_second(&self) -> f64 {
        self.durations.len() as f64 / self.wall.as_secs_f64()
    }
}

/// Who waits for the certificate of which request.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>;

impl Load {
    /// So many requests, created by fifty clients.
    async fn run(&self, count: usize, prefix: &str) -> Done {
        let waiting = Waiting::default();
        let watching = tokio::spawn(self.clone().watch(Arc::clone(&waiting)));
        let next = Arc::new(AtomicUsize::new(0));
        let started = Instant::now();
        let mut clients = tokio::task::JoinSet::new();
        for creator in self.creators.iter().cycle().take(CROWD.min(count)) {
            let creator = creator.clone();
            let (load, next, waiting) = (self.clone(), Arc::clone(&next), Arc::clone(&waiting));
            let prefix = prefix.to_owned();
            clients.spawn(async move {
                let mut durations = Durations::default();
                while started.elapsed() < LIMIT {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    let name = format!("{prefix}-{number}");
                    let request = load.request(&name);
                    let (sender, issued) = oneshot::channel();
                    locked(&waiting).insert(name, sender);
                    let created = Instant::now();
                    load.create(&creator, &request).await;
                    match tokio::time::timeout(LIMIT, issued).await {
                        Ok(Ok(())) => durations.push(created.elapsed()),
                        Ok(Err(_)) | Err(_) => break,
                    }
                }
                durations
            });
        }
        let mut durations = Durations::default();
        while let Some(client) = clients.join_next().await {
            durations.append(client.expect("a client ends well"));
        }
        let wall = started.elapsed();
        watching.abort();
        Done { durations, wall }
    }

    fn request(&self, name: &str) -> CertificateSigningRequest {
        requests::request(&self.key, self.signer_name, name)
    }

    async fn create(
        &self,
        creator: &Api<CertificateSigningRequest>,
        request: &CertificateSigningRequest,
    ) {
        let created = creator.create(&PostParams::default(), request).await;
        let mut created = created.expect("the request is taken");
        if self.approves {
            created.status.get_or_insert_default().conditions =
                Some(vec![CertificateSigningRequestCondition {
                    type_: "Approved".to_owned(),
                    status: "True".to_owned(),
                    reason: Some("Bench".to_owned()),
                    ..CertificateSigningRequestCondition::default()
                }]);
            let name = created.name_any();
            self.watcher
                .replace_subresource("approval", &name, &PostParams::default(), &created)
                .await
                .expect("the approval is taken");
        }
    }

    /// Tells who waits of the certificates that come.
    async fn watch(self, waiting: Waiting) {
        let selector = format!("spec.signerName={}", self.signer_name);
        let parameters = WatchParams::default().fields(&selector).timeout(290);
        loop {
            // From the present, with what is there first: nothing that came in between is missed.
            let events = self.watcher.watch(&parameters, "0").await;
            let mut events = std::pin::pin!(events.expect("the watch is taken"));
            while let Ok(Some(event)) = events.try_next().await {
                if let WatchEvent::Added(request) | WatchEvent::Modified(request) = event {
                    self.hear(&request, &waiting);
                }
            }
        }
    }

    fn hear(&self, request: &CertificateSigningRequest, waiting: &Waiting) {
        let status = request.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let ended = conditions
            .into_iter()
            .flatten()
            .find(|one| one.type_ != "Approved");
        assert!(
            ended.is_none(),
            "{:?} came to {ended:?}",
            request.metadata.name
        );
        if has_certificate(request)
            && let Some(waiter) = locked(waiting).remove(&request.name_any())
        {
            let _ = waiter.send(());
        }
    }
}

fn locked(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<()>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many calls kube-apiserver recorded of the signer's account, what it watches, its lease and its records aside; nothing
/// where the API is embedded.
fn calls(cluster: &Cluster) -> Option<usize> {
    let log = fs::read_to_string(cluster.api_audit_log()?).ok()?;
    let of_requests = |line: &&str| {
        line.contains("\"username\":\"system:serviceaccount:touchstone:touchstone-signer\"")
            && line.contains("\"stage\":\"ResponseComplete\"")
            && ["certificatesigningrequests", "grants", "events"]
                .iter()
                .any(|kind| line.contains(&format!("\"resource\":\"{kind}\"")))
    };
    Some(log.lines().filter(of_requests).count())
}

/// The processor time that the signer needs when nothing is asked of it.
async fn idle(signer: u32) -> Duration {
    // What came before is worked off.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = process_time(signer);
    tokio::time::sleep(IDLE).await;
    process_time(signer) - before
}

/// Requests for a signer that is not there; how many.
async fn make_foreign(load: &Load) -> usize {
    let mut request = load.request("foreign");
    request.spec.signer_name = "foreign.example.com/client".to_owned();
    let started = Instant::now();
    stream::iter(0..scaled(FOREIGN))
        .map(|number| {
            let mut request = request.clone();
            request.metadata.name = Some(format!("foreign-{number}"));
            let requests = load.watcher.clone();
            async move { requests.create(&PostParams::default(), &request).await }
        })
        .buffer_unordered(CROWD)
        .take_while(|_| std::future::ready(started.elapsed() < LIMIT))
        .filter(|created| std::future::ready(created.is_ok()))
        .count()
        .await
}

fn controller_manager() -> Option<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").filter(|path| !path.is_empty())?;
    Some(Path::new(&assets).join("kube-controller-manager")).filter(|path| path.is_file())
}

/// Its signing controller alone, with a CA of its own.
fn start_controller_manager(program: &Path, cluster: &Cluster, qps: Option<u32>) -> Running {
    let [key, certificate] = ["kcm-ca.key", "kcm-ca.crt"].map(|name| cluster.dir().join(name));
    openssl::self_signed(
        &key,
        &certificate,
        "/CN=kcm",
        &["keyUsage=critical,keyCertSign"],
    );
    let mut command = Command::new(program);
    command
        .arg("--kubeconfig")
        .arg(&cluster.files().admin_kubeconfig)
        .args([
            "--controllers=certificatesigningrequest-signing-controller",
            "--leader-elect=false",
        ])
        .args(["--secure-port=0"])
        .arg("--cluster-signing-cert-file")
        .arg(&certificate)
        .arg("--cluster-signing-key-file")
        .arg(&key);
    if let Some(qps) = qps {
        command.arg(format!("--kube-api-qps={qps}"));
        command.arg(format!("--kube-api-burst={}", 2 * qps));
    }
    Running::start(
        "kube-controller-manager",
        &mut command,
        &cluster.dir().join("kube-controller-manager.log"),
    )
}
