//! Where a test collects log lines: fed with raw bytes from whatever thread, read line by line through the strict parser.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::DEADLINE;
use crate::log_record::LogRecord;
use crate::raw_head::text;
use crate::wire::within;

/// A queue of log lines; clones share it.
#[derive(Clone, Default)]
pub struct LogSink {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Whole lines not read yet. Held for a push or a pop only, never over an await.
    lines: Mutex<VecDeque<String>>,
    pushed: Notify,
}

impl LogSink {
    /// An empty sink.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the bytes of one log line with its line end. Panics (in the writer) on anything else, more than one line
    /// included: a line that a client could split in two is exactly what must never come out.
    pub fn push(&self, bytes: &[u8]) {
        let line =
            std::str::from_utf8(bytes).unwrap_or_else(|_| panic!("not UTF-8: {:?}", text(bytes)));
        let line = line
            .strip_suffix('\n')
            .unwrap_or_else(|| panic!("no line end: {line:?}"));
        // The line is queued even when it has line ends inside; the parser then refuses it in the test's own thread.
        self.shared
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(line.to_owned());
        self.shared.pushed.notify_one();
    }

    /// The next line, parsed; panics when none comes or when it is out of shape.
    pub async fn next(&self) -> LogRecord {
        let line = within(DEADLINE, self.next_line())
            .await
            .expect("no log line in time");
        LogRecord::parse(&line).unwrap_or_else(|why| panic!("{why}"))
    }

    /// The lines that wait to be read, unparsed; they are taken.
    pub fn take_lines(&self) -> Vec<String> {
        self.shared
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .collect()
    }

    /// Panics when a line waits to be read.
    pub fn assert_no_more(&self) {
        let lines = self.take_lines();
        assert!(lines.is_empty(), "more log lines than requests: {lines:#?}");
    }

    async fn next_line(&self) -> String {
        loop {
            let line = self
                .shared
                .lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            match line {
                Some(line) => return line,
                None => self.shared.pushed.notified().await,
            }
        }
    }
}
