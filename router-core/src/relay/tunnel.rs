//! An upgraded connection: bytes in both directions until one side closes or both have been silent for too long (spec
//! §1.19). The router reads no frames.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use router_model::failure::Failure;

use crate::client::{Client, Transport, poll_read_grown, poll_write_queue};
use crate::clock::{self, Instant};
use crate::dyno::Dyno;
use crate::dyno_conn::DynoConn;
use crate::exchange::Exchange;
use crate::worker::Worker;

/// Why a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TunnelEnd {
    /// One side closed, or its dyno was retired and the drain window is over.
    Closed,
    /// H15, or H24 when the router itself had to go.
    Failed(Failure),
}

struct Tunnel<'t, 'x, IO> {
    client: &'t mut Client<IO>,
    dyno: &'t mut DynoConn,
    exchange: &'t mut Exchange<'x>,
    idle: Duration,
    last_byte: Instant,
    client_ended: bool,
    dyno_ended: bool,
    read_size: usize,
}

/// Bytes that wait for one side before the other is read again.
const ROOM: usize = 64 * 1024;
const FIRST_READ: usize = 4 * 1024;

/// Passes bytes until the end.
pub(crate) async fn tunnel<IO: Transport>(
    worker: &Worker,
    client: &mut Client<IO>,
    dyno: &mut DynoConn,
    exchange: &mut Exchange<'_>,
    of: &Dyno,
    idle: Duration,
) -> TunnelEnd {
    let mut tunnel = Tunnel {
        client,
        dyno,
        exchange,
        idle,
        last_byte: clock::now(),
        client_ended: false,
        dyno_ended: false,
        read_size: FIRST_READ,
    };
    tunnel.pass_leftovers();
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

impl<IO: Transport> Tunnel<'_, '_, IO> {
    /// What either side sent right behind the handshake.
    fn pass_leftovers(&mut self) {
        self.dyno.out.push(self.client.buffer.split().freeze());
        self.exchange.bytes += self.dyno.buffer.len() as u64;
        self.client.out.push(self.dyno.buffer.split().freeze());
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<TunnelEnd> {
        if self.poll_up(cx).is_err() || self.poll_down(cx).is_err() {
            return Poll::Ready(TunnelEnd::Closed);
        }
        // No half-close: the end of one side ends both, once what it sent has been delivered.
        let over = self.client_ended && self.dyno.out.is_empty()
            || self.dyno_ended && self.client.out.is_empty();
        if over {
            return Poll::Ready(TunnelEnd::Closed);
        }
        ready!(self.client.timer.poll_until(cx, self.last_byte + self.idle));
        Poll::Ready(TunnelEnd::Failed(Failure::DynoIdle))
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        loop {
            if !self.dyno.out.is_empty()
                && poll_write_queue(&mut self.dyno.stream, cx, &mut self.dyno.out)?.is_ready()
            {
                self.last_byte = clock::now();
                continue;
            }
            if self.client_ended || self.dyno.out.len() >= ROOM {
                return Ok(());
            }
            match self.client.poll_read(cx)? {
                Poll::Ready(0) => self.client_ended = true,
                Poll::Ready(_) => {
                    self.last_byte = clock::now();
                    self.dyno.out.push(self.client.buffer.split().freeze());
                }
                Poll::Pending => {
                    self.client.release_buffer();
                    return Ok(());
                }
            }
        }
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        loop {
            if !self.client.out.is_empty() && self.client.poll_write(cx)?.is_ready() {
                self.last_byte = clock::now();
                continue;
            }
            if self.dyno_ended || self.client.out.len() >= ROOM {
                return Ok(());
            }
            if self.dyno.buffer.is_empty() && self.dyno.stream.poll_read_ready(cx)?.is_pending() {
                self.dyno.buffer = bytes::BytesMut::new();
                return Ok(());
            }
            match poll_read_grown(
                &mut self.dyno.stream,
                cx,
                &mut self.dyno.buffer,
                &mut self.read_size,
            )? {
                Poll::Ready(0) => self.dyno_ended = true,
                Poll::Ready(read) => {
                    self.last_byte = clock::now();
                    self.exchange.bytes += read as u64;
                    self.client.out.push(self.dyno.buffer.split().freeze());
                }
                Poll::Pending => return Ok(()),
            }
        }
    }
}
