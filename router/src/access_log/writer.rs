//! The thread that carries access log lines from the workers' buffers to the target.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use super::Shared;
use super::sink::Sink;

/// The owner of the writing thread.
#[derive(Debug)]
pub(crate) struct LogWriter {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
    /// Disconnects when the thread has ended.
    ended: Receiver<()>,
}

impl LogWriter {
    pub(super) fn start(sink: Sink, shared: Arc<Shared>) -> io::Result<Self> {
        let (end, ended) = mpsc::channel();
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                write_until_stopped(&theirs, sink);
                drop::<mpsc::Sender<()>>(end);
            })?;
        Ok(Self {
            shared,
            thread,
            ended,
        })
    }

    pub(super) fn thread(&self) -> &Thread {
        self.thread.thread()
    }

    /// What tells how many lines were lost, for as long as anyone asks.
    pub(crate) fn losses(&self) -> Losses {
        Losses(Arc::clone(&self.shared))
    }

    /// Opens a file target anew, because it was renamed. What is buffered goes into the new file.
    pub(crate) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }

    /// Writes what is buffered and ends. A target that takes nothing within `patience` is given up.
    pub(crate) fn finish(self, patience: Duration) {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        if self.ended.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the access log's target takes nothing; its last lines are lost");
        }
    }
}

/// Counts the lines that never reached the target.
#[derive(Debug, Clone)]
pub(crate) struct Losses(Arc<Shared>);

impl Losses {
    /// How many lines were lost since the start.
    pub(crate) fn lines(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

/// A wake-up is never missed: `unpark` before `park` makes that `park` return at once.
fn write_until_stopped(shared: &Shared, mut sink: Sink) {
    let mut taken: Vec<Vec<u8>> = shared.buffers.iter().map(|_| Vec::new()).collect();
    loop {
        // Read before the buffers are, so that the last round sees every line from before the stop.
        let last_round = shared.stop.load(Ordering::Acquire);
        if shared.reopen.swap(false, Ordering::AcqRel) {
            sink.reopen();
        }
        for (buffer, lines) in shared.buffers.iter().zip(&mut taken) {
            std::mem::swap(
                &mut *buffer.lines.lock().unwrap_or_else(PoisonError::into_inner),
                lines,
            );
            if !lines.is_empty() {
                let lost = sink.write(lines, &shared.stop);
                shared.dropped.fetch_add(lost, Ordering::Relaxed);
                lines.clear();
            }
        }
        if last_round {
            return;
        }
        thread::park();
        // Lines come in crowds or not at all: a short wait makes one write of many.
        if !shared.stop.load(Ordering::Acquire) {
            thread::sleep(GATHER);
        }
    }
}

const GATHER: Duration = Duration::from_millis(2);
