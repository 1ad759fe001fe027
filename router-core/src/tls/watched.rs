//! Files that are read again when they change. Their directory is watched, so that a file renamed into place is seen as
//! well as one written in place; events are gathered for a moment, because one save makes several. All this only says
//! when to look: now and then one looks without being told, for some file systems tell nothing.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::tasks;

/// After the first event; a program that writes in pieces has usually finished by then, and if not, its next piece is
/// the next event.
const GATHER: Duration = Duration::from_millis(50);
/// How often one looks all the same.
const LOOK: Duration = Duration::from_secs(10);
const LOOK_UNWATCHED: Duration = Duration::from_secs(1);

/// Says when to look at some directories.
pub(super) struct Watched {
    events: mpsc::Receiver<()>,
    bell: Bell,
    /// Kept for its drop.
    watcher: Option<RecommendedWatcher>,
}

impl Watched {
    pub(super) fn new<'a>(folders: impl IntoIterator<Item = &'a Path>) -> Self {
        let (sender, events) = mpsc::channel(1);
        let bell = Bell(sender.clone());
        let mut folders = folders.into_iter();
        let watcher = watcher(sender).and_then(|mut watcher| {
            folders.try_for_each(|folder| watcher.watch(folder, RecursiveMode::NonRecursive))?;
            Ok(watcher)
        });
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(%error, "cannot watch a directory; looking at it every second instead");
        });
        Self {
            events,
            bell,
            watcher: watcher.ok(),
        }
    }

    /// What somebody else can ask to look with.
    pub(super) fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Waits until it is time to look.
    pub(super) async fn hint(&mut self) {
        let look = match self.watcher {
            Some(_) => LOOK,
            None => LOOK_UNWATCHED,
        };
        tokio::select! {
            // Cancel-safe, both: an event that is not received stays in the channel.
            Some(()) = self.events.recv() => {
                tokio::time::sleep(GATHER).await;
                while self.events.try_recv().is_ok() {}
            }
            () = tokio::time::sleep(look) => {}
        }
    }
}

/// Asks to look, without being told by the file system.
#[derive(Clone)]
pub(super) struct Bell(mpsc::Sender<()>);

impl Bell {
    pub(super) fn ring(&self) {
        // A full channel already says what there is to say.
        self.0.try_send(()).ok();
    }
}

fn watcher(sender: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a file is an event too, and no change.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // A full channel already says what there is to say.
            sender.try_send(()).ok();
        }
    })
}

/// What tells one content of a file from the next without reading it.
pub(crate) type Identity = (u64, u64, i64, i64);

/// The identity of a file; `None` if there is none, or if it was changed a moment ago: a second change within the same
/// tick of the file system's clock would look the same.
pub(crate) fn look(path: &Path) -> Option<Identity> {
    const A_MOMENT: Duration = Duration::from_secs(2);
    let file = std::fs::metadata(path).ok()?;
    let age = clock::wall().duration_since(file.modified().ok()?);
    let settled = age.is_ok_and(|age| age > A_MOMENT);
    settled.then(|| (file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

/// The directory that a file is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."))
}

/// Files that are read again whenever they change, until this is stopped or dropped. What cannot be used changes
/// nothing.
#[must_use]
pub struct FileWatch {
    last_error: Arc<Mutex<Option<String>>>,
    bell: Bell,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl FileWatch {
    /// Calls `reload` now and then, and soon after a change of one of the files.
    pub(super) fn start(
        files: Vec<PathBuf>,
        mut reload: impl FnMut() -> Result<(), String> + Send + 'static,
    ) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let last_error = Arc::new(Mutex::new(None));
        let (stopped, told) = (stop.clone(), Arc::clone(&last_error));
        let mut watched = Watched::new(files.iter().map(|file| folder_of(file)));
        let bell = watched.bell();
        tasks::spawn(&tasks, async move {
            let mut seen = None;
            loop {
                // Looked at before they are read: a change in between is seen as one next time.
                let now: Vec<_> = files.iter().map(|file| look(file)).collect();
                let settled = now.iter().all(Option::is_some);
                if !settled || seen.as_ref() != Some(&now) {
                    seen = Some(now);
                    tell(&told, reload());
                }
                tokio::select! {
                    // Cancel-safe, both.
                    () = watched.hint() => {}
                    () = stopped.cancelled() => return,
                }
            }
        });
        tasks.close();
        Self {
            last_error,
            bell,
            stop,
            tasks,
        }
    }

    /// Why the files as they are now cannot be used; what they said before stays in force.
    pub fn last_error(&self) -> Option<String> {
        lock(&self.last_error).clone()
    }

    /// Has the files looked at now.
    pub fn look_now(&self) {
        self.bell.ring();
    }

    /// Stops to look at the files.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for FileWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileWatch")
            .field("last_error", &self.last_error())
            .finish_non_exhaustive()
    }
}

/// Notes how a reading went, and warns of an error once.
fn tell(last_error: &Mutex<Option<String>>, read: Result<(), String>) {
    let mut last_error = lock(last_error);
    let error = read.err();
    if let Some(error) = error
        .as_ref()
        .filter(|error| last_error.as_ref() != Some(*error))
    {
        tracing::warn!("{error}; what was read before stays in force");
    }
    *last_error = error;
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
