//! What the tests of the HTTP feed and the relay share: a source that says what a test wants, a relay that reads it, and a
//! reader that sees every line of a stream.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use router_core::Router;
use router_core::feed::{
    self, Feed, FeedError, FeedHandle, FeedOptions, HttpFeed, HttpFeedSettings, Position,
    PublishHandle, PublishSettings, Publisher, Update,
};
use router_testkit::{DEADLINE, RawClient, RouteDoc, eventually};
use tokio::sync::mpsc;

/// Tells a [`ScriptedFeed`] what to say.
pub(crate) struct Script {
    sender: mpsc::UnboundedSender<Result<Update, FeedError>>,
    asked: Arc<AtomicUsize>,
}

/// A source that says what it is told to.
pub(crate) struct ScriptedFeed {
    updates: mpsc::UnboundedReceiver<Result<Update, FeedError>>,
    asked: Arc<AtomicUsize>,
    wanted: bool,
}

pub(crate) fn scripted() -> (Script, ScriptedFeed) {
    let (sender, updates) = mpsc::unbounded_channel();
    let asked = Arc::default();
    let feed = ScriptedFeed {
        updates,
        asked: Arc::clone(&asked),
        wanted: false,
    };
    (Script { sender, asked }, feed)
}

impl Script {
    pub(crate) fn document(&self, document: &RouteDoc) {
        self.say(Update::Snapshot(document.to_bytes().into()));
    }

    pub(crate) fn text(&self, document: &str) {
        self.say(Update::Snapshot(document.to_owned().into()));
    }

    pub(crate) fn change(&self, change: &str) {
        self.say(Update::Change(change.to_owned().into()));
    }

    pub(crate) fn say(&self, update: Update) {
        self.sender.send(Ok(update)).expect("a running feed");
    }

    /// How often the whole was asked for without being there already.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Feed for ScriptedFeed {
    fn source(&self) -> &'static str {
        "script"
    }

    async fn next(&mut self, position: Position) -> Result<Update, FeedError> {
        if position.need_whole && !self.wanted {
            self.asked.fetch_add(1, Ordering::SeqCst);
        }
        self.wanted = position.need_whole;
        match self.updates.recv().await {
            Some(update) => update,
            None => std::future::pending().await,
        }
    }
}

/// A router that publishes what it is fed.
pub(crate) struct Relay {
    pub(crate) router: Router,
    pub(crate) feed: Arc<FeedHandle>,
    pub(crate) published: PublishHandle,
}

impl Relay {
    pub(crate) async fn start(feed: impl Feed) -> Self {
        Self::with(feed, |_| {}, FeedOptions::default()).await
    }

    pub(crate) async fn with(
        feed: impl Feed,
        change: impl FnOnce(&mut PublishSettings),
        options: FeedOptions,
    ) -> Self {
        let mut settings = PublishSettings::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        change(&mut settings);
        let router = Router::builder().workers(1).build().expect("a router");
        let publisher = Publisher::new(&router, settings);
        Self::of(router, publisher, feed, options).await
    }

    /// A relay of another one.
    pub(crate) async fn behind(other: &Self, id: &str) -> Self {
        let settings = PublishSettings::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let router = Router::builder().workers(1).build().expect("a router");
        let publisher = Publisher::new(&router, settings);
        let feed = HttpFeed::new(HttpFeedSettings::new(other.url())).expect("settings");
        let feed = feed.passing_on(publisher.passed_on());
        Self::of(router, publisher, feed, options(id)).await
    }

    async fn of(
        router: Router,
        publisher: Publisher,
        feed: impl Feed,
        options: FeedOptions,
    ) -> Self {
        let feed = feed::start_tapped(&router, feed, options, publisher.tap());
        let feed = Arc::new(feed);
        let watched = Arc::clone(&feed);
        let silent = move || {
            let status = watched.status();
            status.silent || status.stale
        };
        let published = publisher.serve(silent).await.expect("an address");
        Self {
            router,
            feed,
            published,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1/routes", self.published.address())
    }

    /// Waits until a revision is in force here.
    pub(crate) async fn at(&self, revision: u64) {
        at(&self.feed, revision).await;
    }

    pub(crate) async fn client(&self) -> RawClient {
        RawClient::connect(self.published.address()).await
    }

    /// A reader of the stream.
    pub(crate) async fn reader(&self, query: &str) -> Lines {
        Lines::open(self.published.address(), query).await
    }

    pub(crate) async fn stop(self) {
        self.published.stop().await;
    }
}

pub(crate) fn options(id: &str) -> FeedOptions {
    FeedOptions {
        router_id: id.to_owned(),
        ..FeedOptions::default()
    }
}

/// Waits until a feed has brought a revision.
pub(crate) async fn at(feed: &FeedHandle, revision: u64) {
    let what = format!("revision {revision} is in force");
    eventually(&what, || {
        let status = feed.status();
        (status.revision >= Some(revision)).then_some(())
    })
    .await;
}

/// The lines of a stream.
pub(crate) struct Lines {
    client: RawClient,
    pub(crate) head: router_testkit::RawHead,
    buffer: Vec<u8>,
}

impl Lines {
    pub(crate) async fn open(address: SocketAddr, query: &str) -> Self {
        let request = format!(
            "GET /v1/routes{query} HTTP/1.1\r\nHost: relay\r\nAccept: application/x-ndjson\r\n\r\n"
        );
        let mut client = RawClient::connect(address).await;
        client.send(request).await;
        Self::after(client).await
    }

    /// Reads a stream that was asked for.
    pub(crate) async fn after(mut client: RawClient) -> Self {
        let head = client.read_head().await;
        Self {
            client,
            head,
            buffer: Vec::new(),
        }
    }

    /// The next line, without its end.
    pub(crate) async fn next(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return String::from_utf8(line)
                    .expect("UTF-8")
                    .trim_end()
                    .to_owned();
            }
            self.chunk().await;
        }
    }

    /// The next line that is no heartbeat.
    pub(crate) async fn news(&mut self) -> String {
        let news = async {
            loop {
                let line = self.next().await;
                if !line.is_empty() && !line.starts_with("{\"heartbeat\"") {
                    return line;
                }
            }
        };
        let news = tokio::time::timeout(DEADLINE, news).await;
        news.expect("news, and not only heartbeats")
    }

    async fn chunk(&mut self) {
        let mut size = Vec::new();
        while !size.ends_with(b"\r\n") {
            size.extend(self.client.read_exact(1).await);
        }
        let size = std::str::from_utf8(&size).expect("ASCII").trim();
        let size = usize::from_str_radix(size, 16).expect("the size of a chunk");
        assert!(size > 0, "the stream has ended");
        self.buffer.extend(self.client.read_exact(size).await);
        self.client.read_exact(2).await;
    }
}
