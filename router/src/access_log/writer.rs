//! The thread that carries access log lines from the workers' buffers to the target.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use super::sink::Sink;
use super::{Buffer, Shared};

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

/// While lines come, it takes and writes them every few milliseconds, whatever the workers do; a worker that comes first
/// after a silence wakes it. So a busy worker makes no system call for the log, and an idle router has no timer running.
fn write_until_stopped(shared: &Shared, mut sink: Sink) {
    let mut taken: Vec<Vec<u8>> = shared.buffers.iter().map(|_| Vec::new()).collect();
    loop {
        // Read before the buffers are, so that the last round sees every line from before the stop.
        let last_round = shared.stop.load(Ordering::Acquire);
        if shared.reopen.swap(false, Ordering::AcqRel) {
            sink.reopen();
        }
        let any = take_and_write(shared, &mut taken, &mut sink);
        if last_round {
            return;
        }
        if !any {
            // A wake-up is never missed: `unpark` before `park` makes that `park` return at once.
            shared.asleep.store(true, Ordering::Relaxed);
            if shared.buffers.iter().all(Buffer::is_empty) {
                thread::park();
            }
            shared.asleep.store(false, Ordering::Relaxed);
        }
        // Lines come in crowds or not at all: a short wait makes one write of many.
        if !shared.stop.load(Ordering::Acquire) && !shared.reopen.load(Ordering::Acquire) {
            thread::park_timeout(GATHER);
        }
    }
}

/// Whether there were any lines.
fn take_and_write(shared: &Shared, taken: &mut [Vec<u8>], sink: &mut Sink) -> bool {
    let mut any = false;
    for (buffer, lines) in shared.buffers.iter().zip(taken) {
        std::mem::swap(&mut *buffer.lock(), lines);
        if !lines.is_empty() {
            let lost = sink.write(lines, &shared.stop);
            shared.dropped.fetch_add(lost, Ordering::Relaxed);
            lines.clear();
            any = true;
        }
    }
    any
}

const GATHER: Duration = Duration::from_millis(10);
