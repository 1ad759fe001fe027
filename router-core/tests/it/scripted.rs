//! A feed that says what a test tells it to say, and notes what it is asked and told.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use router_core::Router;
use router_core::feed::{
    self, Ack, Feed, FeedError, FeedHandle, FeedOptions, FeedStatus, Position, Update,
};
use router_testkit::{AppDoc, RouteDoc, eventually};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// The test's end of the feed, and the feed as it runs.
pub(crate) struct Scripted {
    pub(crate) feed: FeedHandle,
    say: mpsc::UnboundedSender<Result<Update, FeedError>>,
    noted: Arc<Mutex<Noted>>,
}

/// What the feed was asked and told.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    pub(crate) asked: Vec<Position>,
    pub(crate) acks: Vec<Ack>,
    /// How acknowledgements end.
    pub(crate) acks_fail: bool,
    pub(crate) acks_hang: bool,
    /// Changes that are there already are given as a crowd.
    pub(crate) crowds: bool,
}

struct Source {
    heard: mpsc::UnboundedReceiver<Result<Update, FeedError>>,
    noted: Arc<Mutex<Noted>>,
    heartbeat: bool,
}

impl Feed for Source {
    fn source(&self) -> &'static str {
        "scripted"
    }

    fn has_heartbeat(&self) -> bool {
        self.heartbeat
    }

    async fn next(&mut self, position: Position) -> Result<Update, FeedError> {
        self.noted.lock().unwrap().asked.push(position);
        match self.heard.recv().await {
            Some(said) => said,
            None => std::future::pending().await,
        }
    }

    async fn next_of_crowd(&mut self) -> Option<Bytes> {
        if !self.noted.lock().unwrap().crowds {
            return None;
        }
        match self.heard.try_recv() {
            Ok(Ok(Update::Change(change))) => Some(change),
            Ok(other) => panic!("not a change: {other:?}"),
            Err(_) => None,
        }
    }

    async fn acknowledge(&mut self, ack: &Ack) -> Result<(), FeedError> {
        let (fail, hang) = {
            let mut noted = self.noted.lock().unwrap();
            noted.acks.push(ack.clone());
            (noted.acks_fail, noted.acks_hang)
        };
        if hang {
            std::future::pending().await
        }
        if fail {
            return Err(FeedError("nobody listens".to_owned()));
        }
        Ok(())
    }
}

impl Scripted {
    /// A feed without a heartbeat.
    pub(crate) fn start(router: &Router, options: FeedOptions) -> Self {
        Self::run(router, options, false)
    }

    /// A feed that should be heard of every ten seconds.
    pub(crate) fn start_with_heartbeat(router: &Router, options: FeedOptions) -> Self {
        Self::run(router, options, true)
    }

    fn run(router: &Router, options: FeedOptions, heartbeat: bool) -> Self {
        let (say, heard) = mpsc::unbounded_channel();
        let noted = Arc::new(Mutex::new(Noted::default()));
        let source = Source {
            heard,
            noted: Arc::clone(&noted),
            heartbeat,
        };
        Self {
            feed: feed::start(router, source, options),
            say,
            noted,
        }
    }

    pub(crate) fn say(&self, update: Update) {
        self.say.send(Ok(update)).unwrap();
    }

    pub(crate) fn fail(&self, reason: &str) {
        self.say.send(Err(FeedError(reason.to_owned()))).unwrap();
    }

    pub(crate) fn alive(&self, revision: Option<u64>) {
        self.say(Update::Alive { revision });
    }

    pub(crate) fn document(&self, document: &RouteDoc) {
        self.say(Update::Snapshot(document.to_bytes().into()));
    }

    /// A whole document of these apps.
    pub(crate) fn whole(&self, revision: u64, apps: &[AppDoc]) {
        self.document(&RouteDoc::new(revision, apps));
    }

    pub(crate) fn change(&self, from: u64, to: u64, changes: &Value) {
        let change = json!({"from": from, "to": to, "changes": changes});
        self.say(Update::Change(change.to_string().into()));
    }

    /// Whatever is to be changed about what is noted from now on, or read of it.
    pub(crate) fn noted<T>(&self, with: impl FnOnce(&mut Noted) -> T) -> T {
        with(&mut self.noted.lock().unwrap())
    }

    pub(crate) fn status(&self) -> FeedStatus {
        self.feed.status()
    }

    /// Waits until the feed stands like this.
    pub(crate) async fn until(&self, what: &str, reached: impl Fn(&FeedStatus) -> bool) {
        eventually(what, || reached(&self.status()).then_some(())).await;
    }

    pub(crate) async fn at_revision(&self, revision: u64) {
        let what = format!("revision {revision}");
        self.until(&what, |status| status.revision == Some(revision))
            .await;
    }

    /// Waits until the whole document is asked for, from this revision on.
    pub(crate) async fn asked_for_the_whole(&self, revision: u64) {
        let wanted = Position {
            revision: Some(revision),
            need_whole: true,
        };
        eventually("the whole document is asked for", || {
            let last = self.noted(|noted| noted.asked.last().copied());
            (last == Some(wanted)).then_some(())
        })
        .await;
    }

    /// Waits until the source has been told of this revision.
    pub(crate) async fn told(&self, revision: u64) -> Ack {
        eventually("the source is told", || {
            let last = self.noted(|noted| noted.acks.last().cloned());
            last.filter(|ack| ack.revision == revision)
        })
        .await
    }
}
