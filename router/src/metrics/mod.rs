//! What the router counts. Each worker counts in a shard of its own, so that counting shares no cache line between cores;
//! a scrape adds the shards up. Labels come from fixed lists (codes, status classes, reasons), or from the certificates
//! that expire first; never from a request.

mod certificates;
mod connections;
mod exposition;
mod feed;
mod relay;
mod shard;

use std::fmt;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use router_core::acme::AcmeStatus;
use router_core::feed::{FeedStatus, PublishStats};
use router_core::model::failure::Failure;
use router_core::model::log_line::LogLine;
use router_core::model::verdict;
use router_core::{Event, Stats};

pub(crate) use certificates::{Certificates, Held};
use exposition::Exposition;
use shard::{Shard, Totals};

/// Everything that is counted.
pub(crate) struct Metrics {
    shards: Box<[Shard]>,
    process: ProcessCollector,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Metrics")
            .field("shards", &self.shards.len())
            .finish_non_exhaustive()
    }
}

/// What is not counted here but asked for at each scrape.
#[derive(Debug)]
pub(crate) struct Present {
    /// The state of the router.
    pub(crate) stats: Stats,
    /// The state of the feed.
    pub(crate) feed: FeedStatus,
    /// Whom routes are passed on to, if this is a relay.
    pub(crate) relay: Option<PublishStats>,
    /// The ordering of certificates, if there is any.
    pub(crate) acme: Option<AcmeStatus>,
    /// What may answer clients over TLS.
    pub(crate) certificates: Certificates,
    /// Access log lines that were lost.
    pub(crate) log_lines_dropped: u64,
}

impl Metrics {
    /// Counters at zero for so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            shards: (0..workers.max(1)).map(|_| Shard::default()).collect(),
            process: ProcessCollector::for_self(),
        }
    }

    /// Counts a finished request of a known app.
    pub(crate) fn request(&self, worker: usize, line: &LogLine<'_>) {
        let Some(shard) = self.shard(worker) else {
            return;
        };
        shard.request(line.failure.map_or(0, code_number), line.status);
        shard.response_bytes(line.bytes);
        // The lifetime of a tunnel is no service time.
        if let Some(service) = line.service.filter(|_| line.status != Some(101)) {
            shard.service.observe(service);
        }
    }

    /// Counts something that happened within or beside a request.
    pub(crate) fn event(&self, worker: usize, event: Event) {
        let Some(shard) = self.shard(worker) else {
            return;
        };
        match event {
            Event::ConnectAttempt | Event::TunnelClosed => {}
            Event::TlsHandshake { .. }
            | Event::TlsFailed(_)
            | Event::TlsRefused
            | Event::ProxyHeaderRefused
            | Event::Http2Flood(_) => shard.connections.event(event),
            Event::Connected(duration) => shard.connect.observe(duration),
            Event::ConnectFailed(failure) => shard.connect_failure(code_number(failure)),
            Event::Retry => shard.retry(),
            Event::Quarantined => shard.quarantine(),
            Event::Refused(failure) => {
                if let Some(index) = refusals().position(|known| known == failure) {
                    shard.refusal(index);
                }
            }
            Event::TunnelOpened => shard.tunnel(),
        }
    }

    /// All metrics in the text format of Prometheus.
    pub(crate) fn render(&self, present: &Present) -> Vec<u8> {
        let totals = Totals::of(&self.shards);
        let mut out = Exposition::default();
        requests(&mut out, &totals);
        dynos(&mut out, &totals, present);
        connections::render(&mut out, &self.shards);
        certificates::render(&mut out, &present.certificates);
        if let Some(acme) = &present.acme {
            certificates::render_acme(&mut out, acme);
        }
        state(&mut out, present);
        feed::render(&mut out, &present.feed);
        if let Some(relay) = &present.relay {
            relay::render(&mut out, relay);
        }
        out.families(self.process.collect());
        out.encode()
    }

    fn shard(&self, worker: usize) -> Option<&Shard> {
        self.shards.get(worker % self.shards.len())
    }
}

fn requests(out: &mut Exposition, totals: &Totals) {
    out.counters(
        "router_requests_total",
        "Finished requests of known apps, by error code and by the class of the status sent.",
        &["code", "status"],
        totals
            .requests(&expected())
            .map(|(code, class, count)| (vec![code_label(code), class.to_owned()], count)),
    );
    out.counters(
        "router_requests_refused_total",
        "Requests refused before their app was known.",
        &["reason"],
        refusals()
            .enumerate()
            .map(|(index, failure)| (vec![reason(failure)], totals.refusals(index))),
    );
    out.histogram(
        "router_service_seconds",
        "Time that dyno and client took for a request.",
        &totals.service,
    );
    out.counter(
        "router_response_bytes_total",
        "Body bytes sent to clients.",
        totals.response_bytes,
    );
    out.counter(
        "router_tunnels_total",
        "Upgraded connections (WebSockets) opened.",
        totals.tunnels,
    );
}

fn dynos(out: &mut Exposition, totals: &Totals, present: &Present) {
    out.histogram(
        "router_connect_seconds",
        "Time to open a connection to a dyno.",
        &totals.connect,
    );
    out.counters(
        "router_connect_failures_total",
        "Failed attempts to connect to a dyno, by the error code they would end in.",
        &["code"],
        totals
            .connect_failures()
            .map(|(code, count)| (vec![code_label(code)], count)),
    );
    out.counter(
        "router_retries_total",
        "Requests sent again because a kept dyno connection had died.",
        totals.retries,
    );
    out.counter(
        "router_quarantines_total",
        "Times a dyno was put into quarantine.",
        totals.quarantines,
    );
    out.gauge(
        "router_dynos_quarantined",
        "Dynos in quarantine.",
        present.stats.dynos_quarantined as f64,
    );
    out.gauge(
        "router_kept_connections",
        "Idle connections to dynos.",
        present.stats.kept_connections as f64,
    );
}

fn state(
    out: &mut Exposition,
    Present {
        stats,
        log_lines_dropped,
        ..
    }: &Present,
) {
    out.gauge(
        "router_requests_in_flight",
        "Requests in flight.",
        stats.requests_in_flight as f64,
    );
    out.gauge(
        "router_client_connections",
        "Client connections.",
        stats.client_connections as f64,
    );
    out.gauge(
        "router_h2_connections",
        "Client connections that speak HTTP/2.",
        stats.h2_connections as f64,
    );
    out.gauge(
        "router_h2_streams",
        "Open streams of client connections that speak HTTP/2.",
        stats.h2_streams as f64,
    );
    out.gauge(
        "router_tunnels",
        "Open upgraded connections.",
        stats.tunnels as f64,
    );
    out.gauge("router_apps", "Apps in the route table.", stats.apps as f64);
    out.gauge(
        "router_domains",
        "Domains in the route table.",
        stats.domains as f64,
    );
    out.counter(
        "router_log_lines_dropped_total",
        "Access log lines that were lost.",
        *log_lines_dropped,
    );
    out.gauge_series(
        "router_build_info",
        "The version of the router.",
        &["version"],
        [(vec![env!("CARGO_PKG_VERSION").to_owned()], 1.0)],
    );
}

/// `H12` is 12; 0 is no error code.
fn code_number(failure: Failure) -> usize {
    let code = verdict::of(failure)
        .code
        .and_then(|code| code.strip_prefix('H'));
    code.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

fn code_label(number: usize) -> String {
    if number == 0 {
        "none".to_owned()
    } else {
        format!("H{number}")
    }
}

/// The pairs of code and status that the verdict table foresees: there from the start, so that a first error is an
/// increase and not a new series.
fn expected() -> Vec<(usize, Option<u16>)> {
    let failures = Failure::ALL
        .iter()
        .filter(|&&failure| verdict::of(failure).logged);
    let failures = failures.map(|&failure| (code_number(failure), verdict::of(failure).status));
    [101, 200, 301, 404, 500]
        .map(|status| (0, Some(status)))
        .into_iter()
        .chain(failures)
        .collect()
}

/// What can happen to a request before its app is known.
fn refusals() -> impl Iterator<Item = Failure> {
    Failure::ALL
        .iter()
        .copied()
        .filter(|&failure| !verdict::of(failure).logged)
}

/// The label of a refusal: `BadRequest(HostMissing)` is `host_missing`.
fn reason(failure: Failure) -> String {
    let name = format!("{failure:?}");
    let name = name
        .strip_prefix("BadRequest(")
        .map_or(name.as_str(), |inner| inner.trim_end_matches(')'));
    let mut label = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !label.is_empty() {
            label.push('_');
        }
        label.push(letter.to_ascii_lowercase());
    }
    label
}

#[cfg(test)]
mod tests;
