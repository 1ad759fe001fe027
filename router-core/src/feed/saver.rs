//! Writes the cache, so that the runner never waits for a disk. What comes in crowds is written
//! together; what the disk does not take at all is missed, and made up for by a whole document.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use router_model::app::App;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use zeroize::Zeroize;

use super::cache::Cache;
use super::disk::Disk;
use super::status::Board;
use crate::clock::{self, Instant};
use crate::tasks;

/// What is to be written.
pub(super) enum Job {
    /// A document, of this revision, and the apps that were kept when it came.
    Document(Bytes, u64, Vec<Arc<App>>),
    /// Changes, to this revision.
    Changes(Vec<Bytes>, u64),
}

/// Takes jobs for a cache.
pub(super) struct Saver {
    jobs: mpsc::Sender<Job>,
    missed: Arc<AtomicBool>,
}

impl Saver {
    /// Writes until the saver is dropped, and what it was given before that.
    pub(super) fn start(
        cache: Cache,
        path: PathBuf,
        board: Arc<Board>,
        tasks: &TaskTracker,
    ) -> Self {
        let (jobs, queue) = mpsc::channel(WAITING);
        let missed = Arc::new(AtomicBool::new(false));
        tasks::spawn(tasks, run(cache, path, queue, Arc::clone(&missed), board));
        Self { jobs, missed }
    }

    /// Has something written soon.
    pub(super) fn save(&self, job: Job) {
        if self.jobs.try_send(job).is_err() {
            self.missed.store(true, Ordering::Release);
        }
    }
}

async fn run(
    mut cache: Cache,
    path: PathBuf,
    mut queue: mpsc::Receiver<Job>,
    missed: Arc<AtomicBool>,
    board: Arc<Board>,
) {
    let mut jobs = Vec::new();
    let mut due = clock::now();
    while gather(&mut queue, &mut jobs, due).await {
        let batch = std::mem::take(&mut jobs);
        let missed = missed.swap(false, Ordering::Acquire);
        let step = board.step("writing the cache");
        let written = tasks::blocking(move || {
            if missed {
                cache.forget_log();
            }
            let written = write(&mut cache, &batch);
            for job in batch {
                match job {
                    Job::Document(text, ..) => wipe(text),
                    Job::Changes(texts, _) => texts.into_iter().for_each(wipe),
                }
            }
            (cache, written)
        });
        let Some((back, written)) = written.await else {
            return tracing::error!("the writer of the cache panicked; it is not written any more");
        };
        drop(step);
        cache = back;
        let written = written.map_err(|error| format!("{}: {error}", path.display()));
        board.saved(written, cache.needs_whole());
        due = clock::now() + AT_MOST_EVERY;
    }
}

/// Waits for something to write, and for what else comes until it is `due`. False at the end.
async fn gather(queue: &mut mpsc::Receiver<Job>, jobs: &mut Vec<Job>, due: Instant) -> bool {
    if queue.recv_many(jobs, WAITING).await == 0 {
        return false;
    }
    while jobs.len() < MANY {
        tokio::select! {
            // Cancel-safe, both.
            count = queue.recv_many(jobs, WAITING) => if count == 0 {
                // Nobody waits for more at the end.
                break;
            },
            () = tokio::time::sleep_until(due) => break,
        }
    }
    true
}

/// Writes the last document there is, and the changes after it. The revision that is on disk then.
pub(super) fn write<D: Disk>(cache: &mut Cache<D>, jobs: &[Job]) -> io::Result<u64> {
    let is_document = |job: &Job| matches!(job, Job::Document(..));
    let start = jobs.iter().rposition(is_document).unwrap_or(0);
    let mut revision = 0;
    let mut changes = Vec::new();
    for job in jobs.iter().skip(start) {
        match job {
            Job::Document(document, of, kept) => {
                let kept = kept.iter().map(|app| app.to_document());
                cache.save(document, *of, kept.collect())?;
                revision = *of;
            }
            Job::Changes(texts, to) => {
                changes.extend(texts);
                revision = *to;
            }
        }
    }
    if !changes.is_empty() {
        cache.append(&changes)?;
    }
    Ok(revision)
}

/// Leaves no private key in memory that was given back, as far as nobody else has it.
pub(super) fn wipe(text: Bytes) {
    if let Ok(mut text) = text.try_into_mut() {
        text.as_mut().zeroize();
    }
}

/// A disk has other work to do: what comes alone is written at once, what comes in crowds ten times in a second.
const AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// So much does not wait until then.
const MANY: usize = WAITING / 2;
/// As much as a slow disk may be behind.
const WAITING: usize = 1024;
