//! One exchange over two connections: the request body up, the response down, both at once. A state machine polled as a
//! whole, because either direction can end the other and both share the deadline. It knows bytes, framing and time;
//! what a failure leads to is the proxy's business.

use std::task::{Context, Poll};
use std::time::Duration;

use router_model::failure::Failure;
use router_model::forward::ResponseFields;
use router_model::h1::chunked::ChunkLimits;
use router_model::h1::{Framing, ResponseHead, Version};
use router_model::h2::websocket;
use router_model::response::{self, Judged};
use router_model::retry::Sent;

use crate::client::{Came, Client};
use crate::clock::{self, Instant};
use crate::dyno_conn::{Arrived, DynoConn};
use crate::exchange::Exchange;
use crate::queue::{Outlet, Pumped};
use crate::worker::Worker;

/// What the relay has to know of the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'p> {
    /// Where the request body ends.
    pub(crate) framing: Framing,
    pub(crate) is_head: bool,
    /// The client asked for an upgrade.
    pub(crate) upgrade: bool,
    /// The key of the handshake that the router makes for a WebSocket over HTTP/2 (RFC 8441).
    pub(crate) websocket_key: Option<&'p str>,
    /// What the client speaks.
    pub(crate) version: Version,
    /// The client wants its connection kept.
    pub(crate) keep_alive: bool,
    /// A dyno's 100 is for the client (`end_to_end_continue`).
    pub(crate) pass_continue: bool,
    /// The client waits for the dyno's 100.
    pub(crate) expects_continue: bool,
    pub(crate) first_byte: Duration,
    pub(crate) idle: Duration,
    /// `Strict-Transport-Security` for a response that has none.
    pub(crate) hsts: Option<&'p str>,
}

/// How an exchange ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The response is with the client.
    Response {
        /// The dyno's connection can serve another request, for at most so long if the dyno said so.
        reusable: Option<Reusable>,
        /// The client's connection can.
        keep_alive: bool,
    },
    /// 101: what follows is no HTTP.
    Switched,
}

/// How long a dyno connection may be kept.
pub(crate) type Reusable = Option<Duration>;

/// How it ended badly.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) failure: Failure,
    /// The response head was on its way to the client.
    pub(crate) head_sent: bool,
    pub(crate) sent: Sent,
}

/// The request body's way to the dyno. Outlasts a dyno connection that dies before it took a byte.
#[derive(Debug)]
pub(crate) struct Upload {
    /// The body's last byte has been read from the client.
    read_all: bool,
    /// When its last byte was written to the dyno.
    complete_at: Option<Instant>,
    /// The dyno takes no more.
    broken: bool,
    written: bool,
    last_read: Instant,
    last_write: Instant,
}

impl Upload {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            read_all: false,
            complete_at: None,
            broken: false,
            written: false,
            last_read: now,
            last_write: now,
        }
    }

    /// Whether a byte of the request was accepted for sending.
    pub(crate) fn written(&self) -> bool {
        self.written
    }

    /// Whether the body's last byte has been read from the client.
    pub(crate) fn is_read(&self) -> bool {
        self.read_all
    }

    /// Throws away what has come of the rest of the body; whether that was all of it, so that the next request can
    /// follow.
    pub(crate) fn discard(&mut self, client: &mut impl Client) -> bool {
        self.read_all = self.read_all || client.discard_body();
        self.read_all
    }

    /// Starts over on another connection, which must be given the same bytes again.
    pub(crate) fn restart(&mut self) {
        self.complete_at = None;
        self.broken = false;
        self.written = false;
    }
}

#[derive(Debug)]
enum Down {
    Head,
    Body(Framing),
    /// All of the response is queued for the client.
    Finished,
    /// The 101 is queued for the client.
    Switching,
}

/// The relay of one exchange.
pub(crate) struct Relay<'r, 'x, C> {
    worker: &'r Worker,
    exchange: &'r mut Exchange<'x>,
    client: &'r mut C,
    dyno: &'r mut DynoConn,
    plan: Plan<'r>,
    up: &'r mut Upload,
    down: Down,
    judged: Option<Judged>,
    keep_alive: bool,
    /// The end of the client's connection is the end of the response.
    ends_with_connection: bool,
    /// Where the final head stands in the client's queue, as long as none of it is out: until then there is time for an
    /// error page.
    unsent_from: Option<usize>,
    /// A byte of the response has been read.
    response_seen: bool,
    /// A byte of the final response has been read, as far as is known; interim ones are no answer.
    answer_begun: bool,
    interim: u16,
    continued: bool,
    started: Instant,
    last_read: Instant,
    last_write: Instant,
}

/// More interim responses than this before the final one are an endless stream, not HTTP.
const MOST_INTERIM: u16 = 1000;

impl<'r, 'x, C: Client> Relay<'r, 'x, C> {
    pub(crate) fn new(
        worker: &'r Worker,
        exchange: &'r mut Exchange<'x>,
        client: &'r mut C,
        dyno: &'r mut DynoConn,
        plan: Plan<'r>,
        up: &'r mut Upload,
    ) -> Self {
        let now = clock::now();
        (up.last_read, up.last_write) = (now, now);
        Self {
            worker,
            exchange,
            client,
            dyno,
            plan,
            up,
            down: Down::Head,
            judged: None,
            keep_alive: false,
            ends_with_connection: false,
            unsent_from: None,
            response_seen: false,
            answer_begun: false,
            interim: 0,
            continued: false,
            started: now,
            last_read: now,
            last_write: now,
        }
    }

    /// Runs the exchange to its end.
    pub(crate) async fn run(mut self) -> Result<Ended, Fault> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ended, Fault>> {
        let now = clock::now();
        let moved = self
            .poll_upload(cx, now)
            .and_then(|()| self.poll_download(cx, now));
        match self.poll_gone(cx, moved) {
            Ok(Some(ended)) => Poll::Ready(Ok(ended)),
            Err(failure) => Poll::Ready(Err(self.fault(failure))),
            Ok(None) => match self.deadline() {
                Some((deadline, failure)) => self
                    .client
                    .timer()
                    .poll_until(cx, deadline)
                    .map(|()| Err(self.fault(failure))),
                // Both sides have work that needs no wait; the polls above have left their wakers.
                None => Poll::Pending,
            },
        }
    }

    /// When nothing more is expected of the client than that it stays, its leave is the cause of whatever else went wrong.
    /// Once the response is with it, that matters no more; but what it has sent behind the request decides how a
    /// connection is closed that is not kept.
    fn poll_gone(
        &mut self,
        cx: &mut Context<'_>,
        moved: Result<Option<Ended>, Failure>,
    ) -> Result<Option<Ended>, Failure> {
        let ended = matches!(moved, Ok(Some(_)));
        if self.up.complete_at.is_none() || ended && self.keep_alive {
            return moved;
        }
        let gone = gone(self.client.poll_gone(cx, self.limits().request_buffer));
        if ended {
            return moved;
        }
        gone.and(moved)
    }

    fn fault(&mut self, failure: Failure) -> Fault {
        self.take_back_unsent_head();
        Fault {
            failure,
            head_sent: !matches!(self.down, Down::Head),
            sent: Sent {
                reused: self.dyno.reused(),
                response_seen: self.response_seen,
                request_written: self.up.written || self.dyno.is_head_out(),
                has_body: self.plan.framing.has_body(),
                age: clock::now().saturating_duration_since(self.started),
                refused: self.dyno.refused(),
            },
        }
    }

    /// A response that fails before any of it is out becomes an error page.
    fn take_back_unsent_head(&mut self) {
        let Some(length) = self.unsent_from.take() else {
            return;
        };
        self.client.take_back(length);
        self.exchange.status = None;
        self.exchange.bytes = 0;
        self.down = Down::Head;
        self.judged = None;
        if std::mem::take(&mut self.ends_with_connection) {
            self.client.end_with_error(false);
        }
    }

    fn limits(&self) -> &router_model::limits::Limits {
        &self.worker.shared.limits
    }

    /// Response bytes that may wait for the client. Over HTTP/2 there are many streams to a connection.
    fn room(&self) -> usize {
        const OF_A_STREAM: usize = 256 * 1024;
        match self.plan.version {
            Version::Http2 => self.limits().response_buffer.min(OF_A_STREAM),
            Version::Http10 | Version::Http11 => self.limits().response_buffer,
        }
    }

    /// Client to dyno, until both have to wait.
    fn poll_upload(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), Failure> {
        let room = self.limits().request_buffer;
        while self.up.complete_at.is_none() {
            if !self.up.read_all && self.dyno.queued() < room {
                let pumped = self.client.pump_body(self.dyno.sink(), room)?;
                self.up.read_all = pumped == Pumped::Done;
            }
            if !self.dyno.is_flushed() {
                match self.dyno.poll_write(cx) {
                    Poll::Ready(Ok(())) => {
                        self.up.written = true;
                        self.up.last_write = now;
                        continue;
                    }
                    Poll::Ready(Err(())) => {
                        // It may have answered before it closed: read on, but send no more. What no byte was taken of
                        // can be sent elsewhere.
                        self.up.broken = true;
                        self.up.complete_at = Some(now);
                        continue;
                    }
                    Poll::Pending => {}
                }
            } else if self.up.read_all {
                self.up.complete_at = Some(now);
                continue;
            }
            if self.up.read_all || self.dyno.queued() >= room {
                return gone(self.client.poll_gone_unread(cx));
            }
            match self.client.poll_read(cx) {
                Poll::Ready(Ok(Came::More)) => self.up.last_read = now,
                Poll::Ready(Ok(Came::End)) => return Err(Failure::ClientInterrupted),
                Poll::Ready(Err(failure)) => return Err(failure),
                Poll::Pending => return Ok(()),
            }
        }
        Ok(())
    }

    /// Dyno to client, until both have to wait.
    fn poll_download(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Result<Option<Ended>, Failure> {
        let room = self.room();
        loop {
            self.understand(room, now)?;
            if !self.client.is_flushed() {
                let was_full = self.client.queued() >= room;
                match self.client.poll_write(cx) {
                    Poll::Ready(Ok(())) => {
                        self.unsent_from = None;
                        self.last_write = now;
                        if was_full && self.client.queued() < room {
                            // The dyno was not read while the queue was full; that silence was ours.
                            self.last_read = now;
                        }
                        continue;
                    }
                    Poll::Ready(Err(failure)) => return Err(failure),
                    Poll::Pending => {}
                }
            }
            match self.down {
                Down::Finished if self.client.is_flushed() => return Ok(Some(self.ended())),
                Down::Switching if self.client.is_flushed() => return Ok(Some(Ended::Switched)),
                Down::Finished | Down::Switching => return Ok(None),
                Down::Head | Down::Body(_) if self.client.queued() >= room => return Ok(None),
                Down::Head | Down::Body(_) => {}
            }
            match self.dyno.poll_read(cx) {
                Poll::Ready(Ok(Arrived::End)) => self.end_of_dyno()?,
                Poll::Ready(Err(failure)) => return Err(failure),
                Poll::Ready(Ok(Arrived::More)) => {
                    self.response_seen = true;
                    self.answer_begun = true;
                    self.last_read = now;
                }
                Poll::Pending => return Ok(None),
            }
        }
    }

    /// Turns the dyno's bytes at hand into bytes for the client.
    fn understand(&mut self, room: usize, now: Instant) -> Result<(), Failure> {
        if matches!(self.down, Down::Head) {
            self.take_heads(now)?;
        }
        if !matches!(self.down, Down::Body(_)) {
            return Ok(());
        }
        if self.client.is_flushed() {
            self.last_write = now;
        }
        let content = &mut self.exchange.bytes;
        let pumped = self.dyno.pump_body(self.client.sink(), room, content);
        let bad_chunk = if self.unsent_from.is_some() {
            Failure::MalformedResponse
        } else {
            Failure::DynoInterrupted
        };
        if pumped.map_err(|_| bad_chunk)? == Pumped::Done {
            self.down = Down::Finished;
        }
        Ok(())
    }

    fn end_of_dyno(&mut self) -> Result<(), Failure> {
        match &self.down {
            Down::Body(Framing::UntilClose) => {
                self.client.sink().end();
                self.down = Down::Finished;
                Ok(())
            }
            Down::Head if !self.response_seen && !self.up.broken => {
                Err(Failure::ClosedWithoutResponse)
            }
            Down::Head | Down::Body(_) | Down::Finished | Down::Switching => {
                Err(Failure::DynoInterrupted)
            }
        }
    }

    /// Interim heads, then the final one.
    fn take_heads(&mut self, now: Instant) -> Result<(), Failure> {
        loop {
            let Some(head) = self.dyno.take_head()? else {
                return Ok(());
            };
            if self.client.is_flushed() {
                self.last_write = now;
            }
            match head.status() {
                101 | 200.. => return self.final_head(&head),
                _ => {
                    self.interim_head(&head)?;
                    self.answer_begun = self.dyno.has_unread();
                }
            }
        }
    }

    /// 100 belongs to whoever asked for it; 103 goes to clients that can read it; the others to nobody (spec §1.15).
    fn interim_head(&mut self, head: &ResponseHead) -> Result<(), Failure> {
        self.interim += 1;
        if self.interim > MOST_INTERIM {
            return Err(Failure::MalformedResponse);
        }
        let pass = match head.status() {
            100 => {
                if self.plan.pass_continue && self.continued {
                    return Err(Failure::MalformedResponse);
                }
                self.continued = true;
                self.plan.pass_continue
            }
            103 => true,
            _ => false,
        };
        if pass && self.plan.version > Version::Http10 {
            self.client.put_interim(head);
        }
        Ok(())
    }

    fn final_head(&mut self, head: &ResponseHead) -> Result<(), Failure> {
        let judged = response::judge(head, self.plan.is_head, self.plan.upgrade)?;
        self.check_handshake(head)?;
        let unanswered_expect =
            self.plan.pass_continue && self.plan.expects_continue && !self.continued;
        let ends_by_itself = match judged.framing {
            _ if self.plan.version == Version::Http2 => true,
            Framing::UntilClose => false,
            Framing::Chunked => self.plan.version > Version::Http10,
            Framing::None | Framing::Length(_) => true,
        };
        // An early response ends the connection: nobody can tell the rest of the upload from the next request.
        self.keep_alive = self.plan.keep_alive
            && ends_by_itself
            && self.up.read_all
            && !self.up.broken
            && !unanswered_expect
            && !self.worker.is_draining();
        let shared = &self.worker.shared;
        self.unsent_from = Some(self.client.queued());
        self.worker.with_date(|date| {
            let ours = ResponseFields {
                via: shared.via(self.plan.version),
                server: &shared.name,
                date,
                keep_alive: self.keep_alive,
                to_http10: self.plan.version == Version::Http10,
                set_cookie: self.exchange.set_cookie.as_deref(),
                hsts: self.plan.hsts,
                framing: judged.framing,
                nominates: judged.nominates,
            };
            self.client.put_head(head, &ours);
        });
        self.ends_with_connection = !ends_by_itself;
        if self.ends_with_connection {
            self.client.end_with_error(true);
        }
        self.exchange.status = Some(head.status());
        self.down = if head.status() == 101 {
            Down::Switching
        } else {
            self.dyno
                .begin_body(judged.framing, self.response_chunk_limits());
            Down::Body(judged.framing)
        };
        self.judged = Some(Judged {
            reusable: judged.reusable && !unanswered_expect,
            ..judged
        });
        Ok(())
    }

    /// To a client that connects over HTTP/2, every 2xx means that its WebSocket is open (RFC 8441 §5): nothing but a
    /// true answer to the router's handshake may become one.
    fn check_handshake(&self, head: &ResponseHead) -> Result<(), Failure> {
        let Some(key) = self.plan.websocket_key else {
            return Ok(());
        };
        match head.status() {
            101 if websocket::is_answer(head, key) => Ok(()),
            101 | 200..=299 => Err(Failure::MalformedResponse),
            _ => Ok(()),
        }
    }

    fn response_chunk_limits(&self) -> ChunkLimits {
        ChunkLimits {
            line: self.limits().response_header_line,
            trailers: self.limits().request_headers,
        }
    }

    fn ended(&self) -> Ended {
        if self.ends_with_connection {
            self.client.end_with_error(false);
        }
        let clean = self.up.complete_at.is_some()
            && !self.up.broken
            && !self.dyno.has_unread()
            && self.dyno.is_flushed();
        let reusable = self
            .judged
            // What a client sends behind an extended CONNECT is no HTTP; nothing of it should be here, and nobody should find out.
            .filter(|judged| judged.reusable && clean && self.plan.websocket_key.is_none())
            .map(|judged| judged.keep_alive_timeout);
        Ended::Response {
            reusable,
            keep_alive: self.keep_alive,
        }
    }

    /// The next moment at which somebody has been silent for too long, and whose fault that is (spec §1.6, §10-2).
    fn deadline(&self) -> Option<(Instant, Failure)> {
        let (plan, up, limits) = (&self.plan, &*self.up, self.limits());
        let client_owes = (!up.read_all
            && up.complete_at.is_none()
            && self.dyno.queued() < limits.request_buffer)
            .then(|| (up.last_read + plan.idle, Failure::ClientIdle));
        let dyno_takes_nothing = (up.complete_at.is_none() && !self.dyno.is_flushed()).then(|| {
            let failure = if self.answer_begun {
                Failure::DynoIdle
            } else {
                Failure::RequestTimeout
            };
            (up.last_write + plan.idle, failure)
        });
        let unanswered = match up.complete_at {
            Some(sent) if !self.answer_begun => {
                // An interim response says that the dyno is alive, so the window starts anew.
                let since = if self.interim > 0 {
                    self.last_read.max(sent)
                } else {
                    sent
                };
                Some((since + plan.first_byte, Failure::RequestTimeout))
            }
            _ => None,
        };
        let reading =
            matches!(self.down, Down::Head | Down::Body(_)) && self.client.queued() < self.room();
        // Until the whole request is with the dyno, a dyno that has not answered owes nothing, whatever interim
        // responses it sent.
        let silent_since = match (&self.down, up.complete_at) {
            (Down::Head, Some(sent)) => Some(self.last_read.max(sent)),
            (Down::Head, None) => None,
            _ => Some(self.last_read),
        };
        let dyno_silent = silent_since
            .filter(|_| self.answer_begun && reading)
            .map(|since| (since + plan.idle, Failure::DynoIdle));
        let client_takes_nothing =
            (!self.client.is_flushed()).then(|| (self.last_write + plan.idle, Failure::ClientIdle));
        let client_left = self
            .client
            .given_up_at()
            .map(|at| (at, Failure::ClientInterrupted));
        [
            client_left,
            client_owes,
            dyno_takes_nothing,
            unanswered,
            dyno_silent,
            client_takes_nothing,
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }
}

fn gone(poll: Poll<Failure>) -> Result<(), Failure> {
    match poll {
        Poll::Ready(failure) => Err(failure),
        Poll::Pending => Ok(()),
    }
}
