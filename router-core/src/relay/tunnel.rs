//! An upgraded connection: bytes in both directions until one side closes or both have been silent for too long (spec
//! §1.19). The router reads no frames.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use router_model::failure::Failure;
use router_model::h1::Framing;
use router_model::h1::chunked::ChunkLimits;

use crate::client::{Came, Client};
use crate::clock::{self, Instant};
use crate::dyno::Dyno;
use crate::dyno_conn::{Arrived, DynoConn};
use crate::exchange::Exchange;
use crate::queue::Pumped;
use crate::worker::Worker;

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
    };
    tokio::select! {
        // Every arm is cancel-safe: the tunnel is polled in place, and the tokens and sleeps hold no bytes.
        end = std::future::poll_fn(|cx| tunnel.poll(cx)) => end,
        () = async { of.retired().cancelled().await; spread(worker.shared.timeouts.drain).await } => TunnelEnd::Closed,
        () = async { worker.drain.cancelled().await; spread(worker.shared.drain_window()).await } => TunnelEnd::Failed(Failure::ForcedClose),
    }
}

/// Waits for most of a drain window: tunnels that close all at once come back all at once.
async fn spread(window: Duration) {
    let share = 0.8 + 0.2 * fastrand::f64();
    tokio::time::sleep(window.mul_f64(share)).await;
}

impl<C: Client> Tunnel<'_, '_, C> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<TunnelEnd> {
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
        let idle_at = self.last_byte + self.idle;
        let (deadline, end) = match self.client_ended.map(|at| at + LAST_ANSWER) {
            Some(answered_by) if answered_by < idle_at => (answered_by, TunnelEnd::Closed),
            _ => (idle_at, TunnelEnd::Failed(Failure::DynoIdle)),
        };
        ready!(self.client.timer().poll_until(cx, deadline));
        Poll::Ready(end)
    }

    /// Client to dyno; an error is the end of the tunnel, whoever it came from.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        loop {
            let pumped = self.client.pump_body(self.dyno.sink(), ROOM);
            if pumped == Ok(Pumped::Done) {
                self.client_has_ended();
            }
            if !self.dyno.is_flushed() && self.dyno.poll_write(cx)?.is_ready() {
                self.last_byte = clock::now();
                continue;
            }
            if self.client_ended.is_some() || self.dyno.queued() >= ROOM {
                return Ok(());
            }
            match self.client.poll_read(cx).map_err(|_| ())? {
                Poll::Ready(Came::End) => self.client_has_ended(),
                Poll::Ready(Came::More) => self.last_byte = clock::now(),
                Poll::Pending => {
                    self.client.release_buffer();
                    return Ok(());
                }
            }
        }
    }

    fn client_has_ended(&mut self) {
        self.client_ended.get_or_insert_with(clock::now);
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        loop {
            let pumped = self
                .dyno
                .pump_body(self.client.sink(), ROOM, &mut self.exchange.bytes);
            self.dyno_ended |= pumped == Ok(Pumped::Done);
            if !self.client.is_flushed() && self.client.poll_write(cx).map_err(|_| ())?.is_ready() {
                self.last_byte = clock::now();
                continue;
            }
            if self.dyno_ended || self.client.queued() >= ROOM {
                return Ok(());
            }
            match self.dyno.poll_tunnel_read(cx).map_err(|_| ())? {
                Poll::Ready(Arrived::End) => {
                    self.client.sink().end();
                    self.dyno_ended = true;
                }
                Poll::Ready(Arrived::More) => self.last_byte = clock::now(),
                Poll::Pending => return Ok(()),
            }
        }
    }
}
