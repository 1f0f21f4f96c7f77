//! What `ca import` is handed by mistake: refused, with what to do, and nothing in the record changes.

use super::{World, world::openssl};
use std::{fs, process::Command};
use tempfile::TempDir;
use touchstone_tests::engineer::Ran;

const PROFILE: [&str; 5] = [
    "basicConstraints=critical,CA:TRUE,pathlen:0",
    "keyUsage=critical,keyCertSign,cRLSign",
    "extendedKeyUsage=clientAuth",
    "subjectKeyIdentifier=hash",
    "authorityKeyIdentifier=keyid",
];

/// A root in a file, made and used with openssl, which signs whatever it is given.
struct Root(TempDir);

impl Root {
    fn new() -> Self {
        let root = Self(tempfile::tempdir().expect("a folder"));
        root.make_root("root", None);
        root
    }

    fn path(&self, name: &str) -> String {
        let path = self.0.path().join(name);
        path.to_str().expect("a plain name").to_owned()
    }

    fn make_root(&self, name: &str, at: Option<&str>) {
        let mut command = match at {
            Some(time) => {
                let mut command = Command::new("faketime");
                command.args([time, "openssl"]);
                command
            }
            None => Command::new("openssl"),
        };
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt"]);
        command.args(["ec_paramgen_curve:P-256", "-nodes", "-days", "7300"]);
        command.args(["-subj", "/CN=Example Root 1", "-addext"]);
        command.args(["keyUsage=critical,keyCertSign,cRLSign", "-keyout"]);
        command.args([&self.path(&format!("{name}.key")), "-out"]);
        command.arg(self.path(&format!("{name}.pem")));
        if at.is_some() {
            command.args(["-days", "365"]);
        }
        Ran::of(&mut command).succeeded();
    }

    /// A key of one's own and a request for it.
    fn request(&self, name: &str, subject: &str) {
        openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            subject,
            "-keyout",
            &self.path(&format!("{name}.key")),
            "-out",
            &self.path(&format!("{name}.csr")),
        ]);
    }

    /// What a root signs of a request, with these extensions.
    fn sign(&self, root: &str, request: &str, extensions: &[&str], further: &[&str]) -> String {
        let (file, out) = (self.path("extensions"), self.path("signed.pem"));
        fs::write(&file, extensions.join("\n")).expect("write them");
        let [request, certificate, key] = [
            self.path(request),
            self.path(&format!("{root}.pem")),
            self.path(&format!("{root}.key")),
        ];
        let all = [
            &["x509", "-req", "-in", &request, "-CA", &certificate][..],
            &["-CAkey", &key, "-extfile", &file, "-out", &out][..],
            further,
        ];
        openssl(&all.concat());
        out
    }
}

/// Words of the refusal; which root signs which request, with which extensions, and what else openssl is told.
type Case<'a> = (&'a str, &'a str, &'a str, Vec<&'a str>, Vec<&'a str>);

#[test]
fn whatever_the_security_team_signs_by_mistake_is_refused_and_changes_nothing() {
    let world = World::new("schedule: { root: ceremony }");
    world.wait_for("ca-1", "awaiting-root");
    let root = Root::new();
    root.make_root("ended", Some("2020-02-03 04:05:06"));
    fs::write(root.path("issuing.csr"), world.request()).expect("write the request");
    let csr = root.path("issuing.csr");
    let subject = openssl(&[
        "req", "-in", &csr, "-noout", "-subject", "-nameopt", "compat",
    ]);
    let subject = subject.trim().trim_start_matches("subject=").to_owned();
    let public_key = root.path("issuing.pub");
    openssl(&["req", "-in", &csr, "-noout", "-pubkey", "-out", &public_key]);
    // Another CA's request, under the same name and under its own.
    root.request("namesake", &subject);
    root.request("other", "/CN=Another issuing CA");

    let with = |position: usize, line: &'static str| {
        let mut profile = PROFILE.to_vec();
        if let Some(place) = profile.get_mut(position) {
            *place = line;
        }
        profile
    };
    let and = |line: &'static str| [&PROFILE[..], &[line]].concat();
    let days = ["-days", "120"];
    let cases: Vec<Case<'_>> = vec![
        (
            "is for another key",
            "root",
            "namesake.csr",
            PROFILE.to_vec(),
            days.to_vec(),
        ),
        (
            "is for another key",
            "root",
            "other.csr",
            PROFILE.to_vec(),
            days.to_vec(),
        ),
        (
            "Another issuing CA",
            "root",
            "other.csr",
            PROFILE.to_vec(),
            vec!["-days", "120", "-force_pubkey", &public_key],
        ),
        (
            "CA",
            "root",
            "issuing.csr",
            with(0, "basicConstraints=critical,CA:FALSE"),
            days.to_vec(),
        ),
        (
            "path length 0",
            "root",
            "issuing.csr",
            with(0, "basicConstraints=critical,CA:TRUE"),
            days.to_vec(),
        ),
        (
            "path length 0",
            "root",
            "issuing.csr",
            with(0, "basicConstraints=critical,CA:TRUE,pathlen:1"),
            days.to_vec(),
        ),
        (
            "key usage",
            "root",
            "issuing.csr",
            with(1, "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"),
            days.to_vec(),
        ),
        (
            "CA",
            "root",
            "issuing.csr",
            with(1, "keyUsage=critical,digitalSignature"),
            days.to_vec(),
        ),
        (
            "client authentication alone",
            "root",
            "issuing.csr",
            with(2, "extendedKeyUsage=clientAuth,serverAuth"),
            days.to_vec(),
        ),
        (
            "client authentication alone",
            "root",
            "issuing.csr",
            with(2, "extendedKeyUsage=serverAuth"),
            days.to_vec(),
        ),
        (
            "1.2.3.4",
            "root",
            "issuing.csr",
            and("1.2.3.4=critical,ASN1:NULL"),
            days.to_vec(),
        ),
        (
            "1.2.3.4",
            "root",
            "issuing.csr",
            and("1.2.3.4=ASN1:NULL"),
            days.to_vec(),
        ),
        (
            "longer than any ceremony",
            "root",
            "issuing.csr",
            PROFILE.to_vec(),
            vec!["-days", "3650"],
        ),
        (
            "within its root's",
            "root",
            "issuing.csr",
            PROFILE.to_vec(),
            vec!["-days", "9000"],
        ),
        (
            "within its root's",
            "ended",
            "issuing.csr",
            PROFILE.to_vec(),
            days.to_vec(),
        ),
    ];
    let kept = || {
        let mut status = world.status();
        ["cas", "roots", "moves", "bundleRevision"].map(|name| status[name].take())
    };
    let before = kept();
    let refused = |file: &str, by: &str, words: &str| {
        let by = root.path(&format!("{by}.pem"));
        let ran = world.ca(&["import", file, "--root", &by]);
        ran.failed(1, &[words, "touchstone ca sign"]);
        assert_eq!(kept(), before, "{words}: nothing changed");
    };
    for (words, by, request, extensions, further) in &cases {
        let signed = root.sign(by, request, extensions, further);
        refused(&signed, by, words);
    }
    // By itself, for the right name and by a key of its own.
    let itself = root.path("itself.pem");
    let namesake = root.path("namesake.key");
    openssl(&[
        "req", "-x509", "-key", &namesake, "-subj", &subject, "-days", "120", "-out", &itself,
    ]);
    refused(&itself, "root", "was not signed by the root");

    let good = root.sign("root", "issuing.csr", &PROFILE, &days);
    world
        .ca(&["import", &good])
        .failed(1, &["no root yet", "--root"]);
    let by = root.path("root.pem");
    world
        .ca(&["import", &good, "--root", &by, "--dry-run"])
        .succeeded();
    assert_eq!(kept(), before, "a rehearsal changes nothing");
    world.ca(&["import", &good, "--root", &by]).succeeded();
    world.wait_for("ca-1", "active");
}
