//! How a relay is read: who reads it, and how far they are.

use router_core::feed::PublishStats;

use super::exposition::Exposition;

pub(super) fn render(out: &mut Exposition, relay: &PublishStats) {
    for (name, help, value) in [
        (
            "router_relay_revision",
            "Revision that is passed on.",
            relay.revision,
        ),
        (
            "router_relay_lowest_revision",
            "Lowest revision in force on a router that reads this relay, or a relay of it.",
            relay.lowest_revision,
        ),
    ] {
        if let Some(revision) = value {
            out.gauge(name, help, revision as f64);
        }
    }
    for (name, help, count) in [
        (
            "router_relay_apps",
            "Apps that are passed on.",
            relay.apps as u64,
        ),
        (
            "router_relay_connections",
            "Connections of readers.",
            relay.connections,
        ),
        (
            "router_relay_subscribers",
            "Readers of the stream.",
            relay.subscribers,
        ),
        (
            "router_relay_waiting",
            "Requests that are held until there is something new.",
            relay.waiting,
        ),
        (
            "router_relay_routers",
            "Routers that were heard of in the last minute, relays included.",
            relay.routers as u64,
        ),
    ] {
        out.gauge(name, help, count as f64);
    }
    for (name, help, count) in [
        (
            "router_relay_changes_total",
            "Changes passed on.",
            relay.changes,
        ),
        (
            "router_relay_documents_built_total",
            "Whole documents put together.",
            relay.wholes_built,
        ),
        (
            "router_relay_documents_sent_total",
            "Whole documents sent to readers.",
            relay.wholes_sent,
        ),
        (
            "router_relay_behind_total",
            "Readers that had missed too much and were given the whole document again.",
            relay.behind,
        ),
        (
            "router_relay_turned_away_total",
            "Requests turned away because there were too many.",
            relay.turned_away,
        ),
        (
            "router_relay_unauthorized_total",
            "Requests without a token that is accepted.",
            relay.unauthorized,
        ),
    ] {
        out.counter(name, help, count);
    }
}
