//! The origin behind every proxy: one thread, one epoll, fixed answers, so that it costs as little as an origin can. What it is asked
//! and does not know, it answers with an error status, which every load generator counts as a failure.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;

use crate::failed::{Context, Result};
use crate::http::{self, ACCEPT, CLIENT_FRAME};

/// The bodies of the paths `/small`, `/1k` and `/1m`.
pub(crate) const SMALL: usize = 40;
const KIB: usize = 1024;
pub(crate) const MIB: usize = 1024 * 1024;

/// What every proxy has to tell the origin; `/head` is answered with 200 only if all of it is there.
const FORWARDED: [&str; 6] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-request-id",
    "x-request-start",
    "via",
];

const LISTENER: u64 = u64::MAX;

/// Starts an origin that serves until the process ends.
pub(crate) fn start(address: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    // std listens with a backlog of 128, and proxies open hundreds of connections at once; listening again only changes the backlog.
    rustix::net::listen(&listener, 4096)?;
    let address = listener.local_addr()?;
    let origin = Origin::new(listener)?;
    std::thread::Builder::new()
        .name("origin".to_owned())
        .spawn(move || origin.serve())
        .context(|| "the origin's thread".to_owned())?;
    Ok(address)
}

struct Origin {
    listener: TcpListener,
    epoll: OwnedFd,
    connections: HashMap<u64, Connection>,
    next: u64,
    answers: Answers,
}

/// Whole responses, made once.
struct Answers {
    small: Vec<u8>,
    kib: Vec<u8>,
    mib: Vec<u8>,
    uploaded: Vec<u8>,
    switched: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// Bytes of an upload that are still to come.
    uploading: usize,
    is_websocket: bool,
    /// What could not be sent at once: which answer, from where.
    unsent: Option<(Answer, usize)>,
}

#[derive(Clone)]
enum Answer {
    Small,
    Kib,
    Mib,
    Uploaded,
    Switched,
    Other(Vec<u8>),
}

impl Origin {
    fn new(listener: TcpListener) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &listener,
            EventData::new_u64(LISTENER),
            EventFlags::IN,
        )?;
        let answers = Answers {
            small: response(&[b'x'; SMALL]),
            kib: response(&[b'x'; KIB]),
            mib: response(&vec![b'x'; MIB]),
            uploaded: response(b"ok"),
            switched: format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n").into_bytes(),
        };
        Ok(Self {
            listener,
            epoll,
            connections: HashMap::new(),
            next: 0,
            answers,
        })
    }

    #[expect(
        clippy::expect_used,
        reason = "an origin that cannot go on must end the comparison at once"
    )]
    fn serve(mut self) {
        let mut events = Vec::with_capacity(256);
        let mut scratch = vec![0; 256 * KIB];
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    eprintln!("origin: {error}");
                    std::process::abort();
                }
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    LISTENER => self.accept().expect("the origin can accept"),
                    token => self.turn(token, &mut scratch),
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let (stream, _) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let token = self.next;
            self.next += 1;
            epoll::add(
                &self.epoll,
                &stream,
                EventData::new_u64(token),
                EventFlags::IN,
            )?;
            self.connections.insert(
                token,
                Connection {
                    stream,
                    received: Vec::new(),
                    uploading: 0,
                    is_websocket: false,
                    unsent: None,
                },
            );
        }
    }

    /// Reads and answers on one connection; it goes when its peer has gone.
    fn turn(&mut self, token: u64, scratch: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        let was_waiting = connection.unsent.is_some();
        let ended = connection.turn(&self.answers, scratch).is_err();
        let waits = connection.unsent.is_some();
        let interest = if waits {
            EventFlags::OUT
        } else {
            EventFlags::IN
        };
        let gone = ended
            || (was_waiting != waits
                && epoll::modify(
                    &self.epoll,
                    &connection.stream,
                    EventData::new_u64(token),
                    interest,
                )
                .is_err());
        if gone {
            self.connections.remove(&token);
        }
    }
}

impl Connection {
    fn turn(&mut self, answers: &Answers, scratch: &mut [u8]) -> io::Result<()> {
        if let Some((answer, from)) = self.unsent.take() {
            self.send(answer, from, answers)?;
            return Ok(());
        }
        let length = match self.stream.read(scratch) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut received = scratch.get(..length).unwrap_or_default();
        if self.uploading > 0 {
            let of_body = self.uploading.min(received.len());
            self.uploading -= of_body;
            received = received.get(of_body..).unwrap_or_default();
            if self.uploading > 0 {
                return Ok(());
            }
            self.send(Answer::Uploaded, 0, answers)?;
        }
        // Most requests arrive whole, and need not be copied.
        if !self.received.is_empty() {
            self.received.extend_from_slice(received);
            let all = std::mem::take(&mut self.received);
            return self.work(&all, answers);
        }
        self.work(received, answers)
    }

    /// Answers what has arrived whole, and keeps the rest.
    fn work(&mut self, mut bytes: &[u8], answers: &Answers) -> io::Result<()> {
        while !bytes.is_empty() {
            let used = if self.is_websocket {
                self.frame(bytes, answers)?
            } else {
                self.request(bytes, answers)?
            };
            if used == 0 {
                break;
            }
            bytes = bytes.get(used..).unwrap_or_default();
        }
        self.received.extend_from_slice(bytes);
        Ok(())
    }

    fn frame(&mut self, bytes: &[u8], answers: &Answers) -> io::Result<usize> {
        let Some(frame) = bytes.get(..CLIENT_FRAME) else {
            return Ok(0);
        };
        let Some(echo) = http::echo(frame) else {
            // A close frame, or nothing that the driver sends.
            return Err(ErrorKind::InvalidData.into());
        };
        match self.stream.write(&echo) {
            Ok(sent) if sent == echo.len() => {}
            _ => self.send(Answer::Other(echo.to_vec()), 0, answers)?,
        }
        Ok(CLIENT_FRAME)
    }

    fn request(&mut self, bytes: &[u8], answers: &Answers) -> io::Result<usize> {
        let Some(end) = http::head_end(bytes) else {
            return Ok(0);
        };
        let (head, rest) = bytes.split_at(end);
        if head.starts_with(b"POST ") {
            let Some(length) = http::content_length(head) else {
                self.send(refusal(411, "a length is required"), 0, answers)?;
                return Err(ErrorKind::InvalidData.into());
            };
            let arrived = length.min(rest.len());
            self.uploading = length - arrived;
            if self.uploading == 0 {
                self.send(Answer::Uploaded, 0, answers)?;
            }
            return Ok(end + arrived);
        }
        let answer = match path(head) {
            b"/small" => Answer::Small,
            b"/1k" => Answer::Kib,
            b"/1m" => Answer::Mib,
            b"/head" => check_forwarded(head),
            b"/echo" => {
                self.is_websocket = true;
                Answer::Switched
            }
            _ => refusal(404, "nothing here"),
        };
        self.send(answer, 0, answers)?;
        Ok(end)
    }

    fn send(&mut self, answer: Answer, mut from: usize, answers: &Answers) -> io::Result<()> {
        let bytes: &[u8] = match &answer {
            Answer::Small => &answers.small,
            Answer::Kib => &answers.kib,
            Answer::Mib => &answers.mib,
            Answer::Uploaded => &answers.uploaded,
            Answer::Switched => &answers.switched,
            Answer::Other(bytes) => bytes,
        };
        while let Some(rest @ [_, ..]) = bytes.get(from..) {
            match self.stream.write(rest) {
                Ok(sent) => from += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.unsent = Some((answer, from));
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn path(head: &[u8]) -> &[u8] {
    head.split(|byte| *byte == b' ').nth(1).unwrap_or_default()
}

fn check_forwarded(head: &[u8]) -> Answer {
    let missing: Vec<_> = FORWARDED
        .into_iter()
        .filter(|name| http::header(head, name).is_none_or(str::is_empty))
        .collect();
    if missing.is_empty() {
        Answer::Small
    } else {
        refusal(
            500,
            &format!("the proxy did not send {}", missing.join(", ")),
        )
    }
}

fn response(body: &[u8]) -> Vec<u8> {
    let mut response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nDate: Mon, 01 Jan 2029 00:00:00 GMT\r\nServer: origin\r\n\r\n",
        body.len()
    )
    .into_bytes();
    response.extend_from_slice(body);
    response
}

fn refusal(status: u16, why: &str) -> Answer {
    Answer::Other(
        format!(
            "HTTP/1.1 {status} Refused\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{why}",
            why.len()
        )
        .into_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::drivers::ask;

    #[test]
    fn a_proxy_that_does_not_forward_is_refused() {
        let origin = start((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let (_, status, answer) = ask(origin, &http::get("/head")).unwrap();
        assert_eq!(status, 500);
        let said = String::from_utf8(answer).unwrap();
        assert!(
            said.ends_with("the proxy did not send x-forwarded-for, x-forwarded-proto, x-forwarded-port, x-request-id, x-request-start, via"),
            "{said}"
        );
    }

    #[test]
    fn answers_are_as_long_as_they_say() {
        let origin = start((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        for (path, length) in [("/small", SMALL), ("/1k", KIB), ("/1m", MIB)] {
            let (_, status, answer) = ask(origin, &http::get(path)).unwrap();
            let end = http::head_end(&answer).unwrap();
            assert_eq!((status, answer.len() - end), (200, length), "{path}");
        }
        let upload = format!(
            "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: {MIB}\r\n\r\n{}",
            "x".repeat(MIB)
        );
        let (_, status, _) = ask(origin, upload.as_bytes()).unwrap();
        assert_eq!(status, 200);
        let (_, status, _) = ask(origin, &http::get("/other")).unwrap();
        assert_eq!(status, 404);
    }
}
