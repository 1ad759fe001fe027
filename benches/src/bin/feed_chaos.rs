//! Everything that a control plane can do to its routers, under load: `feed_chaos ROUTER [MINUTES]`. Two routers with caches serve a constant
//! load while their source is killed, wiped, flooded, poisoned, silent and slow in turn, they are restarted (half of the times by SIGKILL), and
//! dynos are replaced all the time by rolling deploys. Any answer that is not 200 from a dyno of the right app ends it with an error.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "it measures and prints, and a surprise must end it"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use router_benches::control::{Control, Mode};
use router_benches::process::{self, rss};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A dyno that can be stopped.
struct Dyno {
    name: String,
    address: SocketAddr,
    busy: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
}

impl Dyno {
    async fn start(app: &str, number: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let busy = Arc::new(AtomicUsize::new(0));
        let dyno = Self {
            name: format!("web.{number}"),
            address: listener.local_addr().unwrap(),
            busy: Arc::clone(&busy),
            stop,
        };
        let body = format!("{app}\n");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer: Arc<[u8]> = answer.into_bytes().into();
        let mut ends = stopped.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.unwrap();
                        tokio::spawn(exchange(stream, Arc::clone(&answer), Arc::clone(&busy), stopped.clone()));
                    }
                    _ = ends.changed() => return,
                }
            }
        });
        dyno
    }

    fn json(&self, state: &str) -> String {
        let (name, address) = (&self.name, self.address);
        format!("{{\"name\":\"{name}\",\"address\":\"{address}\",\"state\":\"{state}\"}}")
    }
}

/// Answers on one connection until the dyno is stopped.
async fn exchange(
    mut stream: TcpStream,
    answer: Arc<[u8]>,
    busy: Arc<AtomicUsize>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut head = Vec::new();
    loop {
        tokio::select! {
            read = stream.read_buf(&mut head) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            _ = stopped.changed() => return,
        }
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        head.clear();
        busy.fetch_add(1, Ordering::SeqCst);
        let work = Duration::from_millis(fastrand::u64(0..20));
        tokio::time::sleep(work).await;
        let written = stream.write_all(&answer).await;
        busy.fetch_sub(1, Ordering::SeqCst);
        if written.is_err() {
            return;
        }
    }
}

/// A router and what the balancer in front of it knows.
struct Edge {
    name: &'static str,
    binary: PathBuf,
    folder: TempDir,
    child: Mutex<Option<Child>>,
    client: Mutex<SocketAddr>,
    admin: Mutex<SocketAddr>,
    /// Not to be given any requests.
    out: AtomicBool,
    busy: AtomicUsize,
    starts: AtomicUsize,
    most: AtomicU64,
}

impl Edge {
    fn new(name: &'static str, binary: &Path, url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [feed]\nsource = \"http\"\nurl = \"{url}\"\nrouter_id = \"{name}\"\ncache = \"last-good.json\"\n\
             silent_after = \"10s\"\nrelist_every = \"1m\"\n[access_log]\ntarget = \"off\"\n"
        );
        std::fs::write(folder.path().join("router.toml"), config).unwrap();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        let edge = Self {
            name,
            binary: binary.to_owned(),
            folder,
            child: Mutex::new(None),
            client: Mutex::new(nowhere),
            admin: Mutex::new(nowhere),
            out: AtomicBool::new(true),
            busy: AtomicUsize::new(0),
            starts: AtomicUsize::new(0),
            most: AtomicU64::new(0),
        };
        edge.spawn();
        edge
    }

    fn spawn(&self) {
        let wordy = std::env::var_os("FEED_CHAOS_LOG").is_some();
        let name = self.name;
        let command = process::binary_command(&self.binary);
        let (child, listening) = process::spawn(command, self.folder.path(), move |line| {
            if wordy {
                println!("    {name}: {line}");
            }
        });
        for _ in 0..2 {
            let on = listening.recv().expect("the router listens");
            *(if on.admin { &self.admin } else { &self.client })
                .lock()
                .unwrap() = on.address;
        }
        *self.child.lock().unwrap() = Some(child);
        self.starts.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes it out, ends it, starts it, and puts it in again once it is ready.
    async fn restart(&self, signal: &str) {
        self.out.store(true, Ordering::SeqCst);
        until("requests end", || self.busy.load(Ordering::SeqCst) == 0).await;
        let mut child = self.child.lock().unwrap().take().unwrap();
        let sent = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        until("it ends", || child.try_wait().unwrap().is_some()).await;
        self.spawn();
        self.ready().await;
    }

    async fn ready(&self) {
        while self
            .admin("/readyz")
            .await
            .is_none_or(|answer| !answer.starts_with("HTTP/1.1 200"))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.out.store(false, Ordering::SeqCst);
    }

    async fn admin(&self, path: &str) -> Option<String> {
        let address = *self.admin.lock().unwrap();
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    async fn revision(&self) -> Option<u64> {
        let feed = self.admin("/v1/feed").await?;
        let (_, rest) = feed.split_once("\"revision\":")?;
        rest.trim_start()
            .split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    }

    fn memory(&self) -> u64 {
        let id = self.child.lock().unwrap().as_ref().map(Child::id);
        let now = id.map_or(0, |id| rss(&id.to_string())) >> 20;
        self.most.fetch_max(now, Ordering::SeqCst);
        now
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[derive(Default)]
struct Counts {
    requests: AtomicUsize,
    refused: AtomicUsize,
    failed: AtomicUsize,
    deploys: AtomicUsize,
}

/// One client with a kept connection to each router.
async fn client(edges: Arc<[Edge; 2]>, counts: Arc<Counts>) {
    let mut kept: [Option<(usize, TcpStream)>; 2] = [None, None];
    loop {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(5..25))).await;
        let at = fastrand::usize(0..2);
        let edge = &edges[at];
        edge.busy.fetch_add(1, Ordering::SeqCst);
        if !edge.out.load(Ordering::SeqCst) {
            let app = format!("app-{}", fastrand::usize(0..APPS));
            let start = edge.starts.load(Ordering::SeqCst);
            if kept[at].as_ref().is_some_and(|(of, _)| *of != start) {
                kept[at] = None;
            }
            if kept[at].is_none() {
                let address = *edge.client.lock().unwrap();
                match TcpStream::connect(address).await {
                    Ok(stream) => kept[at] = Some((start, stream)),
                    Err(_) => {
                        counts.refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            if let Some((_, stream)) = &mut kept[at] {
                counts.requests.fetch_add(1, Ordering::Relaxed);
                let asked = tokio::time::timeout(Duration::from_secs(20), ask(stream, &app));
                if let Err(why) = asked.await.unwrap_or_else(|_| Err("no answer".into())) {
                    println!("  FAILED: {app} by {}: {why}", edge.name);
                    counts.failed.fetch_add(1, Ordering::Relaxed);
                    kept[at] = None;
                }
            }
        } else {
            kept[at] = None;
        }
        edge.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn ask(stream: &mut TcpStream, app: &str) -> Result<(), String> {
    let request = format!("GET / HTTP/1.1\r\nHost: {app}.example.com\r\n\r\n");
    let sent = stream.write_all(request.as_bytes()).await;
    sent.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let end = format!("\r\n\r\n{app}\n");
    while !answer.ends_with(end.as_bytes()) {
        match stream.read_buf(&mut answer).await {
            Ok(1..) => {}
            Ok(0) => return Err(format!("cut: {}", String::from_utf8_lossy(&answer))),
            Err(error) => return Err(error.to_string()),
        }
        if !answer.starts_with(b"HTTP/1.1 200") && answer.len() > 12 {
            return Err(String::from_utf8_lossy(&answer).into_owned());
        }
    }
    Ok(())
}

fn app_json(name: &str, dynos: &[String]) -> String {
    let dynos = dynos.join(",");
    format!("{{\"name\":\"{name}\",\"domains\":[\"{name}.example.com\"],\"dynos\":[{dynos}]}}")
}

/// Replaces dyno after dyno, as the page about the feed says it should be done.
async fn deploy(
    mut apps: Vec<Vec<Dyno>>,
    control: Arc<Control>,
    edges: Arc<[Edge; 2]>,
    counts: Arc<Counts>,
) {
    for number in 3.. {
        let at = fastrand::usize(0..APPS);
        let (name, dynos) = (format!("app-{at}"), &mut apps[at]);
        let new = Dyno::start(&name, number).await;
        let old = dynos.remove(0);
        dynos.push(new);
        let up: Vec<_> = dynos.iter().map(|dyno| dyno.json("up")).collect();
        let with_old: Vec<_> = [up.clone(), vec![old.json("draining")]].concat();
        let revision = control.publish(&name, app_json(&name, &with_old));
        for edge in &*edges {
            while edge.revision().await.is_none_or(|now| now < revision) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        // What was sent to it just before is on its way at most this long.
        tokio::time::sleep(Duration::from_millis(50)).await;
        until("the old dyno is done", || {
            old.busy.load(Ordering::SeqCst) == 0
        })
        .await;
        old.stop.send_replace(true);
        control.publish(&name, app_json(&name, &up));
        counts.deploys.fetch_add(1, Ordering::Relaxed);
    }
}

/// Thousands of changes in a second; every other one changes nothing.
async fn flood(control: Arc<Control>) {
    for round in 0_usize.. {
        for app in 0..20 {
            let name = format!("fill-{}", (round / 2 * 20 + app) % FILLERS);
            let text = filler(&name, round / 2 % 2 == 0);
            control.publish(&name, text);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn filler(name: &str, maintenance: bool) -> String {
    format!(
        "{{\"name\":\"{name}\",\"domains\":[\"{name}.example.com\"],\"maintenance\":{maintenance},\"dynos\":[]}}"
    )
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{what}: waited in vain"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let binary = arguments
        .next()
        .expect("usage: feed_chaos ROUTER [MINUTES]");
    let minutes: f64 = arguments
        .next()
        .map_or(10.0, |text| text.parse().expect("minutes"));
    let mut dynos = Vec::new();
    let mut apps: BTreeMap<String, String> = (0..FILLERS)
        .map(|n| format!("fill-{n}"))
        .map(|name| (name.clone(), filler(&name, false)))
        .collect();
    for app in 0..APPS {
        let name = format!("app-{app}");
        let pair = vec![Dyno::start(&name, 1).await, Dyno::start(&name, 2).await];
        let up: Vec<_> = pair.iter().map(|dyno| dyno.json("up")).collect();
        apps.insert(name.clone(), app_json(&name, &up));
        dynos.push(pair);
    }
    let control = Control::start(apps).await;
    let edges =
        ["edge-1", "edge-2"].map(|name| Edge::new(name, Path::new(&binary), &control.url()));
    let edges = Arc::new(edges);
    for edge in &*edges {
        edge.ready().await;
    }
    let counts = Arc::new(Counts::default());
    for _ in 0..CLIENTS {
        tokio::spawn(client(Arc::clone(&edges), Arc::clone(&counts)));
    }
    tokio::spawn(deploy(
        dynos,
        Arc::clone(&control),
        Arc::clone(&edges),
        Arc::clone(&counts),
    ));
    let share = Duration::from_secs_f64(minutes * 60.0 / 20.0);
    let mut base = 0;
    for (phase, what) in PHASES.iter().enumerate() {
        control.set(what.mode);
        let flooding = what
            .flood
            .then(|| tokio::spawn(flood(Arc::clone(&control))));
        let end = Instant::now()
            + share
                * if what.mode == Mode::Well && !what.flood {
                    1
                } else {
                    2
                };
        let mut restarts = 0;
        while Instant::now() < end {
            if what.restarts && restarts < 2 {
                let signal = if (phase / 2 + restarts) % 2 == 0 {
                    "-TERM"
                } else {
                    "-KILL"
                };
                edges[restarts].restart(signal).await;
                restarts += 1;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            let _ = (edges[0].memory(), edges[1].memory());
        }
        if let Some(flooding) = flooding {
            flooding.abort();
        }
        if what.mode == Mode::Well {
            caught_up(&control, &edges).await;
        }
        let memory = [edges[0].memory(), edges[1].memory()];
        base = if phase == 0 {
            memory[0].max(memory[1])
        } else {
            base
        };
        println!(
            "{:9} requests {:7}  failed {}  refused {}  deploys {:4}  revision {:6} (routers {:?} {:?})  restarts {}  spoilt answers {:3}  MB {} {}",
            what.name,
            counts.requests.load(Ordering::Relaxed),
            counts.failed.load(Ordering::Relaxed),
            counts.refused.load(Ordering::Relaxed),
            counts.deploys.load(Ordering::Relaxed),
            control.revision(),
            edges[0].revision().await.unwrap_or(0),
            edges[1].revision().await.unwrap_or(0),
            edges
                .iter()
                .map(|edge| edge.starts.load(Ordering::Relaxed) - 1)
                .sum::<usize>(),
            control.spoilt(),
            memory[0],
            memory[1],
        );
        for (edge, memory) in edges.iter().zip(memory) {
            assert!(
                memory < base + GROWTH,
                "{} has grown from {base} to {memory} MB",
                edge.name
            );
        }
    }
    let most = edges
        .iter()
        .map(|edge| edge.most.load(Ordering::Relaxed))
        .max();
    println!(
        "most memory of a router at any time: {} MB",
        most.unwrap_or(0)
    );
    assert_eq!(counts.failed.load(Ordering::Relaxed), 0, "requests failed");
    println!("no request failed");
}

/// Waits until both routers are where the control plane was when this was called.
async fn caught_up(control: &Control, edges: &[Edge; 2]) {
    let newest = control.revision();
    let begun = Instant::now();
    for edge in edges {
        while edge.revision().await.is_none_or(|now| now < newest) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{} does not catch up",
                edge.name
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

struct Phase {
    name: &'static str,
    mode: Mode,
    flood: bool,
    restarts: bool,
}

const fn phase(name: &'static str, mode: Mode, flood: bool, restarts: bool) -> Phase {
    Phase {
        name,
        mode,
        flood,
        restarts,
    }
}

/// All phases; those in which all is well are half as long.
const PHASES: &[Phase] = &[
    phase("well", Mode::Well, false, false),
    phase("killed", Mode::Killed, false, true),
    phase("back", Mode::Well, false, true),
    phase("wiped", Mode::Wiped, false, true),
    phase("back", Mode::Well, false, false),
    phase("flooded", Mode::Well, true, true),
    phase("back", Mode::Well, false, false),
    phase("poisoned", Mode::Poisoned, false, true),
    phase("back", Mode::Well, false, false),
    phase("silent", Mode::Silent, false, true),
    phase("back", Mode::Well, false, false),
    phase("slow", Mode::Slow, false, true),
    phase("back", Mode::Well, false, false),
];
/// Apps under load, of two dynos each.
const APPS: usize = 20;
/// Apps that are only there.
const FILLERS: usize = 2000;
const CLIENTS: usize = 12;
/// Megabytes more than after the first phase that a router may have at the end of another.
const GROWTH: u64 = 200;
