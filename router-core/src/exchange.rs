//! The record of one request of a known app. Whatever happens to it (answered, failed, cut, panicked, dropped with its
//! connection), its drop emits the one log line that is owed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use router_model::failure::Failure;
use router_model::forward::ForwardedFor;
use router_model::h1::{FieldId, RequestHead, Version};
use router_model::log_line::{LogLine, Protocol};
use router_model::request_id::RequestId;
use router_model::verdict;

use crate::clock::{self, Instant};
use crate::dyno::Dyno;
use crate::peer::Peer;
use crate::worker::{Counted, LocalRoute, Worker};

/// One request and its response.
#[must_use]
pub(crate) struct Exchange<'x> {
    worker: &'x Worker,
    head: &'x RequestHead,
    host: &'x [u8],
    tls: Option<&'static str>,
    /// The version of the app that serves it; replaced while it waits for a dyno.
    pub(crate) route: Arc<LocalRoute>,
    pub(crate) request_id: RequestId,
    pub(crate) forwarded_for: ForwardedFor,
    /// When the head was complete, in Unix milliseconds.
    pub(crate) request_start: u64,
    /// The dyno that was tried last.
    pub(crate) dyno: Option<Arc<Dyno>>,
    /// How long the last attempt to connect took.
    pub(crate) connect: Option<Duration>,
    /// When a dyno connection was there.
    pub(crate) connected_at: Option<Instant>,
    /// An affinity cookie to be set.
    pub(crate) set_cookie: Option<String>,
    /// The status of the head that was sent, once it was.
    pub(crate) status: Option<u16>,
    /// Body bytes for the client.
    pub(crate) bytes: u64,
    outcome: Outcome,
    _in_flight: Counted<'x>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Nobody has said how it ended: it was dropped on the way.
    Open,
    Answered,
    Failed(Failure),
}

impl<'x> Exchange<'x> {
    /// Begins the record. From here on a log line is owed.
    pub(crate) fn begin(
        worker: &'x Worker,
        head: &'x RequestHead,
        host: &'x [u8],
        peer: &Peer,
        route: Arc<LocalRoute>,
    ) -> Self {
        let request_id = head
            .fields()
            .values(FieldId::XRequestId)
            .find_map(RequestId::from_client)
            .unwrap_or_else(|| RequestId::generate(fastrand::u128(..).to_le_bytes()));
        Self {
            worker,
            head,
            host,
            tls: peer.tls.as_ref().map(|tls| tls.version.log_text()),
            route,
            request_id,
            forwarded_for: ForwardedFor::of(head.fields(), peer.ip()),
            request_start: clock::unix_millis(clock::wall()),
            dyno: None,
            connect: None,
            connected_at: None,
            set_cookie: None,
            status: None,
            bytes: 0,
            outcome: Outcome::Open,
            _in_flight: Counted::new(&worker.gauges.requests),
        }
    }

    /// The response is with the client, or the tunnel has closed.
    pub(crate) fn answered(&mut self) {
        self.outcome = Outcome::Answered;
    }

    /// It failed.
    pub(crate) fn failed(&mut self, failure: Failure) {
        self.outcome = Outcome::Failed(failure);
    }

    fn failure(&self) -> Option<Failure> {
        match self.outcome {
            Outcome::Answered => None,
            Outcome::Failed(failure) => Some(failure),
            Outcome::Open if std::thread::panicking() => Some(Failure::Platform),
            Outcome::Open if self.worker.shared.is_cut() => Some(Failure::ForcedClose),
            // An embedder drops the future when its client has gone.
            Outcome::Open => Some(Failure::ClientInterrupted),
        }
    }

    /// The status that the log shows: the one that was sent, else the verdict's (499 for a client that left). A cut
    /// exchange has none, whatever was sent (spec §10-22).
    fn logged_status(&self, failure: Option<Failure>) -> Option<u16> {
        match failure {
            Some(Failure::ForcedClose) => None,
            Some(failure) => self.status.or_else(|| verdict::of(failure).status),
            None => self.status,
        }
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let failure = self.failure();
        if failure == Some(Failure::ForcedClose) {
            self.worker.gauges.cut.fetch_add(1, Ordering::Relaxed);
        }
        let now = clock::now();
        let line = LogLine {
            ended: clock::wall(),
            app: &self.route.app.name,
            // An app that was taken away while its request waited has no error code for that.
            failure: failure.filter(|failure| verdict::of(*failure).code.is_some()),
            method: self.head.method(),
            path: self.head.target(),
            host: self.host,
            request_id: self.request_id.as_str(),
            forwarded_for: self.forwarded_for.as_bytes(),
            dyno: self.dyno.as_ref().map(|dyno| dyno.name().as_str()),
            connect: self.connect,
            service: self
                .connected_at
                .map(|connected| now.saturating_duration_since(connected)),
            status: self.logged_status(failure),
            bytes: self.bytes,
            protocol: match self.head.version() {
                Version::Http10 => Protocol::Http10,
                Version::Http11 => Protocol::Http11,
                Version::Http2 => Protocol::Http2,
            },
            tls: self.tls,
            agent: match failure {
                Some(Failure::Misdirected) => self.head.fields().named(b"user-agent"),
                _ => None,
            },
        };
        self.worker
            .shared
            .observer
            .request(self.worker.index, &line);
    }
}
