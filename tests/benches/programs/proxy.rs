//! The API server by a direct connection beside the same through `touchstone proxy`.
//!
//! One client, one server of the suites', one run, in turn. The direct connection is the same mutual TLS with a key in
//! memory, which is what kubectl has without Touchstone.

use crate::support::{Durations, figure, ms, ratio};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use touchstone_common::{
    certificate::Validity,
    key::{KeyAlgorithm, PublicKey, SigningKey as _, SoftwareKey},
};
use touchstone_tests::{
    engineer::{Engineer, Ran},
    pcscd::Options as CardOptions,
    upstream::{Options, Upstream},
};

const USER: &str = "alice@example.com";
const SMALL: &str = "/api/v1/namespaces/default/pods/web";
const LIST_MIB: u64 = 200;
const STREAM_MIB: u64 = 1024;
const EVENTS: u64 = 10_000;
/// What Go's client allows a server to be ahead (golang.org/x/net/http2, transport.go).
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;
const TARGET: &str = "1.10 ×";

pub(crate) fn run() {
    let setting = Setting::new();
    let runtime = Runtime::new().expect("a runtime");
    let touches = setting.touches();
    let (direct, proxied) = (setting.direct(), setting.proxied());
    runtime.block_on(async {
        small(&direct, &proxied).await;
    });
    figure(
        "proxy: touches for a session of these calls",
        &(setting.touches() - touches).to_string(),
        "1",
    );
    setting.peak("small calls");
    runtime.block_on(async {
        let list = format!("/test/bytes?n={}", LIST_MIB << 20);
        whole(&direct, &proxied, "a list of 200 MiB", &list).await;
        let events = format!("/test/events?n={EVENTS}");
        whole(&direct, &proxied, "a watch with 10,000 events", &events).await;
    });
    setting.peak("the list and the watch");
    runtime.block_on(exec_stream(&direct, &proxied));
    setting.port_forward(&runtime);
    setting.peak("the streams of 1 GiB");
    setting.kubectl_get();
}

/// An engineer with a running proxy, and an API server.
struct Setting {
    engineer: Engineer,
    upstream: Upstream,
    chain: String,
    key: String,
}

/// One way to the API server.
struct Way {
    address: String,
    tls: ClientConfig,
}

impl Setting {
    fn new() -> Self {
        let engineer = Engineer::new(USER, &CardOptions::default());
        engineer.set_up();
        engineer.generate(&[]);
        let upstream = Upstream::start(Options::default());
        let mut command = engineer.touchstone(["config", "set-cluster", "demo", "--user", USER]);
        command
            .args(["--server", &upstream.url(), "--ca"])
            .arg(upstream.server_ca())
            .arg("--trust-bundle")
            .arg(upstream.client_ca_file());
        Ran::of(&mut command).succeeded();

        let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second());
        let now = now.expect("a time");
        let validity = Validity {
            not_before: now - jiff::SignedDuration::from_mins(1),
            not_after: now + jiff::SignedDuration::from_mins(50),
        };
        let issue = |key: &PublicKey| {
            let ca = upstream.client_ca();
            ca.issue(key, USER, &["jit:oncall:payments"], validity)
        };
        // As `touchstone login` keeps it.
        let (chain, fingerprint) = issue(&key_of_the_card(&engineer));
        let folder = engineer.file("state/demo");
        fs::create_dir_all(&folder).expect("make the state's folder");
        let credential = json!({
            "cluster": "demo", "user": USER, "groups": ["jit:oncall:payments"],
            "notBefore": validity.not_before, "notAfter": validity.not_after,
            "serial": "01", "fingerprint": fingerprint, "yubikey": 12_345_678, "slot": "9a",
            "request": "of the benchmark", "reason": "INC-4211 checkout latency",
        });
        fs::write(folder.join("certificate.pem"), chain).expect("keep a certificate");
        fs::write(folder.join("credential.json"), credential.to_string()).expect("keep it");

        let key = SoftwareKey::generate(KeyAlgorithm::P256).expect("make a key");
        let (chain, _) = issue(key.public_key());
        let key = key.to_pkcs8_pem().expect("PEM").to_string();
        Self {
            engineer,
            upstream,
            chain,
            key,
        }
    }

    fn touches(&self) -> u32 {
        let count = self.engineer.yubikey().control("touches");
        count.trim().parse().expect("a number of touches")
    }

    fn direct(&self) -> Way {
        let ca = fs::read(self.upstream.server_ca()).expect("the CA");
        Way {
            address: self.upstream.url().replace("https://", ""),
            tls: tls(&ca, self.chain.as_bytes(), self.key.as_bytes()),
        }
    }

    fn plugin(&self) -> Command {
        let pin = self.engineer.path_text("pin");
        let credential = ["credential", "--cluster=demo", "--ttl=30m", "--pin-file"];
        let mut command = self.engineer.touchstone(credential);
        command.arg(pin);
        command
    }

    /// Starts the proxy where none runs.
    fn proxied(&self) -> Way {
        let printed = Ran::of(&mut self.plugin()).succeeded().stdout;
        let printed: Value = serde_json::from_str(&printed).expect("JSON");
        let text = |name: &str| {
            let value = printed.pointer(&format!("/status/{name}"));
            value.and_then(Value::as_str).expect("text").to_owned()
        };
        let (port, ca) = self.loopback();
        Way {
            address: format!("127.0.0.1:{port}"),
            tls: tls(
                ca.as_bytes(),
                text("clientCertificateData").as_bytes(),
                text("clientKeyData").as_bytes(),
            ),
        }
    }

    /// The proxy's port and CA.
    fn loopback(&self) -> (u64, String) {
        let kept = fs::read(self.engineer.file("state/demo/loopback.json"));
        let kept: Value = serde_json::from_slice(&kept.expect("the local identity")).expect("JSON");
        let port = kept.get("port").and_then(Value::as_u64).expect("a port");
        let ca = kept.get("caPem").and_then(Value::as_str).expect("a CA");
        (port, ca.to_owned())
    }

    /// The most memory that the proxy had so far.
    fn peak(&self, after: &str) {
        let status = self.engineer.run(["status", "--output", "json"]);
        let status: Value = serde_json::from_str(&status.succeeded().stdout).expect("JSON");
        let pid = status.pointer("/0/proxy/pid").and_then(Value::as_u64);
        let path = format!("/proc/{}/status", pid.expect("a proxy runs"));
        let status = fs::read_to_string(path).expect("the proxy runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
        let kib: f64 = kib.expect("Linux says VmHWM in kB");
        figure(
            &format!("proxy: most memory so far, after {after}"),
            &format!("{:.0} MiB", kib / 1024.0),
            "",
        );
    }

    /// A kubeconfig of either way; the proxy's has the exec plugin, as `touchstone setup` writes it.
    fn kubeconfig(&self, through_proxy: bool) -> PathBuf {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let (server, ca, user) = if through_proxy {
            let plugin = self.plugin();
            let arguments: Vec<_> = plugin.get_args().filter_map(|a| a.to_str()).collect();
            let environment: Vec<_> = plugin
                .get_envs()
                .filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)))
                .map(|(name, value)| json!({ "name": name, "value": value }))
                .collect();
            let (port, ca) = self.loopback();
            let user = json!({ "exec": {
                "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "IfAvailable",
                "command": plugin.get_program().to_str(), "args": arguments, "env": environment,
            } });
            (format!("https://127.0.0.1:{port}"), ca.into_bytes(), user)
        } else {
            let ca = fs::read(self.upstream.server_ca()).expect("the CA");
            let user = json!({
                "client-certificate-data": STANDARD.encode(&self.chain),
                "client-key-data": STANDARD.encode(&self.key),
            });
            (self.upstream.url(), ca, user)
        };
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "b",
            "clusters": [{ "name": "b", "cluster": {
                "server": server, "certificate-authority-data": STANDARD.encode(ca),
            } }],
            "users": [{ "name": "b", "user": user }],
            "contexts": [{ "name": "b", "context": { "cluster": "b", "user": "b" } }],
        });
        let name = if through_proxy { "proxied" } else { "direct" };
        let path = self.engineer.file(&format!("{name}.kubeconfig"));
        fs::write(&path, config.to_string()).expect("write a kubeconfig");
        path
    }

    fn kubectl(&self, kubeconfig: &Path) -> Command {
        let mut command = Command::new("kubectl");
        command
            .env("KUBECONFIG", kubeconfig)
            .env("HOME", self.engineer.file(""));
        command
    }

    /// The whole of `kubectl get`: what the exec plugin adds is the start of a process and a question on a socket.
    fn kubectl_get(&self) {
        const ROUNDS: usize = 25;
        let configs = [false, true].map(|through_proxy| self.kubeconfig(through_proxy));
        let mut took = [const { Durations::new() }; 2];
        for round in 0..=ROUNDS {
            for (config, took) in configs.iter().zip(&mut took) {
                let mut command = self.kubectl(config);
                command.args(["get", "pod", "web", "-o", "name"]);
                let started = Instant::now();
                Ran::of(&mut command).succeeded();
                // The first fills kubectl's cache of what the server serves.
                if round > 0 {
                    took.push(started.elapsed());
                }
            }
        }
        let [direct, proxied] = took;
        let more = proxied.median().saturating_sub(direct.median());
        figure(
            "proxy: kubectl get by the exec plugin, more than without, p50",
            &format!("{} (to {})", ms(more), ms(direct.median())),
            "30 ms",
        );
    }

    /// `kubectl port-forward` of a gibibyte, from a port of this machine.
    fn port_forward(&self, runtime: &Runtime) {
        let source = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let source = source.expect("listen");
        let port = source.local_addr().expect("an address").port();
        runtime.spawn(async move {
            let piece = vec![0; 256 * 1024];
            while let Ok((mut stream, _)) = source.accept().await {
                for _ in 0..STREAM_MIB * 4 {
                    if stream.write_all(&piece).await.is_err() {
                        break;
                    }
                }
            }
        });
        let mut took = [const { Durations::new() }; 2];
        for _ in 0..2 {
            for (through_proxy, took) in [false, true].into_iter().zip(&mut took) {
                let config = self.kubeconfig(through_proxy);
                took.push(self.forwarded(&config, port));
            }
        }
        let [direct, proxied] = took;
        beside("1 GiB by kubectl port-forward", &direct, &proxied);
    }

    fn forwarded(&self, config: &Path, port: u16) -> Duration {
        use std::io::{BufRead as _, BufReader, Read as _};
        let mut command = self.kubectl(config);
        command
            .args(["port-forward", "pod/web", "--address=127.0.0.1"])
            .arg(format!(":{port}"))
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("start kubectl");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let line = lines.next().expect("a line").expect("text");
        let (_, local) = line.split_once("127.0.0.1:").expect("an address");
        let local: u16 = local
            .split(' ')
            .next()
            .and_then(|p| p.parse().ok())
            .expect("a port");
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", local)).expect("connect");
        let mut piece = vec![0; 256 * 1024];
        let mut left = STREAM_MIB << 20;
        let started = Instant::now();
        while left > 0 {
            let length = stream.read(&mut piece).expect("read");
            assert!(length > 0, "the stream ended before its end");
            left -= u64::try_from(length).expect("a length");
        }
        let took = started.elapsed();
        child.kill().expect("end kubectl");
        child.wait().expect("wait for kubectl");
        took
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = self.engineer.run(["logout", "--cluster", "demo"]);
    }
}

/// The key in slot 9a.
fn key_of_the_card(engineer: &Engineer) -> PublicKey {
    let chain = engineer.path_text("attestation.pem");
    let root = engineer.path_text("attestation-root.pem");
    let attest = [
        "key",
        "attest",
        "--out",
        &chain,
        "--attestation-root",
        &root,
    ];
    engineer.run(attest).succeeded();
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-pubkey", "-in", &chain]);
    let pem = Ran::of(&mut openssl).succeeded().stdout;
    let der = pem::parse(pem).expect("PEM").into_contents();
    PublicKey::from_spki_der(&der).expect("a public key")
}

fn tls(ca: &[u8], chain: &[u8], key: &[u8]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(ca) {
        roots.add(ca.expect("PEM")).expect("a CA");
    }
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(key).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.expect("a chain"), key)
        .expect("an identity")
}

impl Way {
    async fn connect(&self, protocol: &str) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(&self.address).await.expect("connect");
        tcp.set_nodelay(true).expect("no delay");
        let mut tls = self.tls.clone();
        tls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let connector = TlsConnector::from(Arc::new(tls));
        connector.connect(name, tcp).await.expect("shake hands")
    }

    async fn http2(&self) -> Http2 {
        let stream = self.connect("h2").await;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .expect("speak HTTP/2");
        tokio::spawn(connection);
        Http2 {
            sender,
            address: self.address.clone(),
        }
    }

    /// How long an exec of `head` takes to give a gibibyte, from the answer to the last byte.
    async fn exec(&self) -> Duration {
        let total = STREAM_MIB << 20;
        let path = format!(
            "{SMALL}/exec?command=head&command=-c&command={total}&command=/dev/zero&stdout=true"
        );
        let stream = self.connect("http/1.1").await;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .expect("speak HTTP/1.1");
        tokio::spawn(connection.with_upgrades());
        let request = Request::get(path)
            .header(header::HOST, &self.address)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
            .header(header::SEC_WEBSOCKET_PROTOCOL, "v5.channel.k8s.io")
            .body(Empty::<Bytes>::new())
            .expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let upgraded = hyper::upgrade::on(response).await.expect("an upgrade");
        let mut stream = TokioIo::new(upgraded);
        let mut piece = vec![0; 256 * 1024];
        let mut seen = 0;
        let started = Instant::now();
        // Its frames' heads count too: a little less than all is read before the clock stops, on both ways.
        while seen < total {
            let length = stream.read(&mut piece).await.expect("read");
            assert!(length > 0, "the stream ended before its end");
            seen += u64::try_from(length).expect("a length");
        }
        started.elapsed()
    }
}

/// One HTTP/2 connection.
#[derive(Clone)]
struct Http2 {
    sender: http2::SendRequest<Empty<Bytes>>,
    address: String,
}

impl Http2 {
    async fn get(&self, path: &str) -> Response<Incoming> {
        let request = Request::get(format!("https://{}{path}", self.address))
            .body(Empty::new())
            .expect("a request");
        let mut sender = self.sender.clone();
        sender.ready().await.expect("an open connection");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        answer
    }

    /// How long an answer takes to its last byte, and how many bytes it has.
    async fn timed(&self, path: &str) -> (Duration, usize) {
        let started = Instant::now();
        let mut body = self.get(path).await.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame.expect("a frame").data_ref().map_or(0, Bytes::len);
        }
        (started.elapsed(), length)
    }

    /// So many small calls, so many at a time.
    async fn small(&self, calls: usize, at_once: usize) -> Durations {
        let tasks: Vec<_> = (0..at_once)
            .map(|_| {
                let client = self.clone();
                tokio::spawn(async move {
                    let mut took = Durations::new();
                    for _ in 0..calls / at_once {
                        took.push(client.timed(SMALL).await.0);
                    }
                    took
                })
            })
            .collect();
        let mut all = Durations::new();
        for task in tasks {
            all.append(task.await.expect("a task"));
        }
        all
    }
}

async fn small(direct: &Way, proxied: &Way) {
    let ways = [direct.http2().await, proxied.http2().await];
    for (at_once, calls) in [(1, 200), (50, 2000)] {
        let mut took = [const { Durations::new() }; 2];
        for way in &ways {
            way.small(calls, at_once).await;
        }
        for _ in 0..20 {
            for (way, took) in ways.iter().zip(&mut took) {
                took.append(way.small(calls, at_once).await);
            }
        }
        let [direct, proxied] = took;
        for percent in [50, 99] {
            let (one, other) = (proxied.percentile(percent), direct.percentile(percent));
            figure(
                &format!("proxy: a small GET, {at_once} in flight, p{percent}, beside direct"),
                &format!("{} ({}, {})", ratio(one, other), ms(one), ms(other)),
                TARGET,
            );
        }
    }
}

/// One large answer.
async fn whole(direct: &Way, proxied: &Way, what: &str, path: &str) {
    let ways = [direct.http2().await, proxied.http2().await];
    let mut took = [const { Durations::new() }; 2];
    let mut lengths = Vec::new();
    for _ in 0..7 {
        for (way, took) in ways.iter().zip(&mut took) {
            let (duration, length) = way.timed(path).await;
            took.push(duration);
            lengths.push(length);
        }
    }
    lengths.dedup();
    assert_eq!(lengths.len(), 1, "every answer is as long as the others");
    let [direct, proxied] = took;
    beside(what, &direct, &proxied);
}

async fn exec_stream(direct: &Way, proxied: &Way) {
    let mut took = [const { Durations::new() }; 2];
    for _ in 0..3 {
        for (way, took) in [direct, proxied].into_iter().zip(&mut took) {
            took.push(way.exec().await);
        }
    }
    let [direct, proxied] = took;
    beside("1 GiB out of an exec (WebSocket)", &direct, &proxied);
}

fn beside(what: &str, direct: &Durations, proxied: &Durations) {
    let (one, other) = (proxied.median(), direct.median());
    figure(
        &format!("proxy: {what}, beside direct"),
        &format!("{} ({}, {})", ratio(one, other), ms(one), ms(other)),
        TARGET,
    );
}
