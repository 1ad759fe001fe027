//! A control plane with a million domains: what a whole document, one change, a thousand changes a second and a start from the cache cost, and
//! how long a client ever waits meanwhile: `control_plane [SECONDS OF CHURN]`. Router, client and dyno are in this process; the feed is one of
//! its own, so that what is measured is everything from the feed's bytes on.
//!
//! The router's workers, the client that asks without a pause and its dyno have the first core for themselves (only one of them ever has
//! something to do at a time), the control plane's side has the second: so a client that waits long waited for a lock, or for a machine that
//! was busy with something else. How long one waits with nothing going on is printed for comparison.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "it measures and prints"
)]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use router_benches::client::Client;
use router_benches::process::{cpu, peak, pin_apart, rss};
use router_benches::{dyno, routes};
use router_core::Router;
use router_core::feed::{self, Feed, FeedError, FeedHandle, FeedOptions, Position, Update};
use router_core::server::{ListenerSettings, Server};
use tokio::sync::mpsc;

const APPS: usize = 100_000;
const DOMAINS: u64 = (APPS * routes::DOMAINS_PER_APP) as u64;
const CHANGES_A_SECOND: u32 = 1000;
/// Each listens for itself, and sees the routes on its own.
const WORKERS: usize = 2;

fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("cold") => cold(Path::new(&arguments.next().unwrap())),
        seconds => {
            let seconds = seconds.map_or(10, |seconds| seconds.parse().unwrap());
            measure(seconds);
        }
    }
}

fn measure(seconds: u32) {
    let folder = tempfile::tempdir().unwrap();
    let dyno = dyno::start();
    // The kernel makes all threads wait when the table of file descriptors grows: not while something else is measured.
    let many = (0..4096).map(|_| std::fs::File::open("/dev/null").unwrap());
    drop(many.collect::<Vec<_>>());
    let runtime = runtime();
    let _guard = runtime.enter();
    let before = rss("self");
    let plane = Plane::new(dyno);
    let router = Router::builder().workers(WORKERS).build().unwrap();
    let listener = ListenerSettings::http(SocketAddr::from(([127, 0, 0, 1], 0)));
    let server = Server::builder(router.clone())
        .listener(listener)
        .start()
        .unwrap();
    let address = *server.addresses().first().unwrap();
    let cache = folder.path().join("cache.json");
    let (tell, told) = mpsc::unbounded_channel();
    let handle = feed::start(
        &router,
        Told {
            told,
            plane: Arc::clone(&plane),
        },
        options(&cache),
    );

    // One app first, so that there is something to ask for while the rest comes.
    tell.send(Update::Snapshot(routes::document(1, 1, 0, dyno).into()))
        .unwrap();
    runtime.block_on(handle.wait_for(1));

    let document = plane.document(2);
    println!(
        "{APPS} apps, {DOMAINS} domains, a document of {}",
        megabytes(document.len() as u64)
    );
    let probe = Probe::start(address);
    if !pin_apart(&["worker-", "dyno", "probe"]) {
        println!("taskset does not work here: all threads are on all cores");
    }
    std::thread::sleep(Duration::from_secs(5));
    println!("nothing yet     {}", probe.take());
    let began = Instant::now();
    tell.send(Update::Snapshot(document.into())).unwrap();
    runtime.block_on(handle.wait_for(2));
    report("first document", began.elapsed(), &handle, &probe);
    wait_for_cache(&handle, 2);
    probe.take();
    println!(
        "peak memory     {} so far, the document in three copies included",
        megabytes(peak("self"))
    );
    println!(
        "memory          {} per domain",
        rss("self").saturating_sub(before) / DOMAINS
    );

    let began = Instant::now();
    tell.send(Update::Snapshot(plane.document(3).into()))
        .unwrap();
    let made = began.elapsed();
    runtime.block_on(handle.wait_for(3));
    report("the same again", began.elapsed() - made, &handle, &probe);
    wait_for_cache(&handle, 3);
    probe.take();

    scrapes(&router, &probe);
    one_by_one(&runtime, &plane, &tell, &handle, address);
    println!("meanwhile       {}", probe.take());
    churn(&runtime, &plane, &tell, &handle, seconds, Some(&probe));
    probe.finish();
    churn(&runtime, &plane, &tell, &handle, seconds, None);
    let revision = plane.revision();
    wait_for_cache(&handle, revision);
    println!("peak memory     {} in all", megabytes(peak("self")));
    runtime.block_on(handle.stop());
    runtime.block_on(server.drain(Duration::ZERO));
    let again = Command::new(std::env::current_exe().unwrap())
        .arg("cold")
        .arg(&cache)
        .status();
    assert!(again.unwrap().success());
}

/// What an exporter of metrics and the dashboard ask for.
fn scrapes(router: &Router, probe: &Probe) {
    let mut times = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(router.stats().domains, DOMAINS);
        times.push(began.elapsed());
    }
    println!("stats           {}, {}", spread(&mut times), probe.take());
}

/// One change after the other, each waited for until all of some clients get another answer: that many that each worker has some of them.
fn one_by_one(
    runtime: &tokio::runtime::Runtime,
    plane: &Plane,
    tell: &mpsc::UnboundedSender<Update>,
    handle: &FeedHandle,
    address: SocketAddr,
) {
    let (mut visible, mut work) = (Vec::new(), Vec::new());
    for number in 0..200 {
        // Not the one that the other client asks for.
        let app = 1 + number * 97 % (APPS - 1);
        let host = routes::host(app, 3);
        let client = |_| Client::connect(address, &host).unwrap();
        let mut clients: Vec<_> = (0..4 * WORKERS).map(client).collect();
        assert!(all_get(&mut clients, 200));
        for wanted in [503, 200] {
            let change = plane.change(app, wanted == 503);
            let began = Instant::now();
            tell.send(Update::Change(change.into())).unwrap();
            while !all_get(&mut clients, wanted) {}
            visible.push(began.elapsed());
            runtime.block_on(handle.wait_for(plane.revision()));
            work.push(handle.status().apply_seconds.unwrap_or_default());
        }
    }
    let mut work: Vec<_> = work.into_iter().map(Duration::from_secs_f64).collect();
    println!(
        "one change      work {}, visible on every worker after {}",
        spread(&mut work),
        spread(&mut visible)
    );
}

/// Asks for all of them at the same time.
fn all_get(clients: &mut [Client], wanted: u16) -> bool {
    let count = clients.len();
    for client in &mut *clients {
        client.send();
    }
    let answers = clients.iter_mut().map(Client::answer);
    answers.filter(|answer| *answer == wanted).count() == count
}

/// A thousand changes a second, each of another app.
fn churn(
    runtime: &tokio::runtime::Runtime,
    plane: &Plane,
    tell: &mpsc::UnboundedSender<Update>,
    handle: &FeedHandle,
    seconds: u32,
    probe: Option<&Probe>,
) {
    let (began, busy) = (Instant::now(), cpu("self"));
    let mut unacknowledged = 0;
    for number in 0..seconds * CHANGES_A_SECOND {
        let app = fastrand::usize(1..APPS);
        let change = plane.change(app, false);
        tell.send(Update::Change(change.into())).unwrap();
        if number % 50 == 49 {
            let acknowledged = handle.status().acknowledged.unwrap_or_default();
            unacknowledged = unacknowledged.max(plane.revision() - acknowledged);
        }
        let next = began + Duration::from_secs(1) * (number + 1) / CHANGES_A_SECOND;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let sent = began.elapsed();
    runtime.block_on(handle.wait_for(plane.revision()));
    let (took, busy) = (began.elapsed(), cpu("self").saturating_sub(busy));
    let late = took - sent;
    print!(
        "churn           {CHANGES_A_SECOND} changes a second for {seconds} s, the last one {} ms late, {unacknowledged} not acknowledged at most",
        late.as_millis()
    );
    match probe {
        Some(probe) => println!(", {}", probe.take()),
        None => println!(
            ", {:.0} % of one core without clients",
            100.0 * busy.as_secs_f64() / took.as_secs_f64()
        ),
    }
    let status = handle.status();
    assert_eq!((status.gaps, status.refused), (0, 0), "{status:?}");
}

/// What a start with nothing but the cache takes.
fn cold(cache: &Path) {
    let runtime = runtime();
    let _guard = runtime.enter();
    let before = rss("self");
    let began = Instant::now();
    let router = Router::builder().workers(1).build().unwrap();
    let handle = feed::start(&router, Silent, options(cache));
    while !router.table().is_loaded() {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!(
        "cold start      {} ms from the cache, peak memory {}",
        began.elapsed().as_millis(),
        megabytes(peak("self"))
    );
    assert_eq!(router.table().domain_count() as u64, DOMAINS);
    runtime.block_on(handle.stop());
    std::thread::sleep(Duration::from_secs(12));
    println!(
        "memory          {} per domain, settled",
        rss("self").saturating_sub(before) / DOMAINS
    );
}

fn report(what: &str, took: Duration, handle: &FeedHandle, probe: &Probe) {
    // Noted a moment after what is in force is told of.
    std::thread::sleep(Duration::from_millis(10));
    let work = handle.status().apply_seconds.unwrap_or_default() * 1000.0;
    println!(
        "{what:<15} in force after {} ms, work {work:.0} ms, {}",
        took.as_millis(),
        probe.take()
    );
}

fn options(cache: &Path) -> FeedOptions {
    FeedOptions {
        cache: Some(cache.to_owned()),
        ..FeedOptions::default()
    }
}

fn wait_for_cache(handle: &FeedHandle, revision: u64) {
    while handle.status().cache.and_then(|cache| cache.revision) < Some(revision) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    // As the binary has it.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// What the control plane knows.
struct Plane {
    dyno: SocketAddr,
    revision: Mutex<u64>,
}

impl Plane {
    fn new(dyno: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            dyno,
            revision: Mutex::new(3),
        })
    }

    fn revision(&self) -> u64 {
        *self.revision.lock().unwrap()
    }

    fn document(&self, revision: u64) -> Vec<u8> {
        routes::document(revision, APPS, 0, self.dyno)
    }

    /// The next change: this app in maintenance or not, with another dyno beside the one that answers.
    fn change(&self, app: usize, maintenance: bool) -> Vec<u8> {
        let mut revision = self.revision.lock().unwrap();
        let (from, to) = (*revision, *revision + 1);
        *revision = to;
        let mut text = format!(
            "{{\"from\":{from},\"to\":{to},\"changes\":[{{\"app\":{{\"name\":\"app-{app:06}\",\"maintenance\":{maintenance},\"domains\":["
        );
        for nth in 0..routes::DOMAINS_PER_APP {
            let comma = if nth == 0 { "" } else { "," };
            write!(text, "{comma}\"{}\"", routes::domain(app, nth)).unwrap();
        }
        let dyno = self.dyno;
        write!(
            text,
            "],\"dynos\":[{{\"name\":\"web.1\",\"address\":\"{dyno}\",\"state\":\"up\"}},\
             {{\"name\":\"web.2\",\"address\":\"10.0.0.1:{}\",\"state\":\"draining\"}}]}}}}]}}",
            1 + to % 60_000
        )
        .unwrap();
        text.into_bytes()
    }
}

/// Gives what it is told.
struct Told {
    told: mpsc::UnboundedReceiver<Update>,
    plane: Arc<Plane>,
}

impl Feed for Told {
    fn source(&self) -> &'static str {
        "control_plane"
    }

    async fn next(&mut self, position: Position) -> Result<Update, FeedError> {
        // As when the log of changes in the cache has grown long. What is still to be told is old then.
        let revision = self.plane.revision();
        if position.need_whole && revision > 3 {
            return Ok(Update::Snapshot(self.plane.document(revision).into()));
        }
        let told = self.told.recv().await;
        told.ok_or_else(|| FeedError("the control plane has ended".to_owned()))
    }
}

/// Never answers.
struct Silent;

impl Feed for Silent {
    fn source(&self) -> &'static str {
        "silent"
    }

    async fn next(&mut self, _: Position) -> Result<Update, FeedError> {
        std::future::pending().await
    }
}

/// A client that asks without a pause, and notes how long each answer takes.
struct Probe {
    stop: Arc<AtomicBool>,
    times: Arc<Mutex<Vec<Duration>>>,
    thread: JoinHandle<()>,
}

impl Probe {
    fn start(address: SocketAddr) -> Self {
        let (stop, times) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(Mutex::new(Vec::new())),
        );
        let (stopped, noted) = (Arc::clone(&stop), Arc::clone(&times));
        let thread = std::thread::Builder::new().name("probe".to_owned());
        let ask = move || {
            let mut client = Client::connect(address, &routes::host(0, 0)).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                client.send();
                client.receive();
                noted.lock().unwrap().push(began.elapsed());
            }
        };
        let thread = thread.spawn(ask).unwrap();
        Self {
            stop,
            times,
            thread,
        }
    }

    /// What was noted since the last time.
    fn take(&self) -> String {
        let mut times = std::mem::take(&mut *self.times.lock().unwrap());
        format!(
            "a client waited {} ({} requests)",
            spread(&mut times),
            times.len()
        )
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// Median, 99.9 % and most, in microseconds.
fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: f64| {
        let index = (share * times.len().saturating_sub(1) as f64) as usize;
        times.get(index).map_or(0, Duration::as_micros)
    };
    format!(
        "{} / {} / {} µs (median, 99.9 %, most)",
        at(0.5),
        at(0.999),
        at(1.0)
    )
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes / 1_000_000)
}
