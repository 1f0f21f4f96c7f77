//! A signer that delivers something else than what was asked for: refused, and nothing is kept anywhere.

use crate::{
    USER, configure, engineer_with_key, exit, faketime, pending, put,
    rogue::{Request, Rogue, answer},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};
use touchstone_common::{
    certificate::{Prepared, Profile, SerialNumber, Validity, to_pem},
    key::{KeyAlgorithm, SigningKey as _, SoftwareKey},
};
use touchstone_tests::{engineer::Ran, policy::GRANTED};

const HONEST_SUBJECT: &str = "/O=jit:oncall:payments/CN=alice@example.com";
const HONEST_EXTENSIONS: &str = "basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=clientAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
";

/// Names the attribute that Go's Kubernetes code reads as the UID.
const OPENSSL_CONF: &str = "openssl_conf = init
[init]
oid_section = oids
[oids]
kubernetesUid = 1.3.6.1.4.1.57683.2
";

/// What is signed for whoever asks.
#[derive(Clone, Debug)]
struct Recipe {
    subject: &'static str,
    /// Instead of the key in the request.
    another_key: bool,
    /// The CA in the trust bundle, or one of the same name that is not.
    ca: &'static str,
    /// When `openssl` believes to live; its certificates end a day later.
    made: &'static str,
    extensions: String,
    /// Stands behind the certificate in the delivered chain.
    rest: &'static str,
}

const IN_THIRTY_MINUTES: &str = "-1410m";

impl Default for Recipe {
    fn default() -> Self {
        Self {
            subject: HONEST_SUBJECT,
            another_key: false,
            ca: "ca",
            made: IN_THIRTY_MINUTES,
            extensions: HONEST_EXTENSIONS.to_owned(),
            rest: "",
        }
    }
}

/// The signer: two CAs and what it is told to make.
struct HostileSigner {
    dir: PathBuf,
    recipe: Mutex<Recipe>,
    issued: Mutex<String>,
}

impl HostileSigner {
    fn new(dir: &Path) -> Self {
        for name in ["ca", "other-ca"] {
            make_ca(dir, name);
        }
        fs::write(dir.join("openssl.cnf"), OPENSSL_CONF).expect("write a configuration");
        let other = SoftwareKey::generate(KeyAlgorithm::P256).expect("make a key");
        let block = pem::Pem::new("PUBLIC KEY", other.public_key().spki_der());
        fs::write(dir.join("other.pem"), pem::encode(&block)).expect("write a key");
        Self {
            dir: dir.to_owned(),
            recipe: Mutex::default(),
            issued: Mutex::default(),
        }
    }

    fn recipe(&self) -> Recipe {
        self.recipe
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Signs for the request in a CertificateSigningRequest; the chain.
    fn sign(&self, body: &[u8]) -> String {
        let recipe = self.recipe();
        let file = |name: &str| self.dir.join(name);
        let object: serde_json::Value = serde_json::from_slice(body).expect("a JSON body");
        let request = object["spec"]["request"].as_str().expect("a request");
        fs::write(file("csr.pem"), STANDARD.decode(request).expect("base64")).expect("write it");
        fs::write(file("extensions"), &recipe.extensions).expect("write the extensions");
        let request = Command::new("openssl")
            .args(["req", "-noout", "-pubkey", "-in"])
            .arg(file("csr.pem"))
            .output()
            .expect("run openssl");
        fs::write(file("card.pem"), request.stdout).expect("write the public key");
        let key = if recipe.another_key {
            "other.pem"
        } else {
            "card.pem"
        };
        openssl(
            faketime(recipe.made)
                .env("OPENSSL_CONF", file("openssl.cnf"))
                .args([
                    "openssl",
                    "x509",
                    "-new",
                    "-days",
                    "1",
                    "-subj",
                    recipe.subject,
                ])
                .arg("-force_pubkey")
                .arg(file(key))
                .arg("-CA")
                .arg(file(&format!("{}.pem", recipe.ca)))
                .arg("-CAkey")
                .arg(file(&format!("{}.key", recipe.ca)))
                .arg("-extfile")
                .arg(file("extensions"))
                .arg("-out")
                .arg(file("leaf.pem")),
        );
        let mut chain = fs::read_to_string(file("leaf.pem")).expect("read the certificate");
        if !recipe.rest.is_empty() {
            chain +=
                &fs::read_to_string(file(recipe.rest)).unwrap_or_else(|_| recipe.rest.to_owned());
        }
        chain
    }

    fn answer(&self, request: &Request, out: &mut dyn Write) -> bool {
        let object = |chain: &str| {
            json!({
                "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
                "metadata": { "name": "touchstone-x", "uid": "u", "resourceVersion": "7" },
                "spec": { "request": "", "signerName": "touchstone.dev/client" },
                "status": if chain.is_empty() { json!({}) } else { json!({
                    "conditions": [{ "type": "Approved", "status": "True" }],
                    "certificate": STANDARD.encode(chain),
                }) },
            })
        };
        let issued = || {
            self.issued
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        };
        let body = match request.method.as_str() {
            "POST" => {
                let chain = self.sign(&request.body);
                *self.issued.lock().unwrap_or_else(PoisonError::into_inner) = chain;
                object("")
            }
            _ if request.path.contains("watch") => {
                json!({ "type": "MODIFIED", "object": object(&issued()) })
            }
            _ if request.path.contains("touchstone-x") => object(&issued()),
            _ => json!({}),
        };
        let status = if request.method == "POST" {
            "201 Created"
        } else {
            "200 OK"
        };
        put(out, &answer(status, "", &format!("{body}\n")))
    }
}

fn openssl(command: &mut Command) {
    let ran = Ran::of(command).succeeded();
    // It goes on without an attribute that it does not know.
    assert!(!ran.stderr.contains("Skipping"), "{ran}");
}

/// `NAME.pem` and `NAME.key`: a CA for clients, of the same name whatever the file's.
fn make_ca(dir: &Path, name: &str) {
    let key = SoftwareKey::generate(KeyAlgorithm::P256).expect("make a key");
    let now = jiff::Timestamp::now();
    let days = |days: i64| jiff::SignedDuration::from_hours(24 * days);
    let validity = Validity {
        not_before: now - days(3),
        not_after: now + days(3),
    };
    let profile = Profile::IssuingCa {
        common_name: "issuing",
    };
    let serial = SerialNumber::from_random([7; 16]);
    let der = Prepared::new(&profile, key.public_key(), validity, serial, None)
        .expect("prepare a CA")
        .sign(&key)
        .expect("sign a CA");
    fs::write(dir.join(format!("{name}.pem")), to_pem(&der)).expect("write a CA");
    let private = key.to_pkcs8_pem().expect("a private key");
    fs::write(dir.join(format!("{name}.key")), private.as_bytes()).expect("write a key");
}

fn hostile_recipes() -> Vec<(&'static str, Recipe)> {
    let honest = Recipe::default();
    let subject = |subject| Recipe {
        subject,
        ..honest.clone()
    };
    let made = |made| Recipe {
        made,
        ..honest.clone()
    };
    let extension = |line: &str| Recipe {
        extensions: format!("{HONEST_EXTENSIONS}{line}\n"),
        ..honest.clone()
    };
    let instead = |from, to| Recipe {
        extensions: HONEST_EXTENSIONS.replace(from, to),
        ..honest.clone()
    };
    let rest = |rest| Recipe {
        rest,
        ..honest.clone()
    };
    vec![
        (
            "for another key",
            Recipe {
                another_key: true,
                ..honest.clone()
            },
        ),
        (
            "bob@example.com",
            subject("/O=jit:oncall:payments/CN=bob@example.com"),
        ),
        (
            "system:",
            subject("/O=jit:oncall:payments/O=system:masters/CN=alice@example.com"),
        ),
        ("system:", subject("/O=system:masters/CN=alice@example.com")),
        ("system:", subject("/O=jit:oncall:payments/CN=system:admin")),
        (
            "groups",
            subject("/O=jit:oncall:payments/O=jit:oncall:billing/CN=alice@example.com"),
        ),
        ("groups", subject("/CN=alice@example.com")),
        // Go reads the last CN.
        (
            "refused",
            subject("/O=jit:oncall:payments/CN=alice@example.com/CN=root@example.com"),
        ),
        // Go reads this one as the user's UID.
        (
            "refused",
            subject("/O=jit:oncall:payments/CN=alice@example.com/kubernetesUid=0"),
        ),
        ("longer than", made("-1320m")),
        ("ended at", made("-1500m")),
        ("in the future", made("+10m")),
        (
            "subject alternative names",
            extension("subjectAltName=DNS:kubernetes.default.svc"),
        ),
        ("not understood", extension("1.2.3.4=critical,ASN1:NULL")),
        ("a CA's", instead("CA:FALSE", "CA:TRUE")),
        (
            "key usage",
            instead("digitalSignature", "digitalSignature,keyCertSign"),
        ),
        (
            "client authentication",
            instead("clientAuth", "clientAuth,serverAuth"),
        ),
        (
            "client authentication",
            instead("extendedKeyUsage=clientAuth\n", ""),
        ),
        (
            "the certificate that came back",
            Recipe {
                ca: "other-ca",
                ..honest.clone()
            },
        ),
        // The CA that signed it, delivered with it, is still no one's.
        (
            "the certificate that came back",
            Recipe {
                ca: "other-ca",
                rest: "other-ca.pem",
                ..honest.clone()
            },
        ),
        ("do not belong", rest("other-ca.pem")),
        ("refused", rest("leaf.pem")),
        ("refused", rest("and more")),
    ]
}

#[test]
fn what_was_not_asked_for_is_refused_and_nothing_is_kept_or_written_to_the_card() {
    let engineer = engineer_with_key();
    let dir = tempfile::Builder::new()
        .prefix("touchstone-hostile-")
        .tempdir()
        .expect("make a temporary folder");
    let signer = Arc::new(HostileSigner::new(dir.path()));
    let rogue = {
        let signer = Arc::clone(&signer);
        Rogue::start(move |request, out| signer.answer(request, out))
    };
    configure(&engineer, &rogue, &dir.path().join("ca.pem"));

    for (word, recipe) in hostile_recipes() {
        *signer.recipe.lock().expect("no one panicked") = recipe.clone();
        let ran = engineer.login(GRANTED);
        println!("{recipe:?}: {ran}");
        ran.failed(
            exit::VERIFICATION,
            &[
                "the certificate that came back is refused",
                word,
                "nothing was kept",
            ],
        );
        assert!(!engineer.certificate("demo").exists(), "{recipe:?}");
        assert_eq!(pending(&engineer), None, "{recipe:?}");
        let listed = engineer.run(["key", "list"]).succeeded().stdout;
        assert!(!listed.contains(USER), "{recipe:?}:\n{listed}");
    }

    // The same machinery delivers what was asked for, and that is kept.
    *signer.recipe.lock().expect("no one panicked") = Recipe::default();
    engineer.login(GRANTED).succeeded();
    assert!(engineer.certificate("demo").exists());
    let listed = engineer.run(["key", "list"]).succeeded().stdout;
    assert!(listed.contains(USER), "{listed}");

    // And a hostile answer later does not take it away.
    let before = fs::read(engineer.certificate("demo")).expect("read what is kept");
    *signer.recipe.lock().expect("no one panicked") = Recipe {
        another_key: true,
        ..Recipe::default()
    };
    engineer.login(GRANTED).failed(exit::VERIFICATION, &[]);
    let after = fs::read(engineer.certificate("demo")).expect("read what is kept");
    assert_eq!(before, after);
}
