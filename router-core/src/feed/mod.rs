//! Where routes come from. A [`Feed`] brings whole documents and changes; the runner judges, guards and applies them, and
//! nothing that a feed does (errors, silence, rubbish) takes a route away.

mod acks;
mod cache;
mod certificates;
mod disk;
mod etcd;
mod file;
mod handle;
mod http;
mod intake;
mod log;
mod options;
mod publish;
mod restart;
mod runner;
mod saver;
mod schedule;
mod status;
mod tap;

use std::path::Path;

use bytes::Bytes;
use router_model::snapshot::Rejection;
use serde::Serialize;

pub use self::http::{HttpFeed, HttpFeedSettings, HttpFeedSettingsError};
pub use certificates::check_certificates;
pub use etcd::{EtcdFeed, EtcdFeedSettings, EtcdFeedSettingsError, EtcdUser};
pub use file::FileFeed;
pub use handle::FeedHandle;
pub use options::FeedOptions;
pub use publish::{
    PassedOn, PublishError, PublishHandle, PublishSettings, PublishStats, PublishTls, Publisher,
};
pub use runner::{start, start_tapped};
pub use status::{CacheStatus, FeedStatus, Relists, Stuck, Withheld};
pub use tap::{Accepted, Tap};

/// What a feed brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// A whole route document.
    Snapshot(Bytes),
    /// What has changed from one revision to another: `{"from": 7, "to": 8, "changes": [{"app": {…}}, {"remove": "NAME"}]}`.
    Change(Bytes),
    /// The source is well and has nothing newer: a heartbeat.
    Alive {
        /// The newest revision of the source, if it said so. A newer one than the router's own means that something was
        /// lost; the router's own means that what it has (from its cache, say) is not stale.
        revision: Option<u64>,
    },
}

/// Where the router stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// The revision in force; changes after it are wanted.
    pub revision: Option<u64>,
    /// Changes are of no use: the whole document is wanted, at once and without waiting for news, over a fresh connection
    /// if the old one may be dead. It stays so until a [`Update::Snapshot`] comes, or [`Update::Alive`] with exactly
    /// `revision`, from a feed that is sure that the document with that revision is the one that it gave before, and
    /// that has given no change since.
    pub need_whole: bool,
}

/// What is in force on a router, for whoever waits until every router has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ack {
    /// The router's id: [`FeedOptions::router_id`].
    pub router: String,
    /// The revision in force.
    pub revision: u64,
    /// What of it was rejected: the first thousand.
    pub rejected: Vec<Rejection>,
    /// How many rejections there are.
    pub rejected_count: usize,
}

impl Ack {
    /// More rejections than this are only counted.
    pub const MOST_REJECTED: usize = 1000;
}

/// A source of routes. [`Feed::next`] is all that a simple one needs.
///
/// ```
/// use router_core::feed::{Feed, FeedError, Position, Update};
///
/// /// Asks a function, again and again.
/// struct Polled<F>(F);
///
/// impl<F: FnMut() -> Option<(u64, Vec<u8>)> + Send + 'static> Feed for Polled<F> {
///     fn source(&self) -> &'static str {
///         "polled"
///     }
///
///     async fn next(&mut self, position: Position) -> Result<Update, FeedError> {
///         loop {
///             match (self.0)() {
///                 None => return Err(FeedError("the source does not answer".to_owned())),
///                 Some((revision, document)) if position.need_whole || position.revision != Some(revision) => {
///                     return Ok(Update::Snapshot(document.into()));
///                 }
///                 Some(_) => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
///             }
///         }
///     }
/// }
/// ```
pub trait Feed: Send + 'static {
    /// What it is called in `/v1/feed` and metrics: `file`.
    fn source(&self) -> &'static str;

    /// The folder that relative file names in its documents start from; the working directory if there is none.
    fn folder(&self) -> Option<&Path> {
        None
    }

    /// Whether the source is heard of at least every ten seconds, with [`Update::Alive`] if nothing else. Only then is
    /// silence a sign that something is wrong. It may turn out only once the source has answered.
    fn has_heartbeat(&self) -> bool {
        false
    }

    /// Whether what [`Feed::next`] gave last is only what somebody remembers who does not hear of the source himself. It is
    /// good to have, but says nothing of how the source is.
    fn is_second_hand(&self) -> bool {
        false
    }

    /// Waits for what comes after `position`. The first call gives what is there now. Dropping the future loses nothing:
    /// the next call goes on where this one was. Waiting may take as long as it likes, but everything else must end by
    /// itself: a source that does not answer is an error.
    fn next(
        &mut self,
        position: Position,
    ) -> impl Future<Output = Result<Update, FeedError>> + Send;

    /// A change that has come right behind the one that [`Feed::next`] gave last, if it is here already: changes that come
    /// in crowds are put in force and saved together. Called until there is none. `None` is always right, for what is not
    /// given here is given by [`Feed::next`].
    fn next_of_crowd(&mut self) -> impl Future<Output = Option<Bytes>> + Send {
        async { None }
    }

    /// Tells the source what is in force. Called once that has changed, and not before a restart would find it on disk;
    /// several changes in quick succession are told once, and of changes that do not end those that are on disk. Never
    /// called while [`Feed::next`] runs. After an error, or five seconds, it is called again later: between a second and
    /// half a minute. If what was told expires at the source, [`Feed::next`] has to keep it alive.
    fn acknowledge(&mut self, ack: &Ack) -> impl Future<Output = Result<(), FeedError>> + Send {
        let _ = ack;
        async { Ok(()) }
    }
}

/// Why a feed has no document to give. The runner keeps what it has and asks again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FeedError(pub String);

#[cfg(test)]
mod tests;
