//! Stands between a client's HTTP/2 connection and the library that speaks it: ends the connection when the client makes
//! it do too much (the meter of the model) or takes nothing of what is queued for it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use router_model::h2::meter::{Flood, Meter};
use router_model::limits::Http2Limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::client::Stalled;
use crate::clock::{self, Instant};
use crate::stall::Stall;

/// A client's connection with a meter on it. Reading fails with [`io::ErrorKind::InvalidData`] after a flood, writing
/// with [`io::ErrorKind::TimedOut`] after a stall.
#[derive(Debug)]
pub(super) struct Guard<IO> {
    io: Stall<IO>,
    meter: Meter,
    began: Instant,
    flood: FloodSeen,
    stalled: Stalled,
}

/// What flood ended the connection. The library keeps only the text of an error, so it is told besides.
#[derive(Debug, Clone, Default)]
pub(super) struct FloodSeen(Arc<OnceLock<Flood>>);

impl FloodSeen {
    pub(super) fn get(&self) -> Option<Flood> {
        self.0.get().copied()
    }
}

impl<IO> Guard<IO> {
    /// Guards a connection from before its preface. `idle`: how long a client may take nothing.
    pub(super) fn new(io: IO, limits: &Http2Limits, idle: Duration) -> Self {
        Self {
            io: Stall::new(io, idle),
            meter: Meter::new(limits, 0),
            began: clock::now(),
            flood: FloodSeen::default(),
            stalled: Stalled::default(),
        }
    }

    /// To be asked once the connection has ended.
    pub(super) fn flood_seen(&self) -> FloodSeen {
        self.flood.clone()
    }

    /// To be asked by its streams.
    pub(super) fn stalled(&self) -> Stalled {
        self.stalled.clone()
    }

    fn noted<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &written
            && error.kind() == io::ErrorKind::TimedOut
        {
            self.stalled.set();
        }
        written
    }

    fn received(&mut self, bytes: &[u8]) -> io::Result<()> {
        let since = clock::now().saturating_duration_since(self.began);
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.meter.received(bytes, now).map_err(|flood| {
            self.flood.0.get_or_init(|| flood);
            io::Error::new(io::ErrorKind::InvalidData, flood)
        })
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        Poll::Ready(self.received(read))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        let written = ready!(self.noted(written))?;
        self.meter.sent(bytes.get(..written).unwrap_or(bytes));
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        let written = ready!(self.noted(written))?;
        let mut left = written;
        for slice in slices {
            let sent = slice.get(..left).unwrap_or(slice);
            self.meter.sent(sent);
            left -= sent.len();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.noted(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use h2::server::Connection;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    const IDLE: Duration = Duration::from_secs(55);
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;
    const CONTINUATION: u8 = 9;
    /// `GET http://a/` in HPACK.
    const GET: &[u8] = &[0x82, 0x86, 0x84, 0x01, 0x01, b'a'];

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [0, length[0], length[1], kind, flags];
        [&head, &stream.to_be_bytes()[..], payload].concat()
    }

    /// What a client sends first, and then these frames.
    fn opening(frames: &[u8]) -> Vec<u8> {
        [PREFACE, &frame(SETTINGS, 0, 0, b""), frames].concat()
    }

    /// Serves a client that sends these bytes and reads all; how that ends.
    async fn served(bytes: Vec<u8>) -> (h2::Error, Option<Flood>) {
        let (client, server) = tokio::io::duplex(1 << 20);
        let guard = Guard::new(server, &Http2Limits::default(), IDLE);
        let seen = guard.flood_seen();
        let serving = async {
            let mut conn: Connection<_, Bytes> = h2::server::handshake(guard).await?;
            let mut held = Vec::new();
            while let Some(accepted) = conn.accept().await {
                held.push(accepted?);
            }
            Ok(())
        };
        let (mut from, mut to) = tokio::io::split(client);
        let (served, _, ()) = tokio::join!(
            serving,
            async { from.read_to_end(&mut Vec::new()).await },
            async { to.write_all(&bytes).await.unwrap() }
        );
        (served.unwrap_err(), seen.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_ends_the_connection_and_says_which_it_was() {
        let pings = opening(&frame(PING, 0, 0, b"12345678").repeat(101));
        let settings = opening(&frame(SETTINGS, 0, 0, b"").repeat(100));
        let mut resets = Vec::new();
        for stream in (1..).step_by(2).take(120) {
            resets.extend(frame(HEADERS, 5, stream, GET));
            resets.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]).repeat(2));
        }
        for (bytes, expected) in [
            (pings, Flood::Pings),
            (settings, Flood::Settings),
            (opening(&resets), Flood::Resets),
        ] {
            let (error, seen) = served(bytes).await;
            assert_eq!(seen, Some(expected));
            assert_eq!(error.get_io().unwrap().kind(), io::ErrorKind::InvalidData);
            assert_eq!(error.to_string(), expected.to_string());
        }
    }

    /// What the meter leaves to the library is really bounded by it.
    #[tokio::test(start_paused = true)]
    async fn the_library_bounds_continuations_and_provoked_resets() {
        // A field `a` whose value of many thousand bytes comes in drips.
        let mut endless = frame(HEADERS, 1, 1, b"\x00\x01a\x7f\xff\xff\x03");
        endless.extend(frame(CONTINUATION, 0, 1, b"b").repeat(2000));
        // A window that overflows: the server has to reset the stream.
        let mut provoked = Vec::new();
        for stream in (1..).step_by(2).take(1100) {
            provoked.extend(frame(HEADERS, 5, stream, GET));
            provoked.extend(frame(WINDOW_UPDATE, 0, stream, &[0x7f, 255, 255, 255]));
        }
        for bytes in [endless, provoked] {
            let (error, seen) = served(opening(&bytes)).await;
            let calm = Some(h2::Reason::ENHANCE_YOUR_CALM);
            assert_eq!((error.reason(), seen), (calm, None), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_is_counted_by_vectored_writes_too() {
        let (client, server) = tokio::io::duplex(1 << 20);
        let limits = Http2Limits {
            pings: 1,
            ..Http2Limits::default()
        };
        let mut guard = Guard::new(server, &limits, IDLE);
        let data = frame(0, 0, 1, b"12345678");
        let sent = data.repeat(3);
        let (one, other) = sent.split_at(20);
        let slices = [IoSlice::new(one), IoSlice::new(&[]), IoSlice::new(other)];
        let written = guard.write_vectored(&slices).await.unwrap();
        // Whatever was not taken at once.
        guard.write_all(&sent[written..]).await.unwrap();
        guard.flush().await.unwrap();
        let (mut from, mut to) = tokio::io::split(client);
        from.read_exact(&mut vec![0; sent.len()]).await.unwrap();
        to.write_all(&[PREFACE, &frame(PING, 0, 0, b"12345678").repeat(5)].concat())
            .await
            .unwrap();
        let mut read = vec![0; 24 + 4 * 17];
        guard.read_exact(&mut read).await.unwrap();
        let error = guard.read(&mut read).await.unwrap_err();
        let source = error.get_ref().and_then(|source| source.downcast_ref());
        assert_eq!(source, Some(&Flood::Pings));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_of_a_connection_is_cut() {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        client
            .write_all(&opening(&frame(HEADERS, 5, 1, GET)))
            .await
            .unwrap();
        // Enough window for all of it, so that the connection itself is what stalls.
        client
            .write_all(&frame(WINDOW_UPDATE, 0, 0, &[0, 16, 0, 0]))
            .await
            .unwrap();
        client
            .write_all(&frame(WINDOW_UPDATE, 0, 1, &[0, 16, 0, 0]))
            .await
            .unwrap();
        let guard = Guard::new(server, &Http2Limits::default(), IDLE);
        let mut conn: Connection<Guard<DuplexStream>, Bytes> =
            h2::server::handshake(guard).await.unwrap();
        let (_, mut respond) = conn.accept().await.unwrap().unwrap();
        let mut body = respond
            .send_response(http::Response::new(()), false)
            .unwrap();
        body.send_data(Bytes::from(vec![0; 1 << 20]), true).unwrap();
        let began = clock::now();
        let error = conn.accept().await.unwrap().unwrap_err();
        assert_eq!(error.get_io().unwrap().kind(), io::ErrorKind::TimedOut);
        assert_eq!((clock::now() - began).as_secs(), IDLE.as_secs());
        drop(client);
    }
}
