//! Small load drivers for what no generator does: an echo storm over WebSockets, connections that do nothing, requests at a fixed rate
//! whose latency counts from when they were due, and clients that are slow. One thread each, and an error in any of them is the end.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{CreateFlags, Event, EventData, EventFlags};
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

use crate::failed::{Context, Result, fail};
use crate::figure::{Figure, latencies};
use crate::generators::Load;
use crate::http::{self, SERVER_FRAME};
use crate::origin::MIB;

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends `request` on a new connection and reads the head of the answer, and its body if it has one.
pub(crate) fn ask(address: SocketAddr, request: &[u8]) -> Result<(TcpStream, u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = http::head_end(&answer) {
            let head = answer.get(..end).unwrap_or_default();
            let status = http::status(head).unwrap_or(0);
            let length = if status == 101 {
                0
            } else {
                http::content_length(head).unwrap_or(0)
            };
            if answer.len() >= end + length {
                return Ok((stream, status, answer));
            }
        }
        match stream.read(&mut piece)? {
            0 => return fail("the connection was closed before the answer was complete"),
            length => answer.extend_from_slice(piece.get(..length).unwrap_or_default()),
        }
    }
}

/// Connections that have been answered once and do nothing more.
pub(crate) fn idle(
    address: SocketAddr,
    connections: usize,
    websocket: bool,
) -> Result<Vec<TcpStream>> {
    let (request, expected) = if websocket {
        (http::handshake(), 101)
    } else {
        (http::get("/small"), 200)
    };
    (0..connections)
        .map(|nth| {
            let (stream, status, _) =
                ask(address, &request).context(|| format!("idle connection {nth}"))?;
            if status != expected {
                return fail(format!("idle connection {nth} was answered with {status}"));
            }
            Ok(stream)
        })
        .collect()
}

/// Every connection sends a message, waits for its echo, and sends the next one.
pub(crate) fn echo_storm(address: SocketAddr, connections: usize, lasts: Duration) -> Result<Load> {
    let frame = http::client_frame();
    let echo = http::echo(&frame).context(|| "the frame is no frame".to_owned())?;
    let mut swarm = Swarm::new(idle(address, connections, true)?)?;
    let mut micros = Vec::new();
    let since = Instant::now();
    for nth in 0..connections {
        swarm.send(nth, &frame, since)?;
    }
    while since.elapsed() < lasts {
        for nth in swarm.ready(PATIENCE)? {
            if swarm.read(nth)? < SERVER_FRAME {
                continue;
            }
            let now = Instant::now();
            let started = swarm.take(nth, &echo)?;
            micros.push(now.duration_since(started).as_micros() as u64);
            swarm.send(nth, &frame, now)?;
        }
    }
    load(micros, since.elapsed())
}

/// Requests that are due at fixed times, whether or not earlier ones have been answered. One that has to wait for a free connection has
/// been waiting since it was due, so that a proxy that stalls cannot hide it (coordinated omission).
pub(crate) fn fixed_rate(
    address: SocketAddr,
    path: &str,
    connections: usize,
    rate: f64,
    lasts: Duration,
) -> Result<Load> {
    let request = http::get(path);
    let mut streams = Vec::new();
    for _ in 0..connections {
        let (stream, status, _) = ask(address, &request)?;
        if status != 200 {
            return fail(format!("{path} was answered with {status}"));
        }
        streams.push(stream);
    }
    let mut swarm = Swarm::new(streams)?;
    let mut free: Vec<usize> = (0..connections).collect();
    let mut due = VecDeque::new();
    let mut micros = Vec::new();
    let total = (rate * lasts.as_secs_f64()) as u64;
    let (mut scheduled, mut sent) = (0_u64, 0_u64);
    let since = Instant::now();
    while (micros.len() as u64) < total {
        let at = |nth: u64| since + Duration::from_secs_f64(nth as f64 / rate);
        let now = Instant::now();
        while scheduled < total && at(scheduled) <= now {
            due.push_back(at(scheduled));
            scheduled += 1;
        }
        while let (Some(nth), true) = (free.last().copied(), !due.is_empty()) {
            free.pop();
            let started = due.pop_front().unwrap_or(now);
            swarm.send(nth, &request, started)?;
            sent += 1;
        }
        let wait = if scheduled < total {
            at(scheduled).saturating_duration_since(now)
        } else {
            PATIENCE
        };
        if since.elapsed() > lasts + PATIENCE {
            return fail(format!(
                "{} of {sent} requests are unanswered",
                sent - micros.len() as u64
            ));
        }
        for nth in swarm.ready(wait)? {
            swarm.read(nth)?;
            let Some((status, started)) = swarm.take_response(nth)? else {
                continue;
            };
            if status != 200 {
                return fail(format!("{path} was answered with {status}"));
            }
            micros.push(started.elapsed().as_micros() as u64);
            free.push(nth);
        }
    }
    load(micros, since.elapsed())
}

/// How often a slow client does a little, and how much.
const TICK: Duration = Duration::from_millis(50);
const SENT_AT_ONCE: usize = 4;
const READ_AT_ONCE: usize = 64 * 1024;

/// Clients that send their requests in drops and read long responses in sips, until told to stop. Says how many requests were answered.
pub(crate) fn slow_clients(
    address: SocketAddr,
    senders: usize,
    readers: usize,
    stop: &AtomicBool,
) -> Result<u64> {
    let small = http::get("/small");
    let long = http::get("/1m");
    let connect = || -> Result<TcpStream> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    let mut sending = (0..senders)
        .map(|_| Ok((connect()?, 0)))
        .collect::<Result<Vec<_>>>()?;
    let mut reading = (0..readers)
        .map(|_| Ok((connect()?, 0)))
        .collect::<Result<Vec<_>>>()?;
    let mut buffer = vec![0; READ_AT_ONCE];
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        for (stream, sent) in &mut sending {
            let next = (*sent + SENT_AT_ONCE).min(small.len());
            stream.write_all(small.get(*sent..next).unwrap_or_default())?;
            *sent = next;
            if *sent == small.len() {
                let length = stream.read(&mut buffer)?;
                let answer = buffer.get(..length).unwrap_or_default();
                if http::status(answer) != Some(200) {
                    return fail(format!(
                        "a slow sender was answered with {:?}",
                        String::from_utf8_lossy(answer)
                    ));
                }
                *sent = 0;
                answered += 1;
            }
        }
        for (stream, read) in &mut reading {
            if *read == 0 {
                stream.write_all(&long)?;
            }
            let length = stream.read(&mut buffer)?;
            let answer = buffer.get(..length).unwrap_or_default();
            if length == 0 || (*read == 0 && http::status(answer) != Some(200)) {
                return fail("a slow reader got no response");
            }
            *read += length;
            if *read > MIB {
                *read = 0;
                answered += 1;
                *stream = connect()?;
            }
        }
        std::thread::sleep(TICK);
    }
    Ok(answered)
}

fn load(mut micros: Vec<u64>, took: Duration) -> Result<Load> {
    if micros.is_empty() {
        return fail("nothing was answered");
    }
    let count = micros.len() as f64;
    let mut figures = latencies(&mut micros);
    figures.insert(Figure::Rate, count / took.as_secs_f64());
    Ok(Load { count, figures })
}

/// Connections that one thread serves.
struct Swarm {
    epoll: OwnedFd,
    members: Vec<Member>,
    events: Vec<Event>,
}

struct Member {
    stream: TcpStream,
    received: Vec<u8>,
    started: Option<Instant>,
}

impl Swarm {
    fn new(streams: Vec<TcpStream>) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut members = Vec::new();
        for (nth, stream) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true)?;
            epoll::add(
                &epoll,
                &stream,
                EventData::new_u64(nth as u64),
                EventFlags::IN,
            )?;
            members.push(Member {
                stream,
                received: Vec::with_capacity(1024),
                started: None,
            });
        }
        Ok(Self {
            epoll,
            members,
            events: Vec::with_capacity(256),
        })
    }

    /// Those that can be read, at the latest after so long.
    fn ready(&mut self, wait: Duration) -> Result<Vec<usize>> {
        let wait = Timespec::try_from(wait).context(|| "a long wait".to_owned())?;
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self
            .events
            .iter()
            .map(|event| event.data.u64() as usize)
            .collect())
    }

    fn member(&mut self, nth: usize) -> Result<&mut Member> {
        self.members
            .get_mut(nth)
            .context(|| format!("no connection {nth}"))
    }

    fn send(&mut self, nth: usize, bytes: &[u8], started: Instant) -> Result<()> {
        let member = self.member(nth)?;
        member.started = Some(started);
        // What is sent is shorter than any socket buffer, and nothing else is in it.
        Ok(member.stream.write_all(bytes)?)
    }

    /// Reads what is there; says how much has arrived altogether.
    fn read(&mut self, nth: usize) -> Result<usize> {
        let member = self.member(nth)?;
        let mut piece = [0; 16 * 1024];
        match member.stream.read(&mut piece) {
            Ok(0) => return fail("a connection was closed under load"),
            Ok(length) => member
                .received
                .extend_from_slice(piece.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(member.received.len())
    }

    /// Takes an answer that must be exactly this; says when its question was asked.
    fn take(&mut self, nth: usize, expected: &[u8]) -> Result<Instant> {
        let member = self.member(nth)?;
        if member.received != expected {
            return fail(format!("not the echo of a message: {:?}", member.received));
        }
        member.received.clear();
        member
            .started
            .take()
            .context(|| "an answer to nothing".to_owned())
    }

    /// Takes a response, if all of it is there; says its status, and when it was asked for.
    fn take_response(&mut self, nth: usize) -> Result<Option<(u16, Instant)>> {
        let member = self.member(nth)?;
        let Some(end) = http::head_end(&member.received) else {
            return Ok(None);
        };
        let head = member.received.get(..end).unwrap_or_default();
        let length = end
            + http::content_length(head).context(|| "a response without a length".to_owned())?;
        if member.received.len() < length {
            return Ok(None);
        }
        let status = http::status(head).unwrap_or(0);
        member.received.clear();
        let started = member.started.take();
        Ok(Some((
            status,
            started.context(|| "an answer to nothing".to_owned())?,
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::origin;

    const SHORT: Duration = Duration::from_millis(100);

    fn address() -> SocketAddr {
        origin::start((Ipv4Addr::LOCALHOST, 0).into()).unwrap()
    }

    #[test]
    fn every_driver_works_without_a_proxy() {
        let address = address();
        assert!(echo_storm(address, 4, SHORT).unwrap().count > 0.0);
        let load = fixed_rate(address, "/1k", 4, 1000.0, SHORT).unwrap();
        assert_eq!(load.count, 100.0);
        assert_eq!(idle(address, 3, true).unwrap().len(), 3);
        assert_eq!(idle(address, 3, false).unwrap().len(), 3);
    }

    #[test]
    fn an_answer_that_is_not_expected_is_the_end() {
        let address = address();
        assert!(fixed_rate(address, "/other", 4, 1000.0, SHORT).is_err());
        // Nobody listens there.
        let gone = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        assert!(idle(gone, 1, false).is_err());
        assert!(slow_clients(gone, 1, 1, &AtomicBool::new(false)).is_err());
    }
}
