//! Certificates from a directory: `NAME.crt` with `NAME.key` beside it. What is read is judged pair by pair: a pair that
//! cannot be used keeps what it was before, and says why; a pair that is gone for a second is gone. All changes of one look come into
//! force in one step, so nothing that moves between two names is missing in between.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::certificate::Certificate;
use super::files;
use super::store::{CertificateStore, Origin};
use super::watched::{self, Bell, Identity, Watched};
use crate::clock::{self, Instant};
use crate::tasks;

/// A watched directory. Dropping it stops the watch and leaves the certificates.
#[must_use]
pub struct FolderHandle {
    status: Arc<Mutex<FolderStatus>>,
    bell: Bell,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// How a directory stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FolderStatus {
    /// The directory.
    pub path: PathBuf,
    /// Certificates from it that are in force.
    pub certificates: usize,
    /// Files that are not in force as they are now.
    pub rejected: Vec<FileRejection>,
    /// Why the directory itself cannot be read; what was read before stays in force.
    pub last_error: Option<String>,
}

/// A file that is not in force, and why. If it replaced one that was, that one still is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileRejection {
    /// Its name in the directory.
    pub file: String,
    /// What is wrong.
    pub reason: String,
}

/// Reads the directory and then keeps the store's [`Origin::Folder`] as the directory says. Its first reading is over
/// when this returns. Must be called on a tokio runtime; reading happens on a thread of its own.
pub async fn start(store: &Arc<CertificateStore>, path: impl Into<PathBuf>) -> FolderHandle {
    let folder = Folder::new(path.into());
    let status = Arc::new(Mutex::new(folder.status()));
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    // Watched before it is read: a change in between is an event that waits.
    let mut watched = Watched::new([folder.path.as_path()]);
    let bell = watched.bell();
    let mut folder = read_once(folder, store, &status).await;
    let (store, told, stopped) = (Arc::clone(store), Arc::clone(&status), stop.clone());
    tasks::spawn(&tasks, async move {
        while let Some(read) = folder.take() {
            let going = read.is_going();
            tokio::select! {
                // Cancel-safe, all.
                () = watched.hint() => {}
                () = tokio::time::sleep(GONE), if going => {}
                () = stopped.cancelled() => return,
            }
            folder = read_once(read, &store, &told).await;
        }
    });
    tasks.close();
    FolderHandle {
        status,
        bell,
        stop,
        tasks,
    }
}

/// Reads a directory without serving it: what [`start`] would find.
pub fn check(path: impl Into<PathBuf>) -> FolderStatus {
    let mut folder = Folder::new(path.into());
    folder.read(&CertificateStore::new(), clock::now());
    folder.status()
}

impl FolderHandle {
    /// How the directory stands.
    pub fn status(&self) -> FolderStatus {
        lock(&self.status).clone()
    }

    /// Has the directory looked at now.
    pub fn look_now(&self) {
        self.bell.ring();
    }

    /// Stops to look at the directory; the certificates stay.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for FolderHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for FolderHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FolderHandle")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

fn lock(status: &Mutex<FolderStatus>) -> std::sync::MutexGuard<'_, FolderStatus> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read_once(
    mut folder: Folder,
    store: &Arc<CertificateStore>,
    status: &Arc<Mutex<FolderStatus>>,
) -> Option<Folder> {
    let (store, status) = (Arc::clone(store), Arc::clone(status));
    let read = tasks::blocking(move || {
        if folder.read(&store, clock::now()) {
            store.replace(Origin::Folder, folder.certificates());
        }
        let now = folder.status();
        let mut before = lock(&status);
        tell(&before, &now);
        *before = now;
        drop(before);
        folder
    });
    let folder = read.await;
    if folder.is_none() {
        // Only a panic in our own code can do this; the certificates stay.
        tracing::error!("the certificate directory's reader panicked; it is not read any more");
    }
    folder
}

/// Says what changed, once.
fn tell(before: &FolderStatus, now: &FolderStatus) {
    let path = now.path.display();
    if let Some(error) = now
        .last_error
        .as_ref()
        .filter(|_| before.last_error != now.last_error)
    {
        tracing::warn!("{error}");
    }
    for rejection in now
        .rejected
        .iter()
        .filter(|new| !before.rejected.contains(new))
    {
        tracing::warn!("{path}/{}: {}", rejection.file, rejection.reason);
    }
    if before.certificates != now.certificates {
        tracing::info!(certificates = now.certificates, "read {path}");
    }
}

/// What was found in a directory.
struct Folder {
    path: PathBuf,
    pairs: BTreeMap<String, Pair>,
    last_error: Option<String>,
}

/// One name with its two files.
#[derive(Default)]
struct Pair {
    /// What the files looked like when they were read; `None` if that may change unseen.
    seen: Option<[Identity; 2]>,
    /// What is in force.
    held: Option<Arc<Certificate>>,
    /// Why that is not what the files say.
    rejected: Option<FileRejection>,
    /// Since when its chain is not there.
    missing: Option<Instant>,
}

/// How long a chain has to be missing until its pair is gone: `rm` and `cp` are a renewal too.
const GONE: Duration = Duration::from_secs(1);
const CHAIN: &str = "crt";
const KEY: &str = "key";

impl Folder {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            pairs: BTreeMap::new(),
            last_error: None,
        }
    }

    /// Reads what has changed since the last time; says whether there is anything else to serve now.
    fn read(&mut self, store: &CertificateStore, now: Instant) -> bool {
        let (chains, keys) = match names(&self.path) {
            Ok(names) => names,
            Err(error) => {
                let path = self.path.display();
                self.last_error = Some(format!("cannot read the directory {path}: {error}"));
                return false;
            }
        };
        self.last_error = None;
        let mut changed = false;
        self.pairs.retain(|name, pair| {
            if chains.contains(name) {
                return true;
            }
            let since = *pair.missing.get_or_insert(now);
            if now < since + GONE {
                return pair.held.is_some() || keys.contains(name);
            }
            // A key alone serves nothing.
            changed |= pair.held.take().is_some();
            keys.contains(name)
        });
        for name in keys.difference(&chains) {
            let missing = format!("there is no {name}.{CHAIN} with its certificate");
            let pair = self.pairs.entry(name.clone()).or_default();
            pair.seen = None;
            pair.rejected = Pair::rejected(name, KEY, missing).rejected;
        }
        for name in chains {
            let pair = self.pairs.entry(name.clone()).or_default();
            pair.missing = None;
            changed |= pair.read(&self.path, &name, store);
        }
        changed
    }

    /// Whether a pair may be about to go.
    fn is_going(&self) -> bool {
        let mut pairs = self.pairs.values();
        pairs.any(|pair| pair.missing.is_some() && pair.held.is_some())
    }

    fn certificates(&self) -> Vec<Arc<Certificate>> {
        let held = self.pairs.values().filter_map(|pair| pair.held.as_ref());
        held.cloned().collect()
    }

    fn status(&self) -> FolderStatus {
        let pairs = self.pairs.values();
        FolderStatus {
            path: self.path.clone(),
            certificates: pairs.clone().filter(|pair| pair.held.is_some()).count(),
            rejected: pairs.filter_map(|pair| pair.rejected.clone()).collect(),
            last_error: self.last_error.clone(),
        }
    }
}

impl Pair {
    fn rejected(name: &str, extension: &str, reason: String) -> Self {
        Self {
            rejected: Some(FileRejection {
                file: format!("{name}.{extension}"),
                reason,
            }),
            ..Self::default()
        }
    }

    /// Says whether there is another certificate now.
    fn read(&mut self, folder: &Path, name: &str, store: &CertificateStore) -> bool {
        let path = |extension| folder.join(format!("{name}.{extension}"));
        let (chain, key) = (path(CHAIN), path(KEY));
        // Looked at before they are read: a change in between is seen as one next time.
        let now = watched::look(&chain).and_then(|chain| Some([chain, watched::look(&key)?]));
        if now.is_some() && now == self.seen {
            return false;
        }
        self.seen = now;
        let refused = match read_pair(&chain, &key, store) {
            Ok(read) => {
                let changed = self
                    .held
                    .as_ref()
                    .is_none_or(|held| !Arc::ptr_eq(held, &read));
                self.held = Some(read);
                self.rejected = None;
                return changed;
            }
            Err((extension, reason)) => Self::rejected(name, extension, reason),
        };
        self.rejected = refused.rejected;
        false
    }
}

fn read_pair(
    chain: &Path,
    key: &Path,
    store: &CertificateStore,
) -> Result<Arc<Certificate>, (&'static str, String)> {
    let failed = |(extension, error): (&'static str, io::Error)| {
        if extension == KEY && error.kind() == io::ErrorKind::NotFound {
            let name = key.file_name().unwrap_or_default().to_string_lossy();
            return (CHAIN, format!("there is no {name} with its key"));
        }
        (extension, format!("cannot be read: {error}"))
    };
    let chain_pem = files::read(chain).map_err(|error| failed((CHAIN, error)))?;
    let key_pem = files::read_secret(key).map_err(|error| failed((KEY, error)))?;
    let certificate = store.read_pem(&chain_pem, &key_pem);
    certificate.map_err(|error| (CHAIN, error.to_string()))
}

/// The names of chains and of keys in a directory, hidden ones left out: that is what files are called while they are
/// being written.
fn names(folder: &Path) -> io::Result<(BTreeSet<String>, BTreeSet<String>)> {
    let (mut chains, mut keys) = (BTreeSet::new(), BTreeSet::new());
    for entry in std::fs::read_dir(folder)? {
        let file = PathBuf::from(entry?.file_name());
        let Some(name) = file.file_stem().and_then(|name| name.to_str()) else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        match file.extension().and_then(|extension| extension.to_str()) {
            Some(CHAIN) => chains.insert(name.to_owned()),
            Some(KEY) => keys.insert(name.to_owned()),
            _ => false,
        };
    }
    Ok((chains, keys))
}

#[cfg(test)]
mod tests;
