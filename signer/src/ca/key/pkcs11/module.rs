//! PKCS#11 modules: each is loaded once in a process, and initialized once.

use super::error::{Code, TokenError};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

/// How soon a module that lost its tokens is begun anew once more.
const RESTART_EVERY: Duration = Duration::from_secs(5);

/// Modules stay to the end of the process: PKCS#11 knows one begin and one end of a module in each.
static MODULES: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

/// A module that is loaded and initialized.
#[derive(Debug)]
pub(super) struct Module {
    path: PathBuf,
    context: RwLock<Pkcs11>,
    restarted: Mutex<Option<Instant>>,
}

impl Module {
    /// The module of this file, loaded where it is not yet.
    pub(super) fn load(path: &Path) -> Result<Arc<Self>, TokenError> {
        let unusable = |message: String| TokenError::ModuleUnusable {
            path: path.to_owned(),
            message,
        };
        // One file under two names is one module.
        let file = fs::canonicalize(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => TokenError::ModuleMissing {
                path: path.to_owned(),
            },
            kind => unusable(kind.to_string()),
        })?;
        let mut modules = lock(&MODULES);
        if let Some(module) = modules.get(&file) {
            return Ok(Arc::clone(module));
        }
        // Its code becomes the signer's own.
        let mode = fs::metadata(&file)
            .map_err(|error| unusable(error.kind().to_string()))?
            .permissions()
            .mode()
            & 0o7777;
        if mode & 0o022 != 0 {
            return Err(TokenError::ModuleExposed { path: file, mode });
        }
        let context = Pkcs11::new(&file).map_err(|error| unusable(error.to_string()))?;
        initialize(&context).map_err(|error| unusable(Code::from(error).to_string()))?;
        let module = Arc::new(Self {
            path: file.clone(),
            context: RwLock::new(context),
            restarted: Mutex::new(None),
        });
        modules.insert(file, Arc::clone(&module));
        Ok(module)
    }

    /// For as long as the guard lives, nobody ends the module.
    pub(super) fn context(&self) -> RwLockReadGuard<'_, Pkcs11> {
        self.context.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the module and begins it anew: some find no token again otherwise, once a connection was lost. Every session
    /// ends with it. Whether it was done; not where it was a moment ago.
    pub(super) fn restart(&self) -> bool {
        let mut restarted = lock(&self.restarted);
        if restarted.is_some_and(|at| at.elapsed() < RESTART_EVERY) {
            return false;
        }
        *restarted = Some(Instant::now());
        let context = self.context.write().unwrap_or_else(PoisonError::into_inner);
        // Whether it had ended by itself does not matter.
        let _ = context.clone().finalize();
        match initialize(&context) {
            Ok(()) => {
                tracing::info!(module = %self.path.display(), "the PKCS#11 module was begun anew");
                true
            }
            Err(error) => {
                tracing::warn!(module = %self.path.display(), code = %Code::from(error), "the PKCS#11 module cannot be begun anew");
                false
            }
        }
    }
}

fn initialize(context: &Pkcs11) -> Result<(), Error> {
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        // Another part of the process uses it, under another path.
        Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        result => result,
    }
}

/// What a panic left behind is as whole as before: each change is one assignment.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
