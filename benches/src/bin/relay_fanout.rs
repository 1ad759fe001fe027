//! A relay and its many readers: how long a change is on its way to all of them, what a reader costs in memory and a delivered change in
//! processor time, how many changes a second go through, and how long all of them take to come back at once:
//! `relay_fanout [READERS] [APPS]`. The relay is a process of its own on the first core; this one has the control plane's clock and all
//! readers, on the second. Needs `taskset`, and READERS file descriptors here and twice as many there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "it measures and prints"
)]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Lines, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use router_benches::process::{cpu, rss};
use router_benches::routes;
use router_core::Router;
use router_core::feed::{
    self, Feed, FeedError, FeedOptions, Position, PublishSettings, Publisher, Update,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    let apps = arguments
        .next()
        .map_or(10_000, |apps| apps.parse().expect("a number of apps"));
    match first.as_deref() {
        Some("relay") => relay(apps),
        readers => measure(
            readers.map_or(1000, |readers| readers.parse().unwrap()),
            apps,
        ),
    }
}

fn measure(count: usize, apps: usize) {
    let own = std::process::id().to_string();
    let pinned = Command::new("taskset").args(["-acp", "1", &own]).output();
    assert!(pinned.is_ok_and(|set| set.status.success()), "no taskset");
    let mut relay = Relay::start(apps);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let mut revision = 1;

    // The first one has the whole document put together, which is not what a reader costs.
    let mut readers = Readers::start(&runtime, relay.address, 1, "");
    runtime.block_on(readers.reach(revision));
    std::thread::sleep(SETTLED);
    let before = relay.rss();
    readers.stop(&runtime);
    let began = Instant::now();
    readers = Readers::start(&runtime, relay.address, count, "");
    runtime.block_on(readers.reach(revision));
    let length = readers.whole_length();
    println!(
        "{count} readers of {apps} apps, a document of {} kB: all have it {} ms after the first one called",
        length / 1000,
        began.elapsed().as_millis()
    );
    runtime.block_on(tokio::time::sleep(SETTLED));
    let idle = cpu(&relay.pid());
    runtime.block_on(tokio::time::sleep(SETTLED));
    let idle = cpu(&relay.pid()).saturating_sub(idle);
    println!(
        "memory          {} bytes of the relay for each reader; {:.1} % of its core for heartbeats",
        relay.rss().saturating_sub(before) / count as u64,
        100.0 * idle.as_secs_f64() / SETTLED.as_secs_f64()
    );

    for (rate, seconds) in [(1, 20), (10, 10), (100, 10), (1000, 10), (0, 1)] {
        let number = if rate == 0 { BURST } else { rate * seconds };
        let (busy, own) = (cpu(&relay.pid()), cpu("self"));
        let began = Instant::now();
        relay.tell(&format!("{rate} {number}"));
        revision += u64::from(number);
        runtime.block_on(readers.reach(revision));
        let took = began.elapsed();
        relay.answer();
        let busy = cpu(&relay.pid()).saturating_sub(busy);
        let own = cpu("self").saturating_sub(own);
        let mut delays = readers.delays();
        let what = match rate {
            0 => format!("{number} at once"),
            rate => format!("{rate} a second"),
        };
        println!(
            "{what:<15} {} deliveries, each after {}; all after {:.2} s; the relay's core {:.0} % busy, {:.2} µs for each; the readers' {:.0} %",
            delays.len(),
            spread(&mut delays),
            took.as_secs_f64(),
            100.0 * busy.as_secs_f64() / took.as_secs_f64(),
            busy.as_secs_f64() * 1e6 / delays.len().max(1) as f64,
            100.0 * own.as_secs_f64() / took.as_secs_f64(),
        );
    }
    runtime.block_on(tokio::time::sleep(SETTLED));
    println!(
        "memory          {} bytes of the relay for each reader and the changes that it remembers",
        relay.rss().saturating_sub(before) / count as u64
    );

    for (what, query) in [
        ("nothing", String::new()),
        ("all", format!("?since={revision}")),
    ] {
        readers.stop(&runtime);
        let (busy, own) = (cpu(&relay.pid()), cpu("self"));
        let began = Instant::now();
        readers = Readers::start(&runtime, relay.address, count, &query);
        runtime.block_on(readers.reach(revision));
        let took = began.elapsed();
        let busy = cpu(&relay.pid()).saturating_sub(busy);
        let own = cpu("self").saturating_sub(own);
        println!(
            "all come back   with {what}: up to date after {} ms ({} MB), {} ms of the relay's core, {} ms of the readers'",
            took.as_millis(),
            readers.whole_length() * readers.wholes() / 1_000_000,
            busy.as_millis(),
            own.as_millis()
        );
    }
    relay.tell("stats");
    println!("the relay says  {}", relay.answer());
    drop(relay.child.kill());
    drop(relay.child.wait());
}

/// Memory has been given back by then, and all is quiet.
const SETTLED: Duration = Duration::from_secs(11);
const BURST: u32 = 10_000;

/// The process with the relay.
struct Relay {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Relay {
    fn start(apps: usize) -> Self {
        let mut child = Command::new("taskset")
            .args(["-c", "0"])
            .arg(std::env::current_exe().unwrap())
            .args(["relay", &apps.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = output.next().unwrap().unwrap().parse().unwrap();
        Self {
            child,
            input,
            output,
            address,
        }
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    fn rss(&self) -> u64 {
        rss(&self.pid())
    }

    fn tell(&mut self, what: &str) {
        writeln!(self.input, "{what}").unwrap();
    }

    fn answer(&mut self) -> String {
        self.output.next().unwrap().unwrap()
    }
}

/// All readers.
struct Readers {
    seen: Arc<Vec<Seen>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What one of them has seen.
#[derive(Default)]
struct Seen {
    revision: AtomicU64,
    wholes: AtomicU64,
    whole_length: AtomicU64,
    /// Of each change.
    delays: Mutex<Vec<Duration>>,
}

impl Readers {
    fn start(
        runtime: &tokio::runtime::Runtime,
        address: SocketAddr,
        count: usize,
        query: &str,
    ) -> Self {
        let seen: Arc<Vec<Seen>> = Arc::new((0..count).map(|_| Seen::default()).collect());
        let task = |number| {
            let (seen, query) = (Arc::clone(&seen), query.to_owned());
            runtime.spawn(async move {
                let stream = TcpStream::connect(address).await.unwrap();
                read(stream, &query, seen.get(number).unwrap()).await;
            })
        };
        let tasks = (0..count).map(task).collect();
        Self { seen, tasks }
    }

    fn stop(self, runtime: &tokio::runtime::Runtime) {
        runtime.block_on(async {
            for task in self.tasks {
                task.abort();
                drop(task.await);
            }
        });
    }

    /// Waits until all are at this revision.
    async fn reach(&self, revision: u64) {
        let is_there = |seen: &Seen| seen.revision.load(Ordering::Relaxed) >= revision;
        while !self.seen.iter().all(is_there) {
            let failed = self.tasks.iter().any(JoinHandle::is_finished);
            assert!(!failed, "a reader has failed");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn delays(&self) -> Vec<Duration> {
        let take = |seen: &Seen| std::mem::take(&mut *seen.delays.lock().unwrap());
        self.seen.iter().flat_map(take).collect()
    }

    fn wholes(&self) -> u64 {
        let wholes = |seen: &Seen| seen.wholes.load(Ordering::Relaxed);
        self.seen.iter().map(wholes).sum()
    }

    fn whole_length(&self) -> u64 {
        let length = |seen: &Seen| seen.whole_length.load(Ordering::Relaxed);
        self.seen.iter().map(length).max().unwrap()
    }
}

/// What of a body comes next.
enum Part {
    Head,
    Size,
    Data(usize),
    /// The line break after a chunk.
    End(usize),
}

/// Reads the stream without keeping it.
async fn read(mut stream: TcpStream, query: &str, seen: &Seen) {
    let request = format!(
        "GET /v1/routes{query} HTTP/1.1\r\nHost: relay\r\nAccept: application/x-ndjson\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = vec![0; 64 * 1024];
    let mut line = Line::default();
    let mut part = Part::Head;
    // Of a head or of the size of a chunk, as far as it has come.
    let mut begun = Vec::new();
    loop {
        let read = stream.read(&mut bytes).await.unwrap();
        assert!(read > 0, "the stream has ended");
        let mut rest = bytes.get(..read).unwrap();
        while let Some((first, after)) = rest.split_first() {
            match &mut part {
                Part::Head | Part::Size => {
                    begun.push(*first);
                    rest = after;
                    if matches!(part, Part::Head) && begun.ends_with(b"\r\n\r\n") {
                        assert!(begun.starts_with(b"HTTP/1.1 200 "), "{begun:?}");
                        begun.clear();
                        part = Part::Size;
                    } else if matches!(part, Part::Size) && begun.ends_with(b"\r\n") {
                        let size = std::str::from_utf8(&begun).unwrap().trim();
                        part = Part::Data(usize::from_str_radix(size, 16).unwrap());
                        begun.clear();
                    }
                }
                Part::Data(left) => {
                    let (data, after) = rest.split_at((*left).min(rest.len()));
                    line.add(data, seen);
                    rest = after;
                    *left -= data.len();
                    if *left == 0 {
                        part = Part::End(2);
                    }
                }
                Part::End(left) => {
                    rest = after;
                    *left -= 1;
                    if *left == 0 {
                        part = Part::Size;
                    }
                }
            }
        }
    }
}

/// A line as it comes: its beginning says all that matters here.
#[derive(Default)]
struct Line {
    begin: Vec<u8>,
    length: usize,
}

impl Line {
    const ENOUGH: usize = 128;

    fn add(&mut self, mut data: &[u8], seen: &Seen) {
        while let Some(end) = memchr::memchr(b'\n', data) {
            let (before, after) = data.split_at(end + 1);
            self.keep(before);
            self.end(seen);
            data = after;
        }
        self.keep(data);
    }

    fn keep(&mut self, data: &[u8]) {
        self.length += data.len();
        let room = Self::ENOUGH - self.begin.len();
        self.begin
            .extend_from_slice(data.get(..room.min(data.len())).unwrap());
    }

    fn end(&mut self, seen: &Seen) {
        if let Some(revision) = number(&self.begin, b"\"revision\":") {
            seen.wholes.fetch_add(1, Ordering::Relaxed);
            seen.whole_length
                .store(self.length as u64, Ordering::Relaxed);
            seen.revision.store(revision, Ordering::Relaxed);
        } else if let Some(revision) = number(&self.begin, b"\"to\":") {
            let sent = Duration::from_nanos(number(&self.begin, b"\"sent\":").unwrap());
            let delay = since_epoch().saturating_sub(sent);
            seen.delays.lock().unwrap().push(delay);
            seen.revision.store(revision, Ordering::Relaxed);
        } else if let Some(revision) = number(&self.begin, b"\"heartbeat\":") {
            seen.revision.store(revision, Ordering::Relaxed);
        }
        self.begin.clear();
        self.length = 0;
    }
}

/// The number after a key.
fn number(text: &[u8], key: &[u8]) -> Option<u64> {
    let at = text.windows(key.len()).position(|window| window == key)?;
    let digits = text.get(at + key.len()..)?.iter();
    let digits = digits.take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// The clock that both processes have.
fn since_epoch() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap()
}

/// Median, 99.9 % and most, in milliseconds.
fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: f64| {
        let index = (share * times.len().saturating_sub(1) as f64) as usize;
        times
            .get(index)
            .map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    };
    format!(
        "{:.1} / {:.1} / {:.1} ms (median, 99.9 %, most)",
        at(0.5),
        at(0.999),
        at(1.0)
    )
}

/// The other process: relays what it is told to make up.
fn relay(apps: usize) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    let _guard = runtime.enter();
    let router = Router::builder().workers(1).build().unwrap();
    let settings = PublishSettings::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let publisher = Publisher::new(&router, settings);
    let (tell, told) = mpsc::unbounded_channel();
    let feed = Told {
        told,
        asked: Arc::default(),
    };
    let asked = Arc::clone(&feed.asked);
    let handle = feed::start_tapped(&router, feed, FeedOptions::default(), publisher.tap());
    let published = runtime.block_on(publisher.serve(|| false)).unwrap();
    let dyno = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let document = routes::document(1, apps, 0, dyno);
    tell.send(Update::Snapshot(document.into())).unwrap();
    runtime.block_on(handle.wait_for(1));
    println!("{}", published.address());
    let mut revision = 1;
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let Some((rate, number)) = line.split_once(' ') else {
            let (stats, status) = (published.stats(), handle.status());
            println!(
                "{} documents from the source, asked for {} times more; {} wholes put together, {} sent; {} readers were behind; {} refused",
                status.accepted,
                asked.load(Ordering::Relaxed),
                stats.wholes_built,
                stats.wholes_sent,
                stats.behind,
                status.refused
            );
            continue;
        };
        let (rate, number): (u32, u32) = (rate.parse().unwrap(), number.parse().unwrap());
        let began = Instant::now();
        for sent in 1..=number {
            let change = change(revision, fastrand::usize(..apps), dyno);
            revision += 1;
            tell.send(Update::Change(change.into())).unwrap();
            if rate > 0 {
                let next = began + Duration::from_secs(1) * sent / rate;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        }
        runtime.block_on(handle.wait_for(revision));
        println!("done");
    }
}

/// The next change: another port for an app's dyno, and when this was said.
fn change(from: u64, app: usize, dyno: SocketAddr) -> Vec<u8> {
    let sent = since_epoch().as_nanos();
    let mut text = format!(
        "{{\"from\":{from},\"to\":{},\"changes\":[{{\"app\":{{\"sent\":{sent},\"name\":\"app-{app:06}\",\"domains\":[",
        from + 1
    );
    for nth in 0..routes::DOMAINS_PER_APP {
        let comma = if nth == 0 { "" } else { "," };
        write!(text, "{comma}\"{}\"", routes::domain(app, nth)).unwrap();
    }
    let address = SocketAddr::new(dyno.ip(), u16::try_from(from % 60_000).unwrap() + 1);
    write!(
        text,
        "],\"dynos\":[{{\"name\":\"web.1\",\"address\":\"{address}\",\"state\":\"up\"}}]}}}}]}}"
    )
    .unwrap();
    text.into_bytes()
}

/// Gives what it is told.
struct Told {
    told: mpsc::UnboundedReceiver<Update>,
    /// How often more than that was asked for.
    asked: Arc<AtomicU64>,
}

impl Feed for Told {
    fn source(&self) -> &'static str {
        "relay_fanout"
    }

    async fn next(&mut self, position: Position) -> Result<Update, FeedError> {
        if position.need_whole {
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
        match self.told.recv().await {
            Some(update) => Ok(update),
            None => std::future::pending().await,
        }
    }
}
