//! How long the certificates are still good for. There may be ten thousand of them, and a series for each would be more than
//! the rest of the metrics together: all are counted, and only those that expire first have a series of their own. And how
//! ordering new ones goes.

use std::sync::Arc;

use router_core::acme::{AcmeStatus, DomainState};
use router_core::tls::Certificate;

use super::exposition::Exposition;

/// What is known of the certificates at a scrape.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    /// Each with its origin.
    pub(crate) held: Vec<(&'static str, Arc<Certificate>)>,
    /// Files and entries that are not used.
    pub(crate) rejected: usize,
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
                held.iter().filter(|(from, _)| *from == origin).count(),
            )
        }),
    );
    out.gauge(
        "router_certificates_rejected",
        "Certificates of the configuration, the folder and the route document that are not used as they are now.",
        certificates.rejected as f64,
    );
    let mut days: Vec<_> = held
        .iter()
        .map(|(origin, certificate)| (certificate.days_left(), *origin, certificate))
        .collect();
    days.sort_by_key(|(left, _, _)| *left);
    out.gauge_series(
        "router_certificates_expiring",
        "Certificates that have expired or will have so many days from now.",
        &["within_days"],
        WITHIN_DAYS.map(|bound| {
            let count = days.partition_point(|(left, _, _)| *left < bound);
            labelled(&bound.to_string(), count)
        }),
    );
    let Some((least, _, _)) = days.first() else {
        return;
    };
    out.gauge(
        "router_certificate_days_left_min",
        "Days that the certificate which expires first is still good for; negative once it has expired.",
        *least as f64,
    );
    out.gauge_series(
        "router_certificate_days_left",
        "Days that a certificate is still good for; only the 100 that expire first.",
        &["name", "origin"],
        days.iter()
            .take(MOST_SERIES)
            .map(|(left, origin, certificate)| {
                let name = certificate.names().next().unwrap_or_default().to_owned();
                (vec![name, (*origin).to_owned()], *left as f64)
            }),
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
        STATES.map(|(label, state)| {
            let domains = acme.domains.iter();
            let count = domains.filter(|domain| domain.state == state).count();
            (vec![label.to_owned()], count as f64)
        }),
    );
}

const STATES: [(&str, DomainState); 7] = [
    ("waiting", DomainState::Waiting),
    ("ordering", DomainState::Ordering),
    ("valid", DomainState::Valid),
    ("renewing", DomainState::Renewing),
    ("failing", DomainState::Failing),
    ("covered", DomainState::Covered),
    ("retired", DomainState::Retired),
];
