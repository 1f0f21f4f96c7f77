//! What becomes of the policy in force when its file changes.

use super::*;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

const HEAD: &str = "apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: ";

fn policy_of(cluster: &str) -> String {
    format!("{HEAD}{cluster}\n")
}

/// A policy file in a folder, as an editor or a copy would write it.
struct Bench {
    dir: TempDir,
    file: PolicyFile,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("policy.yaml"), policy_of("one")).unwrap();
        let file = open(&dir.path().join("policy.yaml"));
        Self { dir, file }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("policy.yaml")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }

    fn look_twice(&mut self) -> Change {
        look_twice(&mut self.file)
    }

    fn in_force(&self) -> (String, u64) {
        in_force(&self.file)
    }
}

/// Looks until what is there has been found twice.
fn look_twice(file: &mut PolicyFile) -> Change {
    let change = file.check();
    assert!(is_none(&change), "{change:?}");
    file.check()
}

fn open(path: &Path) -> PolicyFile {
    PolicyFile::open(path, Roots::yubico()).unwrap()
}

fn in_force(file: &PolicyFile) -> (String, u64) {
    let snapshot = file.subscribe().borrow().clone();
    (
        snapshot.policy.cluster().to_string(),
        snapshot.policy.generation(),
    )
}

fn is_loaded(change: &Change) -> bool {
    matches!(change, Change::Loaded(_))
}

fn is_refused(change: &Change) -> bool {
    matches!(change, Change::Refused(_))
}

fn is_none(change: &Change) -> bool {
    matches!(change, Change::None)
}

#[test]
fn a_changed_file_comes_into_force_as_the_next_generation() {
    let mut bench = Bench::new();
    assert!(is_none(&bench.look_twice()));
    bench.write(&policy_of("two"));
    assert!(is_loaded(&bench.look_twice()));
    assert_eq!(bench.in_force(), ("two".into(), 2));
    bench.write(&policy_of("one"));
    assert!(is_loaded(&bench.look_twice()));
    assert_eq!(bench.in_force(), ("one".into(), 3), "the same text, later");
}

#[test]
fn a_broken_file_is_reported_once_and_the_last_good_policy_stays() {
    let mut bench = Bench::new();
    for broken in ["rules: [", "", "\u{0}", "apiVersion: touchstone.dev/v2\n"] {
        bench.write(broken);
        assert!(is_refused(&bench.look_twice()), "{broken:?}");
        assert!(is_none(&bench.look_twice()));
        assert_eq!(bench.in_force(), ("one".into(), 1));
    }
    // Taken back: what is in force is what the file says, and no new generation.
    bench.write(&policy_of("one"));
    assert!(matches!(bench.look_twice(), Change::Restored));
    assert!(is_none(&bench.look_twice()));
    assert_eq!(bench.in_force(), ("one".into(), 1));
}

#[test]
fn a_file_that_is_gone_is_reported_once_and_taken_when_it_is_back() {
    let mut bench = Bench::new();
    fs::remove_file(bench.path()).unwrap();
    assert!(is_refused(&bench.look_twice()));
    assert!(is_none(&bench.look_twice()));
    assert_eq!(bench.in_force(), ("one".into(), 1));
    bench.write(&policy_of("two"));
    assert!(is_loaded(&bench.look_twice()));
    assert_eq!(bench.in_force(), ("two".into(), 2));
}

#[test]
fn half_a_file_is_never_in_force() {
    let mut bench = Bench::new();
    let whole = include_str!("../../../docs/examples/policy.yaml");
    let without_the_denial = whole.find("  # Never on the night").unwrap();
    let to = |end: usize| whole.get(..end).unwrap();
    // A writer who does not rename: at each look, more of the file is there. One of the halves loads.
    for end in (without_the_denial - 500..without_the_denial).step_by(50) {
        bench.write(to(end));
        assert!(is_none(&bench.file.check()));
    }
    bench.write(to(without_the_denial));
    Policy::parse("p", to(without_the_denial).as_bytes()).unwrap();
    assert!(is_none(&bench.file.check()));
    bench.write(whole);
    assert!(is_none(&bench.file.check()));
    assert_eq!(bench.in_force(), ("one".into(), 1));
    assert!(is_loaded(&bench.file.check()));
    assert_eq!(bench.in_force(), ("prod".into(), 2));
}

/// As the kubelet lays a ConfigMap out (pkg/volume/util/atomic_writer.go): the file is a link into `..data`, which is a
/// link to a folder with a date, and a change swaps `..data` by rename.
#[test]
fn a_config_map_that_is_swapped_is_taken_though_its_path_never_changes() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |version: &str, text: &str| {
        let folder = dir.path().join(version);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("policy.yaml"), text).unwrap();
        let next = dir.path().join("..data_tmp");
        symlink(version, &next).unwrap();
        fs::rename(&next, dir.path().join("..data")).unwrap();
    };
    mount("..2026_07_01_10_00_00.1", &policy_of("one"));
    let path = dir.path().join("policy.yaml");
    symlink("..data/policy.yaml", &path).unwrap();
    let mut file = open(&path);
    mount("..2026_07_01_10_05_00.2", &policy_of("two"));
    fs::remove_dir_all(dir.path().join("..2026_07_01_10_00_00.1")).unwrap();
    assert!(is_loaded(&look_twice(&mut file)));
    assert_eq!(in_force(&file), ("two".into(), 2));
    // A mount that is broken for a moment: the link leads nowhere.
    fs::remove_dir_all(dir.path().join("..2026_07_01_10_05_00.2")).unwrap();
    assert!(is_refused(&look_twice(&mut file)));
    assert_eq!(in_force(&file), ("two".into(), 2));
}

#[test]
fn a_snapshot_that_was_taken_stays_as_it_was() {
    let mut bench = Bench::new();
    let judging = bench.file.subscribe().borrow().clone();
    bench.write(&policy_of("two"));
    assert!(is_loaded(&bench.look_twice()));
    assert_eq!(judging.policy.cluster().as_str(), "one");
    assert_eq!(judging.policy.generation(), 1);
}

#[test]
fn a_file_without_end_is_refused_and_not_read_to_it() {
    let refused = read(Path::new("/dev/zero")).unwrap_err();
    assert!(matches!(refused, PolicyFileError::TooLarge { .. }));
}

#[test]
fn a_folder_and_a_missing_file_are_refused_with_what_the_system_says() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_owned(), dir.path().join("none")] {
        let error = PolicyFile::open(&path, Roots::yubico()).unwrap_err();
        assert!(matches!(error, PolicyFileError::Read { .. }), "{error}");
    }
}
