//! The handshake of an https listener: which certificate, which terms, and how long it may take. What a name may have is
//! the listener's say and the app's; the stricter of both holds.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;

use super::listener::TlsListenerSettings;
use super::silent::Silent;
use crate::client::Transport;
use crate::clock;
use crate::observe::{Event, TlsFailure};
use crate::tls::{Accepted, Hello, TlsStream, TlsTerms};
use crate::worker::Worker;

/// A handshake in progress: one of so many that a worker may have at once.
#[must_use]
struct HandshakeSlot(Arc<Worker>);

impl HandshakeSlot {
    /// `None` if there are too many already.
    fn take(worker: &Arc<Worker>) -> Option<Self> {
        let in_progress = &worker.gauges.handshakes;
        let most = worker.shared.limits.tls_handshakes as u64;
        // Only this worker counts here, so nobody comes in between.
        if in_progress.load(Ordering::Relaxed) >= most {
            return None;
        }
        in_progress.fetch_add(1, Ordering::Relaxed);
        Some(Self(Arc::clone(worker)))
    }
}

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        self.0.gauges.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why there is no handshake.
enum Ended {
    Failed(TlsFailure),
    /// There were too many others.
    Refused,
}

impl From<TlsFailure> for Ended {
    fn from(failure: TlsFailure) -> Self {
        Self::Failed(failure)
    }
}

/// Does the handshake; `None` if it came to nothing, which has been told then.
pub(super) async fn accept(
    worker: &Arc<Worker>,
    stream: TcpStream,
    settings: &TlsListenerSettings,
    silent: Silent,
) -> Option<Accepted> {
    let began = clock::now();
    let patience = worker.shared.timeouts.tls_handshake;
    let handshake = tokio::time::timeout(patience, shake_hands(worker, stream, settings, silent));
    let result = tokio::select! {
        // Dropping a handshake ends its connection, which is all there is to it.
        result = handshake => result.unwrap_or(Err(TlsFailure::Timeout.into())),
        () = drained(worker) => Err(TlsFailure::Draining.into()),
    };
    match result {
        Ok(accepted) => {
            worker.event(Event::TlsHandshake {
                version: accepted.version,
                resumed: accepted.resumed,
                http2: accepted.http2,
                took: clock::now().saturating_duration_since(began),
            });
            Some(accepted)
        }
        Err(Ended::Refused) => {
            worker.event(Event::TlsRefused);
            None
        }
        Err(Ended::Failed(failure)) => {
            tracing::debug!(why = failure.as_str(), "a TLS handshake failed");
            worker.event(Event::TlsFailed(failure));
            None
        }
    }
}

/// A drain has a moment for handshakes: the client's request may be on its way.
async fn drained(worker: &Worker) {
    const MOMENT: Duration = Duration::from_secs(1);
    worker.drain.cancelled().await;
    tokio::time::sleep(MOMENT).await;
}

async fn shake_hands(
    worker: &Arc<Worker>,
    stream: TcpStream,
    settings: &TlsListenerSettings,
    mut silent: Silent,
) -> Result<Accepted, Ended> {
    let hello = tokio::select! {
        // A connection that is pushed out ends, so nothing that was read is missed.
        hello = hello(stream) => hello?,
        () = silent.pushed_out() => return Err(Ended::Refused),
    };
    drop(silent);
    // Not before the hello: a slot stands for work, and silence is none.
    let Some(_slot) = HandshakeSlot::take(worker) else {
        return Err(Ended::Refused);
    };
    let store = &worker.shared.certificates;
    let named = hello.sni().and_then(|name| store.resolve(name));
    let default = || settings.default.as_ref().map(|default| default.current());
    let Some(certificate) = named.or_else(default) else {
        return Err(hello.refuse().await.into());
    };
    let terms = terms(worker, hello.sni(), settings);
    let accepted = hello.accept(&worker.shared.tls, terms, certificate).await;
    Ok(accepted?)
}

/// Waits for the client's hello; its first byte has less time than a whole handshake.
async fn hello(stream: TcpStream) -> Result<Hello, TlsFailure> {
    const FIRST_BYTE: Duration = Duration::from_secs(3);
    let mut first = [0];
    let begun = tokio::time::timeout(FIRST_BYTE, stream.peek(&mut first)).await;
    match begun {
        Ok(Ok(0) | Err(_)) => Err(TlsFailure::Gone),
        Ok(Ok(_)) => Hello::read(stream).await,
        Err(_elapsed) => Err(TlsFailure::Timeout),
    }
}

/// What the listener allows and the app of that name, if there is one, does not decline.
fn terms(worker: &Worker, sni: Option<&str>, settings: &TlsListenerSettings) -> TlsTerms {
    let mut terms = TlsTerms {
        min_version: settings.min_version,
        http2: settings.http2,
    };
    if let Some(route) = sni.and_then(|name| worker.route(name)) {
        let settings = &route.app.settings;
        terms.min_version = settings
            .min_tls_version
            .unwrap_or_default()
            .max(terms.min_version);
        terms.http2 &= settings.http2;
    }
    terms
}

impl Transport for TlsStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_readable(cx)
    }

    fn is_read_closed(&self) -> bool {
        self.socket().is_read_closed()
    }

    fn end_with_error(&self, yes: bool) {
        self.set_broken(yes);
        self.socket().end_with_error(yes);
    }
}
