//! An upgraded connection: bytes in both directions until one side closes or both have been silent for too long (spec
//! §1.19). The router reads no frames.

use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use router_model::failure::Failure;
use router_model::h1::Framing;
use router_model::h1::chunked::ChunkLimits;

use crate::client::{Came, Client};
use crate::clock::{self, Instant};
use crate::dyno::Dyno;
use crate::dyno_conn::DynoConn;
use crate::exchange::Exchange;
use crate::worker::{Watch, Worker};

/// Why a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TunnelEnd {
    /// One side closed, or its dyno was retired and the drain window is over.
    Closed,
    /// One side broke off.
    Broken,
    /// H15, or H24 when the router itself had to go.
    Failed(Failure),
}

struct Tunnel<'t, 'x, C> {
    client: &'t mut C,
    dyno: &'t mut DynoConn,
    exchange: &'t mut Exchange<'x>,
    idle: Duration,
    last_byte: Instant,
    /// When the client ended its side.
    client_ended: Option<Instant>,
    dyno_ended: bool,
    /// When it has to leave, though both sides would go on: since its dyno is retired, and since the router drains.
    retired: Option<Instant>,
    draining: Option<Instant>,
}

/// Bytes that wait for one side before the other is read again.
const ROOM: usize = 64 * 1024;
/// How long a dyno may take to answer the end of a client that waits for that.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// Passes bytes until the end.
pub(crate) async fn tunnel<C: Client>(
    worker: &Worker,
    client: &mut C,
    dyno: &mut DynoConn,
    exchange: &mut Exchange<'_>,
    of: &Dyno,
    idle: Duration,
) -> TunnelEnd {
    // Either side's bytes are passed on until it ends, from what came right behind the handshake on.
    const UNUSED: ChunkLimits = ChunkLimits {
        line: 0,
        trailers: 0,
    };
    client.begin_body(Framing::UntilClose, UNUSED);
    dyno.begin_body(Framing::UntilClose, UNUSED);
    let mut tunnel = Tunnel {
        client,
        dyno,
        exchange,
        idle,
        last_byte: clock::now(),
        client_ended: None,
        dyno_ended: false,
        retired: None,
        draining: None,
    };
    let (retired, draining) = (
        pin!(of.retired().cancelled()),
        pin!(worker.drain.cancelled()),
    );
    let (mut retired, mut draining) = (Watch::new(retired), Watch::new(draining));
    let end = std::future::poll_fn(|cx| {
        if let Poll::Ready(end) = tunnel.poll_bytes(cx) {
            return Poll::Ready(end);
        }
        if tunnel.retired.is_none() && retired.poll(cx, of.is_retired()).is_ready() {
            tunnel.retired = Some(most_of(worker.shared.timeouts.drain));
        }
        if tunnel.draining.is_none() && draining.poll(cx, worker.is_draining()).is_ready() {
            tunnel.draining = Some(most_of(worker.shared.drain_window()));
        }
        tunnel.poll_time(cx)
    });
    end.await
}

/// After most of a drain window: tunnels that close all at once come back all at once.
fn most_of(window: Duration) -> Instant {
    let share = 0.8 + 0.2 * fastrand::f64();
    clock::now() + window.mul_f64(share)
}

impl<C: Client> Tunnel<'_, '_, C> {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<TunnelEnd> {
        if self.poll_up(cx).is_err() || self.poll_down(cx).is_err() {
            return Poll::Ready(TunnelEnd::Broken);
        }
        // The end of one side ends both, once what it sent has been delivered, and answered if it waits for that.
        let client_left = self.client_ended.is_some()
            && !self.client.reads_after_its_end()
            && self.dyno.is_flushed();
        if client_left || self.dyno_ended && self.client.is_flushed() {
            return Poll::Ready(TunnelEnd::Closed);
        }
        Poll::Pending
    }

    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<TunnelEnd> {
        let (mut deadline, mut end) = (
            self.last_byte + self.idle,
            TunnelEnd::Failed(Failure::DynoIdle),
        );
        let answered_by = self.client_ended.map(|at| at + LAST_ANSWER);
        for (leave, earlier) in [
            (answered_by, TunnelEnd::Closed),
            (self.retired, TunnelEnd::Closed),
            (self.draining, TunnelEnd::Failed(Failure::ForcedClose)),
        ] {
            if let Some(at) = leave
                && at < deadline
            {
                (deadline, end) = (at, earlier);
            }
        }
        ready!(self.client.timer().poll_until(cx, deadline));
        Poll::Ready(end)
    }

    /// Client to dyno; an error is the end of the tunnel, whoever it came from.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        loop {
            if !self.dyno.is_flushed() && self.dyno.poll_write(cx)?.is_ready() {
                self.last_byte = clock::now();
                continue;
            }
            if self.client_ended.is_some() || self.dyno.queued() >= ROOM {
                return Ok(());
            }
            match self.client.poll_pass(cx, self.dyno).map_err(|_| ())? {
                Poll::Ready(Came::End) => self.client_ended = Some(clock::now()),
                Poll::Ready(Came::More) => self.last_byte = clock::now(),
                Poll::Pending => return Ok(()),
            }
        }
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        loop {
            if !self.client.is_flushed() && self.client.poll_write(cx).map_err(|_| ())?.is_ready() {
                self.last_byte = clock::now();
                continue;
            }
            if self.dyno_ended || self.client.queued() >= ROOM {
                return Ok(());
            }
            match self.dyno.poll_pass(cx, self.client)? {
                Poll::Ready(0) => {
                    self.client.sink().end();
                    self.dyno_ended = true;
                }
                Poll::Ready(came) => {
                    self.exchange.bytes += came as u64;
                    self.last_byte = clock::now();
                }
                Poll::Pending => return Ok(()),
            }
        }
    }
}
