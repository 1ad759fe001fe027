//! The test stand: one measurement of one contender, from its start to its last log line. The load generator and the origin are on one
//! core, the proxy is on another.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::drivers;
use crate::failed::{Context, Failed, Result, fail};
use crate::feed::Feed;
use crate::figure::{Figure, Figures};
use crate::generators::{self, Load, Target};
use crate::http::{self, HOST};
use crate::origin;
use crate::peer::{self, Peer, Programs, Setup};
use crate::process::{Processes, core_micros};
use crate::scenario::{Contender, Scenario, Work};

/// Proxies and the origin listen here: connections to it come from 127.0.0.1, so that no client's port can be in the way of a listener.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// How long a proxy may take until it answers; 100,000 apps take a while.
const START: Duration = Duration::from_secs(60);

/// Clients of the slow kind, and connections that do nothing.
const SLOW_SENDERS: usize = 200;
const SLOW_READERS: usize = 20;

/// Requests of uploads.
const UPLOAD: &str = "wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", 1024 * 1024)\n";

/// What does not differ from one measurement to the next.
pub(crate) struct Stand {
    pub(crate) programs: Programs,
    pub(crate) folder: PathBuf,
    pub(crate) seconds: u64,
    pub(crate) idle: usize,
    pub(crate) proxy_cores: String,
    pub(crate) two_cores: String,
    origin: SocketAddr,
}

impl Stand {
    pub(crate) fn new(
        programs: Programs,
        folder: PathBuf,
        seconds: u64,
        idle: usize,
        proxy_cores: String,
        two_cores: String,
    ) -> Result<Self> {
        let origin = origin::start((ADDRESS, 0).into())?;
        fs::create_dir_all(&folder)?;
        let folder = folder.canonicalize()?;
        certificate(&folder)?;
        Ok(Self {
            programs,
            folder,
            seconds,
            idle,
            proxy_cores,
            two_cores,
            origin,
        })
    }

    /// Measures once. `rate` is that of the scenario's requests, if it has a fixed one.
    pub(crate) fn measure(
        &self,
        scenario: &Scenario,
        contender: &Contender,
        rate: f64,
    ) -> Result<Figures> {
        let folder = self.folder.join("run").join(contender.peer.name());
        self.measure_in(&folder, scenario, contender, rate)
            .map_err(|error| {
                Failed::new(format!(
                    "{}, {}: {error}\n(its files are in {})",
                    scenario.name,
                    contender.name(),
                    folder.display()
                ))
            })
    }

    fn measure_in(
        &self,
        folder: &Path,
        scenario: &Scenario,
        contender: &Contender,
        rate: f64,
    ) -> Result<Figures> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        for file in ["cert.pem", "key.pem", "both.pem"] {
            fs::copy(self.folder.join(file), folder.join(file))?;
        }
        let variant = contender.variant;
        let mut setup = Setup {
            listen: free_address()?,
            origin: self.origin,
            tls: scenario.tls,
            threads: variant.threads,
            apps: variant.apps,
            asked: variant.asked,
            feed: None,
        };
        let feed = variant
            .changes
            .map(|per_second| {
                Feed::start(peer::routes(&setup), setup.apps, self.origin, per_second)
            })
            .transpose()?;
        setup.feed = feed.as_ref().map(Feed::url);
        let command = contender.peer.prepare(&setup, &self.programs, folder)?;
        let cores = if variant.threads > 1 {
            &self.two_cores
        } else {
            &self.proxy_cores
        };
        let mut processes = Processes::start(contender.peer.name(), cores, &command, folder)?;
        let target = Target {
            address: setup.listen,
            tls: setup.tls,
            folder,
        };
        ready(&target, &mut processes)?;
        let run = Run {
            stand: self,
            scenario,
            target,
            setup,
            rate,
        };
        run.warm_up()?;
        let changes = feed
            .as_ref()
            .map(|feed| Changes::start(feed, variant.changes.unwrap_or(0)));
        let memory = processes.rss()?;
        let core = core_micros(cores)?;
        let [user_before, cpu_before] = processes.cpu_micros()?;
        let since = Instant::now();
        let (load, held) = run.load(self.seconds)?;
        let took = since.elapsed();
        let [user, cpu] = processes.cpu_micros()?;
        let (user, cpu) = (user - user_before, cpu - cpu_before);
        let others = core
            .zip(core_micros(cores)?)
            .map(|(before, after)| after - before - cpu);
        if let Some(changes) = changes {
            changes.check(took)?;
        }
        let mut figures = load.figures;
        if let Some(others) = others {
            let share = others.max(0.0) / took.as_micros() as f64;
            figures.insert(Figure::Others, share * 100.0);
        }
        figures.insert(Figure::Rss, processes.rss()? / 1024.0 / 1024.0);
        if held.is_empty() {
            figures.insert(Figure::Cpu, cpu / load.count);
            figures.insert(Figure::User, user / load.count);
        } else {
            let grown = processes.rss()? - memory;
            figures.insert(Figure::RssPerConnection, grown / 1024.0 / held.len() as f64);
        }
        drop(held);
        processes.end(contender.peer.end_signal())?;
        if run.is_logged() {
            check_log(contender.peer, folder, load.count)?;
        }
        Ok(figures)
    }
}

/// One measurement under way.
struct Run<'a> {
    stand: &'a Stand,
    scenario: &'a Scenario,
    target: Target<'a>,
    setup: Setup,
    rate: f64,
}

impl Run<'_> {
    fn warm_up(&self) -> Result<()> {
        match self.scenario.work {
            Work::IdleWebSockets | Work::IdleKeepAlive => {
                let websocket = self.scenario.work == Work::IdleWebSockets;
                drivers::idle(self.target.address, 10, websocket).map(drop)
            }
            Work::HalfRate => generators::wrk(&self.target, "/small", 64, 1, None).map(drop),
            _ => self.load(1).map(drop),
        }
    }

    /// Loads, and says what was done; connections that are to be held are handed out.
    fn load(&self, seconds: u64) -> Result<(Load, Vec<std::net::TcpStream>)> {
        let (target, address) = (&self.target, self.target.address);
        let lasts = Duration::from_secs(seconds);
        let load = match self.scenario.work {
            Work::Requests { path, connections } => {
                generators::wrk(target, path, connections, seconds, None)
            }
            Work::Uploads => generators::wrk(target, "/upload", 16, seconds, Some(UPLOAD)),
            Work::Handshakes => generators::handshakes(target, "/small", seconds),
            Work::Http2 => generators::http2(target, "/small", 16, 16, seconds),
            Work::EchoStorm => drivers::echo_storm(address, 64, lasts),
            Work::IdleWebSockets | Work::IdleKeepAlive => {
                let websocket = self.scenario.work == Work::IdleWebSockets;
                let held = drivers::idle(address, self.stand.idle, websocket)?;
                let count = held.len() as f64;
                return Ok((
                    Load {
                        count,
                        figures: Figures::new(),
                    },
                    held,
                ));
            }
            Work::AnyApp => generators::wrk(
                target,
                "/small",
                64,
                seconds,
                Some(&any_app(self.setup.apps, self.setup.asked)),
            ),
            Work::HalfRate => drivers::fixed_rate(address, "/small", 64, self.rate, lasts),
            Work::Churn => generators::wrk(target, "/small", 64, seconds, None),
            Work::SlowClients => self.beside_slow_clients(seconds),
        };
        Ok((load?, Vec::new()))
    }

    fn beside_slow_clients(&self, seconds: u64) -> Result<Load> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| {
                drivers::slow_clients(self.target.address, SLOW_SENDERS, SLOW_READERS, &stop)
            });
            let load = generators::wrk(&self.target, "/small", 64, seconds, None);
            stop.store(true, Ordering::Relaxed);
            let answered = slow
                .join()
                .map_err(|_| Failed::new("the slow clients panicked"))??;
            // The warm-up may be too short for any of them.
            if answered == 0 && seconds > 1 {
                return fail("no slow client was answered");
            }
            load
        })
    }

    /// Whether there is a line for each thing that is counted.
    fn is_logged(&self) -> bool {
        !matches!(self.scenario.work, Work::EchoStorm | Work::IdleWebSockets)
    }
}

/// Changes of routes while a load runs.
struct Changes<'a> {
    feed: &'a Feed,
    per_second: u64,
    before: u64,
}

impl<'a> Changes<'a> {
    fn start(feed: &'a Feed, per_second: u64) -> Self {
        feed.changes(per_second > 0);
        Self {
            feed,
            per_second,
            before: feed.revision(),
        }
    }

    /// Stops them; they must have been as many as was said, and in force.
    fn check(self, took: Duration) -> Result<()> {
        let sent = self.feed.revision() - self.before;
        self.feed.changes(false);
        let wanted = (took.as_secs_f64() * self.per_second as f64) as u64;
        if sent < wanted * 9 / 10 {
            return fail(format!("only {sent} of {wanted} changes were sent"));
        }
        let (last, since) = (self.feed.revision(), Instant::now());
        while self.per_second > 0 && self.feed.acknowledged() < last {
            if since.elapsed() > START {
                return fail(format!(
                    "revision {last} is not in force; the last one is {}",
                    self.feed.acknowledged()
                ));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Waits until the proxy answers, and holds it to the work that is the same for all: the origin refuses a request without the headers.
fn ready(target: &Target<'_>, processes: &mut Processes) -> Result<()> {
    let since = Instant::now();
    loop {
        processes.check()?;
        let asked = if target.tls {
            generators::ask_over_tls(target, "/head")
        } else {
            drivers::ask(target.address, &http::get("/head")).and_then(|(_, status, answer)| {
                if status == 200 {
                    Ok(())
                } else {
                    fail(String::from_utf8_lossy(&answer).into_owned())
                }
            })
        };
        match asked {
            Ok(()) => return Ok(()),
            Err(error) if since.elapsed() > START => {
                return Err(error).context(|| "it does not answer".to_owned());
            }
            Err(error) if error.to_string().contains("the proxy did not send") => {
                return Err(error);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// A proxy that does not log has less to do.
fn check_log(peer: Peer, folder: &Path, count: f64) -> Result<()> {
    let Some(log) = peer.log() else {
        return Ok(());
    };
    let text = fs::read(folder.join(log)).context(|| log.to_owned())?;
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    if (lines as f64) < count {
        return fail(format!("{log} has {lines} lines for {count} requests"));
    }
    Ok(())
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((ADDRESS, 0))?.local_addr()?)
}

/// Lua that asks for any of the apps that are asked for, which are spread over all of them.
fn any_app(apps: usize, asked: usize) -> String {
    let step = apps / asked;
    format!(
        "request = function()\n local nth = math.random(0, {asked} - 1) * {step}\n local host = nth == 0 and \"{HOST}\" or \"app-\" .. nth .. \".example.com\"\n return \"GET /small HTTP/1.1\\r\\nHost: \" .. host .. \"\\r\\n\\r\\n\"\nend\n"
    )
}

/// One certificate for all, on P-256: everybody is fastest with it.
fn certificate(folder: &Path) -> Result<()> {
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "30",
        ])
        .args([
            "-subj",
            &format!("/CN={HOST}"),
            "-addext",
            &format!("subjectAltName=DNS:{HOST}"),
        ])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder)
        .output()
        .context(|| "cannot start openssl".to_owned())?;
    if !output.status.success() {
        return fail(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let both =
        fs::read_to_string(folder.join("cert.pem"))? + &fs::read_to_string(folder.join("key.pem"))?;
    Ok(fs::write(folder.join("both.pem"), both)?)
}
