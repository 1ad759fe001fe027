//! How the router tells the outside what it does: one synchronous call per finished request and per event. An observer
//! runs on the worker that serves traffic, so it must never block.

use std::time::Duration;

use router_model::failure::Failure;
use router_model::log_line::LogLine;

/// Told of every request and event.
pub trait Observer: Send + Sync + 'static {
    /// A request of a known app has ended; called exactly once for each. `worker` numbers the worker that served it,
    /// from 0.
    fn request(&self, worker: usize, line: &LogLine<'_>);

    /// Something worth counting has happened.
    fn event(&self, worker: usize, event: Event) {
        let _ = (worker, event);
    }
}

/// What happened beside finished requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A dial to a dyno began.
    ConnectAttempt,
    /// A dial succeeded after so long.
    Connected(Duration),
    /// A dial failed.
    ConnectFailed(Failure),
    /// A request was sent again because its kept connection had died.
    Retry,
    /// A dyno was quarantined.
    Quarantined,
    /// A request was refused before its app was known; it has no log line.
    Refused(Failure),
    /// An upgraded connection began.
    TunnelOpened,
    /// An upgraded connection ended.
    TunnelClosed,
}

/// Observes nothing.
pub(crate) struct Silent;

impl Observer for Silent {
    fn request(&self, _: usize, _: &LogLine<'_>) {}
}
