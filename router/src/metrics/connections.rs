//! What is counted of client connections beside their requests: TLS handshakes, PROXY headers, floods of HTTP/2 frames.
//! One worker's counts, and the sum of all.

use std::sync::atomic::{AtomicU64, Ordering};

use router_core::model::h2::meter::Flood;
use router_core::tls::TlsVersion;
use router_core::{Event, TlsFailure};

use super::exposition::Exposition;
use super::shard::{Histogram, HistogramTotal, Shard, add};

/// One worker's counts.
#[derive(Debug, Default)]
pub(super) struct ConnectionCounts {
    handshakes: [AtomicU64; KINDS],
    failures: [AtomicU64; TlsFailure::ALL.len()],
    seconds: Histogram,
    refused: AtomicU64,
    proxy_headers_refused: AtomicU64,
    floods: [AtomicU64; Flood::ALL.len()],
}

/// Versions, resumed or not, HTTP/2 or not.
const KINDS: usize = TlsVersion::ALL.len() * 2 * 2;

impl ConnectionCounts {
    /// Counts an event, if it is one of those that are counted here.
    pub(super) fn event(&self, event: Event) {
        match event {
            Event::TlsHandshake {
                version,
                resumed,
                http2,
                took,
            } => {
                let kind = kinds().position(|kind| kind == (version, resumed, http2));
                if let Some(count) = kind.and_then(|kind| self.handshakes.get(kind)) {
                    add(count, 1);
                }
                self.seconds.observe(took);
            }
            Event::TlsFailed(failure) => {
                let index = TlsFailure::ALL.iter().position(|known| *known == failure);
                if let Some(count) = index.and_then(|index| self.failures.get(index)) {
                    add(count, 1);
                }
            }
            Event::TlsRefused => add(&self.refused, 1),
            Event::ProxyHeaderRefused => add(&self.proxy_headers_refused, 1),
            Event::Http2Flood(flood) => {
                let index = Flood::ALL.iter().position(|known| *known == flood);
                if let Some(count) = index.and_then(|index| self.floods.get(index)) {
                    add(count, 1);
                }
            }
            _ => {}
        }
    }
}

fn kinds() -> impl Iterator<Item = (TlsVersion, bool, bool)> {
    TlsVersion::ALL.into_iter().flat_map(|version| {
        [false, true].into_iter().flat_map(move |resumed| {
            [false, true]
                .into_iter()
                .map(move |http2| (version, resumed, http2))
        })
    })
}

/// Adds the counts of all workers to what a scraper gets.
pub(super) fn render(out: &mut Exposition, shards: &[Shard]) {
    let all = || shards.iter().map(|shard| &shard.connections);
    let sum = |count: &dyn Fn(&ConnectionCounts) -> Option<&AtomicU64>| -> u64 {
        all()
            .filter_map(count)
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    };
    out.counters(
        "router_tls_handshakes_total",
        "Finished TLS handshakes of clients: version, whether an earlier session went on, protocol agreed on.",
        &["version", "resumed", "protocol"],
        kinds().enumerate().map(|(index, (version, resumed, http2))| {
            let protocol = if http2 { "h2" } else { "http/1.1" };
            let labels = [version.as_str(), if resumed { "true" } else { "false" }, protocol];
            (
                labels.map(str::to_owned).to_vec(),
                sum(&|counts| counts.handshakes.get(index)),
            )
        }),
    );
    out.counters(
        "router_tls_handshake_failures_total",
        "TLS handshakes of clients that came to nothing, by reason.",
        &["reason"],
        TlsFailure::ALL.iter().enumerate().map(|(index, failure)| {
            (
                vec![failure.as_str().to_owned()],
                sum(&|counts| counts.failures.get(index)),
            )
        }),
    );
    out.histogram(
        "router_tls_handshake_seconds",
        "Time that a TLS handshake of a client took.",
        &HistogramTotal::of(all().map(|counts| &counts.seconds)),
    );
    out.counter(
        "router_tls_handshakes_refused_total",
        "Connections closed because too many others were in their TLS handshake.",
        sum(&|counts| Some(&counts.refused)),
    );
    out.counter(
        "router_proxy_headers_refused_total",
        "Connections closed because they did not begin with a PROXY header where one is required.",
        sum(&|counts| Some(&counts.proxy_headers_refused)),
    );
    out.counters(
        "router_h2_floods_total",
        "HTTP/2 connections of clients that were ended because of too many frames of a kind.",
        &["kind"],
        Flood::ALL.iter().enumerate().map(|(index, flood)| {
            (
                vec![flood.as_str().to_owned()],
                sum(&|counts| counts.floods.get(index)),
            )
        }),
    );
}
