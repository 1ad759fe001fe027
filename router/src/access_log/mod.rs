//! The access log: one line per request of a known app. Workers format lines into a buffer of their own and go on; one
//! thread gathers the buffers and writes. A reader that is too slow costs lines, which are counted, never requests.

mod sink;
mod writer;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;

use router_core::model::log_line::LogLine;

use crate::config::{self, LogFormat, LogTarget};
use sink::Sink;
pub(crate) use writer::{LogWriter, Losses};

/// The workers' side of the access log. It never blocks on the reader of the log.
#[derive(Debug)]
pub(crate) struct AccessLog {
    shared: Arc<Shared>,
    writer: Thread,
    format: LogFormat,
}

impl AccessLog {
    /// Opens the target and starts the thread that writes to it; `None` if the log is off.
    pub(crate) fn open(
        config: &config::AccessLog,
        workers: usize,
    ) -> io::Result<Option<(Self, LogWriter)>> {
        if config.target == LogTarget::Off {
            return Ok(None);
        }
        let buffers = (0..workers.max(1)).map(|_| Buffer::default()).collect();
        let shared = Arc::new(Shared {
            buffers,
            ..Shared::default()
        });
        let writer = LogWriter::start(Sink::open(config.target.clone())?, Arc::clone(&shared))?;
        let log = Self {
            shared,
            writer: writer.thread().clone(),
            format: config.format,
        };
        Ok(Some((log, writer)))
    }

    /// Takes one line of a worker.
    pub(crate) fn write(&self, worker: usize, line: &LogLine<'_>) {
        let buffers = &self.shared.buffers;
        let Some(buffer) = buffers.get(worker % buffers.len()) else {
            return;
        };
        let mut lines = buffer.lock();
        if lines.len() >= MOST_BUFFERED {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let before = lines.len();
        match self.format {
            LogFormat::Heroku => line.write_heroku(&mut lines),
            LogFormat::Json => line.write_json(&mut lines),
        }
        let many = before < MANY_BUFFERED && lines.len() >= MANY_BUFFERED;
        drop(lines);
        // A writer that gathers comes by itself, unless so much comes meanwhile that it would be too late.
        if many || before == 0 && self.shared.asleep.swap(false, Ordering::Relaxed) {
            self.writer.unpark();
        }
    }
}

/// What workers and writer share.
#[derive(Debug, Default)]
struct Shared {
    buffers: Box<[Buffer]>,
    /// Lines that never reached the target.
    dropped: AtomicU64,
    /// Whether the writer has to be woken for the next line. Set before it looks at the buffers a last time, under whose
    /// locks lines come in: whoever comes too late for that look sees it.
    asleep: AtomicBool,
    stop: AtomicBool,
    reopen: AtomicBool,
}

/// One worker's lines since the writer's last round. On cache lines of its own: workers share nothing per request.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Buffer {
    /// Held for the formatting of one line or the swap of two vectors; never while writing.
    lines: Mutex<Vec<u8>>,
}

impl Buffer {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

/// With this many bytes in one worker's buffer, the writer comes at once.
const MANY_BUFFERED: usize = 1 << 18;
/// Beyond this many bytes in one worker's buffer, its lines are dropped.
const MOST_BUFFERED: usize = 1 << 20;

#[cfg(test)]
mod tests;
