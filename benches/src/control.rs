//! A control plane that can be made to misbehave. It serves the HTTP feed (`router-core/docs/feed.md`) with code of its own, so that a
//! mistake of the router's publisher is not on both sides.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a control plane can do to its routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It works.
    Well,
    /// It is not there: connections are refused.
    Killed,
    /// It has lost everything: an empty document, newer or of revision 1.
    Wiped,
    /// Rubbish of every kind.
    Poisoned,
    /// Connections are accepted and nothing comes, or nothing more.
    Silent,
    /// A byte a second.
    Slow,
}

#[derive(Debug, Default)]
struct Routes {
    revision: u64,
    apps: BTreeMap<String, String>,
    changes: VecDeque<(u64, String)>,
}

/// The control plane.
#[derive(Debug)]
pub struct Control {
    address: SocketAddr,
    routes: Mutex<Routes>,
    newest: watch::Sender<u64>,
    mode: watch::Sender<Mode>,
    /// Connections of which a bad mode has had its way.
    spoilt: AtomicUsize,
}

impl Control {
    /// Starts one with these apps at revision 1: names, and the JSON text of each.
    pub async fn start(apps: BTreeMap<String, String>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let control = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            routes: Mutex::new(Routes {
                revision: 1,
                apps,
                changes: VecDeque::new(),
            }),
            newest: watch::Sender::new(1),
            mode: watch::Sender::new(Mode::Well),
            spoilt: AtomicUsize::new(0),
        });
        tokio::spawn(Arc::clone(&control).run(listener));
        control
    }

    /// Where routers ask.
    pub fn url(&self) -> String {
        format!("http://{}/v1/routes", self.address)
    }

    /// Changes what it does; all connections end.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        *self.newest.borrow()
    }

    /// Connections of which a bad mode has had its way.
    pub fn spoilt(&self) -> usize {
        self.spoilt.load(Ordering::Relaxed)
    }

    /// Publishes an app, and gives the revision with it.
    pub fn publish(&self, name: &str, app: String) -> u64 {
        let mut routes = self.routes.lock().unwrap();
        let from = routes.revision;
        let to = from + 1;
        let line = format!("{{\"from\":{from},\"to\":{to},\"changes\":[{{\"app\":{app}}}]}}\n");
        routes.apps.insert(name.to_owned(), app);
        routes.changes.push_back((from, line));
        if routes.changes.len() > REMEMBERED {
            routes.changes.pop_front();
        }
        routes.revision = to;
        self.newest.send_replace(to);
        to
    }

    fn document(&self, bad: &str) -> (u64, String) {
        let routes = self.routes.lock().unwrap();
        let mut text = format!(
            "{{\"format\":1,\"revision\":{},\"apps\":[{bad}",
            routes.revision
        );
        for (at, app) in routes.apps.values().enumerate() {
            let comma = if at == 0 && bad.is_empty() { "" } else { "," };
            write!(text, "{comma}{app}").unwrap();
        }
        text.push_str("]}\n");
        (routes.revision, text)
    }

    /// The changes after a revision, if all of them are remembered.
    fn changes(&self, since: u64) -> Option<(u64, String)> {
        let routes = self.routes.lock().unwrap();
        if since == routes.revision {
            return Some((since, String::new()));
        }
        let oldest = routes.changes.front()?.0;
        if since < oldest || since > routes.revision {
            return None;
        }
        let skip = usize::try_from(since - oldest).unwrap();
        let lines = routes.changes.iter().skip(skip);
        Some((routes.revision, lines.map(|(_, line)| &**line).collect()))
    }

    async fn run(self: Arc<Self>, listener: TcpListener) {
        let mut listener = Some(listener);
        let mut mode = self.mode.subscribe();
        loop {
            if *mode.borrow_and_update() == Mode::Killed {
                drop(listener.take());
                mode.changed().await.unwrap();
                continue;
            }
            let open = match &listener {
                Some(listener) => listener,
                None => listener.insert(TcpListener::bind(self.address).await.unwrap()),
            };
            tokio::select! {
                accepted = open.accept() => {
                    let (stream, _) = accepted.unwrap();
                    tokio::spawn(Arc::clone(&self).serve(stream));
                }
                _ = mode.changed() => {}
            }
        }
    }

    /// Serves one connection until the mode changes; how it ends is nobody's business.
    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut changed = self.mode.subscribe();
        let mode = *changed.borrow_and_update();
        tokio::select! {
            _ = self.answer(&mut stream, mode) => {}
            _ = changed.changed() => {}
        }
    }

    async fn answer(&self, stream: &mut TcpStream, mode: Mode) -> std::io::Result<()> {
        let request = read_request(stream).await?;
        if request.starts_with("POST ") && mode == Mode::Well {
            return stream
                .write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                .await;
        }
        let since = request.split_once("since=").and_then(|(_, rest)| {
            rest.split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        });
        if mode == Mode::Well {
            return self.stream(stream, since, "").await;
        }
        let nth = self.spoilt.fetch_add(1, Ordering::Relaxed);
        match mode {
            Mode::Wiped => {
                let revision = if nth.is_multiple_of(2) {
                    self.revision() + 1
                } else {
                    1
                };
                let text = format!("{{\"format\":1,\"revision\":{revision},\"apps\":[]}}\n");
                stream.write_all(STREAM).await?;
                chunk(stream, text.as_bytes()).await?;
                forever().await
            }
            Mode::Silent => {
                if nth.is_multiple_of(2) {
                    stream.write_all(STREAM).await?;
                    let (_, text) = self.document("");
                    chunk(stream, text.as_bytes().split_at(text.len() / 2).0).await?;
                }
                forever().await
            }
            Mode::Slow => {
                stream.write_all(STREAM).await?;
                for byte in self.document("").1.into_bytes() {
                    chunk(stream, &[byte]).await?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Ok(())
            }
            Mode::Poisoned => self.poison(stream, nth).await,
            Mode::Well | Mode::Killed => Ok(()),
        }
    }

    /// One kind of poison after the other.
    async fn poison(&self, stream: &mut TcpStream, nth: usize) -> std::io::Result<()> {
        let revision = self.revision();
        let rubbish: Vec<u8> = match nth % 10 {
            // A bad app among many, which is all that is wrong: the others get on.
            0 => {
                let bad = "{\"name\":\"poison\",\"domains\":[\"not a domain\"],\"dynos\":\"none\"}";
                let alone = tokio::time::timeout(Duration::from_secs(5), self.stream(stream, None, bad));
                return alone.await.unwrap_or(Ok(()));
            }
            1 => (0..100_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect(),
            2 => format!("{{\"format\":1,\"revision\":{},\"apps\":[]}}\n", revision / 2).into_bytes(),
            3 => format!("{{\"format\":1,\"revision\":{},\"apps\":[{{\"name\":", revision + 9).into_bytes(),
            4 => "[".repeat(200_000).into_bytes(),
            5 => format!("{{\"from\":{0},\"to\":{0},\"changes\":[]}}\n{{\"from\":{1},\"to\":{2},\"changes\":[{{\"remove\":\"app-0\"}}]}}\n", revision + 5, revision + 3, u64::MAX).into_bytes(),
            6 => format!("{{\"heartbeat\":{}}}\n{{\"heartbeat\":0}}\n", u64::MAX).repeat(1000).into_bytes(),
            7 => {
                let gzip = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n";
                stream.write_all(gzip).await?;
                // A stored block of 65535 bytes of which there are 20.
                let mut torn = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 0, 255, 255, 0, 0];
                torn.extend(b"{\"format\":1,\"revisio");
                chunk(stream, &torn).await?;
                return stream.write_all(b"0\r\n\r\n").await;
            }
            8 => {
                let page = "HTTP/1.1 500 Oh\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html>sorry";
                return stream.write_all(page.as_bytes()).await;
            }
            // A line that does not end.
            _ => {
                stream.write_all(STREAM).await?;
                chunk(stream, b"{\"format\":1,\"revision\":9").await?;
                let blank = vec![b' '; 1 << 20];
                for _ in 0..LONG_LINE {
                    chunk(stream, &blank).await?;
                }
                return Ok(());
            }
        };
        stream.write_all(STREAM).await?;
        chunk(stream, &rubbish).await?;
        stream.write_all(b"0\r\n\r\n").await
    }

    /// What a control plane does that is well, with a bad app in its document if there is one.
    async fn stream(
        &self,
        stream: &mut TcpStream,
        since: Option<u64>,
        bad: &str,
    ) -> std::io::Result<()> {
        let mut newest = self.newest.subscribe();
        stream.write_all(STREAM).await?;
        let known = since.and_then(|since| self.changes(since));
        let (mut at, text) = known.unwrap_or_else(|| self.document(bad));
        chunk(stream, text.as_bytes()).await?;
        loop {
            let wait = tokio::time::timeout(HEARTBEAT, newest.changed()).await;
            newest.mark_unchanged();
            let text = if wait.is_err() {
                format!("{{\"heartbeat\":{at}}}\n")
            } else {
                let (now, text) = self.changes(at).unwrap_or_else(|| self.document(bad));
                at = now;
                text
            };
            chunk(stream, text.as_bytes()).await?;
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let head = head.to_ascii_lowercase();
        let length = head.split_once("content-length: ");
        let length: usize =
            length.map_or(0, |(_, rest)| rest.lines().next().unwrap().parse().unwrap());
        if body.len() >= length {
            return Ok(text.into_owned());
        }
    }
}

async fn chunk(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
    framed.extend_from_slice(bytes);
    framed.extend_from_slice(b"\r\n");
    stream.write_all(&framed).await
}

async fn forever() -> std::io::Result<()> {
    std::future::pending().await
}

const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
/// Changes that a router may have missed.
const REMEMBERED: usize = 1000;
/// The time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Megabytes of the line that does not end.
const LONG_LINE: usize = 64;
