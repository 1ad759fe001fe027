//! Routes from a file. Its directory is watched, so that a file renamed into place is seen as well as one written in
//! place; events are gathered for a moment, because one save makes several. The file's identity is also looked at twice
//! a second: some file systems tell nothing.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::{Feed, FeedError, Position, Update};

/// A feed that reads a file.
#[derive(Debug)]
pub struct FileFeed {
    path: PathBuf,
    /// What the file looked like when it was last read; `None` when it could not be.
    seen: Option<Seen>,
    started: bool,
    events: mpsc::Receiver<()>,
    /// Kept for its drop. Without one (no inotify to be had) looking twice a second has to do.
    _watcher: Option<RecommendedWatcher>,
}

type Seen = Option<(u64, u64, i64, i64)>;

/// After the first event; a program that writes in pieces has usually finished by then, and if not, its next piece is
/// the next event.
const GATHER: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_millis(500);

impl FileFeed {
    /// A feed of the document at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let (sender, events) = mpsc::channel(1);
        let watcher = watch(&path, sender).inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "cannot watch the route file's directory; looking at it twice a second instead");
        });
        Self {
            path,
            seen: None,
            started: false,
            events,
            _watcher: watcher.ok(),
        }
    }

    /// Waits until the file has changed. Events only say when to look: whoever writes something else into the same
    /// directory (a log, say) changes nothing.
    async fn changed(&mut self) {
        loop {
            tokio::select! {
                // Cancel-safe, both: an event that is not received stays in the channel.
                event = self.events.recv() => {
                    // Without a watcher the channel is closed, and only the clock is left.
                    let pause = if event.is_some() { GATHER } else { LOOK };
                    tokio::time::sleep(pause).await;
                    while self.events.try_recv().is_ok() {}
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            if self.seen != Some(look(&self.path)) {
                return;
            }
        }
    }
}

impl Feed for FileFeed {
    fn source(&self) -> &'static str {
        "file"
    }

    fn folder(&self) -> Option<&Path> {
        self.path.parent()
    }

    async fn next(&mut self, position: Position) -> Result<Update, FeedError> {
        if self.started && !position.need_whole {
            self.changed().await;
        }
        self.started = true;
        // Looked at before it is read: a change in between is seen as one next time.
        self.seen = Some(look(&self.path));
        let read = std::fs::read(&self.path);
        read.map(|document| Update::Snapshot(document.into()))
            .map_err(|error| FeedError(format!("cannot read {}: {error}", self.path.display())))
    }
}

fn look(path: &Path) -> Seen {
    let identity = |file: Metadata| (file.ino(), file.len(), file.mtime(), file.mtime_nsec());
    std::fs::metadata(path).ok().map(identity)
}

fn watch(path: &Path, sender: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let name = path.file_name().map(ToOwned::to_owned);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file is an event too, and no change. Nor is what is written into another one, such as a log; but a
        // file or link that comes or goes may be one that leads to ours.
        let is_ours = |path: &PathBuf| path.file_name() == name.as_deref();
        let tells = |event: notify::Event| match event.kind {
            EventKind::Access(_) => false,
            EventKind::Modify(ModifyKind::Data(_)) => event.paths.iter().any(is_ours),
            _ => true,
        };
        if event.is_ok_and(tells) {
            // A full channel already says what there is to say.
            sender.try_send(()).ok();
        }
    })?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
