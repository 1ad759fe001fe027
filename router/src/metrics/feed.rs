//! How the feed goes: one metric for each thing that may be wrong with a source of routes.

use router_core::feed::FeedStatus;

use super::exposition::Exposition;

pub(super) fn render(out: &mut Exposition, feed: &FeedStatus) {
    let flag = |up: bool| f64::from(u8::from(up));
    if let Some(revision) = feed.revision {
        out.gauge(
            "router_feed_revision",
            "Revision of the routes in force.",
            revision as f64,
        );
    }
    for (name, help, value) in [
        (
            "router_feed_age_seconds",
            "Time since the routes in force were applied.",
            feed.age_seconds,
        ),
        (
            "router_feed_heard_seconds",
            "Time since the source of the routes was last heard of.",
            feed.heard_seconds,
        ),
        (
            "router_feed_unheard_seconds",
            "Time since nothing is known of what the source would say; absent while it is well.",
            feed.unheard_seconds,
        ),
        (
            "router_feed_apply_seconds",
            "Time that the last update took to be read and applied.",
            feed.apply_seconds,
        ),
        (
            "router_feed_acknowledged_revision",
            "Revision that the source was last told to be in force.",
            feed.acknowledged.map(|revision| revision as f64),
        ),
    ] {
        if let Some(value) = value {
            out.gauge(name, help, value);
        }
    }
    out.gauge(
        "router_feed_rejected_apps",
        "Apps, domains and certificates of the last document that were rejected.",
        feed.rejected.len() as f64,
    );
    for (name, help, up) in [
        (
            "router_feed_stale",
            "1 while the routes come from the cache.",
            feed.stale,
        ),
        (
            "router_feed_silent",
            "1 while the source, which has a heartbeat, is not heard of.",
            feed.silent,
        ),
        (
            "router_feed_withheld",
            "1 while an update is not believed, because it takes away too much or is old.",
            feed.withheld.is_some(),
        ),
        (
            "router_feed_holding_back",
            "1 while an update waits for its random time.",
            feed.holding_back,
        ),
        (
            "router_feed_stuck",
            "1 while a step of the feed takes longer than its watchdog allows.",
            feed.stuck.is_some(),
        ),
    ] {
        out.gauge(name, help, flag(up));
    }
    let labelled = |label: &str, count: u64| (vec![label.to_owned()], count);
    out.counters(
        "router_feed_documents_total",
        "Route documents by what became of them; changes that were refused are among the refused.",
        &["result"],
        [("accepted", feed.accepted), ("refused", feed.refused)]
            .map(|(result, count)| labelled(result, count)),
    );
    out.counters(
        "router_feed_relists_total",
        "Times that the source was asked for the whole document, by why.",
        &["reason"],
        feed.relists
            .by_reason()
            .map(|(reason, count)| labelled(reason, count)),
    );
    for (name, help, count) in [
        (
            "router_feed_changes_total",
            "Changes put in force.",
            feed.changes,
        ),
        (
            "router_feed_gaps_total",
            "Changes that did not start where the router was.",
            feed.gaps,
        ),
        (
            "router_feed_shrinks_refused_total",
            "Updates refused because they would have taken away too much.",
            feed.shrinks_refused,
        ),
        (
            "router_feed_acknowledgements_failed_total",
            "Times that the source could not be told what is in force.",
            feed.acknowledgements_failed,
        ),
    ] {
        out.counter(name, help, count);
    }
    if let Some(cache) = &feed.cache {
        if let Some(revision) = cache.revision {
            out.gauge(
                "router_feed_cache_revision",
                "Revision that a restart would find on disk.",
                revision as f64,
            );
        }
        out.gauge(
            "router_feed_cache_broken",
            "1 while the last good routes cannot be saved, or could not be read.",
            flag(cache.error.is_some()),
        );
        out.counter(
            "router_feed_cache_failures_total",
            "Times that the last good routes could not be saved or read.",
            cache.failures,
        );
    }
}
