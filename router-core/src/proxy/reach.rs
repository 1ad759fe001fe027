//! A connection to the dyno that was chosen, or a stream of one: kept, shared with others, or new. Everything that
//! opens connections to dynos is called from here.

use std::sync::Arc;
use std::time::Duration;

use router_model::failure::Failure;
use router_model::h1::HeadLimits;
use router_model::retry;

use crate::client::{self, Client};
use crate::clock::{self, Instant};
use crate::dyno::Dyno;
use crate::dyno_conn::{
    Answer, DynoConn, DynoStream, H1Conn, H2Conn, H2Exchange, H2Slot, Terms, dial,
};
use crate::exchange::Exchange;
use crate::observe::Event;
use crate::worker::{LocalRoute, Worker};

/// One request's way to one dyno.
pub(super) struct Reach<'r> {
    pub(super) worker: &'r Worker,
    pub(super) route: Arc<LocalRoute>,
    pub(super) dyno: &'r Arc<Dyno>,
    /// The request asks for an upgrade: that takes a connection over, so it needs one of its own, and HTTP/1.1.
    pub(super) upgrade: bool,
    /// It may be sent again if a kept connection turns out to be dead.
    pub(super) resendable: bool,
    /// A kept connection will not do.
    pub(super) only_new: bool,
    /// When the request has run out of time.
    pub(super) deadline: Instant,
}

impl Reach<'_> {
    /// The connection. Its failures are those of connecting, and those of a client that leaves meanwhile.
    pub(super) async fn conn<C: Client>(
        mut self,
        client: &mut C,
        exchange: &mut Exchange<'_>,
    ) -> Result<DynoConn, Failure> {
        if let Some(kept) = self.kept() {
            exchange.connect = Some(Duration::ZERO);
            return Ok(kept);
        }
        let started = clock::now();
        let limit = started + self.worker.shared.timeouts.connect;
        self.deadline = self.deadline.min(limit);
        // Rarely needed and large: it would make every connection larger for as long as that lives.
        let open = Box::pin(self.open());
        let reached = tokio::select! {
            biased;
            reached = open => reached,
            failure = client::gone(client, self.worker.shared.limits.request_buffer) => return Err(failure),
        };
        exchange.connect = Some(clock::now().saturating_duration_since(started));
        reached
    }

    fn http2(&self) -> bool {
        self.route.app.settings.dyno_protocol.is_http2() && !self.upgrade
    }

    fn may_keep(&self) -> bool {
        self.route.app.settings.dyno_keepalive && !self.worker.is_draining()
    }

    fn terms(&self) -> Result<Terms, Failure> {
        self.route.terms(self.dyno).ok_or(Failure::Platform)
    }

    /// A kept connection. A request that cannot be sent again gets a young one only.
    fn kept(&self) -> Option<DynoConn> {
        if !self.route.app.settings.dyno_keepalive || self.only_new || self.http2() {
            return None;
        }
        let terms = self.route.terms(self.dyno)?;
        let max_idle = (!self.resendable).then_some(retry::UNSAFE_REUSE_IDLE);
        let kept = self
            .worker
            .idle()
            .take(self.dyno, terms, max_idle, clock::now());
        kept.map(DynoConn::H1)
    }

    async fn open(&self) -> Result<DynoConn, Failure> {
        let limits = HeadLimits::response(&self.worker.shared.limits);
        if self.http2() {
            let slot = self.slot().await?;
            let exchange = H2Exchange::new(slot, limits);
            return Ok(DynoConn::H2(Box::new(exchange)));
        }
        let started = self.begin();
        let stream = self.stream().await?;
        self.connected(started);
        let conn = H1Conn::new(stream, self.terms()?, limits, clock::now());
        Ok(DynoConn::H1(Box::new(conn)))
    }

    /// A stream of an HTTP/2 connection.
    async fn slot(&self) -> Result<H2Slot, Failure> {
        if !self.may_keep() {
            let conn = self.h2_conn().await?;
            return conn.slot().ok_or(Failure::ConnectRefused);
        }
        let terms = self.terms()?;
        loop {
            let answer = self.worker.h2().ask(self.dyno, terms, self.only_new);
            match answer {
                Answer::Slot(slot) => return Ok(slot),
                Answer::Dial(dialling) => match self.h2_conn().await {
                    Ok(conn) => {
                        let slot = dialling.opened(&mut self.worker.h2(), conn);
                        return slot.ok_or(Failure::ConnectRefused);
                    }
                    Err(failure) => {
                        dialling.failed(failure);
                        return Err(failure);
                    }
                },
                Answer::Wait(waiting) => {
                    let over = tokio::time::timeout_at(self.deadline, waiting.over());
                    over.await.map_err(|_| Failure::ConnectTimeout)??;
                }
            }
        }
    }

    async fn h2_conn(&self) -> Result<H2Conn, Failure> {
        let started = self.begin();
        let stream = self.stream().await?;
        let shared = &self.worker.shared;
        let scheme = stream.scheme();
        let conn = H2Conn::open(
            stream,
            scheme,
            &shared.limits,
            shared.timeouts.idle,
            self.deadline,
            &self.worker.dyno_tasks,
        );
        let conn = conn.await?;
        self.connected(started);
        Ok(conn)
    }

    /// A new connection, on the terms of the app.
    async fn stream(&self) -> Result<DynoStream, Failure> {
        // Never in the clear by mistake.
        self.terms()?;
        let stream = dial(self.dyno.address(), self.deadline).await?;
        let Some(tls) = &self.route.dyno_tls else {
            return Ok(DynoStream::Tcp(stream));
        };
        let stream = tls
            .handshake(self.dyno, stream, self.http2(), self.deadline)
            .await?;
        Ok(DynoStream::Tls(stream))
    }

    fn begin(&self) -> Instant {
        self.worker.event(Event::ConnectAttempt);
        clock::now()
    }

    fn connected(&self, started: Instant) {
        let took = clock::now().saturating_duration_since(started);
        self.worker.event(Event::Connected(took));
    }
}
