//! What the router tells about its requests, handed to each that wants to know: metrics and access log.

use std::sync::Arc;

use router_core::model::log_line::LogLine;
use router_core::{Event, Observer};

use crate::access_log::AccessLog;
use crate::metrics::Metrics;

/// Feeds metrics and access log.
#[derive(Debug)]
pub(crate) struct CompositeObserver {
    /// Counts everything.
    pub(crate) metrics: Arc<Metrics>,
    /// Gets the lines; `None` if the log is off.
    pub(crate) access_log: Option<AccessLog>,
}

impl Observer for CompositeObserver {
    fn request(&self, worker: usize, line: &LogLine<'_>) {
        self.metrics.request(worker, line);
        if let Some(log) = &self.access_log {
            log.write(worker, line);
        }
    }

    fn event(&self, worker: usize, event: Event) {
        self.metrics.event(worker, event);
    }
}
