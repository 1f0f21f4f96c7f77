//! What goes wrong on the way: the file stays as good as it was.

use crate::world::{API, PATIENCE, REFUSED, World, holds, revision, text};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};
use touchstone_signer::bundle::{
    file::{self, Existing},
    publish::PublishError,
};
use touchstone_tests::{
    child::{Running, program},
    cluster::kubectl,
    engineer::Ran,
};

/// Annotations that are not what fits.
type Changes<'a> = &'a [(&'a str, &'a str)];

#[test]
fn whatever_stands_in_the_config_map_the_file_loses_nothing_by_it() {
    let world = World::start();
    let file = world.dir().join("client-ca.crt");
    let [old, new, _] = &world.cas;
    world.publish(&world.bundle(5, &[old, new]));
    world.once(&file, &[]).succeeded();
    let good = text(&file);

    let both = old.certificate.clone() + &new.certificate;
    let cut = both.get(..both.len() - 100).unwrap_or_default();
    let with_leaf = both.clone() + &old.leaf;
    let with_key = both.clone() + &old.leaf_key;
    let twisted = both.replacen("MII", "MIJ", 1);
    let forgeries: [(u64, &str, Changes<'_>, &str); 13] = [
        (6, "", &[], "no certificate"),
        (6, "# nothing here\n", &[], "no certificate"),
        (6, cut, &[], "trust bundle"),
        (6, &twisted, &[], "trust bundle"),
        (6, &with_leaf, &[], "not a CA's"),
        (6, &with_key, &[], "PEM block of another kind"),
        (6, &both, &[("cluster-uid", "another")], "UID another"),
        (
            6,
            &both,
            &[("cluster", "../prod")],
            "touchstone.dev/cluster ",
        ),
        (6, &both, &[("trust-revision", "next")], "trust-revision"),
        (
            6,
            &old.certificate,
            &[("trust-sha256", "00")],
            "cut off or changed",
        ),
        // Well made, and older; or of the same revision; or of another cluster's name.
        (4, &old.certificate, &[], "has 5 already"),
        (5, &old.certificate, &[], "had other certificates"),
        (6, &both, &[("cluster", "prod")], "the one of cluster prod"),
    ];
    for (revision, pem, changes, word) in forgeries {
        world.forge(revision, pem, changes);
        world.once(&file, &[]).failed(REFUSED, &[word, "try: "]);
        assert_eq!(text(&file), good, "{word}");
    }
    for vandalism in [
        json!({ "data": null }),
        json!({ "metadata": { "annotations": null } }),
    ] {
        world.patch(&vandalism);
        world
            .once(&file, &[])
            .failed(REFUSED, &["published trust bundle"]);
        assert_eq!(text(&file), good);
    }

    // The signer puts it right, and a newer bundle takes a CA away.
    world.publish(&world.bundle(5, &[old, new]));
    world.once(&file, &[]).succeeded();
    assert_eq!(text(&file), good);
    world.publish(&world.bundle(6, &[new]));
    world.once(&file, &[]).succeeded();
    assert!(!holds(&file, old) && holds(&file, new));

    // After a restored backup there is a way back, and only when it is asked for.
    let older = world.bundle(5, &[old]);
    let error = world.try_publish(&older).expect_err("an older bundle");
    assert!(matches!(error, PublishError::Newer { .. }), "{error}");
    assert!(error.remedy().contains("--overwrite"), "{}", error.remedy());
    world.delete_config_map();
    world.publish(&older);
    world.once(&file, &[]).failed(REFUSED, &["--overwrite"]);
    world.once(&file, &["--overwrite"]).succeeded();
    assert!(holds(&file, old) && !holds(&file, new));
}

#[test]
fn what_the_file_was_before_is_not_lost_by_a_slip_of_the_operator() {
    let world = World::start();
    let [old, new, cluster] = &world.cas;
    world.publish(&world.bundle(1, &[old]));
    let folder = world.dir().join("pki");
    fs::create_dir(&folder).expect("make a folder");
    let file = folder.join("ca.crt");

    // The cluster's own CA, and no --include: it stays, and that is said.
    fs::write(&file, &cluster.certificate).expect("write a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("close the file");
    let ran = world.once(&file, &[]).succeeded();
    assert!(ran.stdout.contains("--include"), "{ran}");
    assert!(holds(&file, old) && holds(&file, cluster));
    let mode = fs::metadata(&file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o644);

    // Something else than CAs is not written over.
    let key = folder.join("sa.key");
    for content in [&old.leaf_key, &old.leaf, "kind: Config\n"] {
        fs::write(&key, content).expect("write a file");
        world
            .once(&key, &[])
            .failed(REFUSED, &["something else", "try: "]);
        assert_eq!(text(&key), *content);
    }
    // A link is not written through, nor replaced; nor is a folder.
    let link = folder.join("link");
    symlink(&file, &link).expect("make a link");
    let before = text(&file);
    world
        .once(&link, &["--overwrite"])
        .failed(REFUSED, &["symbolic link"]);
    assert!(link.is_symlink() && text(&file) == before);
    world.once(&folder, &[]).failed(REFUSED, &["no plain file"]);
    let nowhere = folder.join("missing/ca.crt");
    world
        .once(&nowhere, &[])
        .failed(REFUSED, &["missing", "make its folder"]);

    // A broken file to include changes nothing; a link where the new file goes is not followed.
    let include = folder.join("include.pem");
    let victim = folder.join("victim");
    fs::write(&victim, "kept").expect("write a file");
    symlink(&victim, folder.join(".ca.crt.new")).expect("make a link");
    let name = include.to_str().expect("a plain name");
    for broken in ["", "# none\n", &new.leaf, &new.leaf_key] {
        fs::write(&include, broken).expect("write a file");
        world
            .once(&file, &["--include", name])
            .failed(REFUSED, &["include.pem"]);
        assert_eq!(text(&file), before);
    }
    fs::write(&include, &new.certificate).expect("write a file");
    world.once(&file, &["--include", name]).succeeded();
    assert!(holds(&file, new) && holds(&file, cluster) && holds(&file, old));
    assert_eq!(text(&victim), "kept");
    // Forgotten the next time, it stays; only who says so takes it out.
    world.once(&file, &[]).succeeded();
    assert!(holds(&file, new));
    world.once(&file, &["--overwrite"]).succeeded();
    assert!(!holds(&file, new) && !holds(&file, cluster) && holds(&file, old));
    // Cut off by something else, it is made whole again.
    let whole = text(&file);
    fs::write(&file, whole.get(..whole.len() / 2).unwrap_or_default()).expect("cut the file");
    world.once(&file, &[]).succeeded();
    assert_eq!(text(&file), whole);
}

#[test]
fn killed_at_any_moment_and_run_twice_at_once_the_file_is_always_whole_and_never_older() {
    let world = World::start();
    let file = world.dir().join("client-ca.crt");
    let [old, new, _] = &world.cas;
    world.publish(&world.bundle(1, &[old]));
    world.once(&file, &[]).succeeded();

    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut last, mut reads) = (0, 0_u64);
            while !stop.load(Ordering::Relaxed) {
                let now = match file::read(&file).expect("the file is there") {
                    Existing::Content(content) => content.published.expect("a bundle").revision(),
                    other => panic!("the file is {other:?}"),
                };
                assert!(now >= last, "the file went back from {last} to {now}");
                last = now;
                reads += 1;
            }
            reads
        });
        let log = |name: &str| world.dir().join(format!("{name}.log"));
        let mut watching =
            ["one", "other"].map(|name| Running::start(name, &mut world.sync(&file), &log(name)));
        for round in 0..12_u64 {
            let trusted = if round % 2 == 0 {
                vec![old, new]
            } else {
                vec![new]
            };
            let mut syncs = [0, 1]
                .map(|_| Running::start("once", world.sync(&file).arg("--once"), &log("once")));
            world.publish(&world.bundle(round + 2, &trusted));
            thread::sleep(Duration::from_millis(round * 7));
            for sync in &mut syncs {
                sync.kill().expect("kill it");
            }
            let index = usize::from(round % 2 == 0);
            watching[index].kill().expect("kill it");
            watching[index] = Running::start("again", &mut world.sync(&file), &log("again"));
        }
        for sync in &mut watching {
            sync.wait_until(PATIENCE, "the last revision", || {
                revision(&file) == Some(13)
            });
        }
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().expect("the reader goes on") > 10);
    });
    world.once(&file, &[]).succeeded();
    assert!(holds(&file, new) && !holds(&file, old));
    assert!(!world.dir().join(".client-ca.crt.new").exists());
}

/// Needs a file system of its own, so a mount namespace: as root, or where users may make one.
#[test]
fn a_full_disk_leaves_the_file_as_it_was_and_room_lets_it_go_on() {
    let world = World::start();
    let [old, new, _] = &world.cas;
    world.publish(&world.bundle(1, &[old]));
    let before = world.dir().join("before.crt");
    world.once(&before, &[]).succeeded();
    world.publish(&world.bundle(2, &[old, new]));
    let disk = world.dir().join("disk");
    fs::create_dir(&disk).expect("make a mount point");
    let script = r#"
set -eu
mount -t tmpfs -o size=64k tmpfs "$1"
cp "$4" "$1/ca.crt"
head -c 1000000 /dev/zero >"$1/ballast" 2>/dev/null || true
status=0
"$2" bundle sync --kubeconfig "$3" --namespace "$5" --out "$1/ca.crt" --once || status=$?
echo "full: $status"
cmp "$1/ca.crt" "$4" && echo "as it was"
ls -A "$1"
rm "$1/ballast"
"$2" bundle sync --kubeconfig "$3" --namespace "$5" --out "$1/ca.crt" --once
"#;
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new("unshare");
    command
        .arg(if root { "-m" } else { "-rm" })
        .args(["sh", "-c", script, "sh"])
        .arg(&disk)
        .arg(program("touchstone-signer"))
        .arg(world.cluster.kubeconfig_of("touchstone-bundle-sync"))
        .arg(&before)
        .arg(world.namespace)
        .stdin(Stdio::null());
    let ran = Ran::of(&mut command).succeeded();
    assert!(ran.stdout.contains(&format!("full: {REFUSED}")), "{ran}");
    assert!(ran.stdout.contains("as it was\nballast\nca.crt\n"), "{ran}");
    assert!(
        ran.stderr.contains("No space left") && ran.stderr.contains("free space"),
        "{ran}"
    );
    assert!(ran.stdout.contains("\"new\""), "{ran}");
}

#[test]
fn while_the_api_is_away_the_file_stays_and_a_missing_one_has_what_is_included() {
    let world = World::start();
    let [old, new, cluster] = &world.cas;
    world.publish(&world.bundle(3, &[old]));
    let real = world.cluster.kubeconfig_of("touchstone-bundle-sync");
    let kubeconfig = world.dir().join("sync.kubeconfig");
    let away = world.dir().join("away.kubeconfig");
    // The discard port: nobody listens there.
    fs::copy(&real, &away).expect("copy the kubeconfig");
    let name = kubectl(&real)
        .args(["config", "view", "-o", "jsonpath={.clusters[0].name}"])
        .output()
        .expect("run kubectl");
    let name = String::from_utf8_lossy(&name.stdout).into_owned();
    let set = [
        "config",
        "set-cluster",
        &name,
        "--server=https://127.0.0.1:9",
    ];
    assert!(
        kubectl(&away)
            .args(set)
            .output()
            .expect("run kubectl")
            .status
            .success()
    );
    fs::copy(&away, &kubeconfig).expect("copy the kubeconfig");

    let file = world.dir().join("client-ca.crt");
    let include = world.dir().join("include.pem");
    fs::write(&include, &cluster.certificate).expect("write a file");
    let once = Ran::of(
        world
            .sync_with(&kubeconfig)
            .arg("--once")
            .arg("--out")
            .arg(&file),
    );
    once.failed(API, &["published trust bundle", "try: "]);
    assert!(!file.exists());

    let mut command = world.sync_with(&kubeconfig);
    command
        .arg("--out")
        .arg(&file)
        .arg("--include")
        .arg(&include);
    let mut sync = Running::start("bundle sync", &mut command, &world.dir().join("sync.log"));
    // An API server that starts on this node can be reached by the cluster's own.
    sync.wait_until(PATIENCE, "what is included", || file.exists());
    assert!(holds(&file, cluster) && !holds(&file, old));
    assert!(
        sync.output().contains("cannot be read"),
        "{}",
        sync.output()
    );

    // The API is there: the kubeconfig is read again.
    replace(&real, &kubeconfig);
    sync.wait_until(PATIENCE, "what is published", || revision(&file) == Some(3));
    assert!(holds(&file, cluster) && holds(&file, old));
    assert!(sync.output().contains("over: "), "{}", sync.output());

    // A file to include changes; is broken; is good again.
    fs::write(&include, cluster.certificate.clone() + &new.certificate).expect("write a file");
    sync.wait_until(PATIENCE, "what is included now", || holds(&file, new));
    fs::write(&include, "half").expect("break the file");
    sync.wait_until(PATIENCE, "a word on it", || {
        sync_says(&world, "include.pem")
    });
    let kept = text(&file);
    // What is deleted by hand, and emptied by hand, is there again, with all that was in it.
    fs::write(&include, cluster.certificate.clone() + &new.certificate).expect("write a file");
    sync.wait_until(PATIENCE, "its end", || {
        sync_says(&world, "over: a file to include")
    });
    fs::remove_file(&file).expect("remove the file");
    sync.wait_until(PATIENCE, "the file", || {
        file.exists() && text(&file) == kept
    });
    fs::write(&file, "").expect("empty the file");
    sync.wait_until(PATIENCE, "the file's content", || text(&file) == kept);

    // The ConfigMap is deleted, emptied, and there again.
    world.delete_config_map();
    sync.wait_until(PATIENCE, "a word on it", || {
        sync_says(&world, "no ConfigMap")
    });
    assert_eq!(text(&file), kept);
    world.publish(&world.bundle(4, &[old, new]));
    sync.wait_until(PATIENCE, "the next revision", || revision(&file) == Some(4));
    sync.terminate();
    assert_eq!(sync.wait(PATIENCE).code(), Some(0), "{}", sync.output());
    assert!(!sync.output().contains("panicked"), "{}", sync.output());
}

fn sync_says(world: &World, word: &str) -> bool {
    text(&world.dir().join("sync.log")).contains(word)
}

/// By rename, as whoever renews a kubeconfig does it.
fn replace(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    fs::copy(from, &new).expect("copy a file");
    fs::rename(&new, to).expect("rename a file");
}
