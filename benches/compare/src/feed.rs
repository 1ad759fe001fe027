//! A control plane for one router: a document, and then as many changes a second as are wanted, over the HTTP feed's stream. What the
//! router acknowledges is remembered, so that changes which never came into force cannot pass for cheap ones.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::failed::{Context, Result};
use crate::http;

/// How long the stream is silent when nothing changes.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The path of the route document.
const PATH: &str = "/v1/routes";

/// A running control plane; it stops when dropped.
pub(crate) struct Feed {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    document: String,
    apps: usize,
    origin: SocketAddr,
    per_second: u64,
    changes_are_on: AtomicBool,
    ended: AtomicBool,
    revision: AtomicU64,
    acknowledged: AtomicU64,
}

impl Feed {
    /// Serves a document of revision 1; changes come once they are turned on, to all its apps but the first.
    pub(crate) fn start(
        document: String,
        apps: usize,
        origin: SocketAddr,
        per_second: u64,
    ) -> Result<Self> {
        let listener = TcpListener::bind((origin.ip(), 0))?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            document,
            apps,
            origin,
            per_second,
            changes_are_on: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            revision: AtomicU64::new(1),
            acknowledged: AtomicU64::new(0),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.ended.load(Ordering::Relaxed) {
                    break;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else {
                    continue;
                };
                // A router that goes away takes its connections with it.
                std::thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Ok(Self { address, state })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    pub(crate) fn changes(&self, on: bool) {
        self.state.changes_are_on.store(on, Ordering::Relaxed);
    }

    pub(crate) fn revision(&self) -> u64 {
        self.state.revision.load(Ordering::Relaxed)
    }

    /// The last revision that the router said is in force.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.state.acknowledged.load(Ordering::Relaxed)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        // The listener waits for a connection to see it.
        drop(TcpStream::connect(self.address));
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let (mut received, mut piece) = (Vec::new(), [0; 16 * 1024]);
        loop {
            let Some(end) = http::head_end(&received) else {
                match stream.read(&mut piece)? {
                    0 => return Ok(()),
                    length => received.extend_from_slice(piece.get(..length).unwrap_or_default()),
                }
                continue;
            };
            let head = received.get(..end).unwrap_or_default();
            if head.starts_with(b"GET ") {
                if head.windows(6).any(|six| six == b"ndjson") {
                    return self.stream(stream);
                }
                let body = &self.document;
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )?;
                received.drain(..end);
                continue;
            }
            let length = end
                + http::content_length(head)
                    .context(|| "an acknowledgement without a length".to_owned())?;
            if received.len() < length {
                match stream.read(&mut piece)? {
                    0 => return Ok(()),
                    length => received.extend_from_slice(piece.get(..length).unwrap_or_default()),
                }
                continue;
            }
            self.acknowledge(received.get(end..length).unwrap_or_default());
            received.drain(..length);
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        }
    }

    fn acknowledge(&self, body: &[u8]) {
        let revision = serde_json::from_slice::<serde_json::Value>(body)
            .ok()
            .and_then(|ack| ack.get("revision")?.as_u64());
        if let Some(revision) = revision {
            self.acknowledged.fetch_max(revision, Ordering::Relaxed);
        }
    }

    fn stream(&self, mut stream: TcpStream) -> Result<()> {
        stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n",
        )?;
        stream.write_all(self.document.as_bytes())?;
        stream.write_all(b"\n")?;
        let mut said = Instant::now();
        let mut begun = None;
        while !self.ended.load(Ordering::Relaxed) {
            if self.changes_are_on.load(Ordering::Relaxed) {
                let (since, sent): &mut (Instant, u64) =
                    begun.get_or_insert_with(|| (Instant::now(), 0));
                let due = (since.elapsed().as_secs_f64() * self.per_second as f64) as u64;
                while *sent < due {
                    let line = self.change();
                    stream.write_all(line.as_bytes())?;
                    *sent += 1;
                    said = Instant::now();
                }
            } else {
                begun = None;
            }
            if said.elapsed() >= HEARTBEAT {
                writeln!(
                    stream,
                    "{{\"heartbeat\":{}}}",
                    self.revision.load(Ordering::Relaxed)
                )?;
                said = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The next change: an app's dyno moves to another port, or back.
    fn change(&self) -> String {
        let from = self.revision.fetch_add(1, Ordering::Relaxed);
        let nth = 1 + from as usize % self.apps.saturating_sub(1).max(1);
        let round = from as usize / self.apps.saturating_sub(1).max(1);
        let port = self.origin.port() - (round % 2) as u16;
        format!(
            "{{\"from\":{from},\"to\":{},\"changes\":[{{\"app\":{{\"name\":\"app-{nth}\",\"domains\":[\"{}\"],\"dynos\":[{{\"name\":\"web.1\",\"address\":\"{}:{port}\",\"state\":\"up\"}}]}}}}]}}\n",
            from + 1,
            crate::peer::host(nth),
            self.origin.ip(),
        )
    }
}
