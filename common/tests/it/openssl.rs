//! What is written here is read by OpenSSL, and the other way round. OpenSSL is needed: these tests fail without it.

use crate::{
    support::{Ca, draft, group, now, serial, user, validity},
    x509::{generalized_time, utc_time},
};
use jiff::SignedDuration;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::Command,
};
use tempfile::TempDir;
use touchstone_common::{
    attestation::{PinPolicy, Roots, verify},
    certificate::{
        CaCertificate, CertificateError, ClientIdentity, Expected, Prepared, Profile, Validity,
        to_pem, verify_issued,
    },
    csr::{self, CsrError, Request},
    evidence::Evidence,
    grant::GrantId,
    key::{KeyAlgorithm, PublicKey, SigningKey as _, SoftwareKey},
    ttl::Ttl,
};

const KEYS: [KeyAlgorithm; 3] = [
    KeyAlgorithm::P256,
    KeyAlgorithm::P384,
    KeyAlgorithm::Ed25519,
];

/// A directory of one test, in which OpenSSL runs.
struct Dir(TempDir);

impl Dir {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.path(name), contents).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Runs OpenSSL with these words; what it printed, out and err. Fails when it fails.
    fn openssl(&self, words: &str) -> String {
        let (success, text) = self.try_openssl(words);
        assert!(success, "openssl {words}: {text}");
        text
    }

    fn try_openssl(&self, words: &str) -> (bool, String) {
        let output = Command::new("openssl")
            .args(words.split(' '))
            .current_dir(self.0.path())
            .env("OPENSSL_CONF", "/dev/null")
            .env("TZ", "UTC")
            .output()
            .expect(
                "openssl is needed for these tests: install it (Debian: apt-get install openssl)",
            );
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }
}

fn sign(
    profile: &Profile<'_>,
    public_key: &PublicKey,
    hours: i64,
    issuer: Option<(&CaCertificate, &SoftwareKey)>,
    own: &SoftwareKey,
) -> Vec<u8> {
    Prepared::new(
        profile,
        public_key,
        validity(SignedDuration::ZERO, SignedDuration::from_hours(hours)),
        serial(5),
        issuer.map(|(ca, _)| ca),
    )
    .unwrap()
    .sign(issuer.map_or(own, |(_, key)| key))
    .unwrap()
}

#[test]
fn openssl_verifies_our_requests() {
    for algorithm in KEYS {
        let dir = Dir::new();
        let key = SoftwareKey::generate(algorithm).unwrap();
        let mut draft = draft("alice@example.com", &["oncall", "dév"]);
        draft.evidence = Some(Evidence {
            slot_certificate: vec![0x30, 0],
            intermediates: vec![vec![0x30, 0]],
        });
        dir.write("csr.pem", csr::to_pem(&draft.sign(&key).unwrap()));
        let text = dir.openssl("req -in csr.pem -verify -noout -text -nameopt utf8");
        assert!(text.contains("verify OK"), "{text}");
        assert!(
            text.contains("CN=alice@example.com, O=dév, O=oncall")
                || text.contains("CN = alice@example.com, O = dév, O = oncall"),
            "{text}"
        );
    }
}

#[test]
fn openssl_reads_our_software_keys_and_we_read_its_own() {
    for (algorithm, words) in [
        (KeyAlgorithm::P256, "EC -pkeyopt ec_paramgen_curve:P-256"),
        (KeyAlgorithm::P384, "EC -pkeyopt ec_paramgen_curve:P-384"),
        (KeyAlgorithm::Ed25519, "ED25519"),
    ] {
        let dir = Dir::new();
        let ours = SoftwareKey::generate(algorithm).unwrap();
        dir.write("ours.pem", ours.to_pkcs8_pem().unwrap().as_bytes());
        dir.openssl("pkey -in ours.pem -pubout -outform DER -out ours.der");
        assert_eq!(dir.read("ours.der"), ours.public_key().spki_der());

        dir.openssl(&format!("genpkey -algorithm {words} -out theirs.pem"));
        dir.openssl("pkey -in theirs.pem -pubout -outform DER -out theirs.der");
        let theirs = SoftwareKey::from_pkcs8_pem(&dir.read("theirs.pem")).unwrap();
        assert_eq!(theirs.public_key().spki_der(), dir.read("theirs.der"));
        assert_eq!(theirs.public_key().algorithm(), algorithm);
    }
}

#[test]
fn openssl_builds_the_chain_of_our_client_certificates() {
    for root_algorithm in KEYS {
        let dir = Dir::new();
        let ca = Ca::new(root_algorithm);
        let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
        let leaf = ca.issue(&key, "alice@example.com", &["dev", "ops"]);
        dir.write("leaf.pem", to_pem(&leaf));
        dir.write("issuing.pem", ca.issuing.to_pem());
        dir.write("root.pem", ca.root.to_pem());
        let verify = format!(
            "verify -x509_strict -attime {} -purpose sslclient -CAfile root.pem -untrusted issuing.pem leaf.pem",
            now().as_second()
        );
        let text = dir.openssl(&verify);
        assert!(text.contains("leaf.pem: OK"), "{text}");
        let (as_server, _) = dir.try_openssl(&verify.replace("sslclient", "sslserver"));
        assert!(!as_server, "the leaf is for clients only");

        let text = dir.openssl("x509 -in leaf.pem -noout -text -nameopt RFC2253");
        for line in [
            "Version: 3 (0x2)",
            "Subject: O=ops,O=dev,CN=alice@example.com",
            "Not Before: May  6 07:07:39 2026 GMT",
            "Not After : May  6 07:38:09 2026 GMT",
            "X509v3 Basic Constraints: critical\n                CA:FALSE\n",
            "X509v3 Key Usage: critical\n                Digital Signature\n",
            "X509v3 Extended Key Usage: \n                TLS Web Client Authentication\n",
            "X509v3 Subject Key Identifier:",
            "X509v3 Authority Key Identifier:",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("Alternative Name"), "{text}");
        let text = dir.openssl("x509 -in issuing.pem -noout -text");
        assert!(text.contains("CA:TRUE, pathlen:0"), "{text}");
        assert!(text.contains("Certificate Sign, CRL Sign"), "{text}");
        let text = dir.openssl("x509 -in root.pem -noout -text");
        assert!(text.contains("CA:TRUE, pathlen:1"), "{text}");
        assert!(!text.contains("Extended Key Usage"), "{text}");
    }
}

#[test]
fn openssl_verifies_our_server_certificates_by_name_and_address() {
    let dir = Dir::new();
    let ca_key = SoftwareKey::generate(KeyAlgorithm::P384).unwrap();
    let ca_profile = Profile::ServerCa {
        common_name: "Touchstone server CA",
    };
    let ca = sign(&ca_profile, ca_key.public_key(), 9000, None, &ca_key);
    let ca = CaCertificate::from_der(&ca).unwrap();
    let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let server = Profile::Server {
        dns_names: &["localhost".into(), "signer.example.com".into()],
        ip_addresses: &[
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ],
    };
    let server = sign(&server, key.public_key(), 24, Some((&ca, &ca_key)), &key);
    dir.write("server.pem", to_pem(&server));
    dir.write("ca.pem", ca.to_pem());
    let verify = format!(
        "verify -x509_strict -attime {} -purpose sslserver -CAfile ca.pem",
        now().as_second()
    );
    for name in [
        "-verify_hostname localhost",
        "-verify_hostname signer.example.com",
        "-verify_ip 127.0.0.1",
        "-verify_ip ::1",
    ] {
        dir.openssl(&format!("{verify} {name} server.pem"));
    }
    let (other, _) = dir.try_openssl(&format!("{verify} -verify_ip 127.0.0.2 server.pem"));
    assert!(!other);
    let (as_client, _) =
        dir.try_openssl(&format!("{verify} server.pem").replace("sslserver", "sslclient"));
    assert!(!as_client, "the server certificate is for servers only");
}

#[test]
fn dates_from_2050_on_are_written_as_openssl_reads_them() {
    let dir = Dir::new();
    let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    for (not_after, shown, encoded) in [
        (
            "2049-12-31T23:59:59Z",
            "Dec 31 23:59:59 2049 GMT",
            utc_time("491231235959Z"),
        ),
        (
            "2050-01-01T00:00:00Z",
            "Jan  1 00:00:00 2050 GMT",
            generalized_time("20500101000000Z"),
        ),
    ] {
        let validity = Validity {
            not_before: now(),
            not_after: not_after.parse().unwrap(),
        };
        let profile = Profile::Root {
            common_name: "Root",
        };
        let der = Prepared::new(&profile, key.public_key(), validity, serial(1), None)
            .unwrap()
            .sign(&key)
            .unwrap();
        assert!(der.windows(encoded.len()).any(|window| window == encoded));
        dir.write("root.pem", to_pem(&der));
        let text = dir.openssl("x509 -in root.pem -noout -enddate");
        assert_eq!(text.trim(), format!("notAfter={shown}"));
        assert_eq!(CaCertificate::from_der(&der).unwrap().validity(), validity);
    }
}

#[test]
fn a_request_of_openssl_is_refused_for_what_it_lacks_or_asks_and_for_nothing_else() {
    let dir = Dir::new();
    dir.write(
        "san.cnf",
        "[req]\ndistinguished_name=dn\nreq_extensions=ext\n[dn]\n[ext]\nsubjectAltName=DNS:a.example\n",
    );
    dir.write("plain.cnf", "[req]\ndistinguished_name=dn\n[dn]\n");
    for new_key in [
        "ec -pkeyopt ec_paramgen_curve:P-256",
        "ec -pkeyopt ec_paramgen_curve:P-384 -sha384",
        "ed25519",
        "rsa:2048",
        "rsa:3072",
    ] {
        let request = |config: &str| {
            dir.openssl(&format!(
                "req -new -newkey {new_key} -nodes -keyout key.pem -config {config} -subj /CN=alice/O=dev -utf8 -out csr.pem"
            ));
            Request::from_pem(&dir.read("csr.pem")).unwrap_err()
        };
        assert_eq!(request("plain.cnf"), CsrError::NoClaims, "{new_key}");
        assert_eq!(request("san.cnf"), CsrError::ExtensionRequest, "{new_key}");
    }
    dir.openssl(
        "req -new -newkey rsa:1024 -nodes -keyout key.pem -config plain.cnf -subj /CN=alice/O=dev -out csr.pem",
    );
    let refusal = Request::from_pem(&dir.read("csr.pem")).unwrap_err();
    assert!(refusal.to_string().contains("1024 bits"), "{refusal}");
    dir.openssl(
        "req -new -newkey rsa:2048 -pkeyopt rsa_keygen_pubexp:3 -nodes -keyout key.pem -config plain.cnf -subj /CN=alice/O=dev -out csr.pem",
    );
    let refusal = Request::from_pem(&dir.read("csr.pem")).unwrap_err();
    assert!(refusal.to_string().contains("65537"), "{refusal}");
}

#[test]
fn a_client_certificate_of_openssl_is_read_and_one_for_servers_is_not() {
    let dir = Dir::new();
    dir.write("plain.cnf", "[req]\ndistinguished_name=dn\n[dn]\n");
    let make = |subject: &str, usage: &str| {
        dir.openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -config plain.cnf -subj {subject} -utf8 -days 1 -addext basicConstraints=critical,CA:FALSE -addext keyUsage=critical,digitalSignature -addext extendedKeyUsage={usage} -outform DER -out leaf.der"
        ));
        ClientIdentity::from_der(&dir.read("leaf.der"))
    };
    let identity = make("/O=ops/CN=alice/O=dev", "clientAuth").unwrap();
    assert_eq!(identity.user, user("alice"));
    assert_eq!(identity.groups, [group("dev"), group("ops")]);
    let serial = dir.openssl("x509 -inform DER -in leaf.der -noout -serial");
    assert_eq!(
        serial
            .trim()
            .to_lowercase()
            .trim_start_matches("serial=")
            .trim_start_matches('0'),
        identity.serial.trim_start_matches('0')
    );
    assert_eq!(
        make("/O=ops/CN=alice/O=dev", "serverAuth"),
        Err(CertificateError::ExtendedKeyUsage)
    );
    // kube-controller-manager writes it so: all groups in one place.
    let shared = make("/O=ops+O=dev/CN=alice", "clientAuth").unwrap();
    assert_eq!(shared.user, user("alice"));
    assert_eq!(shared.groups, [group("dev"), group("ops")]);
    for hidden in ["/O=ops/CN=alice+O=dev", "/O=ops/CN=mallory+CN=alice"] {
        assert!(make(hidden, "clientAuth").is_err(), "{hidden}");
    }
}

/// What a YubiKey whose attestation key the operator replaced would deliver, made by OpenSSL.
fn attest(dir: &Dir, f9_key: &str, f9_digest: &str) -> Evidence {
    dir.write("plain.cnf", "[req]\ndistinguished_name=dn\n[dn]\n");
    dir.write("ca.ext", "basicConstraints=critical,CA:TRUE,pathlen:0\n");
    dir.write(
        "slot.ext",
        "1.3.6.1.4.1.41482.3.3=DER:050701\n1.3.6.1.4.1.41482.3.7=DER:02020539\n1.3.6.1.4.1.41482.3.8=DER:0202\n",
    );
    dir.openssl("req -x509 -newkey rsa:2048 -nodes -keyout root.key -config plain.cnf -subj /CN=Root -days 2 -addext basicConstraints=critical,CA:TRUE -out root.pem");
    for command in [
        format!("req -new -newkey {f9_key} -nodes -keyout f9.key -config plain.cnf -subj /CN=f9 -out f9.csr"),
        "x509 -req -in f9.csr -CA root.pem -CAkey root.key -days 2 -extfile ca.ext -outform PEM -out f9.pem".into(),
        "x509 -in f9.pem -outform DER -out f9.der".into(),
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout slot.key -config plain.cnf -out slot.csr -subj".into(),
    ] {
        if command.ends_with("-subj") {
            let mut words: Vec<&str> = command.split(' ').collect();
            words.push("/CN=YubiKey PIV Attestation 9c");
            let status = Command::new("openssl")
                .args(words)
                .current_dir(dir.0.path())
                .output()
                .unwrap()
                .status;
            assert!(status.success());
        } else {
            dir.openssl(&command);
        }
    }
    dir.openssl(&format!(
        "x509 -req -in slot.csr {f9_digest} -CA f9.pem -CAkey f9.key -days 2 -extfile slot.ext -outform DER -out slot.der"
    ));
    dir.openssl("pkey -in slot.key -pubout -outform DER -out slot.spki");
    Evidence {
        slot_certificate: dir.read("slot.der"),
        intermediates: vec![dir.read("f9.der")],
    }
}

#[test]
fn attestation_keys_of_every_kind_are_verified() {
    for (f9_key, f9_digest) in [
        ("rsa:2048", "-sha256"),
        ("ec -pkeyopt ec_paramgen_curve:P-256", "-sha256"),
        ("ec -pkeyopt ec_paramgen_curve:P-384", "-sha384"),
        // What a YubiKey does with an f9 key on P-384, says Yubico.
        ("ec -pkeyopt ec_paramgen_curve:P-384", "-sha256"),
    ] {
        let dir = Dir::new();
        let evidence = attest(&dir, f9_key, f9_digest);
        let roots = Roots::yubico()
            .with_test_root(&dir.read("root.pem"))
            .unwrap();
        let key = PublicKey::from_spki_der(&dir.read("slot.spki")).unwrap();
        // OpenSSL dates certificates by the clock.
        let now = jiff::Timestamp::now() + SignedDuration::from_mins(1);
        let attested = verify(&evidence, &key, &roots, now).unwrap();
        assert_eq!(attested.serial, 1337);
        assert_eq!(attested.slot.to_string(), "9c");
        assert_eq!(attested.pin_policy, PinPolicy::Once);
    }
}

#[test]
fn a_signature_with_sha256_on_p384_is_for_attestations_only() {
    let dir = Dir::new();
    dir.write("plain.cnf", "[req]\ndistinguished_name=dn\n[dn]\n");
    dir.openssl("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-384 -sha256 -nodes -keyout key.pem -config plain.cnf -subj /CN=alice/O=dev -out csr.pem");
    assert!(matches!(
        Request::from_pem(&dir.read("csr.pem")),
        Err(CsrError::Signature(_))
    ));
}

#[test]
fn a_rootless_issuing_ca_stands_in_the_bundle_itself() {
    let dir = Dir::new();
    let ca_key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let profile = Profile::IssuingCa { common_name: "CA" };
    let ca = sign(&profile, ca_key.public_key(), 9000, None, &ca_key);
    let ca = CaCertificate::from_der(&ca).unwrap();
    let key = SoftwareKey::generate(KeyAlgorithm::Ed25519).unwrap();
    let (alice, groups) = (user("alice"), [group("dev")]);
    let leaf = Profile::ClientLeaf {
        user: &alice,
        groups: &groups,
    };
    let leaf = sign(&leaf, key.public_key(), 1, Some((&ca, &ca_key)), &key);
    dir.write("leaf.pem", to_pem(&leaf));
    dir.write("ca.pem", ca.to_pem());
    dir.openssl(&format!(
        "verify -x509_strict -attime {} -purpose sslclient -CAfile ca.pem leaf.pem",
        now().as_second()
    ));
    let bundle = ca.to_pem();
    let expected = Expected {
        public_key: key.public_key(),
        user: &alice,
        groups: &groups,
        grant: &GrantId::of_nonce(&[7; 32]),
        ttl: Ttl::from_secs(3600).unwrap(),
        trust_bundle: bundle.as_bytes(),
        now: now(),
    };
    assert!(verify_issued(to_pem(&leaf).as_bytes(), &expected).is_ok());
}
