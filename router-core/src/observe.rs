//! How the router tells the outside what it does: one synchronous call per finished request and per event. An observer
//! runs on the worker that serves traffic, so it must never block.

use std::time::Duration;

use router_model::failure::Failure;
use router_model::h2::meter::Flood;
use router_model::log_line::LogLine;
use router_model::tls_version::TlsVersion;

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
    /// A TLS handshake with a client was finished.
    TlsHandshake {
        /// The version agreed on.
        version: TlsVersion,
        /// An earlier session went on (a ticket); else it was a full handshake.
        resumed: bool,
        /// HTTP/2 was agreed on.
        http2: bool,
        /// From the first byte that was waited for.
        took: Duration,
    },
    /// A TLS handshake with a client came to nothing.
    TlsFailed(TlsFailure),
    /// A connection was closed before its handshake, because too many others were in theirs; or before its hello,
    /// because too many others that said nothing came after it.
    TlsRefused,
    /// A connection was closed because it did not begin with the PROXY header that its listener wants.
    ProxyHeaderRefused,
    /// A client's HTTP/2 connection was ended, because of too many frames of a kind.
    Http2Flood(Flood),
}

/// Why a TLS handshake came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsFailure {
    /// The client went away, or never began.
    Gone,
    /// It was not over in time.
    Timeout,
    /// It was not over when the router had drained.
    Draining,
    /// There is no certificate for the name, and no default.
    NoCertificate,
    /// The client speaks no version, cipher suite or group that is allowed here.
    Incompatible,
    /// The client speaks no protocol (ALPN) that is offered here.
    Protocol,
    /// The client did not like what it got: an alert, mostly about the certificate.
    Alert,
    /// What came was not TLS, or broke its rules.
    Invalid,
}

impl TlsFailure {
    /// Every failure, in the order in which they are documented.
    pub const ALL: [Self; 8] = [
        Self::Gone,
        Self::Timeout,
        Self::Draining,
        Self::NoCertificate,
        Self::Incompatible,
        Self::Protocol,
        Self::Alert,
        Self::Invalid,
    ];

    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Timeout => "timeout",
            Self::Draining => "draining",
            Self::NoCertificate => "no_certificate",
            Self::Incompatible => "incompatible",
            Self::Protocol => "protocol",
            Self::Alert => "alert",
            Self::Invalid => "invalid",
        }
    }
}

/// Observes nothing.
pub(crate) struct Silent;

impl Observer for Silent {
    fn request(&self, _: usize, _: &LogLine<'_>) {}
}
