//! `touchstone kubectl` and `exec`: a program with a kubeconfig of its own, for those who want theirs left alone.
//!
//! The program takes this process's place, so that signals, terminal and exit code are its own. The kubeconfig holds no
//! secret. It is locked by a descriptor that the program and what it starts inherit, and once none of them runs the next
//! command of this kind removes it.

use super::login;
use crate::{
    api,
    args::{Exec, Kubectl, RunArgs},
    config::Config,
    credential::Store,
    error::Error,
    kubeconfig::{self, Wanted},
    proxy::{ProxyError, local::LocalEndpoint, place::Place},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::{FdFlags, fcntl_setfd},
};
use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{self, Command},
};

/// How the names of such kubeconfigs end.
const ENDING: &str = ".exec-kubeconfig";

/// `touchstone kubectl`.
pub(super) fn kubectl(args: &Kubectl) -> Result<(), Error> {
    let mut command = Command::new("kubectl");
    command.args(&args.arguments);
    become_program(&args.run, command)
}

/// `touchstone exec`.
pub(super) fn run(args: &Exec) -> Result<(), Error> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(Error::Usage("no command was given".to_owned()));
    };
    let mut command = Command::new(program);
    command.args(arguments);
    become_program(&args.run, command)
}

fn become_program(args: &RunArgs, mut command: Command) -> Result<(), Error> {
    let store = Store::open()?;
    let cluster = the_cluster(args, &store)?;
    let (server, ca) = if args.software_key {
        the_server(&cluster)?
    } else {
        let endpoint = LocalEndpoint::ensure(&store, &cluster).map_err(ProxyError::from)?;
        (endpoint.server_url(), endpoint.ca_pem().to_owned())
    };
    let text = kubeconfig::whole(&Wanted {
        context: Some(cluster.clone()),
        namespace: args.namespace.clone(),
        server,
        ca: STANDARD.encode(ca),
        software_key: args.software_key,
        command: own_program()?,
        ttl: Some(args.ttl),
        cluster: cluster.clone(),
    });
    let place = Place::new(&store, &cluster);
    place.prepare()?;
    sweep(place.folder());
    let (path, file) = private(place.folder(), &cluster, &text)?;
    let source = fcntl_setfd(&file, FdFlags::empty())
        .map_err(io::Error::from)
        // Comes back only when it failed.
        .map_or_else(|error| error, |()| command.env("KUBECONFIG", &path).exec());
    let _ = fs::remove_file(&path);
    Err(Error::Run {
        program: command.get_program().display().to_string(),
        source,
    })
}

/// The API server itself and its CA, PEM: for a key that kubectl has itself.
fn the_server(cluster: &str) -> Result<(String, String), Error> {
    let cluster = Config::load()?.cluster(cluster)?;
    let configuration = login::runtime()?.block_on(api::configuration(cluster.reach()))?;
    let blocks = configuration.root_cert.iter().flatten();
    let blocks: Vec<pem::Pem> = blocks
        .map(|der| pem::Pem::new("CERTIFICATE", der.clone()))
        .collect();
    Ok((api::server_of(&configuration), pem::encode_many(&blocks)))
}

/// The cluster that was named, the only one there is, or the only one with a certificate.
fn the_cluster(args: &RunArgs, store: &Store) -> Result<String, Error> {
    let config = Config::load()?;
    let name = match &args.cluster {
        Some(name) => name.clone(),
        None => {
            let names: Vec<&str> = config.clusters().map(|(name, _)| name).collect();
            if let [only] = names.as_slice() {
                (*only).to_owned()
            } else {
                super::logout::the_one(store, None)?.cluster
            }
        }
    };
    // Checked before it leads to a folder, and before a program meets what is wrong with it.
    Ok(config.cluster(&name)?.name().as_str().to_owned())
}

/// What a kubeconfig shall run: `touchstone` where the PATH leads to this program, else its path.
pub(super) fn own_program() -> Result<String, Error> {
    let failed = |source| Error::File {
        verb: "find",
        path: PathBuf::from("touchstone"),
        source,
    };
    let own = env::current_exe().map_err(failed)?;
    let on_the_path = find_program("touchstone".as_ref());
    if on_the_path.is_some_and(|found| fs::canonicalize(found).ok() == fs::canonicalize(&own).ok())
    {
        return Ok("touchstone".to_owned());
    }
    own.into_os_string()
        .into_string()
        .map_err(|path| Error::Usage(format!("the path {} is not UTF-8", path.display())))
}

/// A program by its name, as a shell finds it; or by its path.
pub(in crate::command) fn find_program(name: &OsStr) -> Option<PathBuf> {
    let runs = |path: &PathBuf| {
        rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
    };
    if Path::new(name).components().count() > 1 {
        return Some(PathBuf::from(name)).filter(runs);
    }
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(runs)
}

/// A kubeconfig for this process and those that it starts. Locked before it has its name, so that nobody sweeps it away.
fn private(folder: &Path, cluster: &str, text: &str) -> Result<(PathBuf, File), Error> {
    let name = format!("{cluster}.{}{ENDING}", process::id());
    let path = folder.join(&name);
    let hidden = folder.join(format!(".{name}"));
    let write = || -> io::Result<File> {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&hidden)?;
        flock(&file, FlockOperation::NonBlockingLockShared)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&hidden, &path)?;
        Ok(file)
    };
    let file = write().map_err(|source| Error::File {
        verb: "write",
        path: path.clone(),
        source,
    })?;
    Ok((path, file))
}

/// Removes the kubeconfigs that no program uses any more.
pub(super) fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') || !name.ends_with(ENDING) {
            continue;
        }
        let file = File::options()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(entry.path());
        if file.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_private_kubeconfig_stays_while_it_is_held_and_is_swept_away_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let (path, file) = private(folder.path(), "prod", "kind: Config\n").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        sweep(folder.path());
        assert!(path.exists());
        fs::write(folder.path().join("prod.sock"), "").unwrap();
        drop(file);
        sweep(folder.path());
        assert!(!path.exists());
        assert!(folder.path().join("prod.sock").exists());
    }

    #[test]
    fn a_link_in_the_place_of_a_private_kubeconfig_is_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let theirs = folder.path().join("theirs");
        fs::write(&theirs, "theirs").unwrap();
        let hidden = format!(".prod.{}{ENDING}", process::id());
        std::os::unix::fs::symlink(&theirs, folder.path().join(hidden)).unwrap();
        assert!(private(folder.path(), "prod", "ours").is_err());
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
    }
}
