//! `scripts/image`: the same program gives the same bytes, and what is in the image is enough to run it.

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;
use touchstone_tests::{child::program, engineer::Ran};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// An image of the program under test, and its SBOM.
fn make(folder: &Path) -> [PathBuf; 2] {
    let mut image = Command::new(root().join("scripts/image"));
    image
        .arg("--binary")
        .arg(program("touchstone-signer"))
        .arg("--out")
        .arg(folder)
        .env("SOURCE_DATE_EPOCH", "1800000000");
    Ran::of(&mut image).succeeded();
    ["oci.tar", "cdx.json"].map(|kind| {
        let version = env!("CARGO_PKG_VERSION");
        folder.join(format!("touchstone-signer-{version}.{kind}"))
    })
}

fn tar(arguments: &[&str], archive: &Path, folder: &Path) {
    fs::create_dir_all(folder).expect("make a folder");
    let mut tar = Command::new("tar");
    tar.args(arguments).arg(archive).arg("-C").arg(folder);
    Ran::of(&mut tar).succeeded();
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).expect("read a file")).expect("JSON")
}

fn sha256(file: &Path) -> String {
    hex::encode(Sha256::digest(fs::read(file).expect("read a file")))
}

/// The blob of a descriptor, which is what its digest says.
fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().expect("a digest");
    let digest = digest.strip_prefix("sha256:").expect("SHA-256");
    let file = layout.join("blobs/sha256").join(digest);
    assert_eq!(sha256(&file), digest);
    let size = fs::metadata(&file).expect("a file").len();
    assert_eq!(descriptor["size"], size);
    file
}

#[test]
fn the_same_program_gives_the_same_bytes_and_they_are_enough_to_run_it() {
    let dir = TempDir::new().expect("make a folder");
    let [image, sbom] = make(&dir.path().join("one"));
    let [again, sbom_again] = make(&dir.path().join("two"));
    assert_eq!(sha256(&image), sha256(&again));
    assert_eq!(sha256(&sbom), sha256(&sbom_again));

    let layout = dir.path().join("layout");
    tar(&["-xf"], &image, &layout);
    let index = json(&layout.join("index.json"));
    let manifest = json(&blob(&layout, &index["manifests"][0]));
    let config = json(&blob(&layout, &manifest["config"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["created"], "2027-01-15T08:00:00Z");
    let layer = blob(&layout, &manifest["layers"][0]);
    let files = dir.path().join("root");
    tar(&["--no-same-owner", "-xzf"], &layer, &files);

    // No shell, nothing that is set to another user, nothing that others may write.
    let mut find = Command::new("find");
    let odd = [
        "-perm", "/6022", "-not", "-type", "l", "-o", "-name", "sh", "-o", "-name", "bash",
    ];
    assert_eq!(Ran::of(find.arg(&files).args(odd)).succeeded().stdout, "");

    // In a root of its own: a user may make one where this is no root.
    let entry = config["config"]["Entrypoint"][0]
        .as_str()
        .expect("an entry");
    let is_root = rustix::process::geteuid().is_root();
    let run = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .arg(if is_root { "-m" } else { "-rm" })
            .arg(format!("--root={}", files.display()))
            .arg("--wd=/")
            .arg(entry)
            .args(arguments)
            .env_clear();
        Ran::of(&mut command)
    };
    let version = run(&["--version"]).succeeded().stdout;
    assert_eq!(
        version.trim(),
        format!("touchstone-signer {}", env!("CARGO_PKG_VERSION"))
    );
    assert!(
        run(&["crd"])
            .succeeded()
            .stdout
            .contains("grants.touchstone.dev")
    );
}

#[test]
fn the_sbom_names_every_crate_and_package_once_with_what_identifies_it() {
    let dir = TempDir::new().expect("make a folder");
    let [_, sbom] = make(dir.path());
    let sbom = json(&sbom);
    assert_eq!(sbom["bomFormat"], "CycloneDX");
    let components = sbom["components"].as_array().expect("components");
    let mut seen = std::collections::BTreeSet::new();
    for component in components {
        let purl = component["purl"].as_str().expect("a purl");
        assert!(seen.insert(purl), "{purl} twice");
        let is_own = component["name"]
            .as_str()
            .is_some_and(|it| it.starts_with("touchstone-"));
        if purl.starts_with("pkg:cargo/") && !is_own {
            let hash = component["hashes"][0]["content"].as_str();
            assert_eq!(hash.map(str::len), Some(64), "{component}");
        }
    }
    for name in [
        "pkg:cargo/rustls@",
        "pkg:cargo/aws-lc-rs@",
        "pkg:cargo/kube@",
        "pkg:deb/",
    ] {
        assert!(seen.iter().any(|it| it.starts_with(name)), "{name}");
    }
    // What only tests or other programs are built with is not in it.
    for name in [
        "pkg:cargo/pcsc@",
        "pkg:cargo/proptest@",
        "pkg:cargo/clap_derive@",
    ] {
        assert!(!seen.iter().any(|it| it.starts_with(name)), "{name}");
    }
}
