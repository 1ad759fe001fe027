//! Publishes the routes in force to other routers, in the protocol that the HTTP feed reads (`router-core/docs/feed.md`):
//! one reader of the source, any number of readers here. What they get has been judged like a router's own routes, so
//! that nothing is passed on which they would refuse.

mod acks;
mod answer;
mod body;
mod gzip;
mod history;
mod published;
mod raw;
mod server;
mod settings;
mod shared;
mod stats;
mod subscriber;
mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;

use router_model::diff::TableView;
use router_model::hostname::Domain;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::{Accepted, Ack, Tap};
use crate::router::Router;
use crate::{clock, tasks};
use answer::Answering;
use published::{Good, Published};
use server::Tls;
use shared::Shared;
use tokens::Tokens;

pub use settings::{PublishError, PublishSettings, PublishTls};
pub use stats::PublishStats;

/// Publishes what a feed brings to a router.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    router: Router,
}

/// What the routers behind this one acknowledge, for a feed that passes it on.
#[derive(Debug, Clone)]
pub struct PassedOn(Arc<Shared>);

/// Readers are being served.
#[derive(Debug)]
pub struct PublishHandle {
    shared: Arc<Shared>,
    address: SocketAddr,
    tasks: TaskTracker,
}

impl Publisher {
    /// Nothing is published yet; [`Publisher::tap`] says what, and [`Publisher::serve`] does it.
    pub fn new(router: &Router, settings: PublishSettings) -> Self {
        Self {
            shared: Arc::new(Shared::new(settings)),
            router: router.clone(),
        }
    }

    /// What the feed of the router is to be [started with](super::start_tapped).
    pub fn tap(&self) -> impl Tap + use<> {
        PublishTap {
            shared: Arc::clone(&self.shared),
            router: self.router.clone(),
        }
    }

    /// What readers acknowledge, for the source that is read here: so that it knows of them, too.
    pub fn passed_on(&self) -> PassedOn {
        PassedOn(Arc::clone(&self.shared))
    }

    /// Begins to serve readers, as tasks of the runtime that this is called on. `silent` says whether the feed is not
    /// heard of: readers then get no more heartbeats, so that they know what the router knows.
    ///
    /// # Errors
    /// [`PublishError`]: the address cannot be had, or a file cannot be used.
    pub async fn serve(
        self,
        silent: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<PublishHandle, PublishError> {
        let settings = &self.shared.settings;
        let address = settings.address;
        settings.check_path()?;
        let tokens = settings.token_file.clone().map(Tokens::read).transpose();
        let tls = settings.tls.as_ref().map(Tls::new).transpose()?;
        let failed = |source| PublishError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let answering = Arc::new(Answering {
            shared: Arc::clone(&self.shared),
            tokens: tokens.map_err(PublishError::Tokens)?,
        });
        let tracker = TaskTracker::new();
        let (shared, stop) = (Arc::clone(&self.shared), self.shared.stop.clone());
        tasks::spawn(&tracker, async move {
            stop.run_until_cancelled(shared.listen(silent)).await;
        });
        let (shared, stop) = (Arc::clone(&self.shared), self.shared.stop.clone());
        tasks::spawn(&tracker, async move {
            stop.run_until_cancelled(shared.herald()).await;
        });
        let connections = tracker.clone();
        tasks::spawn(
            &tracker,
            server::serve(listener, tls, answering, connections),
        );
        Ok(PublishHandle {
            shared: self.shared,
            address,
            tasks: tracker,
        })
    }
}

impl PublishHandle {
    /// Where readers call.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it goes.
    pub fn stats(&self) -> PublishStats {
        self.shared.stats()
    }

    /// Ends all streams and connections.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for PublishHandle {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// Publishes what is put in force.
struct PublishTap {
    shared: Arc<Shared>,
    router: Router,
}

impl PublishTap {
    fn publish(&self, update: Accepted<'_>, published: &mut Published) -> serde_json::Result<()> {
        let table = self.router.table();
        // Who holds a domain that several claim, depends on who came first. Others must come to the same.
        let lost = |app: &str, domain: &Domain| {
            let holder = table.holder(domain.key());
            holder.is_some_and(|holder| &*holder != app)
        };
        match update {
            Accepted::Document {
                text,
                parsed,
                shrinks,
            } => {
                let good = Good {
                    revision: parsed.revision,
                    shrinks,
                    apps: &parsed.apps,
                    lost: &lost,
                };
                published.document(text, &good, &parsed.rejected)
            }
            Accepted::Change {
                text,
                parsed,
                shrinks,
            } => {
                let good = Good {
                    revision: parsed.to,
                    shrinks,
                    apps: &parsed.upsert,
                    lost: &lost,
                };
                published.change(text, &good, &parsed.remove)
            }
        }
    }
}

impl Tap for PublishTap {
    fn accepted(&mut self, update: Accepted<'_>) {
        self.shared.publish(|published| {
            if let Err(error) = self.publish(update, published) {
                // What was parsed before can be parsed again. If not, no routes are better than others than ours.
                tracing::error!(%error, "an update that is in force cannot be published; nothing is until the next document");
                published.give_up();
            }
        });
    }
}

impl PassedOn {
    /// What is in force on the routers behind this one.
    pub(super) fn acks(&self) -> Vec<Ack> {
        self.0.acks.all(clock::now())
    }

    /// Moves when there is something new.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.0.acks.news()
    }
}
