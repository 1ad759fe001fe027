//! How long the certificates are still good for. There may be ten thousand of them, and a series for each would be more than
//! the rest of the metrics together: all are counted, and only those that expire first have a series of their own. And how
//! ordering new ones goes.

use std::collections::HashSet;
use std::sync::Arc;

use router_core::acme::{AcmeStatus, DomainState};
use router_core::tls::Certificate;

use super::exposition::Exposition;

/// What is known of the certificates at a scrape.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    /// Each of them.
    pub(crate) held: Vec<Held>,
    /// Files and entries that are not used.
    pub(crate) rejected: usize,
}

/// One certificate.
#[derive(Debug)]
pub(crate) struct Held {
    /// Where it comes from.
    pub(crate) origin: &'static str,
    /// The certificate.
    pub(crate) certificate: Arc<Certificate>,
    /// Another one answers for each of its names, because that one is valid longer.
    pub(crate) superseded: bool,
}

/// Certificates with a series of their own, those that expire first.
pub(super) const MOST_SERIES: usize = 100;
const WITHIN_DAYS: [i64; 6] = [0, 3, 7, 14, 30, 90];
const ORIGINS: [&str; 4] = ["listener", "folder", "document", "acme"];

pub(super) fn render(out: &mut Exposition, certificates: &Certificates) {
    let held = &certificates.held;
    let labelled = |label: &str, count: usize| (vec![label.to_owned()], count as f64);
    out.gauge_series(
        "router_certificates",
        "Certificates that may answer clients, by where they come from.",
        &["origin"],
        ORIGINS.map(|origin| {
            labelled(
                origin,
                held.iter().filter(|held| held.origin == origin).count(),
            )
        }),
    );
    out.gauge(
        "router_certificates_rejected",
        "Certificates of the configuration, the folder and the route document that are not used as they are now.",
        certificates.rejected as f64,
    );
    // What was renewed may expire in peace.
    let answering = held.iter().filter(|held| !held.superseded);
    let mut days: Vec<_> = answering
        .map(|held| (held.certificate.days_left(), held))
        .collect();
    days.sort_by_key(|(left, _)| *left);
    out.gauge_series(
        "router_certificates_expiring",
        "Certificates that have expired or will have so many days from now.",
        &["within_days"],
        WITHIN_DAYS.map(|bound| {
            let count = days.partition_point(|(left, _)| *left < bound);
            labelled(&bound.to_string(), count)
        }),
    );
    let Some((least, _)) = days.first() else {
        return;
    };
    out.gauge(
        "router_certificate_days_left_min",
        "Days that the certificate which expires first is still good for; negative once it has expired.",
        *least as f64,
    );
    let mut seen = HashSet::new();
    let series = days.iter().filter_map(|(left, held)| {
        let name = held.certificate.names().next().unwrap_or_default();
        // Two certificates may begin with the same name; a series twice would spoil the scrape.
        let labels = vec![name.to_owned(), held.origin.to_owned()];
        let first = seen.insert((name, held.origin));
        first.then_some((labels, *left as f64))
    });
    let series = series.take(MOST_SERIES);
    out.gauge_series(
        "router_certificate_days_left",
        "Days that a certificate is still good for; only the 100 that expire first.",
        &["name", "origin"],
        series,
    );
}

pub(super) fn render_acme(out: &mut Exposition, acme: &AcmeStatus) {
    out.counters(
        "router_acme_orders_total",
        "Orders of certificates by what became of them; those in progress are not in it.",
        &["result"],
        [("issued", acme.issued), ("failed", acme.failed)]
            .map(|(result, count)| (vec![result.to_owned()], count)),
    );
    out.gauge(
        "router_acme_orders_left",
        "Orders that the budget per hour still allows now.",
        f64::from(acme.budget_left),
    );
    out.gauge(
        "router_acme_held_up",
        "1 while something is due and nothing can be ordered: no budget, no authority, no folder.",
        f64::from(u8::from(acme.held_up_by.is_some())),
    );
    out.gauge_series(
        "router_acme_domains",
        "Domains that have or should have an ordered certificate, by how they stand.",
        &["state"],
        STATES.map(|state| {
            let domains = acme.domains.iter();
            let count = domains.filter(|domain| domain.state == state).count();
            (vec![label(state).to_owned()], count as f64)
        }),
    );
}

const STATES: [DomainState; 8] = [
    DomainState::Waiting,
    DomainState::Ordering,
    DomainState::Valid,
    DomainState::Renewing,
    DomainState::Failing,
    DomainState::Covered,
    DomainState::Retired,
    DomainState::Impossible,
];

/// As in JSON; a state that is new here belongs into `STATES` too.
fn label(state: DomainState) -> &'static str {
    match state {
        DomainState::Waiting => "waiting",
        DomainState::Ordering => "ordering",
        DomainState::Valid => "valid",
        DomainState::Renewing => "renewing",
        DomainState::Failing => "failing",
        DomainState::Covered => "covered",
        DomainState::Retired => "retired",
        DomainState::Impossible => "impossible",
    }
}
