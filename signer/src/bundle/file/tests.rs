use super::*;
use crate::{ca::bootstrap, data_dir::DataDir};
use jiff::Timestamp;
use proptest::prelude::*;

fn ca() -> CaCertificate {
    let temp = tempfile::tempdir().unwrap();
    let data = DataDir::open(temp.path()).unwrap();
    let authority = bootstrap::open(&data, Timestamp::now()).unwrap();
    authority.root().clone()
}

fn content() -> Content {
    let binding = Binding {
        cluster: "prod".into(),
        uid: "5a1d".into(),
    };
    Content {
        published: Some(Bundle::new(binding, 7, vec![ca(), ca()]).unwrap()),
        others: vec![ca()],
    }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("ca.crt");
    (temp, path)
}

#[test]
fn what_is_written_is_read_back_with_what_it_says_of_itself() {
    let (temp, path) = folder();
    let content = content();
    fs::write(temp.path().join(".ca.crt.new"), "left by a crash").unwrap();
    Held::of(&path).unwrap().write(&content).unwrap();
    let Existing::Content(found) = read(&path).unwrap() else {
        panic!("it is no bundle")
    };
    assert_eq!(found.to_text(), content.to_text());
    assert_eq!(found.published.unwrap().revision(), 7);
    assert_eq!(found.others.len(), 1);
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}

#[test]
fn comments_that_do_not_fit_make_no_certificate_one_that_may_be_taken_out() {
    let (_temp, path) = folder();
    let text = content().to_text();
    for (from, to) in [
        ("touchstone-published: 2", "touchstone-published: 4"),
        ("touchstone-published: 2", "touchstone-published: 0"),
        ("touchstone-revision: 7", "touchstone-revision: -1"),
        ("touchstone-cluster-uid: ", "touchstone-cluster-id: "),
        (MARK, "edited"),
    ] {
        fs::write(&path, text.replace(from, to)).unwrap();
        let Existing::Content(found) = read(&path).unwrap() else {
            panic!("{to}")
        };
        assert!(found.published.is_none(), "{to}");
        assert_eq!(found.others.len(), 3, "{to}");
    }
}

#[test]
fn what_was_cut_off_is_told_from_what_was_never_a_bundle() {
    let (_temp, path) = folder();
    let text = content().to_text();
    let half = text.get(..text.len() / 2).unwrap();
    fs::write(&path, half).unwrap();
    assert!(matches!(read(&path).unwrap(), Existing::Damaged));
    for (other, is_missing) in [("", true), ("\n", true), ("kind: Config\n", false)] {
        fs::write(&path, other).unwrap();
        let found = read(&path).unwrap();
        assert_eq!(matches!(found, Existing::Missing), is_missing, "{other}");
        assert_eq!(matches!(found, Existing::Other), !is_missing, "{other}");
    }
    let large = usize::try_from(MAX_BYTES).unwrap() + 1;
    fs::write(&path, vec![b'#'; large]).unwrap();
    assert!(matches!(read(&path).unwrap(), Existing::Other));
}

/// What a crash leaves between any two writes: no new file, a part of one, a whole one that was not renamed.
#[test]
fn whatever_a_crash_left_beside_the_file_it_is_the_old_one_and_the_next_write_works() {
    let (temp, path) = folder();
    let (old, new) = (content(), content());
    let text = new.to_text();
    let beside = temp.path().join(".ca.crt.new");
    for length in (0..=text.len()).step_by(97).chain([text.len()]) {
        Held::of(&path).unwrap().write(&old).unwrap();
        fs::write(&beside, text.get(..length).unwrap()).unwrap();
        fs::set_permissions(&beside, Permissions::from_mode(0o400)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), old.to_text());
        Held::of(&path).unwrap().write(&new).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert!(!beside.exists());
    }
}

#[test]
fn the_owner_of_the_file_stays_its_owner() {
    let (_temp, path) = folder();
    fs::write(&path, "").unwrap();
    let is_root = rustix::process::geteuid().is_root();
    let owner = if is_root {
        std::os::unix::fs::chown(&path, Some(65_534), Some(65_534)).unwrap();
        65_534
    } else {
        rustix::process::geteuid().as_raw()
    };
    Held::of(&path).unwrap().write(&content()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().uid(), owner);
}

#[test]
fn who_waits_for_the_folder_gets_it_when_the_other_is_done() {
    let (_temp, path) = folder();
    let first = Held::of(&path).unwrap();
    let waiting = {
        let path = path.clone();
        thread::spawn(move || Held::of(&path).map(|_| Instant::now()))
    };
    thread::sleep(Duration::from_millis(100));
    let released = Instant::now();
    drop(first);
    assert!(waiting.join().unwrap().unwrap() >= released);
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(# touchstone-(published|revision|cluster|cluster-uid): .{0,8}\n|-----BEGIN CERTIFICATE-----\n|[A-Za-z0-9+/=]{0,70}\n|-----END CERTIFICATE-----\n|.{0,20}\n){0,12}") {
        let _ = Content::from_text(text.as_bytes());
        let _ = header(text.as_bytes());
    }
}
