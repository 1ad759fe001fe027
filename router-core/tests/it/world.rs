//! The world of a test: a router with one worker on a free port, its log lines and events, and the words in which the
//! tests speak of requests, apps and log lines.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use router_core::model::diff::Refusal;
use router_core::model::failure::Failure;
use router_core::model::limits::Limits;
use router_core::model::log_line::LogLine;
use router_core::model::snapshot;
use router_core::model::timeouts::Timeouts;
use router_core::server::{DrainReport, ListenerSettings, Server, TlsListenerSettings};
use router_core::tls::{Certificate, DefaultCertificate, Origin, TlsVersion};
use router_core::{Applied, Event, Observer, Router};
use router_testkit::{
    AppDoc, FakeDyno, H2Client, LogRecord, LogSink, RawClient, RawH2, RouteDoc, TestCa,
    TestCertificate, TlsDialer,
};

/// A running router. Ends with [`World::finish`], and says so when it does not.
pub(crate) struct World {
    pub(crate) router: Router,
    pub(crate) log: LogSink,
    pub(crate) seen: Arc<Seen>,
    server: Option<Server>,
    address: SocketAddr,
    https: Option<(SocketAddr, TestCa)>,
    revision: Cell<u64>,
    finished: bool,
}

/// What a test may change about its router.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    pub(crate) name: Option<&'static str>,
    pub(crate) affinity_key: Option<&'static [u8]>,
    pub(crate) workers: Option<usize>,
    pub(crate) listen: Option<IpAddr>,
    /// CIDRs, on every listener.
    pub(crate) trusted_proxies: Vec<&'static str>,
    pub(crate) proxy_protocol: bool,
    /// Lets clients of the http listener begin with HTTP/2.
    pub(crate) http2_prior_knowledge: bool,
    /// Adds an https listener.
    pub(crate) https: Option<Https>,
}

/// An https listener of a test.
pub(crate) struct Https {
    pub(crate) ca: TestCa,
    /// The default certificate, for `shop.test` unless changed.
    pub(crate) default: Option<TestCertificate>,
    pub(crate) min_version: TlsVersion,
    pub(crate) http2: bool,
}

impl Setup {
    /// Adds an https listener with the usual settings, to be changed.
    pub(crate) fn https(&mut self) -> &mut Https {
        self.https.get_or_insert_with(|| {
            let ca = TestCa::new("the tests' authority");
            Https {
                default: Some(ca.certificate(&["shop.test", "*.shop.test"])),
                ca,
                min_version: TlsVersion::V1_2,
                http2: true,
            }
        })
    }

    fn listener(&self) -> ListenerSettings {
        let ip = self.listen.unwrap_or_else(|| IpAddr::from([127, 0, 0, 1]));
        let trusted = self.trusted_proxies.iter();
        ListenerSettings {
            proxy_protocol: self.proxy_protocol,
            trusted_proxies: trusted.map(|cidr| cidr.parse().expect("a CIDR")).collect(),
            http2_prior_knowledge: self.http2_prior_knowledge,
            ..ListenerSettings::http(SocketAddr::from((ip, 0)))
        }
    }
}

impl Https {
    fn settings(&self) -> TlsListenerSettings {
        let default = self.default.as_ref();
        TlsListenerSettings {
            default: default.map(|default| Arc::new(DefaultCertificate::new(certificate(default)))),
            min_version: self.min_version,
            http2: self.http2,
        }
    }
}

/// Events counted, beside the log.
#[derive(Default)]
pub(crate) struct Seen {
    connect_attempts: AtomicUsize,
    retries: AtomicUsize,
    quarantined: AtomicUsize,
    tunnels_opened: AtomicUsize,
    tunnels_closed: AtomicUsize,
    /// Held for one push or one copy, both.
    refused: Mutex<Vec<Failure>>,
    handshakes: Mutex<Vec<Event>>,
}

impl World {
    /// A router with the default settings.
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    /// A router with other settings.
    pub(crate) fn with(change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup::default();
        change(&mut setup);
        let (log, seen) = (LogSink::new(), Arc::new(Seen::default()));
        let workers = setup.workers.unwrap_or(1);
        let mut builder = Router::builder()
            .timeouts(setup.timeouts)
            .limits(setup.limits)
            .workers(workers)
            .observer(Arc::new(Recorder {
                log: log.clone(),
                seen: Arc::clone(&seen),
            }));
        if let Some(name) = setup.name {
            builder = builder.name(name);
        }
        if let Some(key) = setup.affinity_key {
            builder = builder.affinity_key(key);
        }
        let router = builder.build().expect("build the router");
        let mut server = Server::builder(router.clone()).listener(setup.listener());
        if let Some(https) = &setup.https {
            server = server.listener(ListenerSettings {
                tls: Some(https.settings()),
                http2_prior_knowledge: false,
                ..setup.listener()
            });
        }
        let server = server.start().expect("start");
        let addresses = server.addresses();
        let address = addresses[0];
        let https = setup.https.map(|https| (addresses[1], https.ca));
        Self {
            router,
            log,
            seen,
            server: Some(server),
            address,
            https,
            revision: Cell::new(0),
            finished: false,
        }
    }

    /// Applies a route document of these apps as the next revision; nothing in it may be refused.
    pub(crate) fn apply(&self, apps: &[AppDoc]) {
        let revision = self.next_revision();
        let document = RouteDoc::new(revision, apps).allow_shrink();
        let applied = self
            .apply_document(&document)
            .expect("the document is applied");
        assert!(
            applied.rejected.is_empty(),
            "rejected: {:?}",
            applied.rejected
        );
    }

    /// Applies any document.
    pub(crate) fn apply_document(&self, document: &RouteDoc) -> Result<Applied, Refusal> {
        let snapshot = snapshot::parse(&document.to_bytes()).expect("a document that parses");
        self.router.table().apply(&snapshot)
    }

    /// The revision for the next document.
    pub(crate) fn next_revision(&self) -> u64 {
        self.revision.set(self.revision.get() + 1);
        self.revision.get()
    }

    /// Where the router listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client connected to the router.
    pub(crate) async fn client(&self) -> RawClient {
        RawClient::connect(self.address).await
    }

    /// Where the router listens for https.
    pub(crate) fn https_address(&self) -> SocketAddr {
        self.https.as_ref().expect("an https listener").0
    }

    /// The authority of the router's certificates.
    pub(crate) fn ca(&self) -> &TestCa {
        &self.https.as_ref().expect("an https listener").1
    }

    /// A client's handshake that asks for this name and trusts the router's certificates only.
    pub(crate) fn dialer(&self, name: &str) -> TlsDialer {
        TlsDialer::trusting(self.ca(), name)
    }

    /// A client of HTTP/1.1 over TLS.
    pub(crate) async fn tls_client(&self) -> RawClient {
        let dialer = self.dialer("shop.test").alpn(&["http/1.1"]);
        RawClient::connect_tls(self.https_address(), &dialer).await
    }

    /// A client of HTTP/2 over TLS.
    pub(crate) async fn h2_client(&self) -> H2Client {
        H2Client::connect_tls(self.https_address(), &self.dialer("shop.test")).await
    }

    /// A client of HTTP/2 with prior knowledge that sends any frame.
    pub(crate) async fn raw_h2(&self) -> RawH2 {
        RawH2::connect(self.address).await
    }

    /// Adds a certificate to those that the router chooses from by name.
    pub(crate) fn hold(&self, held: &TestCertificate) {
        let store = self.router.certificates();
        store.insert(Origin::Document, Arc::new(certificate(held)));
    }

    /// Drains the router; the world can only be finished after that.
    pub(crate) async fn drain(&mut self, window: Duration) -> DrainReport {
        self.server
            .take()
            .expect("drained once")
            .drain(window)
            .await
    }

    /// Takes the server, for tests that drain it while they go on.
    pub(crate) fn take_server(&mut self) -> Server {
        self.server.take().expect("drained once")
    }

    /// The end of each test: drains what is open, then nothing may be in flight and no log line unread.
    pub(crate) async fn finish(mut self) {
        self.finished = true;
        if self.server.is_some() {
            let report = self.drain(Duration::from_secs(5)).await;
            assert_eq!(
                report.cut, 0,
                "exchanges were still running at the end of the test"
            );
        }
        self.log.assert_no_more();
        let stats = self.router.stats();
        assert_eq!(
            (stats.requests_in_flight, stats.tunnels),
            (0, 0),
            "leases or tunnels leaked"
        );
    }
}

impl Drop for World {
    fn drop(&mut self) {
        assert!(
            self.finished || std::thread::panicking(),
            "a test must end with World::finish"
        );
    }
}

impl Seen {
    /// Dials begun.
    pub(crate) fn connect_attempts(&self) -> usize {
        self.connect_attempts.load(Ordering::SeqCst)
    }

    /// Requests sent again after a stale kept connection.
    pub(crate) fn retries(&self) -> usize {
        self.retries.load(Ordering::SeqCst)
    }

    /// Times a dyno was put in quarantine.
    pub(crate) fn quarantined(&self) -> usize {
        self.quarantined.load(Ordering::SeqCst)
    }

    /// Tunnels opened and closed.
    pub(crate) fn tunnels(&self) -> (usize, usize) {
        (
            self.tunnels_opened.load(Ordering::SeqCst),
            self.tunnels_closed.load(Ordering::SeqCst),
        )
    }

    /// Requests refused before their app was known.
    pub(crate) fn refused(&self) -> Vec<Failure> {
        self.refused.lock().unwrap().clone()
    }

    /// What came of handshakes and PROXY headers, oldest first; told once.
    pub(crate) fn take_handshakes(&self) -> Vec<Event> {
        std::mem::take(&mut *self.handshakes.lock().unwrap())
    }
}

/// The router's own view of a certificate.
pub(crate) fn certificate(certificate: &TestCertificate) -> Certificate {
    let (chain, key) = (certificate.chain_pem(), certificate.key_pem());
    Certificate::from_pem(chain.as_bytes(), key.as_bytes()).expect("a certificate to serve")
}

struct Recorder {
    log: LogSink,
    seen: Arc<Seen>,
}

impl Observer for Recorder {
    fn request(&self, _worker: usize, line: &LogLine<'_>) {
        let mut bytes = Vec::new();
        line.write_heroku(&mut bytes);
        self.log.push(&bytes);
    }

    fn event(&self, _worker: usize, event: Event) {
        let seen = &self.seen;
        let counter = match event {
            Event::ConnectAttempt => &seen.connect_attempts,
            Event::Retry => &seen.retries,
            Event::Quarantined => &seen.quarantined,
            Event::TunnelOpened => &seen.tunnels_opened,
            Event::TunnelClosed => &seen.tunnels_closed,
            Event::Refused(failure) => return seen.refused.lock().unwrap().push(failure),
            Event::TlsHandshake { .. }
            | Event::TlsFailed(_)
            | Event::TlsRefused
            | Event::ProxyHeaderRefused => return seen.handshakes.lock().unwrap().push(event),
            _ => return,
        };
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

/// The usual app: `shop` at `shop.test`, no dynos yet.
pub(crate) fn shop() -> AppDoc {
    AppDoc::new("shop").domain("shop.test")
}

/// A GET of the shop.
pub(crate) fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: shop.test\r\n\r\n")
}

/// A GET of the shop after which the client wants the connection closed.
pub(crate) fn last_get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")
}

/// A POST to the shop with a body of known length.
pub(crate) fn post(target: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The head of a POST to the shop whose body of that length is still to come.
pub(crate) fn post_head(target: &str, length: usize) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {length}\r\n\r\n")
}

/// The head of a POST to the shop with a chunked body still to come.
pub(crate) fn post_chunked_head(target: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n")
}

/// A 200 with a text body.
pub(crate) fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A request of the shop over HTTP/2.
pub(crate) fn h2_request(method: &str, target: &str) -> http::Request<()> {
    let uri = format!("https://shop.test{target}");
    let request = http::Request::builder().method(method).uri(uri);
    request.body(()).expect("a request")
}

/// Milliseconds.
pub(crate) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The line of an exchange in the clear that went well.
pub(crate) fn assert_served(record: &LogRecord, dyno: &str, status: u16) {
    assert_went_well(record, dyno, status);
    assert!(!record.tls(), "{record:?}");
}

/// The line of an exchange over TLS that went well.
pub(crate) fn assert_served_tls(record: &LogRecord, dyno: &str, status: u16) {
    assert_went_well(record, dyno, status);
    assert!(record.tls(), "{record:?}");
}

fn assert_went_well(record: &LogRecord, dyno: &str, status: u16) {
    assert_eq!((record.at(), record.code()), ("info", None), "{record:?}");
    assert_eq!(
        (record.dyno(), record.status()),
        (Some(dyno), Some(status)),
        "{record:?}"
    );
    assert!(
        record.connect_ms().is_some() && record.service_ms().is_some(),
        "{record:?}"
    );
}

/// The line of an exchange that failed with a code after a dyno was chosen.
pub(crate) fn assert_failed_at(record: &LogRecord, dyno: &str, code: &str, status: u16) {
    assert_eq!(
        (record.code(), record.status()),
        (Some(code), Some(status)),
        "{record:?}"
    );
    assert_eq!(record.dyno(), Some(dyno), "{record:?}");
    assert!(
        record.connect_ms().is_some() && record.service_ms().is_some(),
        "{record:?}"
    );
}

/// The line of an exchange that failed with a code and no dyno.
pub(crate) fn assert_failed(record: &LogRecord, code: &str, status: u16) {
    assert_eq!(
        (record.code(), record.status()),
        (Some(code), Some(status)),
        "{record:?}"
    );
    assert_eq!(
        (record.dyno(), record.connect_ms(), record.service_ms()),
        (None, None, None),
        "{record:?}"
    );
}

/// A world whose shop has one raw dyno, and a client of it.
pub(crate) async fn shop_with_dyno() -> (World, FakeDyno, RawClient) {
    shop_with(|_| {}).await
}

/// [`shop_with_dyno`] under other limits and timeouts.
pub(crate) async fn shop_with(change: impl FnOnce(&mut Setup)) -> (World, FakeDyno, RawClient) {
    let world = World::with(change);
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let client = world.client().await;
    (world, dyno, client)
}

/// A world whose shop has one raw dyno, and a client of HTTP/2 over TLS.
pub(crate) async fn h2_shop() -> (World, FakeDyno, H2Client) {
    h2_shop_with(|_| {}).await
}

/// [`h2_shop`] under other limits and timeouts.
pub(crate) async fn h2_shop_with(change: impl FnOnce(&mut Setup)) -> (World, FakeDyno, H2Client) {
    let world = World::with(|setup| {
        setup.https();
        change(setup);
    });
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let client = world.h2_client().await;
    (world, dyno, client)
}

/// A world whose shop has one raw dyno, and a client of HTTP/2 with prior knowledge that sends any frame.
pub(crate) async fn raw_h2_shop() -> (World, FakeDyno, RawH2) {
    raw_h2_shop_with(|_| {}).await
}

/// [`raw_h2_shop`] under other limits and timeouts.
pub(crate) async fn raw_h2_shop_with(change: impl FnOnce(&mut Setup)) -> (World, FakeDyno, RawH2) {
    let world = World::with(|setup| {
        setup.http2_prior_knowledge = true;
        change(setup);
    });
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let client = world.raw_h2().await;
    (world, dyno, client)
}

/// The fields of a request of the shop over HTTP/2, to be changed or sent as they are.
pub(crate) fn h2_fields<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", method),
        (":scheme", "http"),
        (":authority", "shop.test"),
        (":path", path),
    ]
}
