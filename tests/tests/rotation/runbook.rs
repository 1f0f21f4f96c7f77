//! docs/ca.md, "When a CA's key leaked": each command of it is run, in its order, on a CA under a root in a YubiKey, and
//! prints what the page shows. Times, fingerprints, generated names and the picture's columns may differ, and nothing else.

use super::{Team, World, world::openssl};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;
use touchstone_tests::{child::program, cluster::kubectl, engineer::Ran};

const PAGE: &str = include_str!("../../../docs/ca.md");
const HEADING: &str = "## When a CA's key leaked";
/// What stands in the page for the signer's data directory and a control-plane node's files.
const DATA: &str = "/var/lib/touchstone";
const NODE: &str = "/etc/kubernetes/pki/touchstone/client-ca.crt";
const NODE_KUBECONFIG: &str = "/etc/touchstone/bundle-sync.kubeconfig";

/// The commands of the section with what it shows of them.
fn shown() -> Vec<(String, String)> {
    let (_, section) = PAGE.split_once(HEADING).expect("the section");
    let section = section.split("\n## ").next().expect("its end");
    let mut all: Vec<(String, String)> = Vec::new();
    for line in section.lines() {
        match (line.strip_prefix("    "), all.last_mut()) {
            (Some(text), last) => match (text.strip_prefix("$ "), last) {
                (Some(command), _) => all.push((command.to_owned(), String::new())),
                (None, Some((_, output))) => *output += &format!("{text}\n"),
                (None, None) => {}
            },
            (None, Some((_, output))) if line.is_empty() => output.push('\n'),
            (None, _) => {}
        }
    }
    all
}

/// Two prints of one command are the same where this is.
fn normalised(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| {
        let words: Vec<String> = line.split_whitespace().map(word).collect();
        let is_picture = words.len() > 1
            && words
                .iter()
                .skip(1)
                .all(|word| word.chars().all(|mark| ".o#|-".contains(mark)) || word == "TIME");
        match (is_picture, words.first()) {
            (true, Some(first)) => format!("{first} PICTURE"),
            (true, None) | (false, _) => words.join(" "),
        }
    });
    let mut lines: Vec<String> = lines.collect();
    // A blank line that ends a block does not show in a page.
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

fn word(word: &str) -> String {
    let bare = word.trim_end_matches([',', '.', ':']);
    let end = word.strip_prefix(bare).unwrap_or_default();
    let hex = |text: &str, digits: usize| {
        text.len() == digits && text.chars().all(|digit| digit.is_ascii_hexdigit())
    };
    let digits = |text: &str| text.chars().all(|digit| digit.is_ascii_digit());
    let is_date = |text: &str| {
        text.len() == 10 && text.split('-').count() == 3 && digits(&text.replace('-', ""))
    };
    let kind = if bare.parse::<jiff::Timestamp>().is_ok() || is_date(bare) {
        "TIME"
    } else if bare.strip_prefix("g-").is_some_and(|rest| hex(rest, 32)) {
        "GRANT"
    } else if hex(bare, 64)
        || bare
            .strip_prefix("sha256:")
            .is_some_and(|rest| hex(rest, 64))
    {
        "DIGEST"
    } else if hex(bare, 8) {
        // A part of a generated name, or a YubiKey's serial number.
        "ID"
    } else {
        bare
    };
    format!("{kind}{end}")
}

/// Where the page's commands are run.
struct Place<'a> {
    world: &'a World,
    team: &'a Team,
    folder: TempDir,
}

impl Place<'_> {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What a command prints: questions and words on the way first, then its data.
    fn run(&self, line: &str) -> String {
        let (line, into) = match line.split_once(" > ") {
            Some((line, into)) => (line, Some(self.file(into))),
            None => (line, None),
        };
        let files = self.world.cluster.files();
        let path = |path: &Path| path.to_str().expect("a plain name").to_owned();
        let mut words = Vec::new();
        for word in line.split_whitespace() {
            match word {
                "--data" => {}
                DATA => words.extend(self.world.place()),
                NODE => words.push(path(&self.file("client-ca.crt"))),
                NODE_KUBECONFIG => {
                    words.push(path(&files.admin_kubeconfig));
                    if self.world.cluster.is_embedded() {
                        words.extend(["--namespace", "default"].map(str::to_owned));
                    }
                }
                word => words.push(word.to_owned()),
            }
        }
        let (name, arguments) = words.split_first().expect("a command");
        let mut command = match name.as_str() {
            // A person types the name and the PIN; the card touches itself.
            "touchstone" => {
                let all = arguments.iter().cloned().chain(self.team.answers());
                self.team.engineer().touchstone(all)
            }
            "kubectl" => {
                let mut kubectl = kubectl(&files.admin_kubeconfig);
                kubectl.args(arguments);
                kubectl
            }
            name => {
                let mut command = Command::new(program(name));
                command.args(arguments).env_remove("RUST_LOG");
                command
            }
        };
        let ran = Ran::of(command.current_dir(self.folder.path())).succeeded();
        if let Some(into) = into {
            fs::write(into, &ran.stdout).expect("write the output");
            return ran.stderr;
        }
        let printed = ran.stderr + &ran.stdout;
        printed
            .replace(&path(&files.data), DATA)
            .replace(&path(&self.file("client-ca.crt")), NODE)
    }

    /// What is there before a command, as the page's words have it.
    fn prepare(&self, line: &str) {
        let text = |name| self.file(name).to_str().expect("a plain name").to_owned();
        if line.starts_with("touchstone ca root init") {
            let plan = "apiVersion: touchstone.dev/v1\nkind: Ceremony\nmakes: root\nsubject: Example Root 2\n\
                        validityDays: 3650\npathLength: 1\npresent:\n  - { name: Carol Example, role: key holder }\n";
            fs::write(self.file("new-root.yaml"), plan).expect("write the plan");
        } else if line.starts_with("touchstone ca sign") {
            let plan = self
                .team
                .plan_for(&text("issuing.csr"), &text("new-root.pem"));
            fs::write(self.file("issuing.yaml"), plan).expect("write the plan");
        } else if line.contains("bundle sync") {
            self.world.wait_until("the bundle is published", |world| {
                let published = world.cluster.kubectl_ok([
                    "get",
                    "configmaps",
                    "--all-namespaces",
                    "--field-selector=metadata.name=touchstone-trust-bundle",
                    "-o",
                    "jsonpath={.items[*].data.ca\\.crt}",
                ]);
                published.trim() == world.ca(&["export-bundle"]).succeeded().stdout.trim()
            });
        }
    }
}

#[test]
fn each_command_of_the_runbook_prints_what_the_page_shows() {
    let world = World::new("keys: secret\nschedule: { root: ceremony }");
    let mut old = Team::with_root("carol@example.com", "Example Root 1");
    world.wait_for("ca-1", "awaiting-root");
    let root = old.root();
    world.ceremony(&mut old, &["--root", &root]);
    world.begin();
    world.login();
    let leaked = world.engineer.certificate("demo");
    let new = Team::new("carol@example.com");
    let place = Place {
        world: &world,
        team: &new,
        folder: tempfile::tempdir().expect("a folder"),
    };
    let shown = shown();
    let (sync, _) = shown.last().expect("the last command");
    assert!(sync.contains("bundle sync"), "{sync}");
    // Whoever followed from the beginning sees what goes and what comes.
    place.prepare(sync);
    place.run(sync);

    let mut differs = String::new();
    for (command, output) in &shown {
        place.prepare(command);
        let printed = place.run(command);
        if normalised(&printed) != normalised(output) {
            differs += &format!("$ {command}\n{printed}\n");
        }
        if command.contains("ca distrust") && command.contains("--yes") {
            world.wait_for("ca-2", "awaiting-root");
        } else if command.contains("ca import") {
            world.wait_for("ca-2", "active");
        }
    }

    assert!(
        differs.is_empty(),
        "the page shows something else than:\n{differs}"
    );

    // The leaked CA is believed nowhere that followed.
    let followed = place.file("client-ca.crt");
    let [followed, leaked] = [&followed, &leaked].map(|path| path.to_str().expect("a plain name"));
    let verified = Ran::of(Command::new("openssl").args([
        "verify",
        "-CAfile",
        followed,
        "-untrusted",
        leaked,
        leaked,
    ]));
    verified.failed(2, &["unable to get local issuer certificate"]);
    let subject = openssl(&["x509", "-noout", "-subject", "-in", followed]);
    assert!(subject.contains("Example Root 2"), "{subject}");
    world.login();
    world.whoami().succeeded();
}
