//! One life of a relay: a router without clients, whose feed is passed on to other routers. It judges what it reads as
//! they do, so it can keep it, show it and explain it as they do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use router_core::Router;
use router_core::feed::{
    self, EtcdFeed, FeedHandle, FileFeed, HttpFeed, PublishSettings, Publisher,
};
use tokio::runtime::Handle;

use super::{Admin, RunError, Runtimes, bind_admin, build, first_routes};
use crate::admin;
use crate::certificates::Watches;
use crate::config::{Config, Feed, FeedSource};
use crate::metrics::Metrics;
use crate::observer::CompositeObserver;
use crate::signals::Signals;

/// Passes routes on until it is told to end.
pub(crate) fn relay(config: &Config, settings: PublishSettings) -> Result<(), RunError> {
    super::descriptors_for_clients();
    let runtimes = Runtimes::start()?;
    let metrics = Arc::new(Metrics::new(1));
    let observer = CompositeObserver {
        metrics: Arc::clone(&metrics),
        access_log: None,
    };
    let router = build(config, 1, observer)?;
    let life = live(config, settings, router, metrics, runtimes.feed());
    let ended = runtimes.block_on(life);
    runtimes.end();
    ended
}

async fn live(
    config: &Config,
    settings: PublishSettings,
    router: Router,
    metrics: Arc<Metrics>,
    of_feed: &Handle,
) -> Result<(), RunError> {
    let mut signals = Signals::listen().map_err(RunError::Runtime)?;
    let admin_listener = bind_admin(config.admin).await?;
    let publisher = Publisher::new(&router, settings);
    let state = Arc::new(admin::State {
        certificates: Watches::default(),
        acme: OnceLock::new(),
        feed: follow(&config.feed, &router, &publisher, of_feed)?,
        relay: OnceLock::new(),
        router,
        metrics,
        losses: None,
        listening: AtomicBool::new(false),
        draining: AtomicBool::new(false),
    });
    let admin = Admin::start(admin_listener, &state);

    first_routes(&state).await;
    let source = Arc::clone(&state);
    let unheard = move || {
        let feed = source.feed.status();
        feed.stale || feed.unheard_seconds.is_some()
    };
    let relay = publisher.serve(unheard).await?;
    let relay = state.relay.get_or_init(|| relay);
    state.listening.store(true, Ordering::Release);
    tracing::info!("relaying on {}", relay.address());

    let signal = signals.end(|| state.feed.look_at_files()).await;
    state.draining.store(true, Ordering::Release);
    tracing::info!(signal, "ending");
    // Readers keep what they have, and ask again; there is nothing of theirs to wait for.
    relay.stop().await;
    admin.stop().await;
    Ok(())
}

fn follow(
    feed: &Feed,
    router: &Router,
    publisher: &Publisher,
    of_feed: &Handle,
) -> Result<FeedHandle, RunError> {
    let _there = of_feed.enter();
    let (options, tap) = (feed.options(), publisher.tap());
    Ok(match &feed.source {
        FeedSource::File(path) => {
            feed::start_tapped(router, FileFeed::new(path.clone()), options, tap)
        }
        FeedSource::Http(settings) => {
            let source = HttpFeed::new(settings.clone())?
                .alone_on_its_thread()
                .passing_on(publisher.passed_on());
            feed::start_tapped(router, source, options, tap)
        }
        FeedSource::Etcd(settings) => {
            feed::start_tapped(router, EtcdFeed::new(settings.clone())?, options, tap)
        }
    })
}
